"""`mtslvr classify` from examples and recordings to labels, with a small model and tones as calls."""

import csv
import json
import shutil

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner

import mtslvr
from mtslvr.classify import Classifier, read_labels
from mtslvr.cli.main import main
from mtslvr.models import checkpoint
from mtslvr.run import extract
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
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, three clips each of two tones and of noise, and two recordings with a tone at known times."""
    root = tmp_path_factory.mktemp("classify")
    torch.manual_seed(0)
    checkpoint.save(mtslvr.Encoder(mtslvr.EncoderConfig(window_seconds=0.5)), root / "model")
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
        made / "examples", made / "nights", "-o", made / "labels.csv", "--model", made / "model",
        "--save", made / "tones.mtslvr", "--suggest", 3, "--report", made / "page.html",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return made, result


def test_calls_are_found_where_they_are(done):
    root, result = done
    found = {(row["file"], row["label"]): row for row in rows(root / "labels.csv")}
    for key, start in ((("one.wav", "low"), 1.0), (("deep/two.flac", "high"), 2.0)):
        assert float(found[key]["start"]) <= start + 0.25 and float(found[key]["end"]) >= start + 0.25
        assert 0.5 <= float(found[key]["score"]) <= 1
    assert "examples: high (3), low (3), background (3), of 9 recordings" in result.stderr
    assert "window: 0.5 s (the examples' median), hop: 0.25 s (half the window)" in result.stderr
    assert "<- chosen" in result.stderr and "scores: calibrated on 9 examples" in result.stderr


def test_nothing_is_embedded_again(done, tmp_path, monkeypatch):
    root, _ = done
    shutil.copytree(root, tmp_path / "again")
    here, computed, encode = tmp_path / "again", [], extract._encode
    monkeypatch.setattr(extract, "_encode", lambda e, w, c: computed.append(len(w)) or encode(e, w, c))
    stored = ["--embeddings", root / "labels.csv.embeddings.npy"]
    result = run(root / "tones.mtslvr", root / "nights", "-o", here / "x.jsonl", "--threshold", 0.9, *stored)
    assert result.exit_code == 0 and computed == [], result.output
    assert all(json.loads(line)["score"] >= 0.9 for line in (here / "x.jsonl").read_text().splitlines())
    table = run(root / "tones.mtslvr", root / "labels.csv.embeddings.npy", "-o", here / "y.csv", "-q")
    assert table.exit_code == 0 and computed == [] and table.output == ""
    assert rows(here / "y.csv") == rows(root / "labels.csv")


def test_suggestions_are_clips_named_by_recording_time_and_guess(done):
    root, _ = done
    clips = sorted((root / "labels.csv.suggestions").iterdir())
    assert len(clips) == 3 and {clip.name.split("@")[0] for clip in clips} == {"one", "deep_two"}
    assert all(soundfile.info(clip).duration == pytest.approx(0.5) for clip in clips)
    assert clips[0].name.split("_")[-1].endswith(".wav")


def test_suggestions_that_nobody_has_moved_yet_are_not_mixed_with_new_ones(done, tmp_path):
    root, _ = done
    command = [root / "tones.mtslvr", root / "labels.csv.embeddings.npy", "-o", tmp_path / "x.csv", "--suggest", 1]
    result = run(*command, "--suggest-to", root / "labels.csv.suggestions")
    assert result.exit_code == 2 and "labels.csv.suggestions: has clips already" in result.output
    assert list(tmp_path.iterdir()) == []
    result = run(*command)
    assert result.exit_code == 0, result.output
    assert "window: 0.5 s (as the recordings are embedded), hop: 0.25 s (as the recordings" in result.stderr


def test_clips_of_one_recording_stay_together_in_the_cross_validation(done, tmp_path):
    root, _ = done
    shutil.copytree(root / "examples", tmp_path / "examples")
    for clip in (root / "labels.csv.suggestions").iterdir():
        shutil.copy(clip, tmp_path / "examples" / "background")
    made = Classifier.fit(tmp_path / "examples", model=root / "model")
    assert made.figures["classes"]["background"] == 6 and made.figures["recordings"] == 11


def test_the_page_stands_alone_with_pictures_and_sounds(done):
    page = (done[0] / "page.html").read_text(encoding="utf-8")
    assert 'src="http' not in page and "data:audio/wav;base64," in page and "data:image/jpeg;base64," in page
    assert "What examples are taken for" in page and "Least certain hits" in page
    assert 'name="viewport"' in page


def test_tracks_and_selection_tables_a_recording_are_read_again(done, tmp_path):
    root, _ = done
    shutil.copytree(root / "nights", tmp_path / "nights")
    table = root / "labels.csv.embeddings.npy"
    for form, suffix in (("audacity", ".txt"), ("raven", ".Table.1.selections.txt")):
        assert run(root / "tones.mtslvr", table, "-o", tmp_path / "nights", "--format", form).exit_code == 0
        [label, *_] = read_labels(tmp_path / "nights" / "deep" / f"two{suffix}")
        assert label.file.endswith("two.flac") and label.label == "high"
    one = tmp_path / "all.txt"
    assert run(root / "tones.mtslvr", table, "-o", one, "--format", "raven").exit_code == 0
    assert {line.split("\t")[8] for line in one.read_text().splitlines()[1:]} == {"one.wav", "two.flac"}
    refused = run(root / "tones.mtslvr", table, "-o", one, "--format", "audacity")
    assert refused.exit_code == 2 and "a label track is of one recording, and there are 2" in refused.output


def test_parquet_holds_the_same(done, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    root, _ = done
    result = run(root / "tones.mtslvr", root / "labels.csv.embeddings.npy", "-o", tmp_path / "x.parquet")
    assert result.exit_code == 0, result.output
    found = parquet.read_table(tmp_path / "x.parquet").to_pylist()
    assert [row["label"] for row in found] == [row["label"] for row in rows(root / "labels.csv")]
    assert found[0]["start"] == float(rows(root / "labels.csv")[0]["start"])


def test_per_file_gives_each_recording_a_row(done, tmp_path):
    root, _ = done
    out = tmp_path / "files.csv"
    result = run(root / "tones.mtslvr", root / "labels.csv.embeddings.npy", "-o", out, "--per-file", "--top-k", 2)
    assert result.exit_code == 0, result.output
    assert "2 rows, one a recording" in result.stderr and "events" not in result.stderr
    found = {row["file"]: row for row in rows(out)}
    assert list(next(iter(found.values()))) == ["file", "start", "end", "label", "score", "label_2", "score_2"]
    assert found["one.wav"]["label"] == "low" and found["deep/two.flac"]["label"] == "high"


def test_a_broken_recording_costs_its_own_labels_only(done, tmp_path):
    root, _ = done
    shutil.copytree(root / "nights", tmp_path / "nights")
    (tmp_path / "nights" / "broken.wav").write_bytes(b"no audio")
    result = run(root / "tones.mtslvr", tmp_path / "nights", "-o", tmp_path / "labels.csv")
    assert result.exit_code == 1 and "1 of 3 inputs failed" in result.output
    assert {row["file"] for row in rows(tmp_path / "labels.csv")} >= {"one.wav", "deep/two.flac"}
    assert len(read_table(tmp_path / "labels.csv.embeddings.npy").paths) > 0


def test_a_table_of_labels_is_examples_and_without_recordings_the_classifier_is_kept(done, tmp_path):
    root, _ = done
    lines = [
        f"{root / 'nights' / 'one.wav'},{a},{a + 0.5},{x}"
        for a, x in ((1, "call"), (2, "background"), (3, "background"))
    ]
    (tmp_path / "labels.csv").write_text("file,start,end,label\n" + "\n".join(lines) + "\n")
    result = run(tmp_path / "labels.csv", "--save", tmp_path / "x.mtslvr", "--model", root / "model")
    assert result.exit_code == 0, result.output
    made = Classifier.load(tmp_path / "x.mtslvr")
    assert made.classes == ("call", "background") and "nothing can be measured" in made.figures["reason"]
    assert "not calibrated" in result.stderr


@pytest.mark.parametrize("silent_example", [True, False])
def test_silence_is_none_of_the_classes(made, tmp_path, silent_example):
    shutil.copytree(made / "examples", tmp_path / "examples")
    if silent_example:
        soundfile.write(tmp_path / "examples" / "background" / "silence.wav", np.zeros(RATE), RATE)
    soundfile.write(tmp_path / "silence.wav", np.full(2 * RATE, 0.1), RATE)
    Classifier.fit(tmp_path / "examples", model=made / "model").save(tmp_path / "x.mtslvr")
    classifier = Classifier.load(tmp_path / "x.mtslvr")
    files = [tmp_path / "silence.wav", made / "nights" / "one.wav"]
    assert classifier.predict(files, threshold=0.01)[0] is None
    assert classifier.predict(files) == [None, "low"]


def test_a_file_beside_class_folders_that_is_no_table_is_passed_over(made, tmp_path):
    shutil.copytree(made / "examples", tmp_path / "examples")
    (tmp_path / "examples" / "notes.txt").write_text("Recorded by the lake.\n")
    result = run(tmp_path / "examples", "--save", tmp_path / "x.mtslvr", "--model", made / "model")
    assert result.exit_code == 0, result.output
    assert "warning: passed over: " in result.stderr and "notes.txt: no column for" in result.stderr


def test_a_short_tail_of_a_long_example_is_no_example(made, tmp_path):
    for name, seconds in (("low", 1.1), ("high", 0.3)):
        (tmp_path / "examples" / name).mkdir(parents=True)
        soundfile.write(tmp_path / "examples" / name / "a.wav", tone(HERTZ[name], seconds, 0), RATE)
    fit = {"model": made / "model", "window_seconds": 0.5}
    _, examples, _ = Classifier.choose(tmp_path / "examples", **fit)
    assert examples.labels.count("low") == 3 and examples.labels.count("high") == 1
    _, examples, _ = Classifier.choose(tmp_path / "examples", hop_seconds=0.4, **fit)
    assert examples.labels.count("low") == 2  # 0 to 0.5 and 0.4 to 0.9 s, 0.8 to 1.1 having 0.2 s that are new


def test_a_file_has_the_class_that_any_window_has_though_most_are_background(made):
    classifier = Classifier.fit(made / "examples", model=made / "model")
    files = [made / "nights" / "one.wav", made / "nights" / "deep" / "two.flac", made / "examples/background/0.wav"]
    assert classifier.predict(files) == ["low", "high", None]


@pytest.mark.parametrize("form", ["labels.csv", "audacity", "raven"])
def test_labels_of_one_call_are_examples_of_the_next(done, tmp_path, form):
    root, _ = done
    out, options = (tmp_path / form, []) if form.endswith(".csv") else (tmp_path / "tracks", ["--format", form])
    assert run(root / "tones.mtslvr", root / "labels.csv.embeddings.npy", "-o", out, *options).exit_code == 0
    if out.is_dir():  # the track of a recording where nothing was found
        (out / "none.txt").touch()
    for recordings in (root / "nights", root / "labels.csv.embeddings.npy"):
        again = run(out, recordings, "-o", tmp_path / "again.csv", "--model", root / "model")
        assert again.exit_code == 0, again.output
        assert {row["label"] for row in rows(tmp_path / "again.csv")} == {"low", "high"}


# What is refused, before anything is written


@pytest.fixture
def refused(made, tmp_path):
    def call(*arguments, examples=made / "examples", recordings=made / "nights", out=tmp_path / "out" / "labels.csv"):
        out.parent.mkdir(exist_ok=True)
        result = run(examples, recordings, "-o", out, "--model", made / "model", *arguments)
        assert result.exit_code == 2, result.output
        assert list((tmp_path / "out").rglob("*")) == []
        return " ".join(result.output.split())

    return call


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--threshold", "1.5"], "threshold=1.5: must be a probability from 0 to 1"),
        (["--top-k", "0"], "top_k=0"),
        (["--window", "0"], "window_seconds=0.0"),
        (["--device", "gpu"], "device='gpu': unknown"),
        (["--format", "audacity", "--per-file"], "a row a recording has no times"),
        (["--report", "page.pdf"], "page.pdf: unknown format '.pdf'"),
        (["--save", "nowhere/x.mtslvr"], "folder 'nowhere' does not exist"),
    ],
)
def test_wrong_options_are_refused(refused, options, told):
    assert told in refused(*options)


def test_an_output_without_a_known_format_is_refused(refused, tmp_path):
    assert "no format by the suffix '.txt'" in refused(out=tmp_path / "out" / "labels.txt")


def test_what_is_read_is_not_written_over(made):
    result = run(made / "examples" / "x.csv", made / "nights", "-o", made / "examples" / "x.csv")
    assert result.exit_code == 2 and "is both read and to be written" in result.output
    result = run(made / "examples", made / "nights", "-o", made / "examples" / "x.csv")
    assert result.exit_code == 2 and "is within EXAMPLES" in result.output


def copied(made, tmp_path):
    return shutil.copytree(made / "examples", tmp_path / "examples")


def test_one_class_only(made, refused, tmp_path):
    examples = copied(made, tmp_path)
    for name in ("high", "background"):
        shutil.rmtree(examples / name)
    assert "examples of 'low' only: give two classes" in refused(examples=examples)


def test_the_same_clip_in_two_classes(made, refused, tmp_path):
    examples = copied(made, tmp_path)
    shutil.copy(examples / "low" / "0.wav", examples / "high" / "copy.wav")
    told = refused(examples=examples)
    assert "low/0.wav (low)" in told and "high/copy.wav (high)" in told and "the same audio in two classes" in told


@pytest.mark.parametrize(
    ("wave", "told"),
    [(noise(0.05, 0), "an example of 0.050 s; give at least 0.1 s"), (np.zeros(RATE), "a silent example")],
)
def test_an_example_that_says_nothing(made, refused, tmp_path, wave, told):
    examples = copied(made, tmp_path)
    soundfile.write(examples / "low" / "bad.wav", wave, RATE)
    assert f"bad.wav: {told}" in refused(examples=examples)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("one.wav,9,10,owl", "the label 'owl' is at 9 to 10 s, and the recording is 4.0 s long"),
        ("one.wav,2,1,owl", "line 2: end 1 s is not after start 2 s"),
        ("gone.wav,1,2,owl", "gone.wav: no such file"),
    ],
)
def test_a_table_with_a_fault(made, refused, tmp_path, line, told):
    shutil.copy(made / "nights" / "one.wav", tmp_path)
    (tmp_path / "labels.csv").write_text(f"file,start,end,label\n{line}\none.wav,1,2,fox\n")
    assert told in refused(examples=tmp_path / "labels.csv")


def test_embeddings_made_otherwise(done, tmp_path):
    root, _ = done
    torch.manual_seed(1)
    other = checkpoint.save(mtslvr.Encoder(mtslvr.EncoderConfig(window_seconds=0.5)), tmp_path / "other")

    def embeddings(name, *options):
        out = str(tmp_path / name)
        result = CliRunner().invoke(
            main, ["embed", str(root / "nights" / "one.wav"), "-o", out, "-q", *map(str, options)]
        )
        assert result.exit_code == 0, result.output
        told = run(root / "tones.mtslvr", out, "-o", tmp_path / "x.csv")
        assert told.exit_code == 2 and not (tmp_path / "x.csv").exists()
        return told.output

    model = ["--pool", "none", "--model", root / "model"]
    assert "made with model_sha256=" in embeddings("a.npz", "--pool", "none", "--model", other)
    assert "made with window_seconds=1.0, and the classifier with 0.5" in embeddings("b.npz", *model, "--window", 1)
    assert "made with layer='pooled'" in embeddings("c.npz", *model, "--layer", "pooled")
    assert "has a row a file; write a row a window" in embeddings("d.npz", "--model", root / "model")


def test_a_saved_classifier_keeps_its_window(done, tmp_path):
    root, _ = done
    result = run(root / "tones.mtslvr", root / "nights", "-o", tmp_path / "x.csv", "--window", 1)
    assert result.exit_code == 2 and "made with window_seconds=1.0, and the classifier with 0.5" in result.output
    assert list(tmp_path.iterdir()) == []


def test_embeddings_of_one_feature_are_enough(done, tmp_path):
    root, _ = done
    embed = ["embed", root / "nights", "-o", tmp_path / "x.npz", "--features", "variant", "--pool", "none", "-q"]
    embed += ["--model", root / "model", "--hop", 0.25]
    assert CliRunner().invoke(main, [str(a) for a in embed]).exit_code == 0
    result = run(root / "examples", tmp_path / "x.npz", "-o", tmp_path / "x.csv")
    assert result.exit_code == 0 and "features: variant" in result.stderr, result.output


def test_recordings_without_a_window(done, tmp_path):
    root, _ = done
    columns = {"embeddings": np.empty((0, 1000), np.float32), "paths": [], "start": [], "end": []}
    np.savez(tmp_path / "none.npz", **columns, settings=json.dumps({"pool": "none"}))
    result = run(root / "tones.mtslvr", tmp_path / "none.npz", "-o", tmp_path / "x.csv")
    assert result.exit_code == 2 and "holds no windows; embed recordings" in result.output


def test_labels_of_an_earlier_call_outlive_one_that_fails(made, tmp_path):
    (tmp_path / "labels.csv").write_text("file,start,end,label,score\n")
    (tmp_path / "nights").mkdir()
    (tmp_path / "nights" / "broken.wav").write_bytes(b"no audio")
    result = run(made / "examples", tmp_path / "nights", "-o", tmp_path / "labels.csv", "--model", made / "model")
    assert result.exit_code == 1 and "1 of 1 input failed" in result.output
    assert (tmp_path / "labels.csv").read_text() == "file,start,end,label,score\n"


def test_without_recordings_or_an_output_usage_is_told(made, tmp_path):
    assert "give --save alone" in run(made / "examples").output
    assert "give -o labels.csv" in run(made / "examples", made / "nights").output
