"""Where labels go: names of tracks, recordings of any name, suggestions over all recordings."""

import numpy as np
import pytest
import soundfile

from mtslvr.classify import EventConfig, Label
from mtslvr.classify.classifier import fit_examples
from mtslvr.classify.examples import clip_name, recording_of
from mtslvr.classify.output import (
    LabelFormat,
    Recording,
    check_labels_output,
    label_files,
    write_clips,
    write_label_files,
)  # fmt: skip
from mtslvr.classify.predict import Doubt, Found, predict_table, spread
from mtslvr.errors import ConfigError
from mtslvr.run.table import EmbeddingTable


def write(out, names=("a.wav",), form=LabelFormat.AUDACITY, label="owl", **how):
    """A track or table with a call a recording, or with none."""
    labels = [Label(name, 1.0, 2.0, label, 0.5) for name in names] if label else []
    recordings = [Recording(name, f"/nowhere/{name}", 10.0, 48_000) for name in names]
    write_label_files(label_files(out, form, labels, recordings), **how)


def test_each_recording_has_a_track_of_its_own_within_the_folder(tmp_path):
    write(tmp_path / "out", ["a.wav", "a.flac", "deep/b.wav", "../c.wav", "/abs/d.wav"])
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.txt")}
    assert found == {f"out/{name}.txt" for name in ("a.wav", "a.flac", "deep/b", "c", "abs/d")}
    write(tmp_path, ["a.wav", "a.flac", "a.wav.ogg", "c.wav", "../c.wav"], LabelFormat.RAVEN)  # of like names too
    assert len(list(tmp_path.glob("*.Table.1.selections.txt"))) == 5


@pytest.mark.parametrize(("form", "name"), [(LabelFormat.AUDACITY, "a.txt"), (LabelFormat.CSV, "x.csv")])
def test_other_labels_are_replaced_only_where_that_is_wanted_and_the_same_ones_left_alone(tmp_path, form, name):
    file, how = tmp_path / name, {"names": ["a.wav", "b.wav"], "form": form}
    out = tmp_path if form is LabelFormat.AUDACITY else file
    write(out, **how)
    before = file.stat()
    write(out, **how)
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    for text in (file.read_text().replace("owl", "fox"), ""):
        file.write_text(text)
        with pytest.raises(ConfigError, match=rf"{name}: holds other labels .* corrected by hand; .* --overwrite"):
            write(out, **how)
        assert file.read_text() == text
    write(out, **how, overwrite=True)
    assert "owl" in file.read_text()


def test_where_one_track_is_refused_none_is_written_and_a_call_that_was_killed_can_be_repeated(tmp_path):
    names = ["a.wav", "b.wav", "c.wav"]
    for name in ("b", "c"):
        (tmp_path / f"{name}.txt").write_text("by hand")
    with pytest.raises(ConfigError, match=r"b\.txt and 1 more hold other labels"):
        write(tmp_path, names)
    assert not (tmp_path / "a.txt").exists()
    write(tmp_path, names, overwrite=True)
    written = (tmp_path / "b.txt").read_bytes()
    (tmp_path / "b.txt").unlink()  # as if it had been killed before
    parts = [tmp_path / f"{name}.0123456789abcdef.part" for name in ("b.txt", "other.txt")]
    for part in parts:
        part.touch()
    write(tmp_path, names)
    assert (tmp_path / "b.txt").read_bytes() == written and [part.exists() for part in parts] == [False, True]


def test_the_format_is_that_of_the_suffix_and_the_output_can_be_written(tmp_path):
    assert check_labels_output(tmp_path / "x.JSONL", None) is LabelFormat.JSONL
    (tmp_path / "file").touch()
    for name, told in (("file", "exists and is not a folder"), ("no/folder", "mkdir -p")):
        with pytest.raises(ConfigError, match=told):
            check_labels_output(tmp_path / name, "raven")


def test_clips_tell_the_recordings_that_they_are_of_and_an_interrupted_call_leaves_none(tmp_path):
    name = clip_name("day 1/night@3", 12.5, "barn owl", 0.5)
    assert name == "day_1_night_3@12.50s_barn_owl_0.50.wav"
    assert recording_of(f"folder/{name}") == "day_1_night_3"
    assert recording_of("folder/night.wav") == "folder/night.wav"
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000)
    names = ["a/b.wav", "???.wav", "\u00e4" * 200 + ".wav"]
    recordings = {name: Recording(name, str(tmp_path / "a.wav"), 1.0, 16_000) for name in names}
    places = [Label(name, 0.0, 0.5, "owl", 0.5) for name in names]

    def interrupted():
        yield from places
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_clips(interrupted(), recordings, tmp_path / "clips")
    assert list((tmp_path / "clips").iterdir()) == []
    clips = write_clips(places, recordings, tmp_path / "clips")
    assert len(list((tmp_path / "clips").iterdir())) == 3
    assert [recording_of(str(clip)) for clip in clips[:2]] == ["a_b", "_"]


def test_suggestions_take_all_recordings_in_turn():
    def doubt(name, margin):
        return Doubt(Label(name, 0.0, 1.0, "owl", 0.5), margin)

    doubts = [[doubt("a", 0.1), doubt("a", 0.2)], [doubt("b", 0.05)], []]
    assert [x.file for x in spread(doubts, 3)] == ["b", "a", "a"] and len(spread(doubts, 1)) == 1


def test_only_the_recordings_asked_for_are_classified(made):
    rows, start = made(n=12).embeddings, np.arange(12.0)
    table = EmbeddingTable(rows, ("a",) * 6 + ("b",) * 6, start, start + 1, {})
    how = {"path_of": str, "only": {"b"}, "reject": False, "doubts": 2}
    found = predict_table(fit_examples(made(n=12)), table, EventConfig(threshold=0), **how)
    assert [x.name for x in found.recordings] == ["b"] and {x.file for x in found.events} == {"b"}
    assert len(found.doubts[0]) == 2 and found.histogram.sum() == 6


def test_the_page_has_a_hit_of_every_class_whatever_it_is_called(made):
    pytest.importorskip("matplotlib")
    from mtslvr.analysis.labels_page import page

    names = [f'owl <{i}> & "' for i in range(30)]
    classifier = fit_examples(made(labels=names * 2))
    classifier.settings.update(model="x", hop_seconds=0.5)
    events = [Label("a <b>.wav", i, i + 1, name, 0.9) for i, name in enumerate(names * 2)]
    html = page(classifier, Found([Recording("a <b>.wav", "/nowhere", 10.0, 48_000)], events), 0.5)
    best = html.split("<h2>Best hits</h2>")[1].split("<h2>")[0]
    assert all(f"<b>owl &lt;{i}&gt; &amp; &quot;</b>" in best for i in range(30))
    assert "<b>.wav" not in html and "a &lt;b&gt;.wav" in html and "not there to be played" in best
