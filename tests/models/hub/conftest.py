"""A hub on loopback, processes that use it, and a checkpoint for it to hold."""

import multiprocessing
import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import narrow
import server
import worker as calls

from mtslvr.config import AdapterKind, EncoderConfig
from mtslvr.errors import HubError
from mtslvr.nn.encoder import Encoder

CARD = """---
license: cc-by-4.0
library_name: mtslvr
pipeline_tag: feature-extraction
datasets:
- made-up tones
- made-up noise
- made-up speech
model-index:
- name: tiny
  results:
  - task:
      type: audio-classification
      name: 5-way 1-shot classification
    dataset:
      name: Bells, five kinds
      type: bells
    metrics:
    - type: accuracy
      value: 61.5
      name: accuracy (%), invariant, logistic regression
    - type: accuracy
      value: 63.25
      name: accuracy (%), concat, logistic regression
---

# tiny

A card for tests.
"""


class Worker:
    """A process of its own, in which the functions of `worker.py` are called with one cache."""

    cache: Path

    def __init__(self, **environment):
        quiet = {f"HF_HUB_DISABLE_{name}": "1" for name in ("TELEMETRY", "PROGRESS_BARS", "XET")}
        limits = {"HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1", "NO_PROXY": "*"}
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING", "TRANSFORMERS"))]:
                patch.delenv(name)
            for name, value in {**quiet, **limits, **environment}.items():
                patch.setenv(name, value)
            self.pool = multiprocessing.get_context("spawn").Pool(1, narrow.cut_widths)

    def load(self, name, **options):
        return self.pool.apply(calls.load, (name,), {"cache_dir": self.cache, **options})

    def find(self, name, **options):
        return self.pool.apply(calls.find, (name,), {"cache_dir": self.cache, **options})

    def cli(self, *arguments):
        """Exit code and what is printed, of a command that takes --cache-dir."""
        return self.pool.apply(calls.cli, (*arguments, "--cache-dir", self.cache))

    def refused(self, name, *texts, **options):
        """The message of a HubError, in which all texts stand."""
        with pytest.raises(HubError) as caught:
            self.load(name, **options)
        message = str(caught.value)
        for text in texts:
            assert str(text) in message, message
        assert message.isprintable()
        return message


@pytest.fixture(scope="session")
def hub_session():
    with server.Hub() as hub:
        yield hub


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("hf_home")


@pytest.fixture(scope="session")
def workers(hub_session, home):
    """One with network and one without, started side by side."""
    environment = {"HF_HOME": str(home), "HF_ENDPOINT": hub_session.url}
    made = [Worker(**environment), Worker(**environment, HF_HUB_OFFLINE="1")]
    yield made
    for worker in made:
        worker.pool.terminate()


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A small checkpoint folder with a card."""
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        narrow.cut_widths(patch.setattr)
        torch.manual_seed(0)
        config = EncoderConfig(adapter=AdapterKind.NONE, tasks=1, heads=1, head_dim=8)
        return Encoder(config).save(tmp_path_factory.mktemp("made") / "tiny", card=CARD)


@pytest.fixture
def narrow_encoders(monkeypatch):
    """Encoders are as narrow as the one of `made`."""
    narrow.cut_widths(monkeypatch.setattr)


@pytest.fixture(scope="session")
def files(made):
    """name -> bytes of that folder."""
    return {path.name: path.read_bytes() for path in made.iterdir()}


@pytest.fixture
def hub(hub_session):
    """Empty, and its list of requests empty."""
    hub_session.repos.clear()
    hub_session.requests.clear()
    return hub_session


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def worker(workers, cache):
    workers[0].cache = cache
    return workers[0]


@pytest.fixture
def offline_worker(workers, cache):
    workers[1].cache = cache
    return workers[1]


@pytest.fixture
def expected(made, narrow_encoders):
    """What `load` of a worker gives for the checkpoint, made here without the hub."""
    return calls.load(made)
