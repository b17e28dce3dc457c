import builtins
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from mtslvr.analysis import Invariance, pictures, report
from mtslvr.analysis.invariance import AVERAGE, InvarianceRow
from mtslvr.errors import ConfigError
from mtslvr.fewshot import FewShotResult, Results, Row
from mtslvr.training.augment import TRANSFORMATIONS

VOID = {"meta", "img"}


def made(features, dataset, mean, kind="sgd", shots=1, share=None, model="small & fine"):
    settings = {"n_way": 5, "n_shot": shots, "n_query": 1, "episodes": 1000, "seed": 42, "scaling": "none"}
    result = FewShotResult(mean, 0.5, 0.1, np.zeros(1), settings, {"<dog>": mean, "cat": 50.0}, share or {})
    return Row(features, kind, result, dataset, model)


@pytest.fixture
def fewshot(tmp_path):
    rows = [made("invariant", d, m) for d, m in (("x", 71.25), ("y", 40.0))]
    rows += [made("concat", d, 60.0, share={"invariant": 0.4, "variant": 0.6}) for d in "xy"]
    facts = {d: {"classes": 12, "clips": 3456, "pieces": d == "y", "window_seconds": 5.0, "note": "n<1"} for d in "xy"}
    path = tmp_path / "few.json"
    path.write_text(Results(rows, facts, {"mtslvr": "9.8.7"}).to_json())
    return path


@pytest.fixture
def measured():
    rows = [
        InvarianceRow("small", branch, name, 3.0 + i, 0.1, 0.2 * (i + 1), 0.9 - 0.1 * i, 0.1)
        for i, branch in enumerate(("invariant", "variant"))
        for name in (*TRANSFORMATIONS, AVERAGE)
    ]
    settings = {"clips": 12, "folder": "f", "draws": 1, "seed": 42, "layer": "head"}
    return Invariance(rows, settings, {"mtslvr": "9.8.7"})


class Checker(HTMLParser):
    """Every element is closed, and nothing is loaded from elsewhere."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.images = [], [], 0

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            assert name not in ("href", "srcset", "onload")
            if name == "src":
                assert value.startswith("data:image/svg+xml;base64,")
                self.images += 1

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def checked(page):
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert "url(" not in page and "<script" not in page
    return checker


def test_a_page_of_both_kinds_is_whole_and_needs_nothing_else(fewshot, measured, tmp_path):
    other = tmp_path / "inv.json"
    other.write_text(measured.to_json())
    page = report([fewshot, other], "A <title>")
    assert re.findall(r'<td class="best">([\d.]+) ', page) == ["71.25", "60.00"]
    checker = checked(page)
    text = " ".join(checker.text)
    for said in (
        "A <title>", "few.json", "inv.json", "71.25 ± 0.50", "small & fine", "<dog>", "3,456", "n<1", "9.8.7", "0.60",
        "5-way 1-shot, 1 query a class, 1,000 episodes, seed 42", "pitch_shift",
        "is more invariant than the variant one: relative distance 0.200 against 0.400",
    ):  # fmt: skip
        assert said in text, said
    assert checker.images == 3


def test_bad_input_is_named(fewshot, tmp_path):
    with pytest.raises(ConfigError, match="no files of results given"):
        report([])
    with pytest.raises(ConfigError, match=r"nowhere\.json: no such file; check the path"):
        report([tmp_path / "nowhere.json"])
    data = json.loads(fewshot.read_text())
    fewshot.write_text(json.dumps({**data, "kind": "recipe"}))
    with pytest.raises(ConfigError, match="kind 'recipe': expected 'fewshot' or 'invariance'"):
        report([fewshot])
    fewshot.write_text(json.dumps({**data, "rows": []}))
    with pytest.raises(ConfigError, match="holds no measurements"):
        report([fewshot])


def test_bars_have_the_heights_and_intervals_measured():
    rows = [made("invariant", "x", 71.25), made("concat", "x", 60.0), made("invariant", "y", 40.0)]
    [panel] = pictures.accuracy(rows).axes
    assert [[bar.get_height() for bar in group] for group in panel.containers if hasattr(group, "patches")] == [
        [71.25, 40.0],
        [60.0],
    ]
    assert [tick.get_text() for tick in panel.get_xticklabels()] == ["x", "y"]


def test_several_shots_give_curves_in_their_order():
    rows = [made("invariant", "x", m, kind, shots) for kind in ("sgd", "cosine") for shots, m in ((5, 80), (1, 60))]
    panels = pictures.accuracy(rows).axes
    assert len(panels) == 2
    line = panels[0].containers[0].lines[0]
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([1, 5], [60, 80])


def test_names_of_models_and_data_sets_are_shown_as_they_are():
    rows = [made("concat", "_x", 60.0, shots=n, model=name) for n in (1, 5) for name in (r"$\frac$", "_small")]
    for some in (rows, rows[:2]):
        figure = pictures.accuracy(some)
        [legend] = figure.legends
        assert len(legend.get_texts()) == 2
        assert r"$\frac$ concat" in pictures.svg(figure) or r"$\frac$, concat" in pictures.svg(figure)


def test_heat_map_shows_every_cell(measured):
    panels = pictures.heat_map(measured).axes
    assert len(panels) == 2
    shown = [text.get_text() for text in panels[0].texts]
    assert shown == ["0.20", "0.40"] * 8


@pytest.mark.parametrize("suffix", pictures.SUFFIXES)
def test_pictures_are_written_by_suffix(measured, tmp_path, suffix):
    path = tmp_path / f"map{suffix}"
    pictures.save(pictures.heat_map(measured), path)
    assert path.read_bytes()[:4] == {".png": b"\x89PNG", ".svg": b"<?xm", ".pdf": b"%PDF"}[suffix]


def test_pictures_that_cannot_be_drawn(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown picture format '\.bmp'; end the name in \.png"):
        pictures.check_picture(tmp_path / "x.bmp")
    with pytest.raises(ConfigError, match="does not exist; make it"):
        pictures.check_picture(tmp_path / "nowhere" / "x.png")
    with pytest.raises(ConfigError, match="no results to draw"):
        pictures.accuracy([])
    with pytest.raises(ConfigError, match="no weight shares in these results; measure them with"):
        pictures.weight_shares([made("concat", "x", 50)])


def test_without_matplotlib_the_extra_is_named(monkeypatch, tmp_path):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pictures need matplotlib: pip install 'mtslvr\[plot\]'"):
        pictures.check_picture(tmp_path / "x.png")
