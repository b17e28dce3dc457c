"""Embeddings of many files on all machines of a Ray cluster, to parquet.

Needs `pip install 'mtslvr[ray]'`. Run from the repository root: python examples/ray_embed.py
"""

import tempfile
from pathlib import Path

import pandas as pd
import ray

from mtslvr.ray import AudioEmbedder

# Paths that every machine of the cluster can read.
paths = sorted(str(path.resolve()) for path in Path("examples/audio").glob("*/*"))

ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)  # on a cluster: ray.init()
ray.data.DataContext.get_current().enable_progress_bars = False
with tempfile.TemporaryDirectory() as folder:
    embedded = ray.data.from_items([{"path": path} for path in paths]).map_batches(
        AudioEmbedder,
        batch_size=8,
        compute=ray.data.ActorPoolStrategy(size=1),  # actors; each loads the model once
        num_cpus=1,  # and its threads; num_gpus=1 for a GPU each
    )
    embedded.write_parquet(folder)
    table = pd.read_parquet(folder).sort_values("path")
ray.shutdown()

print(len(table), "files,", len(table["embedding"].iloc[0]), "numbers each,", table["error"].notna().sum(), "broken")
