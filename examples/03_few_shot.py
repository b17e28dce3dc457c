"""Few-shot accuracy of the three embeddings: features once, then episodes on them.

Run from the repository root: python examples/03_few_shot.py
"""

import numpy as np

import mtslvr
from mtslvr.fewshot import EpisodeConfig, evaluate, read_set

labelled = read_set("examples/audio")  # one folder a class
paths, labels, classes = labelled.paths, labelled.labels, sorted(set(labelled.labels))
concat = mtslvr.embed(paths)  # each file once through the encoder
invariant, variant = np.split(concat, 2, axis=1)  # the two halves of concat

config = EpisodeConfig(n_way=4, n_shot=1, n_query=1, episodes=1000, seed=42)
print(f"{len(paths)} files of {len(classes)} classes: {', '.join(classes)}")
print(f"{config.n_way}-way {config.n_shot}-shot, {config.episodes} episodes; chance is {100 / config.n_way:.0f}%")
for name, features in {"invariant": invariant, "variant": variant, "concat": concat}.items():
    print(f"{name:9} {evaluate(features, labels, config)} %")
