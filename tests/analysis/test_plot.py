import json
import re

import numpy as np
import pytest
from click.testing import CliRunner

from mtslvr.analysis import plot
from mtslvr.cli.main import main
from mtslvr.errors import ConfigError

FILES = ["low/a.wav", "low/b.wav", "high/a.wav", "high/<b>.wav", "high/c10.wav"]


def run(*arguments):
    return CliRunner().invoke(main, ["plot", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Embeddings of five files, two windows each, and the audio of one."""
    rows = np.repeat(np.eye(4)[[0, 0, 1, 1, 1]], 2, axis=0) + 0.1 * np.random.default_rng(0).standard_normal((10, 4))
    starts, settings = np.tile([0.0, 0.25], 5), json.dumps({"model": "some/model", "features": "concat"})
    columns = {"paths": np.repeat(FILES, 2), "start": starts, "end": starts + 0.25, "settings": settings}
    np.savez(tmp_path / "x.npz", embeddings=rows.astype(np.float32), **columns)
    (tmp_path / "audio" / "high").mkdir(parents=True)
    (tmp_path / "audio" / "high" / "<b>.wav").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_pca_is_that_of_a_singular_value_decomposition():
    rows = (np.random.default_rng(0).standard_normal((50, 6)) * [5, 3, 1, 0.1, 0.1, 0.1]).astype(np.float32)
    unit = rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    left, scale, _ = np.linalg.svd(unit - unit.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(plot.project(rows)), np.abs(left[:, :2] * scale[:2]), rtol=0, atol=1e-5)
    with pytest.raises(ConfigError, match="1 rows: too few for a map by pca"):
        plot.project(rows[:1])


def test_clusters_are_the_groups_there_are_the_largest_first():
    rng = np.random.default_rng(0)
    group = rng.permutation(np.repeat(np.arange(12), np.arange(3, 15)))
    rows = (5 * np.eye(20)[group] + 0.3 * rng.standard_normal((len(group), 20))).astype(np.float32)
    assert plot.clusters(rows, 12) == [f"cluster {12 - g}" for g in group]
    assert set(plot.clusters(np.ones((5, 3), np.float32), 2)) <= {"cluster 1", "cluster 2"}


def test_plot_writes_maps_with_labels_from_folders_or_a_table(folder):
    for suffix, start in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        assert "10 points, 2 classes" in run("x.npz", "-o", f"map.{suffix}").output
        assert (folder / f"map.{suffix}").read_bytes().startswith(start)
    labels = folder / "labels.csv"
    labels.write_text("file,label\n" + "".join(f"{name},class {i}\n" for i, name in enumerate(FILES)))
    assert "5 classes" in run("x.npz", "-o", "map.png", "--labels", labels).output


@pytest.mark.extra("plot")
def test_a_page_links_to_plotly_or_holds_it_and_plays_what_is_there(folder):
    result = run("x.npz", "-o", "map.html", "--clusters", 3, "--audio", "audio")
    assert result.exit_code == 0 and "10 points, 3 clusters" in result.output, result.output
    page = (folder / "map.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert re.search(r"<script[^>]*\bsrc=", page) and len(page) < 100_000
    assert "mtslvr plot --offline" in page  # what the page says where plotly cannot be loaded
    assert "a.wav 0.25 to 0.50 s" in page and "high/<b>.wav" not in page
    played = [json.loads(f'"{found}"') for found in re.findall(r'"([^"]*b%3E[^"]*#t=[^"]*)"', page)]
    assert sorted(played) == [f"audio/high/%3Cb%3E.wav#t={span}" for span in ("0.00,0.25", "0.25,0.50")]
    assert run("x.npz", "-o", "map.html", "--offline").exit_code == 0
    assert re.search(r"<script[^>]*\bsrc=", (folder / "map.html").read_text()) is None  # opens without network
    absent = run("x.npz", "-o", "other.html", "--audio", "nowhere")
    assert absent.exit_code == 2 and "nowhere: holds none of the 5 files, low/a.wav for one" in absent.output
    names, page = [f"class {i}" for i in range(40)], folder / "map.html"
    plot.draw(page, plot.Map(np.random.default_rng(0).random((40, 2)), names, names, "", ("x", "y")))
    looks = re.findall(r'"marker":\{"color":"(#\w+)","opacity":[\d.]+,"size":8,"symbol":"([\w-]+)"', page.read_text())
    assert len(looks) == len(set(looks)) == 40  # classes differ in colour or marker


def test_names_of_folders_are_shown_as_they_are_in_natural_order(tmp_path):
    names = ["_x", r"$\frac$", "$5", "a_b", "\udcff", "c10", "c9"]
    out = tmp_path / "map.svg"
    plot.draw(out, plot.Map(np.eye(7)[:, :2], names, names, r"_x, $\frac$", ("x", "y")))
    shown = [name.strip() for name in re.findall(r"<!-- (.*?) -->", out.read_text(encoding="utf-8"))]
    assert set(shown) >= {"_x", r"$\frac$", "$5", "a_b", "?", r"_x, $\frac$"}
    assert shown.index("c9") < shown.index("c10")


def test_plot_names_what_is_wrong(folder, monkeypatch):
    (folder / "one.csv").write_text("file,label\nlow/a.wav,1\n")
    for name, arguments, message in (
        ("map.gif", [], "unknown format '.gif'; end the name in one of .png, .svg, .pdf, .html"),
        ("nowhere/map.png", [], "make it with mkdir -p"),
        ("map.png", ["--labels", "nowhere.csv"], "--labels nowhere.csv: no csv with the columns file and label"),
        ("map.png", ["--labels", "byfolder"], "; give by-folder, none, or the csv"),
        ("map.png", ["--labels", "one.csv"], "lacks 4 files, high/<b>.wav, high/a.wav, high/c10.wav among them"),
        ("map.png", ["--labels", "none", "--clusters", "2"], "colours tell one of them"),
        ("map.png", ["--audio", "audio"], "for a page; end the name in .html"),
        ("map.png", ["--clusters", "11"], "--clusters 11: must be from 2 to the number of rows, 10"),
        ("map.png", [], "pip install 'mtslvr[plot]'"),
    ):
        if "pip" in message:
            monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        result = run("x.npz", "-o", name, *arguments)
        assert result.exit_code == 2 and message in result.output, result.output
        assert not list(folder.glob("map.*"))


@pytest.mark.extra("umap")
def test_umap(folder):
    assert run("x.npz", "-o", "map.png", "--method", "umap").exit_code == 0
