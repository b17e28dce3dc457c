"""Candidates in alternation, and what is said of their times."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

cpu_seconds = time.process_time  # of all threads of this process
Calls = Mapping[str, Callable[[], Any]]


def alternate(
    calls: Calls, rounds: int, *, warm_up: int = 2, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of every round of every candidate; all take turns, forwards and backwards, in each round.

    Args:
        calls: name to what is timed.
        rounds: that count.
        warm_up: rounds before them.
        clock: wall clock, or `cpu_seconds`.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-warm_up, rounds):
        order = list(calls.items())
        for name, call in order if turn % 2 == 0 else reversed(order):
            began = clock()
            call()
            if turn >= 0:
                seconds[name].append(clock() - began)
    return seconds


def ratios(base: Sequence[float], other: Sequence[float]) -> list[float]:
    """How many times as fast `other` was as `base`, round by round."""
    return [b / o for b, o in zip(base, other, strict=True)]


def middle(values: Sequence[float], unit: float = 1.0) -> float:
    """`unit` a median."""
    return unit * statistics.median(values)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median, and lowest to highest."""
    low, mid, high = min(values), statistics.median(values), max(values)
    return f"{mid:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def rate(seconds: Sequence[float], count: float, digits: int = 1) -> str:
    """`count` in each of `seconds`, as `spread` tells it."""
    return spread([count / value for value in seconds], digits)
