"""Where labels go: names of tracks, recordings of any name, suggestions over all recordings."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile

from mtslvr.classify import Classifier, EventConfig, Label
from mtslvr.classify.clips import write_clips
from mtslvr.classify.examples import clip_name, recording_of
from mtslvr.classify.output import LabelFormat, Recording, check_labels_kept, check_labels_output, write_labels
from mtslvr.classify.predict import Doubt, Found, predict_table, spread
from mtslvr.errors import ConfigError
from mtslvr.run.table import EmbeddingTable


def recording(name):
    return Recording(name, f"/nowhere/{name}", 10.0, 48_000)


def test_each_recording_has_a_track_of_its_own_within_the_folder(tmp_path):
    recordings = [recording(name) for name in ("a.wav", "a.flac", "deep/b.wav", "../c.wav", "/abs/d.wav")]
    labels = [Label(x.name, 1.0, 2.0, "owl", 0.5) for x in recordings]
    write_labels(tmp_path / "out", LabelFormat.AUDACITY, labels, recordings)
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.txt")}
    assert found == {f"out/{name}.txt" for name in ("a.wav", "a.flac", "deep/b", "c", "abs/d")}


def test_recordings_of_like_names_have_tracks_of_their_own_and_long_names_are_cut(tmp_path):
    names = ["a.wav", "a.flac", "a.wav.ogg", "c.wav", "../c.wav", "x" * 250 + ".wav"]
    write_labels(tmp_path, LabelFormat.RAVEN, [], [recording(name) for name in names])
    found = [path.name for path in tmp_path.glob("*.txt")]
    assert len(found) == 6 and f"{'x' * 207}.Table.1.selections.txt" in found


@pytest.mark.parametrize("form", [LabelFormat.AUDACITY, LabelFormat.CSV])
def test_labels_that_a_person_has_changed_or_made_are_not_written_over(tmp_path, form):
    out, names = (tmp_path, ["a.wav", "b.wav"]) if form is LabelFormat.AUDACITY else (tmp_path / "x.csv", ["a.wav"])
    found = [recording(name) for name in names]
    for labels in ([], [Label("a.wav", 1.0, 2.0, "owl", 0.5)]):
        check_labels_kept(out, form, names, overwrite=False)
        write_labels(out, form, labels, found)
    file = tmp_path / ("a.txt" if out == tmp_path else "x.csv")
    file.write_text(file.read_text().replace("owl", "fox"))
    (tmp_path / "b.txt").unlink(missing_ok=True)
    with pytest.raises(ConfigError, match=f"{file}: changed since mtslvr classify wrote it, or not .* --overwrite"):
        check_labels_kept(out, form, names, overwrite=False)
    check_labels_kept(out, form, names, overwrite=True)
    write_labels(out, form, [], found)
    check_labels_kept(out, form, names, overwrite=False)


def owl_track(out, names=("a.wav",)):
    write_labels(out, LabelFormat.AUDACITY, [Label("a.wav", 1.0, 2.0, "owl", 0.5)], [recording(x) for x in names])


def test_only_what_the_last_call_wrote_may_be_written_over(tmp_path):
    def refused():
        with pytest.raises(ConfigError, match=r"a\.txt: changed since"):
            check_labels_kept(tmp_path, LabelFormat.AUDACITY, ["a.wav"], overwrite=False)
        return True

    track = tmp_path / "a.txt"
    write_labels(tmp_path, LabelFormat.AUDACITY, [], [recording("a.wav")])
    owl_track(tmp_path)
    track.write_text("")  # as it was before, but by a person
    assert refused()
    track.write_text("by hand")
    owl_track(tmp_path)  # as with --overwrite
    track.write_text("by hand")
    assert refused()
    (tmp_path / "b.txt").mkdir()
    with pytest.raises(ConfigError, match=r"b\.txt: exists and is not a file"):  # as if killed before a.txt is written
        owl_track(tmp_path, ["b.wav", "a.wav"])
    assert track.read_text() == "by hand" and refused()


def test_a_call_that_was_ended_before_all_is_written_can_be_repeated(tmp_path):
    names = ["a.wav", "b.wav", "c.wav"]
    found, owls = [recording(x) for x in names], [Label(x, 1.0, 2.0, "owl", 0.5) for x in names]
    write_labels(tmp_path, LabelFormat.AUDACITY, [], found)
    (tmp_path / "b.txt").unlink()
    (tmp_path / "b.txt").mkdir()
    with pytest.raises(ConfigError, match=r"b\.txt: exists and is not a file"):
        write_labels(tmp_path, LabelFormat.AUDACITY, owls, found)
    (tmp_path / "b.txt").rmdir()
    check_labels_kept(tmp_path, LabelFormat.AUDACITY, names, overwrite=False)


@pytest.mark.parametrize("text", ["no JSON", "[1]", "null", "1e999", '{"a.txt": 5}', '[["a.txt", 1]]', "[" * 100_000])
def test_a_damaged_list_of_what_was_written_is_as_none(tmp_path, text):
    owl_track(tmp_path)
    (tmp_path / ".mtslvr-classify.json").write_text(text)
    with pytest.raises(ConfigError, match=r"a\.txt: changed since mtslvr classify wrote it, or not written by it"):
        check_labels_kept(tmp_path, LabelFormat.AUDACITY, ["a.wav"], overwrite=False)
    owl_track(tmp_path)
    check_labels_kept(tmp_path, LabelFormat.AUDACITY, ["a.wav"], overwrite=False)


@pytest.mark.skipif(os.name != "posix", reason="named pipes and links")
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to(path.parent / "no" / "folder")])
def test_what_is_no_list_of_what_was_written_is_replaced(tmp_path, make):
    make(tmp_path / ".mtslvr-classify.json")
    check_labels_kept(tmp_path, LabelFormat.AUDACITY, ["a.wav"], overwrite=False)
    owl_track(tmp_path)
    check_labels_kept(tmp_path, LabelFormat.AUDACITY, ["a.wav"], overwrite=False)


def test_calls_side_by_side_note_all_that_they_write(tmp_path):
    outs = [tmp_path / f"{number}.csv" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda out: write_labels(out, LabelFormat.CSV, [], []), outs))
    for out in outs:
        check_labels_kept(out, LabelFormat.CSV, [], overwrite=False)


def test_parts_that_a_killed_call_left_are_deleted(tmp_path):
    parts = [tmp_path / f"{name}.0123456789abcdef.part" for name in ("a.txt", ".mtslvr-classify.json", "other.txt")]
    for part in parts:
        part.touch()
    owl_track(tmp_path)
    assert [part.exists() for part in parts] == [False, False, True]


def test_the_format_is_that_of_the_suffix(tmp_path):
    assert check_labels_output(tmp_path / "x.JSONL", None) is LabelFormat.JSONL
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="exists and is not a folder"):
        check_labels_output(tmp_path / "file", "raven")
    with pytest.raises(ConfigError, match="mkdir -p"):
        check_labels_output(tmp_path / "no" / "folder", "raven")


def test_a_clip_tells_the_recording_that_it_is_of():
    name = clip_name("day 1/night@3", 12.5, "barn owl", 0.5)
    assert name == "day_1_night_3@12.50s_barn_owl_0.50.wav"
    assert recording_of(f"folder/{name}") == "day_1_night_3"
    assert recording_of("folder/night.wav") == "folder/night.wav"


def test_clips_of_recordings_of_like_or_long_names_are_all_written(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000)
    names = ["a/b.wav", "a b.wav", "a_b.wav", "???.wav", "\u00e4" * 200 + ".wav"]
    recordings = {name: Recording(name, str(tmp_path / "a.wav"), 1.0, 16_000) for name in names}
    clips = write_clips([Label(name, 0.0, 0.5, "owl", 0.5) for name in names], recordings, tmp_path / "clips")
    assert {clip.name for clip in (tmp_path / "clips").iterdir()} == {clip.name for clip in clips} and len(clips) == 5
    assert [recording_of(str(clip)) for clip in clips[:4]] == ["a_b", "a_b", "a_b", "_"]


def test_an_interrupted_call_leaves_no_clips_at_which_the_next_one_stops(tmp_path):
    def places():
        yield Label("a.wav", 0.0, 0.5, "owl", 0.5)
        raise KeyboardInterrupt

    soundfile.write(tmp_path / "a.wav", np.zeros(16_000), 16_000)
    with pytest.raises(KeyboardInterrupt):
        write_clips(places(), {"a.wav": Recording("a.wav", str(tmp_path / "a.wav"), 1.0, 16_000)}, tmp_path / "clips")
    assert list((tmp_path / "clips").iterdir()) == []


def test_suggestions_take_all_recordings_in_turn():
    def doubt(name, margin):
        return Doubt(Label(name, 0.0, 1.0, "owl", 0.5), margin)

    doubts = [[doubt("a", 0.1), doubt("a", 0.2)], [doubt("b", 0.05)], []]
    assert [(x.file) for x in spread(doubts, 3)] == ["b", "a", "a"]
    assert [(x.file) for x in spread(doubts, 1)] == ["b"]


def test_only_the_recordings_asked_for_are_classified():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(12, 8)).astype(np.float32)
    start = np.arange(12.0)
    names = ("a",) * 6 + ("b",) * 6
    table = EmbeddingTable(rows, names, start, start + 1, {"features": "variant"})
    made = Classifier.fit(table, ["owl", "fox"] * 6)
    found = predict_table(made, table, EventConfig(threshold=0), path_of=str, only={"b"}, reject=False, doubts=2)
    assert [x.name for x in found.recordings] == ["b"] and {x.file for x in found.events} == {"b"}
    assert len(found.doubts[0]) == 2 and found.histogram.sum() == 6


def test_the_page_has_a_hit_of_every_class_whatever_it_is_called():
    pytest.importorskip("matplotlib")
    from mtslvr.analysis.labels_page import page

    names = [f'owl <{i}> & "' for i in range(30)]
    rows = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    settings = {"features": "variant", "window_seconds": 1.0, "hop_seconds": 0.5, "model": "x", "model_sha256": "0"}
    table = EmbeddingTable(rows, tuple(map(str, range(60))), np.zeros(60), np.ones(60), settings)
    events = [Label("a <b>.wav", i, i + 1, name, 0.9) for i, name in enumerate(names * 2)]
    found = Found([recording("a <b>.wav")], events, doubts=[[Doubt(Label("a <b>.wav", 5, 6, names[0], 0.4), 0.1)]])
    html = page(Classifier.fit(table, names * 2), found, 0.5)
    best = html.split("<h2>Best hits</h2>")[1].split("<h2>")[0]
    assert all(f"<b>owl &lt;{i}&gt; &amp; &quot;</b>" in best for i in range(30))
    assert "<b>.wav" not in html and "a &lt;b&gt;.wav" in html and "not there to be played" in best
    assert "<h2>To label next</h2>" in html and "5.00 to 6.00 s" in html
