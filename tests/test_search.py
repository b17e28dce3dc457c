"""Nearest files and maps, on tables made up and on one that mtslvr-embed wrote."""

import json

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

import mtslvr
from mtslvr.cli.main import main
from mtslvr.errors import ConfigError
from mtslvr.models import hub
from mtslvr.run.table import EmbeddingTable, read_table
from mtslvr.search import Query, cosine, nearest


def table(rows, paths=None, hop=1.0):
    """A table with a window of 2 s every `hop` s."""
    start = np.arange(len(rows)) * hop
    paths = tuple(paths or [f"{i}.wav" for i in range(len(rows))])
    return EmbeddingTable(np.array(rows, np.float32), paths, start, start + 2, {})


def windows(cosines, hop=1.0):
    """The same, of one file, whose cosines to (1, 0) are these."""
    return table([[c, np.sqrt(1 - c * c)] for c in cosines], ["night.wav"] * len(cosines), hop)


X = np.array([1, 0], np.float32)


def run(*arguments, code=0):
    """What the command says, which is to end with `code`."""
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five tones in two folders, and their embeddings by window."""
    root = tmp_path_factory.mktemp("search")
    for name, hertz in (("low/a", 200), ("low/b", 220), ("high/a", 4000), ("high/<b>", 4400), ("high/c", 5000)):
        (root / "audio" / name).parent.mkdir(parents=True, exist_ok=True)
        wave = np.sin(2 * np.pi * hertz * np.arange(8000) / 16000)
        soundfile.write(root / "audio" / f"{name}.wav", wave, 16000)
    run("embed", root / "audio", "-o", root / "x.npz", "--window", 0.25, "--pool", "none")
    return root


def test_nearest_files_by_cosine_each_once_and_of_several_queries_the_nearest():
    rows = table([[1, 0], [0, 2], [3, 3], [-1, 0]], ["a", "b", "b", "c"])
    hits = nearest(rows, np.array([2, 0.5], np.float32), 3, per_file=True)
    assert [(hit.rank, hit.file) for hit in hits] == [(1, "a"), (2, "b"), (3, "c")]
    assert hits[0].score == pytest.approx(2 / np.hypot(2, 0.5))
    assert (hits[1].start, hits[1].end) == (2.0, 4.0)
    hits = nearest(table([[1, 0], [0, 1], [-1, -1]]), np.eye(2, dtype=np.float32), 2)
    assert [(round(hit.score, 3), hit.query) for hit in hits] == [(1, 0), (1, 1)]


def test_windows_over_one_event_are_one_place_and_others_places_of_their_own():
    def places(*arguments):
        return [(hit.rank, hit.start, hit.end) for hit in nearest(windows(scores), X, *arguments)]

    scores = [0.1, 0.8, 0.9, 0.7, 0.1, 0.2, 0.1, 0.3, 0.6]
    assert places(2) == [(1, 2.0, 4.0), (2, 8.0, 10.0)]
    assert places(10, 0.5) == [(1, 1.0, 5.0), (2, 8.0, 10.0)]  # as long as windows reach the threshold
    assert places(10, 0.95) == []
    assert len(nearest(windows([0.7, 0.9, 0.8], hop=3.0), X)) == 3
    assert len(nearest(table([[1, 0], [1, 0]]), X)) == 2


def test_what_cannot_be_compared_is_told_and_zeros_are_like_nothing():
    for call, told in (
        (lambda: nearest(table([[1, 0], [np.nan, 1]]), X), r"1\.wav: 1 of 2 rows are no numbers; embed it again"),
        (lambda: nearest(windows([0.5]), X, 1, 1.5), r"threshold=1\.5"),
        (lambda: nearest(table([[1, 0]]), X, 0), "k=0"),
        (lambda: nearest(table([[1, 0]]), np.ones(3, np.float32)), "query of 3 numbers, 1 rows of 2"),
    ):
        with pytest.raises(ConfigError, match=told):
            call()
    assert not cosine(np.zeros((2, 2), np.float32), X).any() and not cosine(np.ones((2, 2), np.float32), 0 * X).any()


def test_a_query_in_which_nothing_can_be_heard_is_refused_and_one_cut_short_is_told(folder, write, tmp_path):
    t = np.arange(16000) / 16000
    soundfile.write(tmp_path / "a.wav", np.where(t < 0.5, 0, np.sin(3000 * t)), 16000)
    write(tmp_path / "short.wav", 0.05)
    soundfile.write(tmp_path / "silent.wav", np.zeros(16000), 16000)
    for query, told in (
        ("silent.wav", "silent.wav: a silent query; give one with a sound"),
        ("a.wav:0-0.4", "a.wav:0-0.4: a silent query"),
        ("", "a query is a sound, and this is a folder; give files in it"),
        ("short.wav", "short.wav: a query of 0.050 s; give one of at least 0.1 s"),
        ("a.wav:0.5-0.55", "a.wav:0.5-0.55: a query of 0.050 s"),
    ):
        assert told in run("similar", folder / "x.npz", tmp_path / "a.wav", tmp_path / query, code=2)
    (tmp_path / "cut.wav").write_bytes((folder / "audio/low/a.wav").read_bytes()[:8044])
    with pytest.warns(UserWarning, match=r"cut\.wav: 0\.2 s of the 0\.5 s its header says"):
        mtslvr.search.similar(folder / "x.npz", tmp_path / "cut.wav")


def test_a_part_of_a_file_as_query(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("call.wav", "a.wav:1-2"):
        (tmp_path / name).touch()
        assert Query.parse(name) == (name, None, None)
    assert Query.parse("call.wav:12.5-14") == ("call.wav", 12.5, 14.0)
    in_seconds = r"give it in seconds, as call\.wav:12\.5-14"
    for part, told in (("14-12", "end 12 s is not after start 14 s"), ("5-", in_seconds), ("1:05-1:06", in_seconds)):
        with pytest.raises(ConfigError, match=told):
            Query.parse(f"call.wav:{part}")


def test_similar_lists_the_query_itself_first(folder):
    header, first, *_ = lines = run("similar", folder / "x.npz", folder / "audio/low/a.wav", "-k", 3).splitlines()
    assert header.split() == ["#", "cosine", "seconds", "file"] and len(lines) == 4
    assert first.split()[:2] == ["1", "1.000"] and first.endswith("low/a.wav")
    found = json.loads(run("similar", folder / "x.npz", folder / "audio/high/c.wav", "--json"))
    assert len(found) == 5 and found[0]["file"] == "high/c.wav" and found[0]["score"] == pytest.approx(1, abs=1e-3)
    assert [hit["score"] for hit in found] == sorted((hit["score"] for hit in found), reverse=True)


def test_similar_finds_the_place_of_a_part_of_a_file(folder, write, tmp_path):
    x, low, high = folder / "x.npz", folder / "audio/low/a.wav", folder / "audio/high/c.wav"
    part = f"{high}:0.25-0.5"
    [found] = mtslvr.search.similar(x, part, k=1, per_file=True)
    assert found.file == "high/c.wav" and found.score == pytest.approx(1, abs=1e-3)
    several = json.loads(run("similar", x, part, low, "--threshold", 0.999, "--json"))
    found = {hit["file"]: hit["query"] for hit in several}
    assert found["high/c.wav"] == part and found["low/a.wav"] == str(low)
    header, first = run("similar", x, part, low, "-k", 1).splitlines()
    assert header.endswith("file  (nearest query)") and first.endswith("low/a.wav)")
    write(tmp_path / "noise.wav", 0.5)
    none = run("similar", x, tmp_path / "noise.wav", "--threshold", 0.999)
    assert "no place has a cosine of 0.999 or more; lower --threshold" in none
    for start in ("7", "0.25"):
        told = f"the query is at {start} to 8 s, and the recording is 0.5 s long"
        assert told in run("similar", x, f"{high}:{start}-8", code=2)
    assert "nowhere.wav: no such file" in run("similar", x, "nowhere.wav", code=2)
    assert "--device gpu: unknown; use 'auto'" in run("similar", "nowhere.npz", "x", "--device", "gpu", code=2)


def test_similar_refuses_other_weights(folder, tmp_path):
    query, found = folder / "audio/low/a.wav", read_table(folder / "x.npz")
    columns = {"embeddings": found.embeddings, "paths": found.paths, "start": found.start, "end": found.end}
    other, old = tmp_path / "other.npz", tmp_path / "old.npz"
    np.savez(other, **columns, settings=json.dumps({**found.settings, "model_sha256": "0" * 64}))
    assert "give the same weights with --model, or embed again" in run("similar", other, query, code=2)
    np.savez(old, **columns, settings=json.dumps({"model": "default", "window_seconds": 0.25}))
    assert "does not say by which weights it was made" in run("similar", old, query, code=2)
    run("similar", old, query, "--model", hub.DEFAULT_MODEL)
    # What is wrong with a query is told before the weights are looked for.
    assert "nowhere.wav: no such file" in run("similar", other, query, "nowhere.wav", code=2)


def test_queries_are_of_the_channel_that_was_embedded(tmp_path):
    low, high = (np.sin(2 * np.pi * hertz * np.arange(8000) / 16000) for hertz in (300, 3000))
    for name, waves in (("a", [low, high]), ("b", [high, low]), ("mono", [high])):
        soundfile.write(tmp_path / f"{name}.wav", np.stack(waves, 1), 16000)
    out = tmp_path / "x.npz"
    run("embed", tmp_path / "a.wav", tmp_path / "b.wav", "-o", out, "--channel", 1)
    for query in ("a.wav", "a.wav:0-0.5", "mono.wav"):
        hits = mtslvr.search.similar(out, tmp_path / query)
        assert hits[0].file == "a.wav" and hits[0].score > max(0.999, hits[1].score + 1e-3)
