"""Few-shot accuracy of features from elsewhere beside ours: MFCC, and openSMILE's eGeMAPS where it is installed.

`mtslvr.fewshot` works on any matrix with a row a file. Run from the repository root:
python examples/04_other_features.py [FOLDER]    (one folder a class; default: examples/audio)
"""

import sys
import warnings

import numpy as np
import torch

import mtslvr
from mtslvr.audio import load_audio  # this one and log_mel are not public: they may change with any version
from mtslvr.config import FrontendConfig
from mtslvr.fewshot import EpisodeConfig, evaluate, read_set
from mtslvr.nn.frontend import log_mel


def mfcc(paths, coefficients=20):
    """Mean and deviation over time of the first cepstral coefficients: (n, 2 * coefficients)."""
    config = FrontendConfig(epsilon=1e-6)
    bands = np.arange(config.n_mels)
    cosines = np.cos(np.pi * np.arange(coefficients)[:, None] * (bands + 0.5) / config.n_mels)  # the DCT of type 2
    rows = []
    for path in paths:
        wave = torch.from_numpy(load_audio(path, config.sample_rate))[None]
        cepstrum = cosines @ log_mel(wave, config)[0].numpy()
        rows.append(np.concatenate([cepstrum.mean(axis=1), cepstrum.std(axis=1)]))
    return np.stack(rows)


def egemaps(paths):
    """The 88 functionals of eGeMAPSv02: (n, 88). openSMILE's licence is for private, research and teaching use."""
    import opensmile

    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    return np.concatenate([smile.process_signal(load_audio(path, 16000), 16000).to_numpy() for path in paths])


folder = sys.argv[1] if len(sys.argv) > 1 else "examples/audio"
labelled = read_set(folder)
paths, labels, classes = labelled.paths, labelled.labels, sorted(set(labelled.labels))
features = {"mtslvr": mtslvr.embed(paths), "MFCC": mfcc(paths)}
try:
    features["eGeMAPS"] = egemaps(paths)
except ImportError:
    print("without openSMILE; pip install opensmile adds it")

config = EpisodeConfig(n_way=min(5, len(classes)), n_shot=1, episodes=2000, seed=42)
print(f"{len(paths)} files of {len(classes)} classes, {config.n_way}-way 1-shot, {config.episodes} episodes")
for name, matrix in features.items():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Units differ from column to column, so each is scaled by the supports of the episode, alike for all.
        result = evaluate(matrix, labels, config, "logistic", "standard")
    print(f"{name:8} {matrix.shape[1]:5} numbers a file  {result} %")
if folder == "examples/audio":
    print("15 synthetic clips say nothing about accuracy; give a folder of your own")
