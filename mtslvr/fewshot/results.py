"""Measured rows, with the settings and versions behind them, to and from a file; next module: `table`."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError
from .evaluate import FewShotResult

KIND = "fewshot"
_FIGURES = ("mean", "ci95", "ci95_draws", "per_class", "weight_share", "settings")
FORMAT = 2  # of 1, ci95 was over draws alone


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
