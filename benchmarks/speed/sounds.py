"""Made audio: bursts of tones and noise with pauses, so that codecs have something to do, the same at every run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

Float32 = npt.NDArray[np.float32]
BLOCK_SECONDS = 10.0

# Suffix to libsndfile's format and subtype.
CODECS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
}


def blocks(seconds: float, rate: int, channels: int, seed: Sequence[int]) -> Iterator[Float32]:
    """(n, channels) pieces of up to 10 s; their memory does not depend on `seconds`."""
    total, step = round(seconds * rate), round(BLOCK_SECONDS * rate)
    for start in range(0, total, step):
        yield piece(min(step, total - start), rate, channels, np.random.default_rng([*seed, start]))


def piece(size: int, rate: int, channels: int, rng: np.random.Generator) -> Float32:
    """(size, channels), peaks below 1."""
    t = np.arange(size, dtype=np.float32) / rate
    sound = 0.02 * rng.standard_normal((size, channels), dtype=np.float32)
    for _ in range(3):
        hertz, onset, length = rng.uniform(100, 6000), rng.uniform(0, t[-1]), rng.uniform(0.2, 3.0)
        envelope = np.exp(-np.maximum(t - onset, 0) / length, dtype=np.float32) * (t >= onset)
        burst = np.sin(2 * np.pi * hertz * t) + 0.5 * rng.standard_normal(size, dtype=np.float32)
        sound += (0.1 * envelope * burst)[:, None] * rng.uniform(0.5, 1, channels).astype(np.float32)
    return np.clip(sound, -0.99, 0.99)


def write(path: Path, seconds: float, rate: int, channels: int, seed: Sequence[int]) -> Path:
    """An audio file, in the format of its suffix, unless it is there."""
    if path.exists():
        return path
    form, subtype = CODECS[path.suffix[1:]]
    part = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with soundfile.SoundFile(part, "w", rate, channels, subtype, format=form) as file:
        for block in blocks(seconds, rate, channels, seed):
            file.write(block)
    part.replace(path)
    return path


def clips(count: int, seconds: float = 5.0, rate: int = 16000, seed: int = 0) -> Any:
    """(count, samples) float32 tensor of different clips."""
    import torch

    rows = [next(blocks(seconds, rate, 1, [seed, number]))[:, 0] for number in range(count)]
    return torch.from_numpy(np.stack(rows))
