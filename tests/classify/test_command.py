"""`mtslvr classify` from examples and recordings to labels, with tones as calls."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from mtslvr.classify import Classifier, read_labels
from mtslvr.classify.examples import collect
from mtslvr.cli.main import main
from mtslvr.errors import ConfigError
from mtslvr.run.state import read_state
from mtslvr.run.table import read_table

RATE = 16_000
HERTZ = {"low": 300, "high": 3000}


def noise(seconds, seed):
    return 0.01 * np.random.default_rng(seed).standard_normal(int(seconds * RATE))


def tone(hertz, seconds, seed):
    t = np.arange(int(seconds * RATE)) / RATE
    return 0.3 * np.sin(2 * np.pi * hertz * (1 + 0.01 * seed) * t)


def run(*arguments):
    return CliRunner().invoke(main, ["classify", *map(str, arguments)])


def rows(path):
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three clips each of two tones and of noise, and two recordings with a tone at known times."""
    root = tmp_path_factory.mktemp("classify")
    for name in ("low", "high", "background"):
        (root / "examples" / name).mkdir(parents=True)
        for seed in range(3):
            wave = noise(0.5, seed) + (tone(HERTZ[name], 0.5, seed) if name in HERTZ else 0)
            soundfile.write(root / "examples" / name / f"{seed}.wav", wave, RATE)
    (root / "nights" / "deep").mkdir(parents=True)
    for seed, (name, call, start) in enumerate((("one.wav", "low", 1.0), ("deep/two.flac", "high", 2.0))):
        wave = noise(4, 10 + seed)
        wave[int(start * RATE) : int((start + 0.5) * RATE)] += tone(HERTZ[call], 0.5, 1)
        soundfile.write(root / "nights" / name, wave, RATE)
    return root


@pytest.fixture(scope="module")
def done(made):
    """The same after one call, which wrote everything there is."""
    pytest.importorskip("matplotlib")
    result = run(
        made / "examples", made / "nights", "-o", made / "labels.csv",
        "--save", made / "tones.mtslvr", "--suggest", 3, "--report", made / "page.html",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return made, result


@pytest.fixture
def again(done):
    """Labels by the kept classifier of the kept embeddings."""
    root, _ = done
    return lambda *arguments: run(root / "tones.mtslvr", root / "labels.csv.embeddings.npy", *arguments)


def test_calls_are_found_where_they_are(done):
    root, result = done
    found = {(row["file"], row["label"]): row for row in rows(root / "labels.csv")}
    for key, start in ((("one.wav", "low"), 1.0), (("deep/two.flac", "high"), 2.0)):
        assert float(found[key]["start"]) <= start + 0.25 and float(found[key]["end"]) >= start + 0.25
        assert 0.5 <= float(found[key]["score"]) <= 1
    assert "examples: high 3, low 3, background 3; from 9 recordings" in result.stderr
    assert "window: 0.5 s (the examples' median), hop: 0.25 s (half the window)" in result.stderr
    assert "<- chosen" in result.stderr and "not held out" not in result.stderr


def copied(root, folder):
    """The recordings as they were embedded, and the embeddings in a folder of their own."""
    for path in root.glob("labels.csv.embeddings.npy*"):
        (shutil.copytree if path.is_dir() else shutil.copy)(path, folder / path.name)
    return root / "nights"


def test_the_next_call_embeds_nothing_again(done, again, tmp_path):
    root, _ = done
    nights, there = copied(root, tmp_path), "0 files embedded, 2 already there; 30 rows in "
    examples = shutil.copytree(root / "examples", tmp_path / "examples")
    soundfile.write(examples / "low" / "longer.wav", tone(HERTZ["low"], 1.5, 4), RATE)
    for options in (["--threshold", 0.9], ["--suggest", 2, "--report", tmp_path / "x.html"]):
        result = run(examples, nights, "-o", tmp_path / "labels.csv", *options)
        assert result.exit_code == 0 and there in result.stderr, result.output
    for out, *options in (["x.jsonl", "--threshold", 0.9], ["tracks", "--format", "raven"], ["y.csv", "--per-file"]):
        result = run(
            root / "examples", nights / "one.wav", nights / "deep" / "two.flac", "-o", tmp_path / out, *options
        )
        assert result.exit_code == 0 and there in result.stderr, result.output
        assert not (tmp_path / f"{out}.embeddings.npy").exists()
    assert all(json.loads(line)["score"] >= 0.9 for line in (tmp_path / "x.jsonl").read_text().splitlines())
    table = again("-o", tmp_path / "y.csv", "-q")
    assert table.exit_code == 0 and table.output == ""
    assert rows(tmp_path / "y.csv") == rows(root / "labels.csv")
    kept = again("-o", tmp_path / "y.csv")  # whose features were chosen once
    assert f"classifier: {root / 'tones.mtslvr'}: high, low, background; by " in kept.stderr
    assert "accuracy" not in kept.stderr and "examples:" not in kept.stderr


def test_another_window_or_more_recordings_have_embeddings_of_their_own(done, tmp_path):
    root, _ = done
    nights = copied(root, tmp_path)
    before = (tmp_path / "labels.csv.embeddings.npy").read_bytes()
    shutil.copy(nights / "one.wav", tmp_path / "more.wav")
    for number, given in enumerate((["--hop", 0.5], [tmp_path / "more.wav"], ["--overwrite"])):
        out = tmp_path / f"{number}.csv"
        result = run(root / "tones.mtslvr", nights / "one.wav", *given, "-o", out)
        assert result.exit_code == 0 and f"{out}.embeddings.npy" in result.stderr, result.output
    assert (tmp_path / "labels.csv.embeddings.npy").read_bytes() == before


def test_suggestions_are_clips_named_by_recording_time_and_guess(done, tmp_path):
    root, _ = done
    clips = sorted((root / "labels.csv.suggestions").iterdir())
    assert len(clips) == 3 and {clip.name.split("@")[0] for clip in clips} == {"one", "deep_two"}
    assert all(soundfile.info(clip).duration == pytest.approx(0.5) for clip in clips)
    shutil.copytree(root / "examples", tmp_path / "examples")
    for clip in clips:
        shutil.copy(clip, tmp_path / "examples" / "background")
    figures = Classifier.fit(tmp_path / "examples").figures
    assert figures["classes"]["background"] == 6 and figures["recordings"] == 11  # clips of one recording are known


def test_suggestions_that_nobody_has_moved_yet_are_not_mixed_with_new_ones(done, again, tmp_path):
    root, _ = done
    command = ["-o", tmp_path / "x.csv", "--suggest", 1]
    result = again(*command, "--suggest-to", root / "labels.csv.suggestions")
    assert result.exit_code == 2 and "labels.csv.suggestions: has clips already" in result.output
    assert list(tmp_path.iterdir()) == []
    result = again(*command)
    assert result.exit_code == 0, result.output
    assert "window: 0.5 s (as the recordings are embedded), hop: 0.25 s (as the recordings" in result.stderr


def test_recordings_that_have_moved_are_found_with_audio(done, tmp_path):
    root, _ = done
    for name in (
        "labels.csv.embeddings.npy",
        "labels.csv.embeddings.npy.index.csv",
        "labels.csv.embeddings.npy.meta.json",
    ):
        shutil.copy(root / name, tmp_path)
    command = [root / "tones.mtslvr", tmp_path / "labels.csv.embeddings.npy", "-o", tmp_path / "x.csv", "--suggest", 1]
    result = run(*command)
    assert result.exit_code == 2 and "not there any more; say with --audio" in result.output
    assert rows(tmp_path / "x.csv") == rows(root / "labels.csv")  # nothing that was found is lost
    assert run(*command, "--audio", root / "nights").exit_code == 0
    wrong = run(root / "tones.mtslvr", root / "nights", "-o", tmp_path / "x.csv", "--audio", root / "nights")
    assert wrong.exit_code == 2 and "is for an embeddings file" in wrong.output
    wrong = run(*command, "--suggest-to", tmp_path / "more", "--embeddings", tmp_path / "y.npy")
    assert wrong.exit_code == 2 and "is for audio; the embeddings of RECORDINGS are there" in wrong.output


def test_the_page_stands_alone_with_pictures_and_sounds(done):
    page = (done[0] / "page.html").read_text(encoding="utf-8")
    assert 'src="http' not in page and "data:audio/flac;base64," in page and "data:image/jpeg;base64," in page
    assert "What examples are taken for" in page and "Least certain hits" in page
    assert "windows of 0.5 s every 0.25 s, model parallel-simclr" in page
    assert 'name="viewport"' in page


def test_tracks_and_selection_tables_a_recording_are_read_again(done, again, tmp_path):
    shutil.copytree(done[0] / "nights", tmp_path / "nights")
    for form, suffix in (("audacity", ".txt"), ("raven", ".Table.1.selections.txt")):
        assert again("-o", tmp_path / "nights", "--format", form).exit_code == 0
        [label, *_] = read_labels(tmp_path / "nights" / "deep" / f"two{suffix}")
        assert label.file.endswith("two.flac") and label.label == "high"
    one = tmp_path / "all.txt"
    assert again("-o", one, "--format", "raven").exit_code == 0
    assert {line.split("\t")[8] for line in one.read_text().splitlines()[1:]} == {"one.wav", "two.flac"}


def test_a_track_that_a_person_has_corrected_stays_as_it_is(done, again, tmp_path):
    root, _ = done
    nights = shutil.copytree(root / "nights", tmp_path / "nights")
    beside, table = [nights, "-o", nights, "--format", "audacity"], ["-o", nights, "--format", "audacity"]
    assert run(root / "tones.mtslvr", *beside).exit_code == 0 and again(*table, "--threshold", 0.9).exit_code == 0
    (nights / "one.txt").write_text("0.1\t0.2\tby hand\n")
    for refused in (run(root / "tones.mtslvr", *beside), again(*table)):
        assert refused.exit_code == 2 and "nights/one.txt: changed since" in refused.output, refused.output
        assert (nights / "one.txt").read_text() == "0.1\t0.2\tby hand\n"
    assert again(*table, "--overwrite").exit_code == 0
    assert "by hand" not in (nights / "one.txt").read_text()


def test_parquet_holds_the_same(done, again, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    result = again("-o", tmp_path / "x.parquet")
    assert result.exit_code == 0, result.output
    found, expected = parquet.read_table(tmp_path / "x.parquet").to_pylist(), rows(done[0] / "labels.csv")
    assert [(row["label"], row["start"]) for row in found] == [(x["label"], float(x["start"])) for x in expected]


def test_recordings_are_embedded_with_the_options_of_the_embed_command(made, done, tmp_path):
    options = ["--threads", 1, "--batch-size", 4, "--dtype", "bfloat16"]
    kept, nights = done[0] / "tones.mtslvr", made / "nights"
    result = run(kept, nights, "-o", tmp_path / "x.csv", *options)
    assert result.exit_code == 0, result.output
    assert read_table(tmp_path / "x.csv.embeddings.npy").settings["dtype"] == "bfloat16"
    again = run(kept, nights, "-o", tmp_path / "x.csv")
    assert again.exit_code == 0 and "0 files embedded, 2 already there" in again.stderr, again.output
    assert "--batch-size 0: must be" in run(kept, nights, "-o", tmp_path / "x.csv", "--batch-size", 0).output


def test_per_file_gives_each_recording_a_row(again, tmp_path):
    result = again("-o", tmp_path / "files.csv", "--per-file", "--top-k", 2)
    assert result.exit_code == 0, result.output
    assert "2 rows, one a recording" in result.stderr and "events" not in result.stderr
    found = {row["file"]: row for row in rows(tmp_path / "files.csv")}
    assert list(next(iter(found.values()))) == ["file", "start", "end", "label", "score", "label_2", "score_2"]
    assert found["one.wav"]["label"] == "low" and found["deep/two.flac"]["label"] == "high"


def test_a_broken_recording_costs_its_own_labels_only(done, tmp_path):
    root, _ = done
    shutil.copytree(root / "nights", tmp_path / "nights")
    (tmp_path / "nights" / "broken.wav").write_bytes(b"no audio")
    command = [root / "tones.mtslvr", tmp_path / "nights", "-o", tmp_path / "labels.csv"]
    result = run(*command)
    assert result.exit_code == 1 and "1 of 3 inputs failed" in result.output
    assert {row["file"] for row in rows(tmp_path / "labels.csv")} >= {"one.wav", "deep/two.flac"}
    assert len(read_table(tmp_path / "labels.csv.embeddings.npy").paths) > 0


def test_labels_of_an_earlier_call_outlive_one_that_fails(done, again, tmp_path):
    assert again("-o", tmp_path / "labels.csv").exit_code == 0
    (tmp_path / "broken.wav").write_bytes(b"no audio")
    result = run(done[0] / "tones.mtslvr", tmp_path / "broken.wav", "-o", tmp_path / "labels.csv")
    assert result.exit_code == 1 and "1 of 1 input failed" in result.output
    assert rows(tmp_path / "labels.csv") == rows(done[0] / "labels.csv")


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_an_interrupted_call_goes_on(done, tmp_path):
    root, _ = done
    (tmp_path / "nights").mkdir()
    for seed in range(20):
        soundfile.write(tmp_path / "nights" / f"{seed}.wav", noise(20, seed), RATE)
    command = [sys.executable, "-m", "mtslvr.cli.main", "classify", str(root / "tones.mtslvr"), "nights", "-o", "x.csv"]
    process = subprocess.Popen([*command, "--hop", "0.25"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not ((state := read_state(tmp_path / "x.csv.embeddings.npy")) and state.entries):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on from there" in told
    assert not (tmp_path / "x.csv").exists()
    for path in sorted((tmp_path / "nights").iterdir())[2:]:
        path.unlink()
    ended = subprocess.run([*command, "--hop", "0.25"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0 and "already there" in ended.stderr, ended.stderr
    assert (tmp_path / "x.csv").read_text().startswith("file,start,end,label,score")


def test_a_table_of_labels_is_examples_and_without_recordings_the_classifier_is_kept(made, tmp_path):
    night = made / "nights" / "one.wav"
    lines = [f"{night},{a},{a + 0.5},{x}\n" for a, x in ((1, "call"), (2, "background"), (3, "background"))]
    (tmp_path / "labels.csv").write_text("file,start,end,label\n" + "".join(lines))
    result = run(tmp_path / "labels.csv", "--save", tmp_path / "x.mtslvr")
    assert result.exit_code == 0, result.output
    made = Classifier.load(tmp_path / "x.mtslvr")
    assert made.classes == ("call", "background") and "nothing can be measured" in made.figures["reason"]
    assert "not calibrated" in result.stderr


@pytest.mark.parametrize("form", ["labels.csv", "audacity", "raven"])
def test_labels_of_one_call_are_examples_of_the_next(done, again, tmp_path, form):
    root, _ = done
    out, options = (tmp_path / form, []) if form.endswith(".csv") else (tmp_path / "tracks", ["--format", form])
    assert again("-o", out, *options).exit_code == 0
    if out.is_dir():  # the track of a recording where nothing was found
        (out / "none.txt").touch()
    result = run(out, root / "labels.csv.embeddings.npy", "-o", tmp_path / "again.csv")
    assert result.exit_code == 0, result.output
    assert {row["label"] for row in rows(tmp_path / "again.csv")} == {"low", "high"}


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes")
def test_labels_of_a_recording_whose_name_is_not_utf8_are_examples(done, tmp_path):
    root, _ = done
    name = os.fsdecode(b"k\xe4uzchen.wav")
    shutil.copy(root / "nights" / "one.wav", tmp_path / name)
    assert run(root / "tones.mtslvr", tmp_path / name, "-o", tmp_path / "labels.csv").exit_code == 0
    [label, *_] = read_labels(tmp_path / "labels.csv")
    assert label.file == str(tmp_path / name) and label.label == "low"


# Examples


@pytest.mark.parametrize("silent_example", [True, False])
def test_silence_is_none_of_the_classes(made, tmp_path, silent_example):
    shutil.copytree(made / "examples", tmp_path / "examples")
    if silent_example:
        soundfile.write(tmp_path / "examples" / "background" / "silence.wav", np.zeros(RATE), RATE)
    soundfile.write(tmp_path / "silence.wav", np.full(2 * RATE, 0.1), RATE)
    Classifier.fit(tmp_path / "examples").save(tmp_path / "x.mtslvr")
    classifier = Classifier.load(tmp_path / "x.mtslvr")
    files = [tmp_path / "silence.wav", made / "nights" / "one.wav"]
    assert classifier.predict(files, threshold=0.01)[0] is None
    assert classifier.predict(files) == [None, "low"]
    with pytest.raises(ConfigError, match="is one; give a list of paths"):
        classifier.predict(files[0])
    with pytest.raises(ConfigError, match="threshold=2: must be a probability"):
        classifier.predict(files, threshold=2)
    for examples, labels, told in (
        (files, [0, 1], "0 is no name of a class"),
        ([np.ones(3)], ["a"], "ndarray is no path"),
    ):
        with pytest.raises(ConfigError, match=told):
            Classifier.fit(examples, labels)
    assert classifier.predict(files, threshold=0)[0] is None


def test_silence_is_none_of_the_classes_of_stored_embeddings(done, tmp_path):
    table = read_table(done[0] / "labels.csv.embeddings.npy")
    labels = ["low" if start < 2 else "high" for start in table.start]
    soundfile.write(tmp_path / "silence.wav", np.zeros(2 * RATE), RATE)
    assert Classifier.fit(table, labels).predict([tmp_path / "silence.wav"], threshold=0.01) == [None]


def test_a_file_beside_class_folders_that_is_no_table_is_passed_over(made, tmp_path):
    shutil.copytree(made / "examples", tmp_path / "examples")
    (tmp_path / "examples" / "notes.txt").write_text("Recorded by the lake.\n")
    result = run(tmp_path / "examples", "--save", tmp_path / "x.mtslvr")
    assert result.exit_code == 0, result.output
    assert "warning: passed over: " in result.stderr and "notes.txt: its columns are" in result.stderr


def test_what_is_in_no_class_is_told(made, tmp_path):
    examples = shutil.copytree(made / "examples", tmp_path / "examples")
    (examples / "empty").mkdir()
    shutil.copy(made / "nights" / "one.wav", examples)
    with pytest.warns(UserWarning) as told:
        assert Classifier.fit(examples).classes == ("high", "low", "background")
    lines = [str(warning.message) for warning in told]
    assert lines[0].endswith("empty: no audio in it") and "in no class's folder" in lines[1]


def test_recordings_that_a_table_names_are_no_class_and_clips_beside_a_track_are_told(made, tmp_path):
    examples = shutil.copytree(made / "examples", tmp_path / "examples")
    (examples / "marked").mkdir()
    shutil.copy(made / "nights" / "one.wav", examples / "marked")
    (examples / "labels.csv").write_text("file,start,end,label\nmarked/one.wav,1.0,1.5,low\n")
    with pytest.warns(UserWarning, match="marked: has recordings that a table names"):
        found = Classifier.fit(examples)
    assert dict(found.figures["classes"]) == {"high": 3, "low": 4, "background": 3}
    (examples / "low" / "0.txt").write_text("0.1\t0.4\tlow\n")
    with pytest.warns(UserWarning, match="audio in folders with tables but in no table, .*1.wav and 1 more"):
        assert Classifier.fit(examples).figures["classes"]["low"] == 2


def test_recordings_changed_since_they_were_embedded_are_told(made, tmp_path):
    nights = shutil.copytree(made / "nights", tmp_path / "nights")
    assert run(made / "examples", nights, "-o", tmp_path / "x.csv").exit_code == 0
    again = [made / "examples", tmp_path / "x.csv.embeddings.npy", "-o", tmp_path / "y.csv"]
    assert "changed after" not in run(*again).stderr
    soundfile.write(nights / "one.wav", noise(4, 3), RATE)
    assert "one.wav changed after being embedded" in run(*again).stderr


def test_recordings_with_tracks_beside_them_are_no_classes(made, tmp_path):
    examples = shutil.copytree(made / "nights", tmp_path / "site" / "nights").parent
    (examples / "nights" / "one.txt").write_text("1.0\t1.5\tlow\n2.5\t3\tbackground\n")
    (examples / "nights" / "deep" / "two.txt").write_text("2.0\t2.5\thigh\n")
    assert Classifier.fit(examples).classes == ("high", "low", "background")


def test_windows_much_longer_than_the_examples_are_told(made):
    with pytest.warns(UserWarning, match=r"windows of 6 s, and examples of 0.5 s \(median\)"):
        Classifier.fit(made / "examples", window_seconds=6)


def test_classes_of_one_recording_are_told(made, tmp_path):
    examples = shutil.copytree(made / "examples", tmp_path / "examples")
    for number in (1, 2):
        (examples / "low" / f"{number}.wav").unlink()
    result = run(examples, "--save", tmp_path / "x.mtslvr")
    assert "not held out: 1 of low; of each class two recordings are needed" in result.stderr


def test_a_short_tail_of_a_long_example_is_no_example(tmp_path):
    for name, seconds in (("low", 1.1), ("high", 0.3)):
        (tmp_path / "examples" / name).mkdir(parents=True)
        soundfile.write(tmp_path / "examples" / name / "a.wav", tone(HERTZ[name], seconds, 0), RATE)
    assert len(collect(tmp_path / "examples", None, None, 0.5, None, "cpu").embeddings) == 3 + 1
    # 0 to 0.5 and 0.4 to 0.9 s, 0.8 to 1.1 having 0.2 s that are new
    assert len(collect(tmp_path / "examples", None, None, 0.5, 0.4, "cpu").embeddings) == 2 + 1


def test_a_file_has_the_class_that_any_window_has_though_most_are_background(made):
    classifier = Classifier.fit(made / "examples")
    files = [made / "nights" / "one.wav", made / "nights" / "deep" / "two.flac", made / "examples/background/0.wav"]
    assert classifier.predict(files) == ["low", "high", None]


# What is refused, before anything is written


@pytest.fixture
def refused(made, tmp_path):
    def call(*arguments, examples=made / "examples", recordings=made / "nights", out="labels.csv"):
        (tmp_path / "out").mkdir(exist_ok=True)
        result = run(examples, recordings, "-o", tmp_path / "out" / out, *arguments)
        assert result.exit_code == 2, result.output
        assert list((tmp_path / "out").rglob("*")) == []
        return " ".join(result.output.split())

    return call


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--suggest-to", "x"], "is for --suggest N; give both"),
        (["--threshold", "1.5"], "--threshold 1.5: must be a probability from 0 to 1"),
        (["--top-k", "0"], "--top-k 0"),
        (["--window", "0"], "--window 0"),
        (["--device", "gpu"], "--device gpu: unknown"),
        (["--format", "audacity", "--per-file"], "a row a recording has no times"),
        (["--report", "page.pdf"], "page.pdf: unknown format '.pdf'"),
        (["--save", "nowhere/x.mtslvr"], "folder 'nowhere' does not exist"),
        (["--channel", "x"], "--channel x: must be 'mix' or the number of a channel"),
        (["--hop", "-1"], "--hop -1: must be"),
        (["--window", "nan"], "--window nan: must be"),
        (["--suggest", "1", "--suggest-to", ""], "'--suggest-to': a name of 1 to 200 bytes is expected"),
        (["--save", "x" * 300], "'--save': a name of 1 to 200 bytes is expected"),
        (["--save", f"{'x' * 300}/x.mtslvr"], "does not exist"),
    ],
)
def test_wrong_options(refused, tmp_path, monkeypatch, options, told):
    monkeypatch.chdir(tmp_path)
    said = refused(*options)
    assert told in said and "embedding the examples" not in said


@pytest.mark.parametrize("out", ["", ".", "..", f"{'x' * 300}.csv"])
@pytest.mark.parametrize("form", ["csv", "audacity"])
def test_an_output_without_a_name_of_its_own(made, tmp_path, monkeypatch, out, form):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    result = run(made / "examples", made / "nights", "-o", out, "--format", form)
    assert result.exit_code == 2 and "a name of 1 to 200 bytes is expected" in result.output


@pytest.mark.parametrize(
    "options",
    [
        ["--save", "labels.csv.embeddings.npy"],
        ["--suggest", "1", "--suggest-to", "labels.csv"],
        ["--suggest", "1", "--suggest-to", "labels.csv.embeddings.npy"],
        ["--suggest", "1", "--save", "labels.csv.suggestions"],
    ],
)
def test_two_outputs_of_one_name(refused, tmp_path, options):
    *options, name = options
    assert f"{name}: is to be written twice" in refused(*options, tmp_path / "out" / name)


@pytest.mark.parametrize(("option", "name"), [("--save", "labels.csv"), ("--report", "notes.html")])
def test_a_file_of_another_kind_is_not_replaced(done, again, tmp_path, option, name):
    (tmp_path / name).write_text("file,start,end,label\n")
    result = run(done[0] / "examples", done[0] / "nights", "-o", tmp_path / "x.csv", option, tmp_path / name)
    assert result.exit_code == 2 and f"{name}: is there and is no " in result.output, result.output
    assert (tmp_path / name).read_text() == "file,start,end,label\n" and not (tmp_path / "x.csv").exists()
    (tmp_path / name).unlink()
    for _ in range(2):
        assert again("-o", tmp_path / "x.csv", option, tmp_path / name).exit_code == 0


def test_an_output_that_cannot_be_told_or_hold_it(made, refused, tmp_path):
    assert "no format by the suffix '.txt'" in refused(out="labels.txt")
    one_track = refused("--format", "audacity", out="x.txt")
    assert "a label track is of one recording, and there are 2" in one_track and "examples:" not in one_track
    for name, told in (("x.csv", "is both read and to be written"), ("y.csv", "is within EXAMPLES")):
        result = run(made / "examples", made / "examples" / "x.csv", "-o", made / "examples" / name)
        assert result.exit_code == 2 and told in result.output
    for option in ("--save", "--embeddings"):
        assert (
            "is to be written twice" in run(made / "examples", made / "nights", "-o", "x.csv", option, "x.csv").output
        )
    table = tmp_path / "t.csv"
    table.write_text(f"file,label\n{made}/nights/one.wav,low\n")
    assert "is both read and to be written" in run(table, "--save", table).output
    for taken in (made / "nights" / "one.wav", made / "examples" / "low" / "0.wav"):
        for given in ((made / "nights", "-o", taken, "--format", "csv"), ("--save", taken)):
            before = taken.read_bytes()
            assert f"{taken}: is audio" in run(made / "examples", *given).output and taken.read_bytes() == before
    assert "has EXAMPLES in it" in run(table, made / "nights", "-o", tmp_path, "--format", "audacity").output
    assert "give --save alone" in run(made / "examples").output
    assert "give -o labels.csv" in run(made / "examples", made / "nights").output


def test_examples_that_are_none(made, refused, tmp_path):
    layout = "a folder with a folder a class, as calls/owl/1.wav"
    told = refused(examples=made / "examples" / "low")
    assert "no examples (audio in no class's folder, " in told and " and 2 more): " in told and layout in told
    assert "one.wav: is one sound, and examples are " + layout in refused(examples=made / "nights" / "one.wav")
    (tmp_path / "empty").mkdir()
    assert "no examples (an empty folder): " in refused(examples=tmp_path / "empty")
    for night in ("a", "b"):
        (tmp_path / "long" / night).mkdir(parents=True)
        soundfile.write(tmp_path / "long" / night / "x.flac", noise(61, ord(night)), RATE)
    told = refused(examples=tmp_path / "long", recordings=made / "examples")
    assert "examples of 61 s and recordings of 0 s (median)" in told and "they come first" in told


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes")
def test_a_class_whose_name_no_label_can_have(made, refused, tmp_path):
    shutil.copytree(made / "examples", tmp_path / "examples")
    (tmp_path / "examples" / "low").rename(tmp_path / "examples" / os.fsdecode(b"k\xe4uz"))
    assert "class 'k\\udce4uz': its name is not in UTF-8" in refused(examples=tmp_path / "examples")


def test_what_is_not_there(made, refused):
    both = refused(examples="calls", recordings="nights")
    assert "EXAMPLES 'calls', RECORDINGS 'nights': no such file or folder; check the paths" in both
    assert "EXAMPLES 'calls': no such file or folder; check the path" in refused(examples="calls")
    assert "x.npz: an embeddings file among several RECORDINGS" in refused("y.npz", recordings="x.npz")


def test_all_examples_that_cannot_be_used_are_told_at_once(made, refused, tmp_path):
    low = shutil.copytree(made / "examples", tmp_path / "examples") / "low"
    shutil.copy(low / "0.wav", tmp_path / "examples" / "high" / "copy.wav")
    same = "low/0.wav (low): the same audio in two classes; take one of them out"
    assert refused(examples=tmp_path / "examples").endswith(same)
    soundfile.write(low / "short.wav", noise(0.05, 0), RATE)
    soundfile.write(low / "silent.wav", np.zeros(RATE), RATE)
    (low / "words.wav").write_text("words")
    told = refused(examples=tmp_path / "examples")
    assert "short.wav: an example of 0.050 s; give at least 0.1 s" in told and "silent.wav: a silent example" in told
    assert "words.wav: not an audio file" in told and same in told
    assert told.endswith("Error: 4 faults of examples, told above; nothing is labelled")


def test_all_tables_that_cannot_be_read_are_told_at_once(refused, tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "a.csv").write_text("file,label\nx.wav,\n")
    (tmp_path / "tables" / "b.csv").write_text("file,label\nx.wav,owl\n")
    (tmp_path / "tables" / "c.txt").write_text("1.0\t2.0\towl\n")
    told = refused(examples=tmp_path / "tables")
    assert "a.csv, line 2: no label" in told and "c.txt: names no recording" in told
    assert told.endswith("Error: 2 faults of examples, told above; nothing is labelled")


def test_a_table_that_names_what_is_not_there(made, refused, tmp_path):
    shutil.copy(made / "nights" / "one.wav", tmp_path)
    lines = "one.wav,9,10,owl\ngone.wav,1,2,owl\none.wav,1,2,fox\n"
    (tmp_path / "labels.csv").write_text(f"file,start,end,label\n{lines}")
    told = refused(examples=tmp_path / "labels.csv")
    assert "the label 'owl' is at 9 to 10 s, and the recording is 4.0 s long" in told
    assert "gone.wav: no such file" in told


def test_embeddings_made_otherwise(done, refused, tmp_path):
    root, _ = done
    table = read_table(root / "labels.csv.embeddings.npy")
    columns = {"embeddings": table.embeddings, "paths": table.paths, "start": table.start, "end": table.end}
    for setting, told in (
        (
            {"model_sha256": "0" * 64, "model": "other"},
            "made with --model other (sha256 000000000000), and the classifier",
        ),
        ({"window_seconds": 1.0}, "made with --window 1, and the classifier with 0.5"),
        ({"layer": "pooled"}, "made with layer=pooled"),
        ({"pool": "mean"}, "has a row a file; write a row a window"),
    ):
        np.savez(tmp_path / "x.npz", **columns, settings=json.dumps({**table.settings, **setting}))
        assert told in refused(examples=root / "tones.mtslvr", recordings=tmp_path / "x.npz")
    for change, told in (
        ({"start": table.start[::-1], "end": table.end[::-1]}, "its windows do not follow each other"),
        ({"paths": table.paths[::2] + table.paths[1::2]}, "its windows do not follow each other"),
        ({"embeddings": np.where(table.embeddings > 0, table.embeddings, np.nan)}, "embeddings are no numbers"),
    ):
        np.savez(tmp_path / "x.npz", **{**columns, **change}, settings=json.dumps(table.settings))
        assert told in refused(examples=root / "tones.mtslvr", recordings=tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", **columns, settings="{}")
    assert "does not say how it was made; keep beside it" in refused(recordings=tmp_path / "x.npz")
    columns = {"embeddings": np.empty((0, 1000), np.float32), "paths": [], "start": [], "end": []}
    np.savez(tmp_path / "x.npz", **columns, settings=json.dumps({"pool": "none"}))
    assert "holds no windows; embed recordings" in refused(recordings=tmp_path / "x.npz")


def test_another_window_than_that_which_is_there(done, refused):
    root, _ = done
    told = "--window 1: {} is made with a window of 0.5 s; leave --window out"
    stored, kept = root / "labels.csv.embeddings.npy", root / "tones.mtslvr"
    assert told.format(kept) in refused("--window", 1, examples=kept)
    assert told.format(stored) in refused("--window", 1, recordings=stored)
    assert "--hop 1: " in refused("--hop", 1, recordings=stored)


def test_a_list_may_have_any_name(made, tmp_path):
    (tmp_path / "list.csv").write_text("gone.wav\n")
    result = run(made / "examples", f"@{tmp_path / 'list.csv'}", "-o", tmp_path / "x.csv")
    assert result.exit_code == 4 and "list.csv, line 1: 'gone.wav': no such file" in result.output


def test_embeddings_of_one_feature_are_enough(done, tmp_path):
    root, _ = done
    embed = ["embed", root / "nights", "-o", tmp_path / "x.npz", "--features", "variant", "--pool", "none", "-q"]
    embed += ["--window", 0.5, "--hop", 0.25]
    assert CliRunner().invoke(main, [str(a) for a in embed]).exit_code == 0
    result = run(root / "examples", tmp_path / "x.npz", "-o", tmp_path / "x.csv")
    assert result.exit_code == 0 and "features: variant" in result.stderr, result.output


def test_examples_and_recordings_are_of_the_channel_that_was_embedded(done, tmp_path):
    root, _ = done
    for path in (*root.rglob("examples/*/*.wav"), root / "nights" / "one.wav"):
        copy = tmp_path / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        wave = soundfile.read(path)[0]
        soundfile.write(copy, np.stack([noise(9, 99)[: len(wave)] * 9, wave], 1), RATE)
    embed = ["embed", tmp_path / "nights", "-o", tmp_path / "x.npz", "--pool", "none", "-q", "--channel", 1]
    assert CliRunner().invoke(main, [str(a) for a in (*embed, "--window", 0.5, "--hop", 0.25)]).exit_code == 0
    kept, clips = tmp_path / "right.mtslvr", tmp_path / "clips"
    result = run(
        tmp_path / "examples", tmp_path / "x.npz", "-o", tmp_path / "x.csv",
        "--save", kept, "--suggest", 1, "--suggest-to", clips, "--audio", tmp_path / "nights",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert [row["label"] for row in rows(tmp_path / "x.csv")] == ["low"]
    [clip] = clips.rglob("*.wav")
    start = float(clip.name.split("@")[1].split("s_")[0])
    there = soundfile.read(tmp_path / "nights" / "one.wav")[0][round(start * RATE) :, 1]
    wave = soundfile.read(clip)[0]
    assert np.abs(wave - there[: len(wave)]).max() < 1e-4
    for name, examples, *options in (
        ("y", kept), ("one", tmp_path / "examples", "--channel", 1), ("other", root / "tones.mtslvr", "--channel", 1)
    ):  # fmt: skip
        out = tmp_path / f"{name}.csv"
        again = run(examples, tmp_path / "nights", "-o", out, "--embeddings", tmp_path / f"{name}.npy", *options)
        assert again.exit_code == 0 and [row["label"] for row in rows(out)] == ["low"], again.output
    wrong = run(root / "examples", tmp_path / "x.npz", "-o", tmp_path / "w.csv", "--channel", "mix")
    assert wrong.exit_code == 2 and "--channel mix: " in wrong.output and "is made with a channel of 1" in wrong.output
    assert [event.label for event in Classifier.load(kept).predict_windows(tmp_path / "nights" / "one.wav")] == ["low"]
    refused = run(kept, root / "labels.csv.embeddings.npy", "-o", tmp_path / "z.csv")
    assert refused.exit_code == 2 and "made with --channel mix, and the classifier with 1" in refused.output
    assert "or give --channel mix" in refused.output
