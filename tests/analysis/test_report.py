import html
import json
import re
import sys
from collections import Counter

import numpy as np
import pytest

from mtslvr.analysis import Invariance, pictures, report
from mtslvr.analysis.invariance import LINES, InvarianceRow
from mtslvr.errors import ConfigError
from mtslvr.fewshot import FewShotResult, Results, Row


def made(features, dataset, mean, kind="sgd", shots=1, share=None, model="small & fine"):
    settings = {"n_way": 5, "n_shot": shots, "n_query": 1, "episodes": 1000, "seed": 42, "scaling": "none"}
    result = FewShotResult(mean, 0.5, 0.1, np.zeros(1), settings, {"<dog>": mean, "cat": 50.0}, share or {})
    return Row(features, kind, result, dataset, model)


@pytest.fixture
def fewshot(tmp_path):
    rows = [made("concat", d, 60.0, share={"invariant": 0.4, "variant": 0.6}) for d in "xy"]
    facts = {d: {"classes": 12, "clips": 3456, "pieces": d == "y", "window_seconds": 5.0, "note": "n<1"} for d in "xy"}
    path = tmp_path / "few.json"
    path.write_text(Results([*rows, made("invariant", "x", 71.25)], facts, {"mtslvr": "9.8.7"}).to_json())
    return path


@pytest.fixture
def measured():
    values = {"invariant": (3.0, 0.1, 0.2, 0.9, 0.1), "variant": (4.0, 0.1, 0.4, 0.8, 0.1)}
    rows = [InvarianceRow("small", branch, name, *values[branch]) for branch in values for name in LINES]
    settings = {"clips": 12, "folder": "f", "draws": 1, "seed": 42, "layer": "head"}
    return Invariance(rows, settings, {"mtslvr": "9.8.7"})


def test_a_page_of_both_kinds_is_whole_and_needs_nothing_else(fewshot, measured, tmp_path):
    other = tmp_path / "inv.json"
    other.write_text(measured.to_json())
    page = report([fewshot, other], "A <title>")
    opened, closed = (Counter(re.findall(rf"<{slash}([a-z]\w*)", page)) for slash in ("", "/"))
    assert {tag for tag in opened if opened[tag] != closed[tag]} <= {"meta", "img", "br"} and closed <= opened
    images = re.findall(r'\bsrc="([^"]*)', page)
    assert len(images) == 2 and all(image.startswith("data:image/svg+xml;base64,") for image in images)
    assert re.search(r"<script|url\(|\b(href|srcset|onload)=", page) is None  # nothing comes from elsewhere
    text = html.unescape(re.sub(r"<[^>]*>", " ", page))
    for said in (
        "A <title>", "few.json", "inv.json", "71.25 ± 0.50", "small & fine", "<dog>", "3,456", "n<1", "9.8.7", "0.60",
        "5-way 1-shot, 1 query a class, 1,000 episodes, seed 42", "pitch_shift",
        "is more invariant than the variant one: relative distance 0.200 against 0.400",
    ):  # fmt: skip
        assert said in text, said


def test_what_cannot_be_reported_or_drawn_is_named(fewshot, tmp_path, monkeypatch):
    kind, empty, check = tmp_path / "kind.json", tmp_path / "empty.json", pictures.check_picture
    for path, changes in ((kind, {"kind": "recipe"}), (empty, {"rows": []})):
        path.write_text(json.dumps({**json.loads(fewshot.read_text()), **changes}))
    for function, given, said in (
        (report, [], "no files of results given"),
        (report, [tmp_path / "nowhere.json"], r"nowhere\.json: no such file; check the path"),
        (report, [kind], "kind 'recipe': expected 'fewshot' or 'invariance'"),
        (report, [empty], "holds no measurements"),
        (check, tmp_path / "x.bmp", r"unknown format '\.bmp'; end the name in one of \.png"),
        (check, tmp_path / "nowhere" / "x.png", "does not exist; make it"),
        (check, tmp_path / "x.png", r"pictures need matplotlib: pip install 'mtslvr\[plot\]'"),
    ):
        if "matplotlib" in said:
            monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(ConfigError, match=said):
            function(given)


def test_accuracies_are_drawn_with_their_intervals_and_names_as_they_are_and_every_cell_of_invariance(measured):
    names = (r"$\frac$", "_small")
    rows = [made("concat", "_x", 60.0 + 5 * n, shots=n, model=name) for n in (5, 1) for name in names]
    figure = pictures.accuracy([*rows, made("concat", "_x", 90.0, kind="cosine")])
    assert len(figure.axes) == 2
    points, _, [bars] = figure.axes[0].containers[0]
    assert points.get_ydata().tolist() == [85.0, 65.0] and (np.diff(points.get_xdata()) < 0).all()
    assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [[84.5, 85.5], [64.5, 65.5]]
    [legend] = figure.legends
    assert len(legend.get_texts()) == 3
    assert r"$\frac$ concat" in pictures.svg(figure)
    assert [text.get_text() for text in pictures.draw(measured).axes[0].texts] == ["0.20", "0.40"] * 8
