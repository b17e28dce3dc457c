"""A folder of labelled audio to a table of few-shot accuracies; called by the command line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..audio import load_audio
from ..config import parse_enum
from .classifiers import Classifier, FloatArray, require_scikit_learn
from .dataset import audio_files, labelled_files, labels_from_names
from .episodes import EpisodeConfig
from .evaluate import FewShotResult, Scaling, evaluate
from .logmel import BASELINE, log_mel_features

_LOG_MEL = "log-mel"


@dataclass(frozen=True)
class Row:
    """One cell of the table: these features with this classifier."""

    features: str
    classifier: str
    result: FewShotResult


def run(
    folder: str | os.PathLike[str],
    *,
    model: str | None = None,
    label_field: int | None = None,
    n_way: int = 5,
    n_shot: int = 1,
    n_query: int = 1,
    episodes: int = 1000,
    seed: int = 42,
    classifiers: Sequence[str] = ("sgd", "logistic"),
    device: str = "auto",
    batch_size: int | None = None,
) -> list[Row]:
    """Measure the embeddings of a folder, and the log-mel baseline, on the same episodes.

    Args:
        folder: one folder a class; any layout with `label_field`.
        model: what `mtslvr.load` takes; the bundled weights by default.
        label_field: take the label from this field of the file names, see `labels_from_names`.
        n_way: classes in an episode.
        n_shot: support files a class.
        n_query: query files a class.
        episodes: how many.
        seed: of the episodes.
        classifiers: names of `Classifier`.
        device: what `mtslvr.load` takes.
        batch_size: windows at once through the encoder; its own choice by default.

    Returns:
        A row for each features and classifier.

    Raises:
        ConfigError: settings out of range, files without labels, too few classes.
        AudioError: a file that cannot be read.
    """
    config = EpisodeConfig(n_way, n_shot, n_query, episodes, seed)
    kinds = [parse_enum(Classifier, name, "classifier") for name in classifiers]
    if Classifier.SGD in kinds:
        require_scikit_learn()  # before the features, which take minutes
    if label_field is None:
        paths, labels, _ = labelled_files(folder)
    else:
        paths = audio_files(folder)
        labels, _ = labels_from_names(paths, label_field)
    import mtslvr

    features = extract_features(paths, mtslvr.load(model, device=device), batch_size=batch_size)
    return [
        Row(name, kind.value, evaluate(matrix, labels, config, kind, _scaling(name)))
        for name, matrix in features.items()
        for kind in kinds
    ]


def _scaling(features: str) -> Scaling | None:
    # Decibels are of one scale already. Rows of length 1 cost the baseline 3 to 5 points, and would flatter us.
    return Scaling.NONE if features == _LOG_MEL else None


def extract_features(paths: Sequence[Path], encoder: Any, *, batch_size: int | None = None) -> dict[str, FloatArray]:
    """Take each file once through the encoder and the baseline.

    Args:
        paths: n files.
        encoder: as `mtslvr.load` gives it.
        batch_size: windows at once through the encoder; its own choice by default.

    Returns:
        Name to (n, D): invariant, variant, concat (an encoder with one output has only concat), log-mel.

    Raises:
        AudioError: a file that cannot be read.
    """
    import mtslvr

    settings: dict[str, Any] = {} if batch_size is None else {"batch_size": batch_size}
    concat = np.asarray(mtslvr.embed(list(paths), features="concat", encoder=encoder, **settings))
    features: dict[str, FloatArray] = {}
    if encoder.config.outputs == 2:
        features["invariant"], features["variant"] = np.split(concat, 2, axis=1)
    features["concat"] = concat
    waveforms = (torch.from_numpy(load_audio(path, BASELINE.sample_rate)) for path in paths)
    features[_LOG_MEL] = log_mel_features(waveforms)
    return features


def format_table(rows: Sequence[Row]) -> str:
    """Features down, classifiers across; mean accuracy ± 95% interval in percent."""
    names = list(dict.fromkeys(row.features for row in rows))
    kinds = list(dict.fromkeys(row.classifier for row in rows))
    cells = {(row.features, row.classifier): str(row.result) for row in rows}
    lines = [["features", *kinds]]
    lines += [[name, *(cells.get((name, kind), "") for kind in kinds)] for name in names]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
