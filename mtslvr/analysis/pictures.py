"""Results to pictures: bars with intervals, accuracy over shots, weight shares, the heat map of invariance."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError
from ..fewshot.results import Row
from ..run.files import atomic, guarded, resolve
from .invariance import AVERAGE, Invariance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
# Okabe and Ito's colours, told apart with every kind of colour vision; their yellow is too light for white paper.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
_BASELINE = "#BBBBBB"


def check_picture(path: Path) -> None:
    """Find out before the work starts that a picture can be drawn and has a known format.

    Raises:
        ConfigError: unknown suffix, no such folder, or matplotlib is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path}: unknown picture format {path.suffix!r}; end the name in {', '.join(SUFFIXES)}")
    resolve(path)
    new_figure(1, 1)


def literal(text: str) -> str:
    """Text for matplotlib to show as it is: dollar signs begin no formula, and a space stands before an underscore.

    Of labels that begin with an underscore it makes no entry in a legend.
    """
    text = text.encode("utf-8", "replace").decode().replace("$", r"\$")  # names of files may be no text
    return f" {text}" if text.startswith("_") else text


def accuracy(rows: Sequence[Row]) -> Figure:
    """Draw bars with 95% intervals, or curves where there are several numbers of shots.

    Raises:
        ConfigError: no rows, or matplotlib is not installed.
    """
    if not rows:
        raise ConfigError("no results to draw")
    return curves(rows) if len({row.n_shot for row in rows}) > 1 else bars(rows)


def bars(rows: Sequence[Row]) -> Figure:
    """Draw a panel a classifier, a group a dataset, a bar a model and features."""
    cells, (kinds, datasets, labels), colours = _cells(rows)
    width = 0.84 / len(labels)
    wide = 1.5 + 0.28 * len(labels) * len(datasets) + 0.5 * len(datasets)
    figure = new_figure(max(5.5, wide), 0.9 + 2.4 * len(kinds))
    panels = figure.subplots(len(kinds), 1, sharex=True, squeeze=False)[:, 0]
    style: dict[str, Any] = {"capsize": 2, "ecolor": "#333333"}
    for panel, kind in zip(panels, kinds, strict=True):
        for i, label in enumerate(labels):
            mine = {
                j: cells[kind, name, label][0].result for j, name in enumerate(datasets) if cells[kind, name, label]
            }
            at = [j + (i + 0.5) * width - 0.42 for j in mine]
            means, errors = [r.mean for r in mine.values()], [r.ci95 for r in mine.values()]
            panel.bar(at, means, width * 0.92, yerr=errors, color=colours[label], label=literal(label), **style)
        _accuracy_axis(panel, rows, kind)
        panel.set_xticks(range(len(datasets)), [literal(name) for name in datasets])
    _legend(figure, panels[0])
    return figure


def curves(rows: Sequence[Row]) -> Figure:
    """Draw a panel a dataset and classifier: accuracy over supports a class, with 95% intervals."""
    cells, (kinds, datasets, labels), colours = _cells(rows)
    shots = sorted({row.n_shot for row in rows})
    figure = new_figure(1.6 + 3.4 * len(datasets), 0.9 + 2.6 * len(kinds))
    grid = figure.subplots(len(kinds), len(datasets), sharex=True, sharey=True, squeeze=False)
    style: dict[str, Any] = {"marker": "o", "ms": 3.5, "lw": 1.4, "capsize": 2}
    for (i, j), panel in np.ndenumerate(grid):
        for label in labels:
            mine = sorted(cells[kinds[i], datasets[j], label], key=lambda row: row.n_shot)
            x, y = [row.n_shot for row in mine], [row.result.mean for row in mine]
            errors = [row.result.ci95 for row in mine]
            panel.errorbar(x, y, yerr=errors, color=colours[label], label=literal(label), **style)
        _accuracy_axis(panel, rows, kinds[i])
        panel.set_title(literal(f"{datasets[j]}, {kinds[i]}"), fontsize=9)
        panel.set_xscale("log")
        panel.set_xticks(shots, [str(n) for n in shots])
        panel.minorticks_off()
        panel.set_xlabel("supports a class" if i == len(kinds) - 1 else "")
        panel.set_ylabel("" if j else "accuracy (%)")
    _legend(figure, grid[0, 0])
    return figure


def _cells(
    rows: Sequence[Row],
) -> tuple[dict[tuple[str, str, str], list[Row]], tuple[list[str], list[str], list[str]], dict[str, str]]:
    """Rows by classifier, dataset and label; all of these in order; label to colour, grey where no model is needed."""
    several = len({row.model for row in rows if row.model}) > 1
    named = [(row.classifier, row.dataset, row.label if several else row.features) for row in rows]
    kinds, datasets, labels = (list(dict.fromkeys(names)) for names in zip(*named, strict=True))
    cells: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for name, row in zip(named, rows, strict=True):
        cells[name].append(row)
    coloured = [label for label in labels if label != "log-mel"]
    colours = {label: COLOURS[i % len(COLOURS)] for i, label in enumerate(coloured)}
    return cells, (kinds, datasets, labels), {**colours, "log-mel": _BASELINE}


def weight_shares(rows: Sequence[Row]) -> Figure:
    """Draw the share of the classifier's weight norm on each branch, a bar a measurement.

    Raises:
        ConfigError: none was measured.
    """
    shared = [row for row in rows if row.result.weight_share]
    if not shared:
        raise ConfigError("no weight shares in these results; measure them with `mtslvr fewshot --weights`")
    branches = list(dict.fromkeys(name for row in shared for name in row.result.weight_share))
    names = [literal(f"{row.dataset}, {row.model}, {row.classifier} {row.n_shot}-shot") for row in shared]
    figure = new_figure(6.5, 1.1 + 0.32 * len(shared))
    panel = figure.subplots()
    left = np.zeros(len(shared))
    for branch, colour in zip(branches, COLOURS, strict=False):
        values = np.array([row.result.weight_share[branch] for row in shared])
        panel.barh(names, values, left=left, color=colour, label=branch)
        for y, (start, value) in enumerate(zip(left, values, strict=True)):
            panel.text(start + value / 2, y, f"{value:.2f}", ha="center", va="center", color="white", fontsize=8)
        left += values
    panel.invert_yaxis()
    panel.set_xlim(0, 1)
    panel.set_xlabel("share of the weight norm")
    _legend(figure, panel)
    return figure


def heat_map(measured: Invariance) -> Figure:
    """Draw relative distance and cosine: transformations down, branches across."""
    columns = list(dict.fromkeys((row.model, row.branch) for row in measured.rows))
    lines = [name for name in dict.fromkeys(row.transformation for row in measured.rows) if name != AVERAGE] + [AVERAGE]
    cells = {(row.model, row.branch, row.transformation): row for row in measured.rows}
    several = len({model for model, _ in columns}) > 1
    names = [literal(f"{model}\n{branch}") if several else branch for model, branch in columns]
    figure = new_figure(3.0 + 2 * 1.15 * len(columns), 4.2)
    panels = figure.subplots(1, 2, sharey=True)
    shown = (
        ("relative", "distance to the original / distance\nbetween clips (low: invariant)", "viridis_r"),
        ("cosine", "cosine with the original\n(high: invariant)", "viridis"),
    )
    for panel, (attribute, title, colours) in zip(panels, shown, strict=True):
        values = np.array([[getattr(cells[(*column, name)], attribute) for column in columns] for name in lines])
        low, high = (0, max(1.0, values.max())) if attribute == "relative" else (min(0.0, values.min()), 1)
        image = panel.imshow(values, cmap=colours, vmin=low, vmax=high, aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            dark = image.norm(value) < 0.5 if colours == "viridis" else image.norm(value) > 0.5
            panel.text(j, i, f"{value:.2f}", ha="center", va="center", color="white" if dark else "black", fontsize=8)
        panel.axhline(len(lines) - 1.5, color="white", lw=2)
        panel.set_title(title, fontsize=9)
        panel.set_xticks(range(len(names)), names)
        panel.set_yticks(range(len(lines)), [name.replace("_", " ") for name in lines])
        panel.tick_params(length=0)
        panel.spines[:].set_visible(False)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a picture; its format follows the suffix.

    Raises:
        ConfigError: unknown suffix, or the file cannot be written.
    """
    check_picture(path)
    with guarded(path), atomic(resolve(path)) as file:
        figure.savefig(file, format=path.suffix.lower()[1:], dpi=150, facecolor="white")


def svg(figure: Figure) -> str:
    """Give a picture as SVG text."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, its sides in inches.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("pictures need matplotlib: pip install 'mtslvr[plot]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def _accuracy_axis(panel: Any, rows: Sequence[Row], kind: str) -> None:
    ways = {int(row.result.settings["n_way"]) for row in rows}
    for n_way in ways:
        panel.axhline(100 / n_way, color="#444444", lw=0.8, ls="--", zorder=0)
    shots = {row.n_shot for row in rows}
    said = f", {min(ways)}-way {min(shots)}-shot" if len(ways) == 1 and len(shots) == 1 else ""
    panel.set_title(f"{kind}{said}; dashed: chance", fontsize=9)
    panel.set_ylabel("accuracy (%)")
    panel.set_ylim(0, 100)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", color="#DDDDDD", lw=0.6)
    panel.set_axisbelow(True)


def _legend(figure: Figure, panel: Any) -> None:
    handles, labels = panel.get_legend_handles_labels()
    entry = 0.55 + 0.075 * max(map(len, labels))  # inches of the widest entry in this size of type
    columns = max(1, min(len(labels), int(figure.get_figwidth() / entry)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
