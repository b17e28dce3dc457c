import narrow
import pytest
import torch

from mtslvr.config import AdapterKind, EncoderConfig
from mtslvr.nn.encoder import Encoder

CARD = """---
license: cc-by-4.0
library_name: mtslvr
datasets: [made-up tones, made-up noise, made-up speech]
model-index:
- name: tiny
  results:
  - task: {type: audio-classification, name: 5-way 1-shot classification}
    dataset: {name: "Bells, five kinds", type: bells}
    metrics:
    - {type: accuracy, value: 61.5, name: "accuracy (%), invariant, logistic regression"}
    - {type: accuracy, value: 63.25, name: "accuracy (%), concat, logistic regression"}
---

# tiny

A card for tests.
"""


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        narrow.cut_widths(patch.setattr)
        torch.manual_seed(0)
        config = EncoderConfig(adapter=AdapterKind.NONE, tasks=1, heads=1, head_dim=8)
        return Encoder(config).save(tmp_path_factory.mktemp("made") / "tiny", card=CARD)


@pytest.fixture(scope="session")
def files(made):
    return {path.name: path.read_bytes() for path in made.iterdir()}
