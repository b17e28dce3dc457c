"""A hub on loopback, processes that use it, and a checkpoint for it to hold."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import narrow
import server

from mtslvr.config import AdapterKind, EncoderConfig
from mtslvr.models import checkpoint
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
    """A process of its own; `call` returns what `worker.py` answers."""

    def __init__(self, home, endpoint, **env):
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "TRANSFORMERS"))}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **keep,
                "HF_HOME": str(home),
                "HF_ENDPOINT": endpoint,
                "HF_HUB_ETAG_TIMEOUT": "1",
                "HF_HUB_DOWNLOAD_TIMEOUT": "1",
                "HF_HUB_DISABLE_TELEMETRY": "1",
                "HF_HUB_DISABLE_PROGRESS_BARS": "1",
                "HF_HUB_DISABLE_XET": "1",
                "NO_PROXY": "*",
                "OMP_NUM_THREADS": "1",
                **env,
            },
        )
        self.ready = False

    def call(self, name, *arguments, **options):
        self.process.stdin.write(json.dumps([name, [str(a) for a in arguments], options]) + "\n")
        self.process.stdin.flush()
        if not self.ready:
            assert json.loads(self.process.stdout.readline()) == "ready"
            self.ready = True
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait(30)


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
    made = [Worker(home, hub_session.url), Worker(home, hub_session.url, HF_HUB_OFFLINE="1")]
    yield made
    for worker in made:
        worker.close()


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
def worker(workers):
    return workers[0]


@pytest.fixture
def offline_worker(workers):
    return workers[1]


@pytest.fixture
def cache(tmp_path):
    return str(tmp_path / "cache")


@pytest.fixture
def expected(made, narrow_encoders):
    """What `worker.load` answers for the checkpoint, made here without the hub."""
    encoder = checkpoint.load(made)
    state = b"".join(value.numpy().tobytes() for value in encoder.state_dict().values())
    return {"sha256": hashlib.sha256(state).hexdigest(), "config": encoder.config.to_dict()}
