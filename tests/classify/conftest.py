"""Examples made up, in the place of embedded ones."""

import numpy as np
import pytest

from mtslvr import EncoderConfig
from mtslvr.classify import Examples

SETTINGS = {"features": "concat", "layer": "head", "model_sha256": "0", "window_seconds": 1.0, "pool": "none",
            "encoder": EncoderConfig(head_dim=8).to_dict()}  # fmt: skip


def make(n=60, informative=0, seed=0, classes=3, rows=None, labels=None, recordings=None):
    """Examples of two halves, one of which tells the classes; each from a recording of its own."""
    rng = np.random.default_rng(seed)
    kinds = np.arange(n) % classes
    halves = [rng.normal(size=(n, 8)) for _ in range(2)]
    halves[informative][np.arange(n), kinds] += 3
    rows = np.concatenate(halves, axis=1) if rows is None else rows
    labels = labels or [f"class {k}" for k in kinds]
    names = recordings or [f"{i}.wav" for i in range(n)]
    return Examples(rows.astype(np.float32), labels, names, names, SETTINGS, np.zeros(16, np.float32))


@pytest.fixture
def made():
    return make
