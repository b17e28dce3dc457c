"""Measured rows, with the settings and versions behind them, to files and back, and as tables; next: `report`."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..run.files import resolve, wrong_suffix
from .evaluate import FewShotResult

KIND = "fewshot"
FORMAT = 2  # of 1, ci95 was over draws alone
_NAMES = ("dataset", "model", "features", "classifier")
_FIGURES = ("mean", "ci95", "ci95_draws", "per_class", "weight_share", "settings")
_COLUMNS = (*_NAMES, "n_way", "n_shot", "n_query", "episodes", "seed", "scaling", "accuracy", "ci95", "ci95_draws")

Table = list[list[str]]  # lines of cells, the first of them the heading


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

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, null for no interval; the accuracies of single episodes are left out."""
        plain = {name: getattr(self, name) for name in _NAMES} | {name: getattr(self.result, name) for name in _FIGURES}
        return {**plain, "ci95": None if math.isnan(self.result.ci95) else self.result.ci95}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Row:
        """Read what `to_dict` wrote."""
        figures = {name: data[name] for name in _FIGURES}
        figures["ci95"] = math.nan if data["ci95"] is None else float(data["ci95"])
        result = FewShotResult(accuracies=np.empty(0), **figures)
        return cls(data["features"], data["classifier"], result, data["dataset"], data["model"])


@dataclass(frozen=True)
class Results:
    """Everything that one call measured."""

    rows: list[Row]
    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)  # name to classes, clips, note
    environment: dict[str, str] = field(default_factory=dict)  # versions and machine

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def to_json(self) -> str:
        """Give the text that `read_results` reads."""
        rows = [row.to_dict() for row in self.rows]
        return json_text(KIND, FORMAT, environment=self.environment, datasets=self.datasets, rows=rows)

    def to_csv(self) -> str:
        """One line a measurement, with its settings."""
        branches = dict.fromkeys(name for row in self.rows for name in row.result.weight_share)
        lines = []
        for row in self.rows:
            shares = {f"weight_share_{name}": share for name, share in row.result.weight_share.items()}
            lines.append({**row.result.settings, **row.to_dict(), "accuracy": row.result.mean, **shares})
        return csv_text([*_COLUMNS, *(f"weight_share_{name}" for name in branches)], lines)

    def table(self) -> Table:
        """Models, features and shots down, as far as they differ; datasets and classifiers across."""
        several = len({row.classifier for row in self.rows}) > 1
        cells: dict[tuple[str, str, str], dict[str, str]] = defaultdict(dict)
        for row in self.rows:
            title = f"{row.dataset}, {row.classifier}" if several else row.dataset
            cells[row.model, row.features, str(row.n_shot)][title] = str(row.result)
        titles = list(dict.fromkeys(title for line in cells.values() for title in line))
        names = ("model", "features", "shots")
        shown = [i for i in range(3) if i == 1 or len({key[i] for key in cells if key[i]}) > 1]
        lines = [[*(names[i] for i in shown), *titles]]
        for key, line in cells.items():
            lines.append([*(key[i] or "-" for i in shown), *(line.get(title, "-") for title in titles)])
        return lines


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


OUTPUTS = (".json", ".csv", ".md", ".txt")


def check_output(path: Path, suffixes: Sequence[str] = OUTPUTS) -> None:
    """Find out before the work starts that a file with one of these suffixes can be written, else a ConfigError."""
    if path.suffix.lower() not in suffixes:
        raise wrong_suffix(path, suffixes)
    resolve(path, writable=True)


def render(measured: Any, suffix: str) -> str:
    """Give the text of `Results`, or of what has the same methods, for a file whose name ends in one of OUTPUTS."""
    if suffix in (".json", ".csv"):
        text: str = measured.to_json() if suffix == ".json" else measured.to_csv()
        return text
    return (markdown if suffix == ".md" else aligned)(measured.table()) + "\n"


def json_text(kind: str, version: int, **facts: Any) -> str:
    """Give the text that `read_json` reads."""
    return json.dumps({"kind": kind, "format": version, **facts}, indent=1, ensure_ascii=False) + "\n"


def csv_text(columns: Sequence[str], lines: Iterable[Mapping[str, Any]]) -> str:
    """Give a csv of these columns; what else lines hold is left out."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def describe(settings: dict[str, Any]) -> str:
    """Say how an episode was drawn and how many there were."""
    return (
        f"{settings['n_way']}-way {settings['n_shot']}-shot, {settings['n_query']} "
        f"{'query' if settings['n_query'] == 1 else 'queries'} a class, {settings['episodes']:,} episodes, seed "
        f"{settings['seed']}"
    )


def labels(rows: Sequence[Row]) -> list[str]:
    """Give the features of each row, with the model where there are several."""
    several = len({row.model for row in rows if row.model}) > 1
    return [f"{row.model} {row.features}" if several and row.model else row.features for row in rows]


def per_class(rows: Sequence[Row]) -> dict[str, Table]:
    """Give the accuracy of each class in percent, models and features across.

    There is a table for each dataset, classifier and number of shots, under a heading for readers.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[f"{row.dataset}, {row.classifier}, {row.n_shot}-shot"].append(row)
    tables = {}
    for heading, mine in groups.items():
        lines = [["class", *labels(mine)]]
        for name in dict.fromkeys(name for row in mine for name in row.result.per_class):
            values = (row.result.per_class.get(name) for row in mine)
            lines.append([name, *("-" if value is None else f"{value:.1f}" for value in values)])
        tables[heading] = lines
    return tables


def weight_shares(rows: Sequence[Row]) -> Table:
    """Give the share of the classifier's weight norm on each branch."""
    shared = [row for row in rows if row.result.weight_share]
    branches = list(dict.fromkeys(name for row in shared for name in row.result.weight_share))
    lines = [["dataset", "model", "classifier", "shots", *branches]]
    for row in shared:
        values = [f"{row.result.weight_share[name]:.2f}" for name in branches]
        lines.append([row.dataset, row.model, row.classifier, str(row.n_shot), *values])
    return lines


def aligned(lines: Table) -> str:
    """Lay cells out in columns for a terminal."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def markdown(lines: Table) -> str:
    """Lay cells out as a Markdown table."""
    rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([rows[0], "|" + "---|" * len(lines[0]), *rows[1:]])
