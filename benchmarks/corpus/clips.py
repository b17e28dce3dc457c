"""Decoded audio to clips without silence, and fingerprints that find copies."""

from __future__ import annotations

import io
import itertools
from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import soundfile
from numpy.lib.stride_tricks import sliding_window_view

from mtslvr.audio.load import load_audio
from mtslvr.training.data import cut

RATE = 16000
LONGEST, SHORTEST = 10.0, 0.15  # seconds of a clip
SILENCE = 1e-3  # amplitude, -60 dB: a clip that stays below has no sound
FRAME = 800  # samples from frame to frame of a fingerprint, 50 ms
WINDOW = 2048  # samples of a frame
FRAMES, BANDS = 20, 16  # of a fingerprint: 1 s
ALIKE = 0.85  # cosine of two fingerprints from which on they are of the same recording


def decode(content: bytes, name: str, raw: list[Any] | None = None) -> np.ndarray:
    """Mono float32 at 16 kHz.

    Args:
        content: of an audio file.
        name: for errors.
        raw: encoding and rate of files without a header, such as ["ULAW", 8000].
    Raises:
        AudioError: libsndfile cannot read it.
    """
    if raw is None:
        return load_audio(io.BytesIO(content), RATE, label=name)
    waveform, rate = soundfile.read(
        io.BytesIO(content), dtype="float32", channels=1, samplerate=raw[1], format="RAW", subtype=raw[0]
    )
    return load_audio(waveform, RATE, sample_rate=rate, label=name)


def trim(waveform: np.ndarray) -> np.ndarray:
    """Cut off beginning and end as far as they are 60 dB below full scale or 50 dB below the peak; 50 ms stay."""
    loud = np.flatnonzero(np.abs(waveform) > max(SILENCE, float(np.abs(waveform).max(initial=0)) / 316))
    if not loud.size:
        return waveform[:0]
    return waveform[max(0, loud[0] - FRAME) : loud[-1] + FRAME]


def pieces(waveform: np.ndarray, most: int) -> list[np.ndarray]:
    """Clips of at most 10 s, or up to 0.5 s more at the end; of more than `most` clips an even selection."""
    starts = np.cumsum([0, *cut(len(waveform), RATE, LONGEST)])
    clips = [waveform[a:b] for a, b in itertools.pairwise(starts)]
    chosen = np.unique(np.linspace(0, len(clips) - 1, min(most, len(clips))).round().astype(int))
    return [clips[i][: round((LONGEST + 0.5) * RATE)] for i in chosen]


@cache
def _bands() -> np.ndarray:
    edges = np.geomspace(150, 3800, BANDS + 2) * WINDOW / RATE
    bins = np.arange(WINDOW // 2 + 1)
    return np.stack([(bins >= low) & (bins < high) for low, high in itertools.pairwise(edges)], 1)


def fingerprints(waveform: np.ndarray) -> np.ndarray:
    """How levels of 17 bands change from frame to frame and band to band, one row for each second that a frame begins.

    Differences in both directions leave neither loudness nor colour, as in J. Haitsma and T. Kalker, "A highly robust
    audio fingerprinting system", 2002; here they are compared as numbers, not as signs.

    Returns:
        (n, 320) float32 rows of length 1; a shorter clip has one row, padded with silence.
    """
    length = FRAMES * FRAME + WINDOW
    padded = np.pad(waveform, (0, max(0, length - len(waveform))))
    frames = sliding_window_view(padded, WINDOW)[::FRAME] * np.hanning(WINDOW).astype(np.float32)
    power = (np.abs(np.fft.rfft(frames)) ** 2 @ _bands()).astype(np.float32)
    levels = np.log(np.maximum(power, max(float(power.max()) * 1e-5, 1e-9)))
    changes = np.diff(np.diff(levels, axis=0), axis=1)
    rows = sliding_window_view(changes, FRAMES, axis=0).reshape(-1, FRAMES * BANDS)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


class HeldOut:
    """Clips that nothing in the corpus may share a second with, whatever its place in the recording."""

    def __init__(self, waveforms: list[np.ndarray]) -> None:
        rows = [np.zeros((1, FRAMES * BANDS), np.float32)]
        for sounding in map(trim, waveforms):
            # A quarter of a frame is the most that two frames are apart.
            for shift in range(0, FRAME, FRAME // 4):
                rows.append(fingerprints(sounding[shift:])[::FRAMES])
        self.rows = np.concatenate(rows)

    def __contains__(self, prints: np.ndarray) -> bool:
        return bool((prints @ self.rows.T).max() > ALIKE)


class Known:
    """First second and length of every clip taken so far."""

    def __init__(self) -> None:
        self._rows: dict[int, np.ndarray] = {}
        self._counts: Counter[int] = Counter()

    def __contains__(self, key: tuple[int, np.ndarray]) -> bool:
        frames, row = key
        near = [n for n in (frames - 1, frames, frames + 1) if self._counts[n]]
        return any(float((self._rows[n][: self._counts[n]] @ row).max()) > ALIKE for n in near)

    def add(self, frames: int, row: np.ndarray) -> None:
        """Remember a clip of so many frames of 50 ms."""
        rows, count = self._rows.get(frames, np.empty((0, len(row)), np.float32)), self._counts[frames]
        if count == len(rows):
            rows = self._rows[frames] = np.concatenate([rows, np.empty((max(16, count), len(row)), np.float32)])
        rows[count] = row
        self._counts[frames] += 1
