"""A folder to an npz file, and the nearest neighbour of each sound in it.

Run from the repository root: python examples/02_folder.py
"""

import tempfile
from pathlib import Path

import numpy as np

from mtslvr import read_table
from mtslvr.cli.embed import embed_command

with tempfile.TemporaryDirectory() as folder:
    output = Path(folder, "embeddings.npz")
    # In a shell: mtslvr-embed examples/audio -o embeddings.npz
    embed_command(["examples/audio", "-o", str(output), "--quiet"], standalone_mode=False)
    table = read_table(output)  # np.load(output) reads the file without mtslvr

print(f"{len(table.paths)} files, embeddings {table.embeddings.shape}")

unit = table.embeddings / np.linalg.norm(table.embeddings, axis=1, keepdims=True)
similarity = unit @ unit.T
np.fill_diagonal(similarity, -1)
for path, row in zip(table.paths, similarity, strict=True):
    print(f"{path:20} nearest {table.paths[row.argmax()]:20} {row.max():.2f}")
