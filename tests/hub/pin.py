"""Write the embeddings that `test_safety.py` holds bundled checkpoints to; one that is pinned already is left alone.

python tests/hub/pin.py
"""

import sys
from pathlib import Path

import numpy as np

import mtslvr
from mtslvr import registry

sys.path.insert(0, str(Path(__file__).parent))

from test_safety import PINNED, probe

PINNED.mkdir(exist_ok=True)
for name in registry.bundled():
    path = PINNED / f"{name}.npy"
    if not path.exists():
        np.save(path, mtslvr.embed(probe(), 16_000, encoder=mtslvr.load(name, device="cpu")), allow_pickle=False)
        print(f"wrote {path}")
