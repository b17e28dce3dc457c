"""Where labels go: names of tracks, recordings of any name, suggestions over all recordings."""

import contextlib
import functools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mtslvr.classify import Classifier, Label
from mtslvr.classify.clips import write_clips
from mtslvr.classify.examples import recording_of
from mtslvr.classify.output import LabelFormat, Recording, check_labels_kept, check_labels_output, write_labels
from mtslvr.classify.predict import Doubt, Found, spread
from mtslvr.errors import ConfigError
from mtslvr.run.table import EmbeddingTable


def recordings(names):
    return [Recording(name, f"/nowhere/{name}", 10.0, 48_000) for name in names]


def write(out, names=("a.wav",), form=LabelFormat.AUDACITY, label="owl"):
    """A track or table with a call a recording, or with none."""
    labels = [Label(name, 1.0, 2.0, label, 0.5) for name in names] if label else []
    write_labels(out, form, labels, recordings(names))


def check(out, names=("a.wav",), form=LabelFormat.AUDACITY, overwrite=False, changed=False):
    """Labels may be written where nothing is `changed`, and are refused else."""
    told = r"\w\.(txt|csv): changed since .* or not written by it; .* --overwrite"
    with pytest.raises(ConfigError, match=told) if changed else contextlib.nullcontext():
        check_labels_kept(out, form, names, overwrite=overwrite)


def test_each_recording_has_a_track_of_its_own_within_the_folder(tmp_path):
    write(tmp_path / "out", ["a.wav", "a.flac", "deep/b.wav", "../c.wav", "/abs/d.wav"])
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.txt")}
    assert found == {f"out/{name}.txt" for name in ("a.wav", "a.flac", "deep/b", "c", "abs/d")}
    write(tmp_path, ["a.wav", "a.flac", "a.wav.ogg", "c.wav", "../c.wav", "x" * 250 + ".wav"], LabelFormat.RAVEN)
    found = [path.name for path in tmp_path.glob("*.txt")]  # of like names too; long ones are cut
    assert len(found) == 6 and f"{'x' * 207}.Table.1.selections.txt" in found


@pytest.mark.parametrize(("form", "name"), [(LabelFormat.AUDACITY, "a.txt"), (LabelFormat.CSV, "x.csv")])
def test_labels_that_a_person_has_changed_or_made_are_not_written_over(tmp_path, form, name):
    file, how = tmp_path / name, {"names": ["a.wav", "b.wav"], "form": form}
    out = tmp_path if form is LabelFormat.AUDACITY else file
    for label in (None, "owl"):
        check(out, **how)
        write(out, **how, label=label)
    for text in (file.read_text().replace("owl", "fox"), ""):  # one as it was before, but by a person
        file.write_text(text)
        check(out, **how, changed=True)
    check(out, **how, overwrite=True)
    write(out, **how)
    check(out, **how)
    file.write_text(text)  # what was written over, again
    check(out, **how, changed=True)


def test_a_call_that_was_ended_before_all_is_written_can_be_repeated(tmp_path):
    names, second = ["a.wav", "b.wav", "c.wav"], tmp_path / "b.txt"
    write(tmp_path, names, label=None)
    second.unlink()
    second.mkdir()
    with pytest.raises(ConfigError, match=r"b\.txt: exists and is not a file"):
        write(tmp_path, names)
    second.rmdir()
    check(tmp_path, names)
    (tmp_path / "c.txt").write_text("by hand")  # before it was written
    check(tmp_path, names, changed=True)
    parts = [tmp_path / f"{name}.0123456789abcdef.part" for name in ("a.txt", ".mtslvr-classify.json", "other.txt")]
    for part in parts:  # of a call that was killed
        part.touch()
    write(tmp_path)
    assert [part.exists() for part in parts] == [False, False, True]


@pytest.mark.skipif(os.name != "posix", reason="named pipes and links")
def test_what_is_no_list_of_what_was_written_is_as_none_and_replaced(tmp_path):
    noted = tmp_path / ".mtslvr-classify.json"
    texts = ["[1]", '{"a.txt": 5}', "[" * 100_000]
    makers = [os.mkfifo, lambda path: path.symlink_to(tmp_path / "no" / "folder")]
    write(tmp_path)
    for make in (*makers, *(functools.partial(Path.write_text, data=text) for text in texts)):
        noted.unlink()
        make(noted)
        check(tmp_path, changed=True)
        write(tmp_path)
        check(tmp_path)


def test_calls_side_by_side_note_all_that_they_write(tmp_path):
    outs = [tmp_path / f"{number}.csv" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda out: write(out, form=LabelFormat.CSV), outs))
    for out in outs:
        check(out, form=LabelFormat.CSV)


def test_the_format_is_that_of_the_suffix_and_the_output_can_be_written(tmp_path):
    assert check_labels_output(tmp_path / "x.JSONL", None) is LabelFormat.JSONL
    (tmp_path / "file").touch()
    for name, told in (("file", "exists and is not a folder"), ("no/folder", "mkdir -p")):
        with pytest.raises(ConfigError, match=told):
            check_labels_output(tmp_path / name, "raven")


def test_clips_of_recordings_of_like_or_long_names_are_all_written_or_none(tmp_path):
    sound, folder = tmp_path / "a.wav", tmp_path / "clips"
    soundfile.write(sound, np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000)
    names = ["day 1/b@3.wav", "day 1/b 3.wav", "day_1_b_3.wav", "???.wav", "\u00e4" * 200 + ".wav"]
    of_name = {name: Recording(name, str(sound), 1.0, 16_000) for name in names}

    def places(interrupted):
        yield from (Label(name, 0.25, 0.5, "barn owl", 0.5) for name in names)
        if interrupted:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_clips(places(True), of_name, folder)
    assert list(folder.iterdir()) == []  # at which the next call would stop
    clips = write_clips(places(False), of_name, folder)
    assert {clip.name for clip in folder.iterdir()} == {clip.name for clip in clips} and len(clips) == 5
    assert [recording_of(str(clip)) for clip in clips[:4]] == ["day_1_b_3", "day_1_b_3", "day_1_b_3", "_"]
    assert clips[0].name == "day_1_b_3@0.25s_barn_owl_0.50.wav" and recording_of("day 1/b.wav") == "day 1/b.wav"


def test_suggestions_take_all_recordings_in_turn():
    doubts = [[("b", 0.3)], [("a", 0.1), ("a", 0.2)], []]
    found = [[Doubt(Label(name, 0.0, 1.0, "owl", 0.5), margin) for name, margin in of_one] for of_one in doubts]
    assert [x.file for x in spread(found, 3)] == ["a", "b", "a"] and len(spread(found, 1)) == 1


def test_the_page_has_a_hit_of_every_class_whatever_it_is_called():
    pytest.importorskip("matplotlib")
    from mtslvr.analysis.labels_page import page

    names = [f'owl <{i}> & "' for i in range(30)]
    rows = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    settings = {"features": "variant", "window_seconds": 1.0, "hop_seconds": 0.5, "model": "x", "model_sha256": "0"}
    table = EmbeddingTable(rows, tuple(map(str, range(60))), np.zeros(60), np.ones(60), settings)
    events = [Label("a <b>.wav", i, i + 1, name, 0.9) for i, name in enumerate(names * 2)]
    found = Found(recordings(["a <b>.wav"]), events, doubts=[[Doubt(Label("a <b>.wav", 5, 6, names[0], 0.4), 0.1)]])
    html = page(Classifier.fit(table, names * 2), found, 0.5)
    best = html.split("<h2>Best hits</h2>")[1].split("<h2>")[0]
    assert all(f"<b>owl &lt;{i}&gt; &amp; &quot;</b>" in best for i in range(30))
    assert "<b>.wav" not in html and "a &lt;b&gt;.wav" in html and "not there to be played" in best
    assert "<h2>To label next</h2>" in html and "5.00 to 6.00 s" in html
