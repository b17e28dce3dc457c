"""Nearest files and maps, on tables made up and on one that mtslvr-embed wrote."""

import json

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

import mtslvr
from mtslvr.cli.main import main
from mtslvr.errors import ConfigError
from mtslvr.run.table import EmbeddingTable, read_table
from mtslvr.search import Query, cosine, nearest


def table(rows, paths=None):
    rows = np.array(rows, np.float32)
    times = np.arange(len(rows), dtype=float)
    return EmbeddingTable(rows, tuple(paths or [f"{i}.wav" for i in range(len(rows))]), times, times + 1, {})


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five tones in two folders, and their embeddings by window."""
    root = tmp_path_factory.mktemp("search")
    for name, hertz in (("low/a", 200), ("low/b", 220), ("high/a", 4000), ("high/<b>", 4400), ("high/c", 5000)):
        (root / "audio" / name).parent.mkdir(parents=True, exist_ok=True)
        wave = np.sin(2 * np.pi * hertz * np.arange(8000) / 16000)
        soundfile.write(root / "audio" / f"{name}.wav", wave, 16000)
    made = run("embed", root / "audio", "-o", root / "x.npz", "--window", 0.25, "--pool", "none")
    assert made.exit_code == 0, made.output
    return root


def test_nearest_files_by_cosine_each_once():
    hits = nearest(
        table([[1, 0], [0, 2], [3, 3], [-1, 0]], ["a", "b", "b", "c"]), np.array([2, 0.5], np.float32), 3, per_file=True
    )
    assert [(hit.rank, hit.file) for hit in hits] == [(1, "a"), (2, "b"), (3, "c")]
    assert hits[0].score == pytest.approx(2 / np.hypot(2, 0.5))
    assert (hits[1].start, hits[1].end) == (2.0, 3.0)


def windows(cosines, hop=1.0, name="night.wav"):
    """A table with a window of 2 s every `hop` s whose cosines to (1, 0) are these."""
    rows = np.array([[c, np.sqrt(1 - c * c)] for c in cosines], np.float32)
    start = np.arange(len(rows)) * hop
    return EmbeddingTable(rows, (name,) * len(rows), start, start + 2, {})


X = np.array([1, 0], np.float32)


def places(hits):
    return [(hit.rank, hit.start, hit.end) for hit in hits]


def test_windows_over_one_event_are_one_place():
    scores = [0.1, 0.8, 0.9, 0.7, 0.1, 0.2, 0.1, 0.3, 0.6]
    assert places(nearest(windows(scores), X, 2)) == [(1, 2.0, 4.0), (2, 8.0, 10.0)]


def test_with_a_threshold_a_place_lasts_as_long_as_windows_reach_it():
    scores = [0.1, 0.8, 0.9, 0.7, 0.1, 0.2, 0.1, 0.3, 0.6]
    assert places(nearest(windows(scores), X, 10, 0.5)) == [(1, 1.0, 5.0), (2, 8.0, 10.0)]
    assert nearest(windows(scores), X, 10, 0.95) == []


def test_windows_apart_and_of_other_files_are_places_of_their_own():
    assert len(nearest(windows([0.9, 0.8, 0.7], hop=3.0), X)) == 3
    assert len(nearest(table([[1, 0], [1, 0]]), X)) == 2


def test_of_several_queries_the_nearest_counts():
    hits = nearest(table([[1, 0], [0, 1], [-1, -1]]), np.eye(2, dtype=np.float32), 2)
    assert [(round(hit.score, 3), hit.query) for hit in hits] == [(1, 0), (1, 1)]


def test_rows_that_are_no_numbers_are_told():
    with pytest.raises(ConfigError, match=r"1\.wav: 1 of 2 rows are no numbers; embed it again"):
        nearest(table([[1, 0], [np.nan, 1]]), X)


def test_a_query_in_which_nothing_can_be_heard_is_refused(folder, tmp_path):
    t = np.arange(16000) / 16000
    soundfile.write(tmp_path / "a.wav", np.where(t < 0.5, 0, np.sin(3000 * t)), 16000)
    soundfile.write(tmp_path / "short.wav", np.sin(3000 * t[:800]), 16000)
    soundfile.write(tmp_path / "silent.wav", np.zeros(16000), 16000)
    for query, told in (
        ("silent.wav", "silent.wav: a silent query; give one with a sound"),
        ("a.wav:0-0.4", "a.wav:0-0.4: a silent query"),
        ("", "a query is a sound, and this is a folder; give files in it"),
        ("short.wav", "short.wav: a query of 0.050 s; give one of at least 0.1 s"),
        ("a.wav:0.5-0.55", "a.wav:0.5-0.55: a query of 0.050 s"),
    ):
        result = run("similar", folder / "x.npz", tmp_path / "a.wav", tmp_path / query)
        assert result.exit_code == 2 and told in result.output, result.output


def test_a_threshold_that_is_no_cosine_is_named():
    with pytest.raises(ConfigError, match=r"threshold=1\.5"):
        nearest(windows([0.5]), X, 1, 1.5)


def test_a_part_of_a_file_as_query(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Query.parse("call.wav:12.5-14") == ("call.wav", 12.5, 14.0)
    assert Query.parse("call.wav") == ("call.wav", None, None)
    (tmp_path / "a.wav:1-2").touch()
    assert Query.parse("a.wav:1-2") == ("a.wav:1-2", None, None)
    with pytest.raises(ConfigError, match="end 12 s is not after start 14 s"):
        Query.parse("call.wav:14-12")
    (tmp_path / "call.wav").touch()
    for part in ("5", "5-", "1:05-1:06"):
        with pytest.raises(ConfigError, match=r"give it in seconds, as call\.wav:12\.5-14"):
            Query.parse(f"call.wav:{part}")


def test_cosine_of_zeros_is_0():
    assert cosine(np.zeros((2, 3), np.float32), np.ones(3, np.float32)).tolist() == [0, 0]
    assert cosine(np.ones((2, 3), np.float32), np.zeros(3, np.float32)).tolist() == [0, 0]


def test_nearest_refuses_what_it_cannot_compare():
    with pytest.raises(ConfigError, match="k=0"):
        nearest(table([[1, 0]]), np.ones(2, np.float32), 0)
    with pytest.raises(ConfigError, match="query of 3 numbers, 1 rows of 2"):
        nearest(table([[1, 0]]), np.ones(3, np.float32))


def test_similar_lists_the_query_itself_first(folder):
    result = run("similar", folder / "x.npz", folder / "audio" / "low" / "a.wav", "-k", 3)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["#", "cosine", "seconds", "file"] and len(lines) == 4
    assert lines[1].split()[:2] == ["1", "1.000"] and lines[1].endswith("low/a.wav")
    found = json.loads(run("similar", folder / "x.npz", folder / "audio" / "high" / "c.wav", "--json").stdout)
    assert len(found) == 5 and found[0]["file"] == "high/c.wav" and found[0]["score"] == pytest.approx(1, abs=1e-3)
    assert [hit["score"] for hit in found] == sorted((hit["score"] for hit in found), reverse=True)


def test_similar_finds_the_place_of_a_part_of_a_file(folder, tmp_path):
    part = f"{folder / 'audio' / 'high' / 'c.wav'}:0.25-0.5"
    found = mtslvr.search.similar(folder / "x.npz", part, k=1, per_file=True)[0]
    assert found.file == "high/c.wav" and found.score == pytest.approx(1, abs=1e-3)
    several = run("similar", folder / "x.npz", part, folder / "audio" / "low" / "a.wav", "--threshold", 0.999, "--json")
    found = {hit["file"]: hit["query"] for hit in json.loads(several.stdout)}
    assert found["high/c.wav"] == part and found["low/a.wav"] == str(folder / "audio" / "low" / "a.wav")
    lines = run("similar", folder / "x.npz", part, folder / "audio" / "low" / "a.wav", "-k", 1).stdout.splitlines()
    assert lines[0].endswith("file  (nearest query)") and lines[1].endswith("low/a.wav)")
    soundfile.write(tmp_path / "noise.wav", np.random.default_rng(0).normal(0, 0.1, 8000), 16000)
    none = run("similar", folder / "x.npz", tmp_path / "noise.wav", "--threshold", 0.999)
    assert none.exit_code == 0 and "no place has a cosine of 0.999 or more; lower --threshold" in none.stderr
    for start in ("7", "0.25"):
        beyond = run("similar", folder / "x.npz", f"{folder / 'audio' / 'high' / 'c.wav'}:{start}-8")
        assert beyond.exit_code == 2
        assert f"the query is at {start} to 8 s, and the recording is 0.5 s long" in beyond.output


@pytest.mark.parametrize(
    ("option", "message"),
    [(("-k", 0), "'-k': 0 is not in the range x>=1"), (("--device", "gpu"), "--device gpu: unknown; use 'auto'")],
)
def test_similar_refuses_wrong_options_before_it_reads_anything(option, message):
    result = run("similar", "nowhere.npz", "nowhere.wav", *option)
    assert result.exit_code == 2 and message in result.output


def test_similar_refuses_other_weights(folder, tmp_path):
    query = folder / "audio" / "low" / "a.wav"
    found = read_table(folder / "x.npz")
    columns = {"embeddings": found.embeddings, "paths": found.paths, "start": found.start, "end": found.end}
    np.savez(tmp_path / "other.npz", **columns, settings=json.dumps({**found.settings, "model_sha256": "0" * 64}))
    result = run("similar", tmp_path / "other.npz", query)
    assert result.exit_code == 2 and "give the same weights with --model, or embed again" in result.output
    np.savez(tmp_path / "old.npz", **columns, settings=json.dumps({"model": "default", "window_seconds": 0.25}))
    old = run("similar", tmp_path / "old.npz", query)
    assert old.exit_code == 2 and "does not say by which weights it was made" in old.output
    assert run("similar", tmp_path / "old.npz", query, "--model", "parallel-simclr").exit_code == 0
    missing = run("similar", folder / "x.npz", "nowhere.wav")
    assert missing.exit_code == 2 and "nowhere.wav: no such file" in missing.output


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ({"model": 3}, "its 'model' is 3"),
        ({"model_sha256": 7}, "its 'model_sha256' is 7"),
        ({"layer": "x"}, "'x' is not a valid Layer"),
        ({"features": None}, "None is not a valid Features"),
        ({"hop_seconds": "x"}, "its 'hop_seconds' is 'x'"),
        ({"window_seconds": None}, "its 'window_seconds' is None"),
        ({"window_seconds": float("nan")}, "its 'window_seconds' is nan"),
        ({"encoder": 3}, "its 'encoder' is 3"),
        ({"encoder": {"frontend": 3}}, "its 'frontend' is 3"),
    ],
)
def test_damaged_settings_are_told_in_one_sentence(folder, tmp_path, damage, told):
    found = read_table(folder / "x.npz")
    columns = {"embeddings": found.embeddings, "paths": found.paths, "start": found.start, "end": found.end}
    np.savez(tmp_path / "x.npz", **columns, settings=json.dumps({**found.settings, **damage}))
    for command in (("similar", tmp_path / "x.npz", "q.wav"), ("classify", folder, tmp_path / "x.npz", "-o", "x.csv")):
        result = run(*command)
        assert result.exit_code == 2 and f"x.npz: not embeddings ({told}); write them with" in result.output


def test_rows_that_are_of_no_file_are_not_labelled(folder, tmp_path):
    found = read_table(folder / "x.npz")
    times = {"start": found.start, "end": found.end, "settings": json.dumps(found.settings)}
    for name in ("", ".", "..", "/", "a\0b"):
        names = np.array([name, *found.paths[1:]])
        np.savez(tmp_path / "x.npz", embeddings=found.embeddings, paths=names, **times)
        result = run("classify", folder, tmp_path / "x.npz", "-o", tmp_path / "t", "--format", "audacity")
        assert result.exit_code == 2 and "which is no name of a file; embed it again" in result.output


@pytest.mark.parametrize("command", [("similar", "q.wav"), ("plot", "-o", "map.png")])
def test_files_that_are_no_embeddings_or_of_a_later_version(folder, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    name, *rest = command
    (tmp_path / "x.npz").write_text("words")
    result = run(name, "x.npz", *rest)
    assert result.exit_code == 2 and "x.npz: not embeddings" in result.output and "mtslvr-embed" in result.output
    absent = run(name, "absent.npz", *rest)
    assert absent.exit_code == 2 and "absent.npz: no such file; check the path" in absent.output
    np.save("open.npy", np.ones((2, 3)))
    (tmp_path / "open.npy.index.csv").write_text('row,file,start,end\n0,"' + "a" * 140_000)
    quote = run(name, "open.npy", *rest)
    assert quote.exit_code == 2 and "open.npy: not embeddings (field larger than field limit" in quote.output
    columns = {"embeddings": np.ones((2, 3)), "paths": ["a", "b"], "start": [0, 0], "end": [1, 1]}
    np.savez("later.npz", **columns, settings=json.dumps({"format_version": 2, "mtslvr": "9.9", "layer": "new"}))
    later = run(name, "later.npz", *rest)
    assert later.exit_code == 2 and "written by mtslvr 9.9 in format 2" in later.output
    assert not (tmp_path / "map.png").exists()


def test_queries_are_of_the_channel_that_was_embedded(tmp_path):
    t = np.arange(8000) / 16000
    low, high = (np.sin(2 * np.pi * hertz * t) for hertz in (300, 3000))
    for name, waves in (("a", (low, high)), ("b", (high, low))):
        soundfile.write(tmp_path / f"{name}.wav", np.stack(waves, 1), 16000)
    soundfile.write(tmp_path / "mono.wav", high, 16000)
    out = tmp_path / "x.npz"
    assert run("embed", tmp_path / "a.wav", tmp_path / "b.wav", "-o", out, "--channel", 1).exit_code == 0
    for query in ("a.wav", "a.wav:0-0.5", "mono.wav"):
        hits = mtslvr.search.similar(out, tmp_path / query)
        assert hits[0].file == "a.wav" and hits[0].score > max(0.999, hits[1].score + 1e-3)
