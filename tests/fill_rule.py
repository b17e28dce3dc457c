"""Deterministic weights, waves and arrays from their names: the inputs behind the fixtures in golden/.

Each name seeds its own PCG64 generator with its CRC-32. Values are drawn in float64 in C order, then cast
to float32.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

GOLDEN = Path(__file__).parent / "golden"
SAMPLE_RATE = 16000
WAVE_LENGTHS = {
    "w5": 80000, "w1": 16000, "w3p2": 51200, "w10": 160000, "w12p3": 196800, "aug0": 8000, "aug20k": 20000,
}  # fmt: skip
GOLDEN_VARIANTS = [
    "none_c3", "split_c3_s2", "bn_c3_s2", "series_c3_s2", "parallel_c3_s2", "parallel_c1_s2",
    "bn_c3_s1t2", "series_c3_s1t2", "parallel_c3_s1t2",
]  # fmt: skip


def golden_rows(golden: Mapping[str, Any], variant: str) -> list[str]:
    """clip|norm|piece of each golden embedding."""
    key = f"emb/{variant}/rows"
    return list(golden[key if key in golden else "emb/rows"])


def relative(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Largest deviation of a row, in parts of the row's largest value."""
    assert found.shape == expected.shape
    return float((np.abs(found - expected).max(axis=-1) / np.abs(expected).max(axis=-1)).max())


def rng(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode("utf-8")))


def manifest() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((GOLDEN / "checkpoint_manifest.json").read_text())
    return content


def fill_tensor(key: str, shape: Sequence[int]) -> torch.Tensor:
    leaf, draw = key.rsplit(".", 1)[-1], rng(key)
    if leaf == "num_batches_tracked":
        return torch.tensor(1, dtype=torch.int64)
    if leaf == "running_mean" or leaf == "bias":
        values = 0.1 * draw.standard_normal(shape)
    elif leaf == "running_var" or (leaf == "weight" and len(shape) == 1):
        values = draw.uniform(0.5, 1.5, shape)
    elif leaf == "weight":
        values = math.sqrt(2 / math.prod(shape[1:])) * draw.standard_normal(shape)
    else:
        raise ValueError(f"{key}: the fill rule knows no leaf {leaf!r}")
    return torch.from_numpy(values.astype(np.float32))


def fill_state_dict(keys: Iterable[Sequence[Any]]) -> dict[str, torch.Tensor]:
    """From a manifest list of [key, shape, dtype], in its order."""
    return {key: fill_tensor(key, shape) for key, shape, _ in keys}


def wave(name: str) -> npt.NDArray[np.float32]:
    """(n,) at 16 kHz: four sines with tremolo and a little noise."""
    g, n = rng("wave/" + name), WAVE_LENGTHS[name]
    frequency = 80 * (7000 / 80) ** g.random(4)
    amplitude = g.uniform(0.05, 0.25, 4)
    phase = g.uniform(0, 2 * np.pi, 4)
    tremolo = g.uniform(0.5, 4.0)
    t = np.arange(n) / SAMPLE_RATE
    x = sum(a * np.sin(2 * np.pi * f * t + p) for a, f, p in zip(amplitude, frequency, phase, strict=True))
    x = x * (0.6 + 0.4 * np.sin(2 * np.pi * tremolo * t)) + 0.01 * g.standard_normal(n)
    return np.asarray(x, np.float32)


def matrix(name: str, shape: int | Sequence[int], scale: float = 1) -> npt.NDArray[np.float32]:
    return np.asarray(scale * rng("mat/" + name).standard_normal(shape), np.float32)


def labels01(name: str, shape: int | Sequence[int]) -> npt.NDArray[np.float32]:
    return np.asarray(rng("lab/" + name).random(shape) < 0.5, np.float32)


class Evil:
    """Pickled as a call that makes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def mostly_slow(variants: Iterable[str]) -> list[Any]:
    """Parameters of a test that takes seconds a variant: all but one are marked slow."""
    return [pytest.param(name, marks=[] if name == "bn_c3_s1t2" else pytest.mark.slow) for name in variants]
