"""The figures that this project wants to reach, against those measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from model_card import table

from . import busy, folder, parts, timing
from .candidates import BASELINE

# Engine, clips at once, times the baseline at least; for each number of threads.
SPEEDS = (("torch float32", 32, 2.0), ("torch bfloat16", 32, 3.5))
FOLDER_PERCENT = 80.0  # of the ideal, at least
FRONTEND_PERCENT = 15.0  # of the whole, at most
BUSY_TIMES = 2.0  # as long as on an idle machine, at most, with a busy process a core
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Verdict:
    """One line of the table.

    Attributes:
        what: the figure.
        wanted: at least or at most.
        measured: median and spread.
        reached: "yes", "no" or "not measured".
    """

    what: str
    wanted: str
    measured: str
    reached: str


def verdict(what: str, wanted: float, values: list[float], *, least: bool, unit: str = "") -> Verdict:
    """By the median of what was measured; none is told as such."""
    sign = "at least" if least else "at most"
    asked = f"{sign} {wanted:g}{unit}"
    if not values:
        return Verdict(what, asked, "", NOT_MEASURED)
    found = statistics.median(values)
    reached = found >= wanted if least else found <= wanted
    return Verdict(what, asked, timing.spread(values), "yes" if reached else "no")


def verdicts(records: dict[str, dict[str, Any]]) -> list[Verdict]:
    """Of every target, from what the sections measured."""
    return [*speeds(records), *folders(data_of(records, "folder")), *frontends(records), *busy_times(records)]


def data_of(records: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    """What a section measured; empty where it did not."""
    found: dict[str, Any] = records.get(name, {}).get("data", {})
    return found


def speeds(records: dict[str, dict[str, Any]]) -> Iterator[Verdict]:
    """Times the baseline, for each number of threads; one line for none."""
    data = data_of(records, "engines")
    for engine, batch, wanted in SPEEDS:
        for threads in list(data) or ["1"]:
            seconds = data.get(threads, {}).get("seconds", {}).get(str(batch), {})
            values = timing.ratios(seconds[BASELINE], seconds[engine]) if engine in seconds else []
            count = f"{threads} thread{'s' if threads != '1' else ''}"
            yield verdict(f"{engine}, batch {batch}, {count}", wanted, values, least=True, unit=" times the baseline")


def folders(data: dict[str, Any]) -> Iterator[Verdict]:
    """Percent of the ideal, for each engine and format; one line for none."""
    engines = data["runs"]["engines"] if data else {}
    for engine, found in engines.items():
        for suffix in found["runs"]:
            values = folder.reached(data, engine, suffix)
            yield verdict(
                f"whole folder, {suffix}, {engine}", FOLDER_PERCENT, values, least=True, unit="% of the ideal"
            )
    if not engines:
        yield verdict("whole folder", FOLDER_PERCENT, [], least=True, unit="% of the ideal")


def frontends(records: dict[str, dict[str, Any]]) -> Iterator[Verdict]:
    """Share of normalisation and front end, for each engine and batch; one line for none."""
    engines = data_of(records, "parts").get("seconds", {})
    for engine, by_batch in engines.items():
        for batch, seconds in by_batch.items():
            share = parts.shares(seconds)[parts.FRONTEND]
            what = f"normalisation and front end, {engine}, batch {batch}"
            yield verdict(what, FRONTEND_PERCENT, [share], least=False, unit="% of the whole")
    if not engines:
        yield verdict("normalisation and front end", FRONTEND_PERCENT, [], least=False, unit="% of the whole")


def busy_times(records: dict[str, dict[str, Any]]) -> Iterator[Verdict]:
    """A single window beside busy processes."""
    data = data_of(records, "busy")
    values = busy.times(data) if data else []
    yield verdict("one window, a busy process a core", BUSY_TIMES, values, least=False, unit=" times the idle time")


def render(records: dict[str, dict[str, Any]]) -> str:
    """The table."""
    rows = [["figure", "wanted", "measured", "reached"]]
    rows += [[v.what, v.wanted, v.measured, v.reached] for v in verdicts(records)]
    return f"By the median; lowest to highest of the rounds in brackets.\n\n{table(rows)}"
