"""Measured rows to tables for the terminal, Markdown, csv and json; called by the command line and `report`."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..run.files import wrong_suffix
from .results import Results, Row

_COLUMNS = ("dataset", "model", "features", "classifier", "n_way", "n_shot", "n_query", "episodes", "seed", "scaling")


def average_ranks(rows: Sequence[Row]) -> dict[tuple[str, str, str, int], float]:
    """Rank features and models on every dataset, 1 for the most accurate, and average over the datasets.

    Rows of one classifier and number of shots are ranked among themselves, equal accuracies share the mean of their
    places, and only what was measured on all datasets is ranked, by (model, features, classifier, n_shot).
    """
    datasets = list(dict.fromkeys(row.dataset for row in rows))
    ranks: dict[tuple[str, str, str, int], float] = {}
    for group in {(row.classifier, row.n_shot) for row in rows}:
        mine = [row for row in rows if (row.classifier, row.n_shot) == group]
        means = {(row.model, row.features, row.dataset): row.result.mean for row in mine}
        names = list(dict.fromkeys((model, features) for model, features, _ in means))
        full = [name for name in names if all((*name, dataset) in means for dataset in datasets)]
        if not full:
            continue
        table = np.array([[means[(*name, dataset)] for dataset in datasets] for name in full])
        better = (table[None] > table[:, None]).sum(axis=1)
        equal = (table[None] == table[:, None]).sum(axis=1)
        average = (better + (equal + 1) / 2).mean(axis=1)
        ranks.update({(*name, *group): float(rank) for name, rank in zip(full, average, strict=True)})
    return ranks


def comparison(rows: Sequence[Row]) -> list[list[str]]:
    """Give heading and lines: what was measured down; datasets, and the average rank among several, across."""
    datasets = list(dict.fromkeys(row.dataset for row in rows))
    ranks = average_ranks(rows)
    keys = list(dict.fromkeys((row.model, row.features, row.classifier, row.n_shot) for row in rows))
    cells = {(row.model, row.features, row.classifier, row.n_shot, row.dataset): str(row.result) for row in rows}
    shown = [len({key[i] for key in keys}) > 1 or i == 1 for i in range(4)]
    heading = [name for name, show in zip(("model", "features", "classifier", "shots"), shown, strict=True) if show]
    ranked = len(datasets) > 1
    lines = [[*heading, *(name or "accuracy" for name in datasets), *(["average rank"] if ranked else [])]]
    for key in keys:
        named = [str(value) or "-" for value, show in zip(key, shown, strict=True) if show]
        line = named + [cells.get((*key, dataset), "-") for dataset in datasets]
        lines.append(line + ([f"{ranks[key]:.1f}" if key in ranks else "-"] if ranked else []))
    return lines


def format_table(rows: Sequence[Row]) -> str:
    """Features down, classifiers across; mean accuracy ± 95% interval over clips, in percent."""
    names = list(dict.fromkeys(row.features for row in rows))
    kinds = list(dict.fromkeys(row.classifier for row in rows))
    cells = {(row.features, row.classifier): str(row.result) for row in rows}
    lines = [["features", *kinds]]
    lines += [[name, *(cells.get((name, kind), "") for kind in kinds)] for name in names]
    return aligned(lines)


def groups(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Give the rows of each dataset, classifier and number of shots, under a heading for readers."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(f"{row.dataset}, {row.classifier}, {row.n_shot}-shot", []).append(row)
    return found


def per_class(rows: Sequence[Row]) -> list[list[str]]:
    """Give heading and lines of one of `groups`: classes down, models and features across, accuracy in percent."""
    classes = list(dict.fromkeys(name for row in rows for name in row.result.per_class))
    several = len({row.model for row in rows if row.model}) > 1
    lines = [["class", *(row.label if several else row.features for row in rows)]]
    for name in classes:
        values = (row.result.per_class.get(name) for row in rows)
        lines.append([name, *("-" if value is None else f"{value:.1f}" for value in values)])
    return lines


def weight_shares(rows: Sequence[Row]) -> list[list[str]]:
    """Give heading and lines: share of the classifier's weight norm on each branch."""
    shared = [row for row in rows if row.result.weight_share]
    branches = list(dict.fromkeys(name for row in shared for name in row.result.weight_share))
    lines = [["dataset", "model", "classifier", "shots", *branches]]
    for row in shared:
        values = [f"{row.result.weight_share[name]:.2f}" for name in branches]
        lines.append([row.dataset, row.model, row.classifier, str(row.n_shot), *values])
    return lines


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Lay cells out in columns for a terminal."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Lay cells out as a Markdown table; the first line is the heading."""
    rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([rows[0], "|" + "---|" * len(lines[0]), *rows[1:]])


def to_csv(rows: Sequence[Row]) -> str:
    """One line a measurement, with its settings."""
    text = io.StringIO()
    branches = list(dict.fromkeys(name for row in rows for name in row.result.weight_share))
    columns = [*_COLUMNS, "accuracy", "ci95", "ci95_draws", *(f"weight_share_{name}" for name in branches)]
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        plain = row.to_dict()
        shares = {f"weight_share_{name}": share for name, share in plain["weight_share"].items()}
        writer.writerow({**plain["settings"], **plain, "accuracy": plain["mean"], **shares})
    return text.getvalue()


def render(results: Results, path: Path) -> str:
    """Give the text for a file by its suffix, or a ConfigError for one that is unknown."""
    rows = results.rows
    texts = {".csv": lambda: to_csv(rows), ".json": results.to_json}
    texts |= {".md": lambda: markdown(comparison(rows)) + "\n", ".txt": lambda: aligned(comparison(rows)) + "\n"}
    if (suffix := path.suffix.lower()) not in texts:
        raise wrong_suffix(path, list(texts))
    return texts[suffix]()
