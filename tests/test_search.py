"""Nearest files and maps, on tables made up and on one that mtslvr-embed wrote."""

import json
import re

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
    assert [round(hit.score, 3) for hit in hits] == [1, 1]


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


def test_similar_finds_the_place_of_a_part_of_a_file(folder):
    part = f"{folder / 'audio' / 'high' / 'c.wav'}:0.25-0.5"
    found = mtslvr.search.similar(folder / "x.npz", part, k=1, per_file=True)[0]
    assert found.file == "high/c.wav" and found.score == pytest.approx(1, abs=1e-3)
    several = run("similar", folder / "x.npz", part, folder / "audio" / "low" / "a.wav", "--threshold", 0.999, "--json")
    assert {"high/c.wav", "low/a.wav"} <= {hit["file"] for hit in json.loads(several.stdout)}
    for start in ("7", "0.25"):
        beyond = run("similar", folder / "x.npz", f"{folder / 'audio' / 'high' / 'c.wav'}:{start}-8")
        assert beyond.exit_code == 2
        assert f"the query is at {start} to 8 s, and the recording is 0.5 s long" in beyond.output


@pytest.mark.parametrize(
    ("option", "message"),
    [(("-k", 0), "'-k': 0 is not in the range x>=1"), (("--device", "gpu"), "device='gpu': unknown; use 'auto'")],
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


@pytest.mark.parametrize("command", [("similar", "q.wav"), ("plot", "-o", "map.png")])
def test_files_that_are_no_embeddings_or_of_a_later_version(folder, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    name, *rest = command
    (tmp_path / "x.npz").write_text("words")
    result = run(name, "x.npz", *rest)
    assert result.exit_code == 2 and "x.npz: not embeddings" in result.output and "mtslvr-embed" in result.output
    absent = run(name, "absent.npz", *rest)
    assert absent.exit_code == 2 and "absent.npz: not embeddings" in absent.output
    columns = {"embeddings": np.ones((2, 3)), "paths": ["a", "b"], "start": [0, 0], "end": [1, 1]}
    np.savez("later.npz", **columns, settings=json.dumps({"format_version": 2, "mtslvr": "9.9"}))
    later = run(name, "later.npz", *rest)
    assert later.exit_code == 2 and "written by mtslvr 9.9 in format 2" in later.output
    assert not (tmp_path / "map.png").exists()


# Maps

plot = pytest.importorskip("mtslvr.analysis.plot")


def test_pca_is_that_of_a_singular_value_decomposition():
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((50, 6)) * [5, 3, 1, 0.1, 0.1, 0.1]).astype(np.float32)
    unit = rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    left, scale, _ = np.linalg.svd(unit - unit.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(plot.project(rows)), np.abs(left[:, :2] * scale[:2]), rtol=0, atol=1e-9)
    assert plot.project(rows[:, :1]).shape == (50, 2)
    with pytest.raises(ConfigError, match="1 rows: too few for a map by pca"):
        plot.project(rows[:1])


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf", pytest.param("html", marks=pytest.mark.extra("plot"))])
def test_plot_writes_maps(folder, tmp_path, suffix):
    out = tmp_path / f"map.{suffix}"
    result = run("plot", folder / "x.npz", "-o", out)
    assert result.exit_code == 0 and "10 points, 2 classes" in result.output, result.output
    data = out.read_bytes()
    assert {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF", "html": b"<html"}[suffix] in data[:40]
    if suffix == "html":
        page = data.decode()
        assert "a.wav 0.25 to 0.50 s" in page and "high/<b>.wav" not in page
        assert re.search(r"<script[^>]*\bsrc=", page) is None  # opens without network


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_names_of_folders_are_shown_as_they_are(tmp_path, suffix):
    names = ["_x", r"$\frac$", "$5", "a_b", "\udcff"]
    out = tmp_path / f"map.{suffix}"
    plot.draw(out, np.eye(5)[:, :2], names, names, r"_x, $\frac$", ("x", "y"))
    if suffix == "svg":
        page = out.read_text(encoding="utf-8")
        shown = re.findall(r"<!-- (.*?) -->", page)
        assert {name.strip() for name in shown} >= {"_x", r"$\frac$", "$5", "a_b", "?", r"_x, $\frac$"}


def test_labels_from_a_table(folder, tmp_path):
    names = ["low/a.wav", "low/b.wav", "high/a.wav", "high/<b>.wav", "high/c.wav"]
    lines = "".join(f"{name},class {i}\n" for i, name in enumerate(names))
    (tmp_path / "labels.csv").write_text("file,label\n" + lines)
    result = run("plot", folder / "x.npz", "-o", tmp_path / "map.png", "--labels", tmp_path / "labels.csv")
    assert result.exit_code == 0 and "5 classes" in result.output
    (tmp_path / "labels.csv").write_text("file,label\nlow/a.wav,1\n")
    short = run("plot", folder / "x.npz", "-o", tmp_path / "map.png", "--labels", tmp_path / "labels.csv")
    assert short.exit_code == 2 and "lacks 4 files, high/<b>.wav, high/a.wav, high/c.wav among them" in short.output
    none = run("plot", folder / "x.npz", "-o", tmp_path / "map.png", "--labels", "nowhere.csv")
    assert none.exit_code == 2 and "nowhere.csv: not a csv with the columns" in none.output


def test_plot_refuses_before_any_work(folder, tmp_path, monkeypatch):
    bad = run("plot", folder / "x.npz", "-o", tmp_path / "map.gif")
    assert bad.exit_code == 2 and "unknown format '.gif'; end the name in .png, .svg, .pdf, .html" in bad.output
    missing = run("plot", folder / "x.npz", "-o", tmp_path / "nowhere" / "map.png")
    assert missing.exit_code == 2 and "make it with mkdir -p" in missing.output
    monkeypatch.setattr(plot.importlib.util, "find_spec", lambda name: None)
    absent = run("plot", folder / "x.npz", "-o", tmp_path / "map.png", "--method", "umap")
    assert absent.exit_code == 2 and "pip install 'mtslvr[plot]'" in absent.output


@pytest.mark.extra("umap")
def test_umap(folder, tmp_path):
    result = run("plot", folder / "x.npz", "-o", tmp_path / "map.png", "--method", "umap")
    assert result.exit_code == 0, result.output


def test_many_classes_keep_colours_of_their_own():
    for count in (1, 10, 11, 60):
        colours = plot._colours(count)
        assert len(set(colours)) == count and all(0 <= part <= 1 for colour in colours for part in colour)
