"""`mtslvr classify` from examples and recordings to labels, with tones as calls."""

import csv
import json
import os
import shutil
import sys

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from mtslvr.classify import Classifier, predict, read_labels
from mtslvr.classify.examples import collect
from mtslvr.cli.main import main
from mtslvr.cli.summary import Progress
from mtslvr.run.table import read_table

RATE = 16_000
HERTZ = {"low": 300, "high": 3000, "background": 0}
STORED = "labels.csv.embeddings.npy"
SURE = predict.SURE


def run(*arguments, command="classify", code=0):
    """What the command says, which is to end with `code`."""
    result = CliRunner().invoke(main, [command, *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


def rows(path):
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module", autouse=True)
def all_in_doubt():
    """Any window may be suggested, for the classifiers of these tones are sure of most."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "SURE", 1.0)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory, write):
    """Three clips each of two tones and of noise, and two recordings with a tone at known times."""
    root = tmp_path_factory.mktemp("classify")
    for name, hertz in HERTZ.items():
        for seed in range(3):
            write(root / "examples" / name / f"{seed}.wav", 0.5, seed, hertz=hertz * (1 + 0.01 * seed))
    for name, call, start in (("one.wav", "low", 1.0), ("deep/two.flac", "high", 2.0)):
        write(path := root / "nights" / name, 4, seed=10)
        wave, call_at = soundfile.read(path)[0], slice(int(start * RATE), int((start + 0.5) * RATE))
        wave[call_at] += 0.5 * np.sin(2 * np.pi * 1.01 * HERTZ[call] * np.arange(RATE // 2) / RATE)
        soundfile.write(path, wave, RATE)
    return root


@pytest.fixture(scope="module")
def done(made):
    """The same after one call, which wrote everything there is, and what it said."""
    pytest.importorskip("matplotlib")
    outputs = ["--save", made / "tones.mtslvr", "--suggest", 3, "--report", made / "page.html"]
    (made / "said.txt").write_text(run(made / "examples", made / "nights", "-o", made / "labels.csv", *outputs))
    return made


@pytest.fixture
def again(done):
    """Labels by the kept classifier of the kept embeddings."""
    return lambda *arguments, **more: run(done / "tones.mtslvr", done / STORED, *arguments, **more)


@pytest.fixture
def nights(made, tmp_path):
    return shutil.copytree(made / "nights", tmp_path / "nights")


@pytest.fixture
def examples(made, tmp_path):
    return shutil.copytree(made / "examples", tmp_path / "examples")


@pytest.fixture
def kept_embeddings(done, tmp_path):
    """Those of the recordings, and their journal, in a folder of their own."""
    for path in done.glob(f"{STORED}*"):
        (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / path.name)
    return tmp_path / STORED


def test_calls_are_found_where_they_are_and_shown_on_a_page_that_stands_alone(done):
    found = {(row["file"], row["label"]): row for row in rows(done / "labels.csv")}
    for key, start in ((("one.wav", "low"), 1.0), (("deep/two.flac", "high"), 2.0)):
        assert float(found[key]["start"]) <= start + 0.25 and float(found[key]["end"]) >= start + 0.25
        assert 0.5 <= float(found[key]["score"]) <= 1
    said, page = (done / "said.txt").read_text(), (done / "page.html").read_text(encoding="utf-8")
    assert "examples: high 3, low 3, background 3; from 9 recordings" in said
    assert "window: 0.5 s (the examples' median), hop: 0.25 s (half the window)" in said
    assert "<- chosen" in said and "not held out" not in said and f"\nwrote {done / 'tones.mtslvr'}\n" in said
    assert "</b> &gt; 0.99<br>" in page and "</b> 1.00<br>" not in page
    assert 'src="http' not in page and "data:audio/flac;base64," in page and "data:image/jpeg;base64," in page
    assert "What examples are taken for" in page and "Least certain hits" in page and 'name="viewport"' in page
    assert "windows of 0.5 s every 0.25 s, model parallel-simclr-v2" in page


def test_the_next_call_embeds_nothing_again(done, again, examples, kept_embeddings, write, tmp_path):
    nights, there = done / "nights", "0 files embedded, 2 already there; 30 rows in "
    write(examples / "low" / "longer.wav", 1.5, 4, hertz=312)
    for options in (["--threshold", 0.9], ["--suggest", 30, "--report", tmp_path / "x.html"]):
        assert there in run(examples, nights, "-o", tmp_path / "labels.csv", *options)
    assert len(list(tmp_path.glob("labels.csv.suggestions/*"))) <= 16  # of 4 s each, and none over another
    files = nights / "one.wav", nights / "deep" / "two.flac"
    for out, *options in (["x.jsonl", "--threshold", 0.9], ["tracks", "--format", "raven"], ["y.csv", "--per-file"]):
        assert there in run(done / "examples", *files, "-o", tmp_path / out, *options)
        assert not (tmp_path / f"{out}.embeddings.npy").exists()
    assert all(json.loads(line)["score"] >= 0.9 for line in (tmp_path / "x.jsonl").read_text().splitlines())
    assert again("-o", tmp_path / "y.csv", "-q") == ""
    assert rows(tmp_path / "y.csv") == rows(done / "labels.csv")
    said = again("-o", tmp_path / "y.csv")  # the features were chosen once
    assert f"classifier: {done / 'tones.mtslvr'}: high, low, background; by " in said
    assert "accuracy" not in said and "examples:" not in said


def test_another_window_or_more_recordings_have_embeddings_of_their_own(done, kept_embeddings, tmp_path):
    before = kept_embeddings.read_bytes()
    shutil.copy(done / "nights" / "one.wav", tmp_path / "more.wav")
    for number, given in enumerate((["--hop", 0.5], [tmp_path / "more.wav"], ["--overwrite"])):
        out = tmp_path / f"{number}.csv"
        said = run(done / "tones.mtslvr", done / "nights" / "one.wav", *given, "-o", out)
        assert f"{out}.embeddings.npy" in said and kept_embeddings.read_bytes() == before


def test_suggestions_are_clips_named_by_recording_and_not_mixed_with_new_ones(done, again, examples, tmp_path):
    suggested = done / "labels.csv.suggestions"
    clips = sorted(suggested.iterdir())
    assert len(clips) == 3 and {clip.name.split("@")[0] for clip in clips} == {"one", "deep_two"}
    for clip in clips:
        assert soundfile.info(clip).duration == pytest.approx(0.5)
        shutil.copy(clip, examples / "background")
    figures = Classifier.fit(examples).figures
    assert figures["classes"]["background"] == 6 and figures["recordings"] == 11  # clips of one recording are known
    command = ["-o", tmp_path / "x.csv", "--suggest", 1]
    assert f"{suggested}: has clips already" in again(*command, "--suggest-to", suggested, code=2)
    assert not (tmp_path / "x.csv").exists()
    assert "window: 0.5 s (as the recordings are embedded), hop: 0.25 s (as the recordings" in again(*command)


def test_windows_that_are_sure_are_not_suggested(done, again, write, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "SURE", SURE)
    both = tmp_path / "both.wav"
    said = again("-o", tmp_path / "x.csv", "--suggest", 2)
    assert "windows to label: 0, all apart that are in doubt (no class above 0.99)\n" in said
    write(both, 1, hertz=HERTZ["low"])
    wave = soundfile.read(both)[0]
    soundfile.write(both, wave + 0.5 * np.sin(2 * np.pi * HERTZ["high"] * np.arange(RATE) / RATE), RATE)
    said = run(done / "tones.mtslvr", both, "-o", tmp_path / "y.csv", "--suggest", 5)
    assert "windows to label: 2, all apart that are in doubt (no class above 0.99), in " in said
    assert len(list(tmp_path.glob("y.csv.suggestions/both@*.wav"))) == 2


def test_recordings_that_have_moved_are_found_with_audio(done, kept_embeddings, tmp_path):
    shutil.rmtree(f"{kept_embeddings}.journal")  # which knows their paths
    kept, out = done / "tones.mtslvr", ["-o", tmp_path / "x.csv"]
    command, audio = [kept, kept_embeddings, *out, "--suggest", 1], ["--audio", done / "nights"]
    assert "not there any more; say with --audio" in run(*command, code=2)
    assert rows(tmp_path / "x.csv") == rows(done / "labels.csv")  # nothing that was found is lost
    run(*command, *audio)
    assert "is for an embeddings file" in run(kept, done / "nights", *out, *audio, code=2)
    wrong = ["--suggest-to", tmp_path / "more", "--embeddings", tmp_path / "y.npy"]
    assert "is for audio; the embeddings of RECORDINGS are there" in run(*command, *wrong, code=2)


def test_a_track_that_a_person_has_corrected_stays_as_it_is(done, again, nights):
    kept, track, tracks = done / "tones.mtslvr", nights / "one.txt", ["-o", nights, "--format", "audacity"]
    run(kept, nights, *tracks)
    again(*tracks, "--threshold", 0.9)
    track.write_text("0.1\t0.2\tby hand\n")
    for said in (run(kept, nights, *tracks, code=2), again(*tracks, code=2)):
        assert "nights/one.txt: changed since" in said and track.read_text() == "0.1\t0.2\tby hand\n"
    again(*tracks, "--overwrite")
    assert "by hand" not in track.read_text()


def test_per_file_gives_each_recording_a_row_and_parquet_holds_what_csv_does(done, again, tmp_path):
    said = again("-o", tmp_path / "files.csv", "--per-file", "--top-k", 2)
    assert "2 rows, one a recording" in said and "events" not in said
    one, two = sorted(rows(tmp_path / "files.csv"), key=lambda row: row["label"], reverse=True)
    assert list(one) == ["file", "start", "end", "label", "score", "label_2", "score_2"]
    assert (one["file"], one["label"], two["file"], two["label"]) == ("one.wav", "low", "deep/two.flac", "high")
    parquet = pytest.importorskip("pyarrow.parquet")
    again("-o", tmp_path / "x.parquet")
    found, expected = parquet.read_table(tmp_path / "x.parquet").to_pylist(), rows(done / "labels.csv")
    assert [(row["label"], row["start"]) for row in found] == [(x["label"], float(x["start"])) for x in expected]


def test_recordings_are_embedded_with_the_options_of_the_embed_command(done, tmp_path):
    command = [done / "tones.mtslvr", done / "nights", "-o", tmp_path / "x.csv"]
    run(*command, "--threads", 1, "--batch-size", 4, "--dtype", "bfloat16")
    assert read_table(tmp_path / "x.csv.embeddings.npy").settings["dtype"] == "bfloat16"
    assert "0 files embedded, 2 already there" in run(*command)
    assert "--batch-size 0: must be" in run(*command, "--batch-size", 0, code=2)
    how = ["--features", "variant", "--pool", "none", "--window", 0.5, "--hop", 0.25]  # one embedding is enough
    run(done / "nights", "-o", tmp_path / "x.npz", *how, command="embed")
    assert "features: variant" in run(done / "examples", tmp_path / "x.npz", "-o", tmp_path / "y.csv")


def test_broken_and_changed_recordings_cost_neither_labels_of_others_nor_of_an_earlier_call(
    done, again, nights, write, tmp_path
):
    (nights / "broken.wav").write_bytes(b"no audio")
    kept, out, stored = done / "tones.mtslvr", tmp_path / "labels.csv", tmp_path / "x.csv.embeddings.npy"
    again("-o", out)
    assert "1 of 1 input failed" in run(kept, nights / "broken.wav", "-o", out, code=1)
    assert "1 of 3 inputs failed" in run(kept, nights, "-o", tmp_path / "x.csv", code=1)
    assert len(read_table(stored).paths) == 30
    run(kept, nights / "broken.wav", "-o", tmp_path / "x.csv", code=1)  # with embeddings of other recordings there
    assert rows(tmp_path / "x.csv") == rows(out) == rows(done / "labels.csv")
    for options, labels in ([], {"low"}), (["--no-reject"], {"low", "high"}):  # of one of the recordings
        run(kept, nights / "one.wav", "-o", tmp_path / "x.csv", "--top-k", 3, "--threshold", 0, *options)
        assert {(row["file"], row["label"]) for row in rows(tmp_path / "x.csv")} == {("one.wav", x) for x in labels}
    assert "changed after" not in run(kept, stored, "-o", out)
    write(nights / "one.wav", 4, 3)
    assert "one.wav changed after being embedded" in run(kept, stored, "-o", out)


def test_an_interrupted_call_goes_on(done, tmp_path, monkeypatch):
    advance = Progress.advance

    def interrupt(self, step):
        advance(self, step)
        if step.entry:
            raise KeyboardInterrupt

    command = [done / "tones.mtslvr", done / "nights", "-o", tmp_path / "x.csv"]
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "advance", interrupt)
        assert "the same command goes on from there" in run(*command, "--batch-size", 1, code=130)
    assert not (tmp_path / "x.csv").exists()
    assert "1 file embedded, 1 already there" in run(*command)
    assert rows(tmp_path / "x.csv") == rows(done / "labels.csv")


def test_a_table_of_labels_is_examples_and_without_recordings_the_classifier_is_kept(made, tmp_path):
    night = made / "nights" / "one.wav"
    lines = [f"{night},{a},{a + 0.5},{x}\n" for a, x in ((1, "call"), (2, "background"), (3, "background"))]
    (tmp_path / "labels.csv").write_text("file,start,end,label\n" + "".join(lines))
    assert "not calibrated" in run(tmp_path / "labels.csv", "--save", tmp_path / "x.mtslvr")
    kept = Classifier.load(tmp_path / "x.mtslvr")
    assert kept.classes == ("call", "background") and "nothing can be measured" in kept.figures["reason"]


def test_labels_of_one_call_are_examples_of_the_next(done, again, tmp_path):
    for form, name in (("csv", "labels.csv"), ("audacity", "tracks"), ("raven", "views"), ("raven", "all.txt")):
        again("-o", tmp_path / name, "--format", form)
        if name == "tracks":  # the track of a recording where nothing was found
            (tmp_path / "tracks" / "none.txt").touch()
        run(tmp_path / name, done / STORED, "-o", tmp_path / "again.csv")
        assert {row["label"] for row in rows(tmp_path / "again.csv")} == {"low", "high"}, name


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes")
def test_names_that_are_not_utf8_may_be_those_of_recordings_and_not_of_classes(done, examples, tmp_path):
    named = tmp_path / os.fsdecode(b"k\xe4uzchen.wav")
    shutil.copy(done / "nights" / "one.wav", named)
    run(done / "tones.mtslvr", named, "-o", tmp_path / "labels.csv")
    [label, *_] = read_labels(tmp_path / "labels.csv")
    assert label.file == str(named) and label.label == "low"
    (examples / "low").rename(examples / os.fsdecode(b"k\xe4uz"))
    told = "class 'k\\udce4uz': its name is not in UTF-8"
    assert told in run(examples, done / "nights", "-o", tmp_path / "x.csv", code=2)


def test_the_class_of_files_which_silence_has_none_of(made, done, examples, tmp_path):
    one, two, background = (made / x for x in ("nights/one.wav", "nights/deep/two.flac", "examples/background/0.wav"))
    silence, zeros = tmp_path / "silence.wav", examples / "background" / "silence.wav"
    soundfile.write(silence, np.full(2 * RATE, 0.1), RATE)
    for silent_example in (False, True):
        if silent_example:
            soundfile.write(zeros, np.zeros(RATE), RATE)
        Classifier.fit(examples).save(tmp_path / "x.mtslvr")
        classifier = Classifier.load(tmp_path / "x.mtslvr")
        assert classifier.predict([one, two, background]) == ["low", "high", None]  # though most windows are background
        for threshold in (0, 0.01, 0.5):
            assert classifier.predict([silence], threshold=threshold) == [None]
    table = read_table(done / STORED)
    labels = ["low" if start < 2 else "high" for start in table.start]
    assert Classifier.fit(table, labels).predict([zeros], threshold=0.01) == [None]


def test_what_is_no_example_too_few_of_a_class_and_long_windows_are_told(made, examples, tmp_path):
    (examples / "notes.txt").write_text("Recorded by the lake.\n")
    (examples / "empty").mkdir()
    shutil.copy(made / "nights" / "one.wav", examples)
    for number in (1, 2):
        (examples / "low" / f"{number}.wav").unlink()
    said = run(examples, "--save", tmp_path / "x.mtslvr", "--window", 6)
    assert "warning: passed over: " in said and "notes.txt: its columns are" in said
    assert "empty: no audio in it" in said and "in no class's folder" in said
    assert "not held out: 1 of low; of each class two recordings are needed" in said
    assert "windows of 6 s, and examples of 0.5 s (median)" in said
    assert Classifier.load(tmp_path / "x.mtslvr").classes == ("high", "low", "background")


def test_recordings_with_tables_are_no_classes_and_clips_beside_a_track_are_told(made, nights, examples):
    (examples / "marked").mkdir()
    shutil.copy(made / "nights" / "one.wav", examples / "marked")
    (examples / "labels.csv").write_text("file,start,end,label\nmarked/one.wav,1.0,1.5,low\n")
    with pytest.warns(UserWarning, match="marked: has recordings that a table names"):
        found = Classifier.fit(examples)
    assert dict(found.figures["classes"]) == {"high": 3, "low": 4, "background": 3}
    (examples / "low" / "0.txt").write_text("0.1\t0.4\tlow\n")
    with pytest.warns(UserWarning, match="audio in folders with tables but in no table, .*1.wav and 1 more"):
        assert Classifier.fit(examples).figures["classes"]["low"] == 2
    shutil.rmtree(examples)
    (nights / "one.txt").write_text("1.0\t1.5\tlow\n2.5\t3\tbackground\n")
    (nights / "deep" / "two.txt").write_text("2.0\t2.5\thigh\n")
    assert Classifier.fit(nights.parent).classes == ("high", "low", "background")


def test_a_short_tail_of_a_long_example_is_no_example(write, tmp_path):
    for name, seconds in (("low", 1.1), ("high", 0.3)):
        write(tmp_path / name / "a.wav", seconds, hertz=HERTZ[name])
    # 0 to 0.5 and 0.4 to 0.9 s, 0.8 to 1.1 having 0.2 s that are new; 0 to 0.6 s, and 0.6 to 1.1, which is most of it
    for window, hop, count in ((0.5, None, 3 + 1), (0.5, 0.4, 2 + 1), (0.6, 0.6, 2 + 1)):
        assert len(collect(tmp_path, None, None, window, hop, "cpu").embeddings) == count


@pytest.fixture
def refused(made, tmp_path, monkeypatch):
    """What is said of a wrong call, which writes nothing into its working directory."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def call(*options, examples=made / "examples", recordings=made / "nights", out="labels.csv"):
        said = run(examples, recordings, "-o", out, *options, code=2)
        assert os.listdir() == []
        return " ".join(said.split())

    return call


def test_wrong_options(refused):
    no_name = "a name of 1 to 200 bytes is expected"
    for options, told in (
        (["--suggest-to", "x"], "is for --suggest N; give both"),
        (["--window", "nan"], "--window nan: must be"),
        (["--device", "gpu"], "--device gpu: unknown"),
        (["--channel", "x"], "--channel x: must be 'mix' or the number of a channel"),
        (["--format", "audacity", "--per-file"], "a row a recording has no times"),
        (["--format", "audacity", "-o", "x.txt"], "a label track is of one recording, and there are 2"),
        (["-o", "labels.txt"], "no format by the suffix '.txt'"),
        (["--report", "page.pdf"], "page.pdf: unknown format '.pdf'"),
        (["--save", "nowhere/x.mtslvr"], "folder 'nowhere' does not exist"),
        (["--save", "x" * 300], f"'--save': {no_name}"),
        (["--suggest", "1", "--suggest-to", ""], f"'--suggest-to': {no_name}"),
        (["-o", "..", "--format", "audacity"], no_name),
        (["--save", "./labels.csv.embeddings.npy"], "labels.csv.embeddings.npy: is to be written twice"),
        (["--suggest", "1", "--save", "labels.csv.suggestions"], "labels.csv.suggestions: is to be written twice"),
    ):
        said = refused(*options)
        assert told in said and "examples:" not in said and "embedding the examples" not in said


def test_a_file_of_another_kind_is_not_replaced(done, again, tmp_path):
    out = ["-o", tmp_path / "x.csv"]
    for option, there in (("--save", tmp_path / "labels.csv"), ("--report", tmp_path / "notes.html")):
        there.write_text("file,start,end,label\n")
        told = run(done / "examples", done / "nights", *out, option, there, code=2)
        assert f"{there}: is there and is no " in told and not (tmp_path / "x.csv").exists()
        assert there.read_text() == "file,start,end,label\n"
    for _ in range(2):
        again(*out, "--save", tmp_path / "y.mtslvr", "--report", tmp_path / "y.html")


def test_nothing_is_written_over_audio_or_among_what_is_read(examples, nights, tmp_path):
    table, audacity = tmp_path / "t.csv", ["--format", "audacity"]
    table.write_text(f"file,label\n{nights}/one.wav,low\n")
    night, example = nights / "one.wav", examples / "low" / "0.wav"
    before = night.read_bytes(), example.read_bytes()
    for arguments, told in (
        ([examples, examples / "x.csv", "-o", examples / "x.csv"], "is both read and to be written"),
        ([examples, examples / "x.csv", "-o", examples / "y.csv"], "is within EXAMPLES"),
        ([table, "--save", table], "is both read and to be written"),
        ([table, nights, "-o", tmp_path, *audacity], "has EXAMPLES in it"),
        ([examples, nights, "-o", night, "--format", "csv"], f"{night}: is audio"),
        ([examples, nights, "-o", example, "--format", "csv"], f"{example}: is audio"),
        ([examples, "--save", night], f"{night}: is audio"),
        ([examples], "give --save alone"),
        ([examples, nights], "give -o labels.csv"),
    ):
        assert told in run(*arguments, code=2)
    assert (night.read_bytes(), example.read_bytes()) == before


def test_examples_and_recordings_that_are_none(made, refused, write, tmp_path):
    layout = "a folder with a folder a class, as calls/owl/1.wav"
    told = refused(examples=made / "examples" / "low")
    assert "no examples (audio in no class's folder, " in told and " and 2 more): " in told and layout in told
    assert "one.wav: is one sound, and examples are " + layout in refused(examples=made / "nights" / "one.wav")
    (tmp_path / "empty").mkdir()
    assert "no examples (an empty folder): " in refused(examples=tmp_path / "empty")
    for seed, night in enumerate("ab"):
        write(tmp_path / "long" / night / "x.flac", 61, seed)
    told = refused(examples=tmp_path / "long", recordings=made / "examples")
    assert "examples of 61 s and recordings of 0 s (median)" in told and "they come first" in told
    told = "EXAMPLES 'calls', RECORDINGS 'nights': no such file or folder; check the paths"
    assert told in refused(examples="calls", recordings="nights")
    assert "x.npz: an embeddings file among several RECORDINGS" in refused("y.npz", recordings="x.npz")
    (tmp_path / "list.csv").write_text("gone.wav\n")  # a list may have any name
    told = run(made / "examples", f"@{tmp_path / 'list.csv'}", "-o", "x.csv", code=4)
    assert "list.csv, line 1: 'gone.wav': no such file" in told


def test_all_examples_that_cannot_be_used_are_told_at_once(refused, examples, write):
    low = examples / "low"
    shutil.copy(low / "0.wav", examples / "high" / "copy.wav")
    same = "low/0.wav (low): the same audio in two classes; take one of them out"
    assert refused(examples=examples).endswith(same)
    write(low / "short.wav", 0.05)
    soundfile.write(low / "silent.wav", np.zeros(RATE), RATE)
    (low / "words.wav").write_text("words")
    told = refused(examples=examples)
    assert "short.wav: an example of 0.050 s; give at least 0.1 s" in told and "silent.wav: a silent example" in told
    assert "words.wav: not an audio file" in told and same in told
    assert told.endswith("Error: 4 faults of examples, told above; nothing is labelled")


def test_all_that_is_wrong_with_tables_is_told_at_once(refused, nights, tmp_path):
    tables = tmp_path / "tables"
    tables.mkdir()
    (tables / "a.csv").write_text("file,label\nx.wav,\n")
    (tables / "b.csv").write_text("file,label\nx.wav,owl\n")
    (tables / "c.txt").write_text("1.0\t2.0\towl\n")
    told = refused(examples=tables)
    assert "a.csv, line 2: no label" in told and "c.txt: names no recording" in told
    assert told.endswith("Error: 2 faults of examples, told above; nothing is labelled")
    lines = "one.wav,9,10,owl\ngone.wav,1,2,owl\none.wav,1,2,fox\n"
    (nights / "labels.csv").write_text(f"file,start,end,label\n{lines}")
    told = refused(examples=nights / "labels.csv")
    assert "the label 'owl' is at 9 to 10 s, and the recording is 4.0 s long" in told
    assert "gone.wav: no such file" in told


def test_embeddings_made_otherwise(done, refused, tmp_path):
    table, kept, x = read_table(done / STORED), done / "tones.mtslvr", tmp_path / "x.npz"
    columns = {"embeddings": table.embeddings, "paths": table.paths, "start": table.start, "end": table.end}
    empty = {"embeddings": np.empty((0, 1000), np.float32), "paths": [], "start": [], "end": []}
    other, apart = {"model_sha256": "0" * 64, "model": "other"}, "its windows do not follow each other"
    for settings, changes, told in (
        (other, {}, "made with --model other (sha256 000000000000), and the classifier"),
        ({"window_seconds": 1.0}, {}, "made with --window 1, and the classifier with 0.5"),
        ({"pool": "mean"}, {}, "has a row a file; write a row a window"),
        ({}, {"start": table.start[::-1], "end": table.end[::-1]}, apart),
        ({}, {"paths": table.paths[::2] + table.paths[1::2]}, apart),
        ({}, {"embeddings": np.where(table.embeddings > 0, table.embeddings, np.nan)}, "embeddings are no numbers"),
        ({}, empty, "holds no windows; embed recordings"),
        *(({}, {"paths": (name, *table.paths[1:])}, "is no name of a file; embed it") for name in ("", "..", "a\0b")),
    ):
        np.savez(x, **{**columns, **changes}, settings=json.dumps({**table.settings, **settings}))
        assert told in refused(examples=kept, recordings=x)
    np.savez(x, **columns, settings="{}")
    assert "does not say how it was made; keep beside it" in refused(recordings=x)
    told = "--window 1: {} is made with a window of 0.5 s; leave --window out"
    assert told.format(kept) in refused("--window", 1, examples=kept)
    assert told.format(done / STORED) in refused("--window", 1, recordings=done / STORED)
    assert "--hop 1: " in refused("--hop", 1, recordings=done / STORED)


def test_examples_and_recordings_are_of_the_channel_that_was_embedded(done, tmp_path):
    for path in (*done.rglob("examples/*/*.wav"), done / "nights" / "one.wav"):
        copy, wave = tmp_path / path.relative_to(done), soundfile.read(path)[0]
        copy.parent.mkdir(parents=True, exist_ok=True)
        loud = np.random.default_rng(99).uniform(-0.9, 0.9, len(wave))
        soundfile.write(copy, np.stack([loud, wave], 1), RATE)
    examples, nights, kept, clips = (tmp_path / name for name in ("examples", "nights", "right.mtslvr", "clips"))
    how = ["--pool", "none", "--channel", 1, "--window", 0.5, "--hop", 0.25]
    run(nights, "-o", tmp_path / "x.npz", *how, command="embed")
    suggested = ["--suggest", 1, "--suggest-to", clips, "--audio", nights]
    run(examples, tmp_path / "x.npz", "-o", tmp_path / "x.csv", "--save", kept, *suggested)
    assert [row["label"] for row in rows(tmp_path / "x.csv")] == ["low"]
    [clip] = clips.rglob("*.wav")
    start, wave = float(clip.name.split("@")[1].split("s_")[0]), soundfile.read(clip)[0]
    there = soundfile.read(nights / "one.wav")[0][round(start * RATE) :, 1]
    assert np.abs(wave - there[: len(wave)]).max() < 1e-4
    mix = done / "tones.mtslvr"
    for name, by, *options in (["y", kept], ["z", examples, "--channel", 1], ["m", mix, "--channel", 1]):
        out = tmp_path / f"{name}.csv"
        run(by, nights, "-o", out, "--embeddings", tmp_path / f"{name}.npy", *options)
        assert [row["label"] for row in rows(out)] == ["low"]
    assert [event.label for event in Classifier.load(kept).predict_windows(nights / "one.wav")] == ["low"]
    wrong = run(done / "examples", tmp_path / "x.npz", "-o", tmp_path / "w.csv", "--channel", "mix", code=2)
    assert "--channel mix: " in wrong and "is made with a channel of 1" in wrong
    wrong = run(kept, done / STORED, "-o", tmp_path / "w.csv", code=2)
    assert "made with --channel mix, and the classifier with 1" in wrong and "or give --channel mix" in wrong
