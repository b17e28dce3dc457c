"""Weights, waves and arrays behind the fixtures in golden/: the CRC-32 of a name seeds the PCG64 that draws them."""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

GOLDEN = Path(__file__).parent / "golden"
SAMPLE_RATE = 16000
WAVE_LENGTHS = {"w5": 80000, "w1": 16000, "w3p2": 51200, "w10": 160000, "w12p3": 196800, "aug0": 8000, "aug20k": 20000}
GOLDEN_VARIANTS = [
    "none_c3", "split_c3_s2", "bn_c3_s2", "series_c3_s2", "parallel_c3_s2", "parallel_c1_s2",
    "bn_c3_s1t2", "series_c3_s1t2", "parallel_c3_s1t2",
]  # fmt: skip


def golden_rows(golden, variant):
    """clip|norm|piece of each golden embedding."""
    key = f"emb/{variant}/rows"
    return list(golden[key if key in golden else "emb/rows"])


def relative(found, expected):
    """Largest deviation of a row, in parts of the row's largest value."""
    assert found.shape == expected.shape
    return float((np.abs(found - expected).max(axis=-1) / np.abs(expected).max(axis=-1)).max())


def rng(name):
    return np.random.default_rng(zlib.crc32(name.encode("utf-8")))


def manifest():
    return json.loads((GOLDEN / "checkpoint_manifest.json").read_text())


def fill_tensor(key, shape):
    leaf, draw = key.rsplit(".", 1)[-1], rng(key)
    if leaf == "num_batches_tracked":
        return torch.tensor(1, dtype=torch.int64)
    if leaf in ("running_mean", "bias"):
        values = 0.1 * draw.standard_normal(shape)
    elif leaf == "running_var" or (leaf == "weight" and len(shape) == 1):
        values = draw.uniform(0.5, 1.5, shape)
    else:
        values = math.sqrt(2 / math.prod(shape[1:])) * draw.standard_normal(shape)
    return torch.from_numpy(values.astype(np.float32))


def wave(name):
    """(n,) at 16 kHz: four sines with tremolo and a little noise."""
    g, n = rng("wave/" + name), WAVE_LENGTHS[name]
    frequency, amplitude = 80 * (7000 / 80) ** g.random(4), g.uniform(0.05, 0.25, 4)
    phase, tremolo = g.uniform(0, 2 * np.pi, 4), g.uniform(0.5, 4.0)
    t = np.arange(n) / SAMPLE_RATE
    x = sum(a * np.sin(2 * np.pi * f * t + p) for a, f, p in zip(amplitude, frequency, phase, strict=True))
    x = x * (0.6 + 0.4 * np.sin(2 * np.pi * tremolo * t)) + 0.01 * g.standard_normal(n)
    return np.asarray(x, np.float32)


def matrix(name, shape, scale=1):
    return np.asarray(scale * rng("mat/" + name).standard_normal(shape), np.float32)


def labels01(name, shape):
    return np.asarray(rng("lab/" + name).random(shape) < 0.5, np.float32)


class Evil:
    """Pickled as a call that makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def mostly_slow(variants):
    """Parameters of a test that takes seconds a variant: all but one are marked slow."""
    return [pytest.param(name, marks=[] if name == "bn_c3_s1t2" else pytest.mark.slow) for name in variants]
