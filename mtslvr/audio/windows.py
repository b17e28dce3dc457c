"""A waveform comes in, windows of one length with their start and end go out; next module: `frontend`.

Window i starts at sample `round(i * hop_seconds * sample_rate)`, halves to even, computed afresh for each i
so that no rounding accumulates. Windows follow one another until one reaches the end of the waveform, and
the last is padded circularly from its own piece, as published.
"""

from __future__ import annotations

import enum
import math
import numbers
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..config import Normalization, parse_enum
from ..errors import AudioError, ConfigError

Float32: TypeAlias = npt.NDArray[np.float32]
Float64: TypeAlias = npt.NDArray[np.float64]

MAX_SECONDS = 3600.0


class Pool(str, enum.Enum):
    """What becomes of the window embeddings of one file."""

    MEAN = "mean"
    NONE = "none"


def window_length(window_seconds: float, sample_rate: int) -> int:
    """Convert the length of a window to samples.

    Raises:
        ConfigError: not a number above 0 and up to 3600 s, or shorter than one sample.
    """
    return round(_check_seconds(window_seconds, "window_seconds", sample_rate) * sample_rate)


def window_starts(length: int, window_seconds: float, hop_seconds: float, sample_rate: int) -> npt.NDArray[np.int64]:
    """Compute the starts of the windows of a waveform of `length` samples.

    A window follows while its start lies inside the waveform and no earlier window reached the end. With
    hop = window these are the pieces of `torch.split`, the partial one included; with hop > window the
    samples between two windows are skipped.

    Returns:
        (k,) in samples; k = 0 only for `length` = 0.

    Raises:
        ConfigError: see `window_length`; the same for the hop.
    """
    size = window_length(window_seconds, sample_rate)
    hop_seconds = _check_seconds(hop_seconds, "hop_seconds", sample_rate)
    # Rounding moves a start by half a sample at most, so two more than length / hop covers every start.
    count = int(length / (hop_seconds * sample_rate)) + 2
    starts = np.rint(np.arange(count) * hop_seconds * sample_rate).astype(np.int64)
    preceding_end = np.concatenate([[0], starts[:-1] + size])
    return np.asarray(starts[(starts < length) & (preceding_end < length)])


def slice_windows(
    waveform: Float32, window_seconds: float, hop_seconds: float, sample_rate: int
) -> tuple[Float32, Float64]:
    """Cut a waveform into all its windows.

    Args:
        waveform: (n,) samples at `sample_rate` Hz.
        window_seconds: length of a window.
        hop_seconds: from one start to the next; longer than the window leaves gaps.
        sample_rate: Hz.

    Returns:
        Windows (k, L) float32, a new array, and spans (k, 2): start and end in seconds, the end being
        that of the samples before padding.

    Raises:
        ConfigError: see `window_length`; the same for the hop.
    """
    waveform = np.asarray(waveform, np.float32)
    size = window_length(window_seconds, sample_rate)
    starts = window_starts(waveform.size, window_seconds, hop_seconds, sample_rate)
    windows = np.empty((starts.size, size), np.float32)
    for window, start in zip(windows, starts, strict=True):
        window[:] = _pad(waveform[start : start + size], size)
    return windows, np.stack([starts, np.minimum(starts + size, waveform.size)], axis=1) / sample_rate


def iter_windows(
    blocks: Iterable[Float32], window_seconds: float, hop_seconds: float, sample_rate: int
) -> Iterator[tuple[Float32, float, float]]:
    """Cut a waveform that arrives in blocks into the windows of `slice_windows`, one at a time.

    Holds no more than a window, a hop and two blocks.

    Args:
        blocks: consecutive pieces (m,) of the waveform, as `audio.iter_blocks` yields them.
        window_seconds: length of a window.
        hop_seconds: from one start to the next.
        sample_rate: Hz.

    Yields:
        A window (L,) float32, its start and its end in seconds.

    Raises:
        ConfigError: see `window_length`; the same for the hop. While iterating.
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
        yield _pad(np.concatenate(held)[start - first :], size), start / sample_rate, received / sample_rate


def moments(windows: Iterable[Float32]) -> tuple[float, float]:
    """Compute mean and unbiased standard deviation over all samples of all windows, in float64.

    Takes windows (k, L) or a stream of (L,), which is how a long file is brought to
    `Normalization.FILE` in bounded memory: once through here, once through `normalize` with GLOBAL.

    Raises:
        AudioError: no samples.
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
    if count == 0:
        raise AudioError("no windows: statistics of zero samples; leave the file out")
    return mean, math.sqrt(squares / max(count - 1, 1))


def normalize(windows: Float32, mode: Normalization, mean: float = 0.0, std: float = 1.0) -> Float32:
    """Bring windows to mean 0 and standard deviation 1.

    Args:
        windows: (k, L), the windows of one file, after padding.
        mode: WINDOW, each window by its own statistics; FILE, all by the statistics of all together;
            GLOBAL, by `mean` and `std`; NONE, unchanged.
        mean: for GLOBAL.
        std: for GLOBAL.

    Returns:
        (k, L) float32; zeros where the samples are constant, as in silence.

    Raises:
        ConfigError: GLOBAL with a `std` that is not positive.
    Source:
        FILE is the published evaluation of 2023-08 (unbiased standard deviation over all samples).
    """
    windows = np.asarray(windows, np.float32)
    if mode is Normalization.NONE or windows.size == 0:
        return windows
    if mode is Normalization.WINDOW:
        return np.stack([standardize(window, *moments([window])) for window in windows])
    if mode is Normalization.FILE:
        return standardize(windows, *moments(windows))
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
        raise ConfigError(f"mean={mean!r}, std={std!r}: must be finite, std positive; take the checkpoint's")
    return ((windows - np.float64(mean)) / std).astype(np.float32)


class Pooling:
    """Brings the embeddings of the windows of one file together, as they come.

    Args:
        pool: MEAN over windows, or NONE to keep them.
    """

    def __init__(self, pool: Pool | str = Pool.MEAN) -> None:
        self.pool = parse_enum(Pool, pool, "pool")
        self.count = 0
        self._total: Float64 | None = None
        self._span = (math.inf, -math.inf)
        self._kept: list[tuple[Float32, Float64]] = []

    def add(self, embeddings: Float32, spans: Float64) -> None:
        """Take the next windows: embeddings (k, D) and their start and end (k, 2) in seconds."""
        self.count += len(embeddings)
        if self.pool is Pool.NONE:
            self._kept.append((embeddings, spans))
            return
        if self._total is None:
            self._total = np.zeros(embeddings.shape[1])
        # One after the other, so that the sum does not depend on how the windows were handed over.
        for row in embeddings:
            self._total += row
        if len(spans):
            self._span = min(self._span[0], spans[:, 0].min()), max(self._span[1], spans[:, 1].max())

    def result(self) -> tuple[Float32, Float64]:
        """Bring together what came.

        Returns:
            (1, D) float32 with the span (1, 2) from first start to last end; for NONE, all rows.
        Raises:
            AudioError: no windows to take the mean of.
        """
        if len(self._kept) == 1:
            return self._kept[0]
        if self._kept:
            embeddings, spans = zip(*self._kept, strict=True)
            return np.concatenate(embeddings), np.concatenate(spans)
        if self._total is None or self.count == 0:
            raise AudioError("no windows: the mean of zero embeddings; leave the file out")
        return (self._total / self.count).astype(np.float32)[None], np.array([self._span])


def pool_windows(embeddings: Float32, spans: Float64, pool: Pool | str = Pool.MEAN) -> tuple[Float32, Float64]:
    """Bring all embeddings of the windows of one file together; see `Pooling`.

    Args:
        embeddings: (k, D).
        spans: (k, 2), start and end of each window in seconds.
        pool: MEAN over windows, or NONE to keep them.

    Returns:
        (1, D) float32 with the span (1, 2) from first start to last end; for NONE, both unchanged.

    Raises:
        ConfigError: unknown `pool`.
        AudioError: no windows to take the mean of.
    """
    pooling = Pooling(pool)
    pooling.add(embeddings, spans)
    return pooling.result()


def _check_seconds(value: float, name: str, sample_rate: int) -> float:
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (number and 0 < value <= MAX_SECONDS):
        raise ConfigError(f"{name}={value!r}: must be above 0 and at most {MAX_SECONDS:g} s")
    if value * sample_rate < 1:
        sample = f"{1 / sample_rate:.3g} s"
        raise ConfigError(f"{name}={value!r}: less than a sample of {sample} ({sample_rate} Hz); use more")
    return float(value)


def _pad(piece: Float32, size: int) -> Float32:
    return piece if piece.size == size else np.resize(piece, size)


def standardize(windows: npt.NDArray[Any], mean: float, std: float) -> Float32:
    """(x - mean) / std computed in float64, as float32; zeros where std is 0."""
    # Sums of up to 2**29 equal float32 values are exact in float64 (24 + 29 bits), so constant samples
    # have a standard deviation of exactly 0.
    if std == 0:
        return np.zeros_like(windows)
    return ((windows - np.float64(mean)) / std).astype(np.float32)
