"""Puts this folder on the path, so that any test can `import fill_rule`; and fixtures, most made once a session."""

import os
import sys
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

sys.path.insert(0, str(Path(__file__).parent))

import fill_rule
import narrow

from mtslvr.audio.windows import iter_windows, moments, standardize
from mtslvr.config import EncoderConfig, FrontendConfig, Phase
from mtslvr.models import checkpoint, official
from mtslvr.nn.encoder import Encoder

# On a busy machine torch's threads wait for one another. Tests of threads say themselves how many they want.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

# Mean and standard deviation of the waveforms behind the golden "global" rows (AS_BAL).
GLOBAL_STATISTICS = (-0.00029522, 0.11652075)

# An extra of the package to the module that shows whether it is installed.
EXTRAS = {"train": "tensorboard", "plot": "plotly", "umap": "umap", "datasets": "datasets", "onnx": "onnxruntime",
          "ray": "ray", "recipes": "polars"}  # fmt: skip


def pytest_runtest_setup(item):
    for name in [name for mark in item.iter_markers("extra") for name in mark.args]:
        if find_spec(EXTRAS[name]) is None:
            pytest.skip(f"needs the extra: pip install 'mtslvr[{name}]'")


@pytest.fixture(scope="session", autouse=True)
def feature_cache(tmp_path_factory):
    """Features of test audio stay out of the user's cache."""
    os.environ["MTSLVR_CACHE"] = str(tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="session")
def golden():
    return np.load(fill_rule.GOLDEN / "golden_embeddings.npz", allow_pickle=False)


@pytest.fixture(scope="session")
def pieces():
    """clip, norm -> (k, L) float32 tensor, as the golden spectrograms and embeddings got it."""

    @lru_cache(None)
    def cut(clip, norm):
        name, length = clip.split("@")
        wave = fill_rule.wave(name)
        windows = wave[None] if length == "whole" else np.stack([cut for cut, *_ in iter_windows([wave], 5, 5, 16000)])
        statistics = {"sample": moments(windows), "global": GLOBAL_STATISTICS}
        return torch.from_numpy(windows if norm == "raw" else standardize(windows, *statistics[norm]))

    return cut


@pytest.fixture(scope="session")
def official_state():
    """variant -> state dict under official names, shared: do not change its tensors."""
    # The same key has the same values in every variant, so a tensor is drawn once for all of them.
    tensor = lru_cache(None)(fill_rule.fill_tensor)
    variants = fill_rule.manifest()["variants"]
    return lambda variant: {key: tensor(key, tuple(shape)) for key, shape, _ in variants[variant]["keys"]}


@pytest.fixture(scope="session")
def official_encoder(official_state):
    """variant -> unfolded encoder, shared: do not change it."""

    @lru_cache(None)
    def build(variant):
        state = official_state(variant)
        renamed = {official.rename_official(key): value for key, value in state.items()}
        return checkpoint.build(official.official_config(state), renamed, variant)

    return build


@pytest.fixture(scope="session")
def randomize():
    """module -> the same with batch norms away from the identity, in evaluation mode."""

    def change(module):
        for norm in module.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
                torch.nn.init.normal_(norm.bias, 0, 0.1)
                torch.nn.init.normal_(norm.running_mean, 0, 0.1)
                torch.nn.init.uniform_(norm.running_var, 0.5, 1.5)
        return module.eval()

    return change


@pytest.fixture(scope="session")
def unfolded_encoder(randomize):
    """Random weights, our own front end, windows of 1 s; shared: do not change it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        frontend = FrontendConfig(epsilon=1e-3, phase=Phase.STABLE)
        return randomize(Encoder(EncoderConfig(frontend=frontend, window_seconds=1.0)))


@pytest.fixture(scope="session")
def encoder(unfolded_encoder):
    return unfolded_encoder.fold()


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The folder of an encoder with random weights and windows of a quarter second."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = Encoder(EncoderConfig(window_seconds=0.25, spectral_statistics=True))
    return checkpoint.save(encoder, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def write():
    """Writes seconds of noise, with a tone where `hertz` says so."""

    def write(path, seconds, seed=0, rate=16000, channels=1, hertz=0, **how):
        if isinstance(path, Path):
            path.parent.mkdir(parents=True, exist_ok=True)
        noise = 0.1 * np.random.default_rng(seed).standard_normal((round(seconds * rate), channels))
        tone = 0.5 * np.sin(2 * np.pi * hertz * np.arange(len(noise)) / rate)
        soundfile.write(path, noise + tone[:, None], rate, **how)

    return write


@pytest.fixture
def narrow_encoders(monkeypatch):
    narrow.cut_widths(monkeypatch.setattr)
