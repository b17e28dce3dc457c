"""Probabilities of windows to events: which class, from when to when."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from .labels import Label


@dataclass(frozen=True)
class EventConfig:
    """How windows become events.

    Attributes:
        threshold: probability from which a window counts, 0 to 1.
        top_k: classes that a window may have, the likeliest first.
        min_duration: seconds; shorter events are left out.
        merge_gap: seconds; events of a class with no more between them are one.

    Raises:
        ConfigError: a value outside its range.
    """

    threshold: float = 0.5
    top_k: int = 1
    min_duration: float = 0.0
    merge_gap: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, Integral if name == "top_k" else Real):
                kind = "a whole number" if name == "top_k" else "a number"
                raise ConfigError(f"{name}={value!r}: must be {kind}")
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"threshold={self.threshold!r}: must be a probability from 0 to 1")
        if not self.top_k >= 1:
            raise ConfigError(f"top_k={self.top_k!r}: must be 1 or more")
        for name in ("min_duration", "merge_gap"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ConfigError(f"{name}={value!r}: must be a number of seconds, 0 or more")


def find_events(
    file: str,
    probabilities: npt.NDArray[np.float32],
    spans: npt.NDArray[np.float64],
    classes: tuple[str, ...],
    config: EventConfig,
) -> list[Label]:
    """Join windows of one recording that have the same class and follow each other, overlap, or are near.

    With top_k=1 a sound has one class: a window does not count where one that shares half of it is surer of another.

    Args:
        file: name of the recording.
        probabilities: (k, C) of each window; columns beyond `classes` stand for none of them.
        spans: (k, 2), start and end of each window in seconds, in order.
        classes: names of the first columns.
        config: threshold and how windows are joined.

    Returns:
        Events by start, then class; the score of an event is the highest probability in it.
    """
    counted = np.zeros(probabilities.shape, dtype=bool)
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, : config.top_k]
    np.put_along_axis(counted, best, True, axis=1)
    counted &= (probabilities >= config.threshold) & (probabilities > 0)  # zeros are none of the classes
    if config.top_k == 1:
        counted &= ~_outdone(np.where(counted, probabilities, 0)[:, : len(classes)], spans)[:, None]
    events = []
    for column, name in enumerate(classes):
        rows = np.flatnonzero(counted[:, column])
        if rows.size == 0:
            continue
        gaps = spans[rows[1:], 0] - np.maximum.accumulate(spans[rows, 1])[:-1]
        apart = gaps > config.merge_gap + 1e-9
        if config.merge_gap == 0:  # windows that only touch, with one between that is none of the class
            apart |= (np.diff(rows) > 1) & (gaps > -1e-9)
        for group in np.split(rows, np.flatnonzero(apart) + 1):
            start, end = float(spans[group[0], 0]), float(spans[group, 1].max())
            if end - start >= config.min_duration:
                events.append(Label(file, start, end, name, float(probabilities[group, column].max())))
    return sorted(events, key=lambda event: (event.start, event.label))


def _outdone(scores: npt.NDArray[np.float32], spans: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which windows (k,) share half of their length with one that has a higher score (k, C), of another class."""
    outdone = np.zeros(len(scores), dtype=bool)
    best, kind = scores.max(axis=1, initial=0), scores.argmax(axis=1)
    length = np.diff(spans)[:, 0]
    for step in range(1, len(scores)):
        shared = 2 * (spans[:-step, 1] - spans[step:, 0]) >= np.minimum(length[:-step], length[step:]) - 1e-6
        if not shared.any():
            break
        rivals = shared & (kind[step:] != kind[:-step])
        outdone[:-step] |= rivals & (best[step:] > best[:-step])
        outdone[step:] |= rivals & (best[:-step] > best[step:])
    return outdone
