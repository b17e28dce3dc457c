"""A waveform comes in, windows of one length with their start and end go out; next module: `frontend`."""

from __future__ import annotations

import enum
import math
import numbers
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError

Float32: TypeAlias = npt.NDArray[np.float32]
Float64: TypeAlias = npt.NDArray[np.float64]

MAX_SECONDS = 3600.0


class Pool(str, enum.Enum):
    """What becomes of the window embeddings of one file."""

    MEAN = "mean"
    NONE = "none"


def window_length(window_seconds: float, sample_rate: int) -> int:
    """Samples of a window; ConfigError for no number above 0 and up to 3600 s, or less than a sample."""
    return round(_check_seconds(window_seconds, "window_seconds", sample_rate) * sample_rate)


def iter_windows(
    blocks: Iterable[Float32], window_seconds: float, hop_seconds: float, sample_rate: int
) -> Iterator[tuple[Float32, float, float]]:
    """Cut a waveform that arrives in blocks into windows, one at a time.

    Window i starts at sample `round(i * hop_seconds * sample_rate)`, halves to even, computed afresh for each i so that
    no rounding accumulates. Windows follow one another until one reaches the end, and the last is padded circularly
    from its own piece, as published. Holds no more than a window, a hop and two blocks.

    Yields:
        A window (L,) float32, its start and its end in seconds, the end being that of the samples before padding.
    """
    size = window_length(window_seconds, sample_rate)
    hop_seconds = _check_seconds(hop_seconds, "hop_seconds", sample_rate)
    held: list[Float32] = []
    first = received = index = start = 0
    for block in blocks:
        held.append(np.asarray(block, np.float32))
        received += held[-1].size
        if start + size > received:
            continue
        data = np.concatenate(held)
        while start + size <= received:
            yield data[start - first :][:size].copy(), start / sample_rate, (start + size) / sample_rate
            index += 1
            covered, start = start + size, round(index * hop_seconds * sample_rate)
        held = [data[start - first :].copy()]
        first = received - held[0].size
    if start < received and (index == 0 or covered < received):
        yield np.resize(np.concatenate(held)[start - first :], size), start / sample_rate, received / sample_rate


def moments(windows: Iterable[Float32]) -> tuple[float, float]:
    """Mean and unbiased standard deviation over all samples of all windows, in float64; windows may be a stream.

    Source:
        Chan, Golub, LeVeque 1983: moments of a union from those of its parts.
    """
    count, mean, squares = 0, 0.0, 0.0
    for window in windows:
        part = np.asarray(window, np.float64)
        part_mean = float(part.mean())
        shift, total = part_mean - mean, count + part.size
        squares += float(np.square(part - part_mean).sum()) + shift**2 * count * part.size / total
        mean += shift * part.size / total
        count = total
    return mean, math.sqrt(squares / max(count - 1, 1))


def standardize(windows: npt.NDArray[Any], mean: float, std: float) -> Float32:
    """(x - mean) / std computed in float64, as float32; zeros where std is 0."""
    # Sums of up to 2**29 equal float32 values are exact in float64 (24 + 29 bits), so constant samples
    # have a standard deviation of exactly 0.
    if std == 0:
        return np.zeros_like(windows)
    return ((windows - np.float64(mean)) / std).astype(np.float32)


class Pooling:
    """Brings the embeddings of the windows of one file together, as they come."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._total: Float64 = np.zeros(())
        self._rows: list[Float32] = []
        self._spans: list[Float64] = [np.empty((0, 2))]

    def add(self, embeddings: Float32, spans: Float64) -> None:
        """Take the next windows: embeddings (k, D) and their start and end (k, 2) in seconds."""
        self._spans.append(spans)
        if self._pool is Pool.NONE:
            self._rows.append(embeddings)
            return
        # One after the other, so that the sum does not depend on how the windows were handed over.
        for row in embeddings:
            self._total = np.add(self._total, row, dtype=np.float64)

    def result(self) -> tuple[Float32, Float64]:
        """The mean (1, D) float32 with the span (1, 2) from first start to last end; for NONE, all rows."""
        spans = np.concatenate(self._spans)
        if self._pool is Pool.NONE:
            return np.concatenate(self._rows), spans
        span = np.array([[spans[:, 0].min(), spans[:, 1].max()]])
        return (self._total / len(spans)).astype(np.float32)[None], span


def _check_seconds(value: float, name: str, sample_rate: int) -> float:
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (number and 0 < value <= MAX_SECONDS):
        raise ConfigError(f"{name}={value!r}: must be a number above 0 and at most {MAX_SECONDS:g} s")
    if value * sample_rate < 1:
        sample = f"{1 / sample_rate:.3g} s"
        raise ConfigError(f"{name}={value!r}: less than a sample of {sample} ({sample_rate} Hz); use more")
    return float(value)
