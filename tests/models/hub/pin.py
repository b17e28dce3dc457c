"""Write the embeddings that `test_released.py` holds bundled checkpoints to, and the sha256 of the weights they are of.

python tests/models/hub/pin.py [--replace NAME]

A name that is pinned is left alone: what was released stays. Weights that no release had are replaced by name.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

import mtslvr
from mtslvr.models import checkpoint, hub

sys.path.insert(0, str(Path(__file__).parent))

from test_released import PINNED, probe

parser = argparse.ArgumentParser()
parser.add_argument("--replace", metavar="NAME", action="append", default=[], choices=hub.bundled())
replaced = parser.parse_args().replace
PINNED.mkdir(exist_ok=True)
for name, folder in hub.bundled().items():
    path = PINNED / f"{name}.npz"
    weights = checkpoint.sha256(folder / checkpoint.WEIGHTS_NAME)
    if path.exists() and name not in replaced:
        with np.load(path, allow_pickle=False) as pinned:
            same = str(pinned["sha256"]) == weights
        print(f"{name}: pinned" if same else f"{name}: pinned with other weights; --replace {name} if none released")
        continue
    embeddings = mtslvr.embed(probe(), 16_000, encoder=mtslvr.load(name, device="cpu"))
    np.savez(path, embeddings=embeddings, sha256=np.array(weights))
    print(f"wrote {path}")
