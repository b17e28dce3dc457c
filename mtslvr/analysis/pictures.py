"""Results to pictures: accuracies with their intervals, and the heat map of invariance."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError
from ..fewshot.results import Results, Row, check_output, labels
from ..run.files import atomic, guarded, resolve
from .invariance import LINES, Invariance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
# Okabe and Ito's colours, told apart with every kind of colour vision; their yellow is too light for white paper.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")


def check_picture(path: Path) -> None:
    """Find out before the work starts that a picture can be drawn and written, or raise a ConfigError."""
    check_output(path, SUFFIXES)
    new_figure(1, 1)


def draw(measured: Results | Invariance) -> Figure:
    """The picture of results."""
    return heat_map(measured) if isinstance(measured, Invariance) else accuracy(measured.rows)


def literal(text: str) -> str:
    """Text for matplotlib to show as it is: dollar signs begin no formula, and a space stands before an underscore.

    Of labels that begin with an underscore it makes no entry in a legend.
    """
    text = text.encode("utf-8", "replace").decode().replace("$", r"\$")  # names of files may be no text
    return f" {text}" if text.startswith("_") else text


def accuracy(rows: Sequence[Row]) -> Figure:
    """Draw a panel a dataset and classifier: accuracies with 95% intervals over supports a class, side by side."""
    named = [(row.classifier, row.dataset, label) for row, label in zip(rows, labels(rows), strict=True)]
    kinds, datasets, features = (list(dict.fromkeys(names)) for names in zip(*named, strict=True))
    shots = sorted({row.n_shot for row in rows})
    figure = new_figure(1.6 + 3.4 * len(datasets), 0.9 + 0.2 * len(features) + 2.4 * len(kinds))
    panels: Any = figure.subplots(len(kinds), len(datasets), sharex=True, sharey=True, squeeze=False)
    for (i, j), panel in np.ndenumerate(panels):
        for k, label in enumerate(features):
            mine = [row for name, row in zip(named, rows, strict=True) if name == (kinds[i], datasets[j], label)]
            x = [shots.index(row.n_shot) + 0.6 * ((k + 0.5) / len(features) - 0.5) for row in mine]
            panel.errorbar(
                x, [row.result.mean for row in mine], yerr=[row.result.ci95 for row in mine], label=literal(label),
                color="#999999" if label == "log-mel" else COLOURS[k % len(COLOURS)], fmt="o", ms=4, capsize=2,
            )  # fmt: skip
        for n_way in {int(row.result.settings["n_way"]) for row in rows}:
            panel.axhline(100 / n_way, color="#444444", lw=0.8, ls="--", zorder=0)
        panel.set_title(literal(f"{datasets[j]}, {kinds[i]}; dashed: chance"), fontsize=9)
        panel.set(ylim=(0, 100), xlim=(-0.5, len(shots) - 0.5), xticks=range(len(shots)), xticklabels=shots)
        panel.set(xlabel="supports a class" if i == len(kinds) - 1 else "", ylabel="" if j else "accuracy (%)")
        panel.grid(axis="y", color="#DDDDDD", lw=0.6)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower left", frameon=False, fontsize=8)
    return figure


def heat_map(measured: Invariance) -> Figure:
    """Draw relative distance and cosine: transformations down, branches across."""
    columns = measured.columns
    several = len({model for model, _ in columns}) > 1
    names = [literal(f"{model}\n{branch}") if several else branch for model, branch in columns]
    figure = new_figure(3.0 + 2 * 1.15 * len(columns), 4.2)
    shown = (
        ("relative", "distance to the original / distance\nbetween clips (low: invariant)", "viridis_r"),
        ("cosine", "cosine with the original\n(high: invariant)", "viridis"),
    )
    for panel, (attribute, title, colours) in zip(figure.subplots(1, 2, sharey=True), shown, strict=True):
        values = np.array([[getattr(row, attribute) for row in rows] for rows in columns.values()]).T
        image: Any = panel.imshow(
            values, cmap=colours, vmin=min(0, values.min()), vmax=max(1, values.max()), aspect="auto"
        )
        for (i, j), value in np.ndenumerate(values):
            dark = sum(image.cmap(image.norm(value))[:3]) < 1.5
            panel.text(j, i, f"{value:.2f}", ha="center", va="center", color="white" if dark else "black", fontsize=8)
        panel.set_title(title, fontsize=9)
        panel.set_xticks(range(len(names)), names)
        panel.set_yticks(range(len(LINES)), [name.replace("_", " ") for name in LINES])
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a picture; its format follows the suffix."""
    with guarded(path), atomic(resolve(path)) as file:
        figure.savefig(file, format=path.suffix.lower()[1:], dpi=150, facecolor="white")


def svg(figure: Figure) -> str:
    """Give a picture as SVG text."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, its sides in inches, or a ConfigError where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("pictures need matplotlib: pip install 'mtslvr[plot]'") from error
    return Figure(figsize=(width, height), layout="constrained")
