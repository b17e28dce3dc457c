"""One file to one embedding, and how alike two takes of one sound are.

Run from the repository root: python examples/01_one_file.py
"""

import numpy as np

import mtslvr

encoder = mtslvr.load()

embedding = mtslvr.embed("examples/audio/birds/warbler.flac", encoder=encoder)
windows, spans = mtslvr.embed_windows("examples/audio/machine/pump.ogg", hop_seconds=2.5, encoder=encoder)
print("one file:   ", embedding.shape, embedding.dtype)
print("its windows:", windows.shape, "at", spans.tolist(), "seconds")


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


takes = ["birds/warbler.flac", "birds/finch.ogg", "machine/pump.ogg"]
for features in ("invariant", "variant", "concat"):
    first, second, other = mtslvr.embed([f"examples/audio/{t}" for t in takes], features=features, encoder=encoder)
    print(f"{features:9}  two birds {cosine(first, second):.2f}   bird and machine {cosine(first, other):.2f}")
