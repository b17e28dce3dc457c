"""Measured rows, with the settings and versions behind them, to files and back, and as tables; next: `report`."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..run.files import wrong_suffix
from .evaluate import FewShotResult

KIND = "fewshot"
_FIGURES = ("mean", "ci95", "ci95_draws", "per_class", "weight_share", "settings")
FORMAT = 2  # of 1, ci95 was over draws alone
_COLUMNS = ("dataset", "model", "features", "classifier", "n_way", "n_shot", "n_query", "episodes", "seed", "scaling")


@dataclass(frozen=True)
class Row:
    """One measurement: these features of this model with this classifier on this dataset."""

    features: str
    classifier: str
    result: FewShotResult
    dataset: str = ""
    model: str = ""  # of features that need one

    @property
    def n_shot(self) -> int:
        """Supports a class."""
        return int(self.result.settings.get("n_shot", 1))

    @property
    def label(self) -> str:
        """Features, with the model where there is one."""
        return f"{self.model} {self.features}" if self.model else self.features

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; the accuracies of single episodes are left out."""
        names = {name: getattr(self, name) for name in ("dataset", "model", "features", "classifier")}
        figures = {name: getattr(self.result, name) for name in _FIGURES}
        shares = {name: _or_null(value) for name, value in figures["weight_share"].items()}
        return {**names, **figures, "weight_share": shares, "ci95": _or_null(figures["ci95"])}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Row:
        """Read what `to_dict` wrote."""
        figures = {name: data[name] for name in _FIGURES}
        figures["ci95"] = _or_nan(data["ci95"])
        figures["weight_share"] = {name: _or_nan(value) for name, value in data["weight_share"].items()}
        result = FewShotResult(accuracies=np.empty(0), **figures)
        return cls(data["features"], data["classifier"], result, data["dataset"], data["model"])


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else value


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


@dataclass(frozen=True)
class Results:
    """Everything that one call measured."""

    rows: list[Row]
    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)  # name to classes, clips, note
    environment: dict[str, str] = field(default_factory=dict)  # versions and machine

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def to_json(self) -> str:
        """Give the text that `read_results` reads."""
        plain = {"kind": KIND, "format": FORMAT, "environment": self.environment, "datasets": self.datasets}
        return json.dumps({**plain, "rows": [row.to_dict() for row in self.rows]}, indent=1, ensure_ascii=False) + "\n"


def read_results(path: str | os.PathLike[str]) -> Results:
    """Read a file of `mtslvr fewshot -o RESULTS.json`; one that is none is a ConfigError."""
    data = read_json(path, KIND, FORMAT)
    try:
        return Results([Row.from_dict(row) for row in data["rows"]], data["datasets"], data["environment"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path}: damaged results ({type(error).__name__}: {error}); measure again") from None


def read_json(path: str | os.PathLike[str], kind: str | None = None, version: int | None = None) -> dict[str, Any]:
    """Read an object with a kind from a JSON file, of any kind or of this one in this format; else a ConfigError."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; check the path") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: no file of results ({error}); write one with `mtslvr fewshot -o x.json`") from None
    if not isinstance(data, dict) or "kind" not in data:
        raise ConfigError(f"{path}: no results of mtslvr in it; write some with `mtslvr fewshot -o x.json`")
    if kind is not None and (data["kind"], data.get("format")) != (kind, version):
        found = f"kind {data['kind']!r}, format {data.get('format')!r}"
        raise ConfigError(f"{path}: {found}; expected {kind!r}, format {version}: measure again with this version")
    return data


def describe(settings: dict[str, Any]) -> str:
    """Say how an episode was drawn and how many there were."""
    return (
        f"{settings['n_way']}-way {settings['n_shot']}-shot, {settings['n_query']} "
        f"{'query' if settings['n_query'] == 1 else 'queries'} a class, {settings['episodes']:,} episodes, seed "
        f"{settings['seed']}"
    )


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
