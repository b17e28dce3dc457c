"""After training: heads that whiten what the network learned; a run directory in, a checkpoint folder out.

A few directions of large variance (level, background, bandwidth) dominate the pooled features and so every distance
between embeddings. The heads that training leaves are made for its losses. These are made for use: principal components
of the pooled features over the training clips, each divided by a power of its standard deviation. No label is used.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from torch import Tensor

from .. import checkpoint
from ..config import Layer
from ..encoder import Encoder
from ..errors import TrainingError
from .config import TrainConfig
from .data import PackedClips, StepBatches, step_generator
from .loop import CLIPS, CONFIG, EXPORT

POWER, RIDGE, BATCHES = 0.5, 0.01, 16
_STREAM = 2  # of random numbers, beside those of epochs and batches


def whiten(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    power: float = POWER,
    ridge: float = RIDGE,
    batches: int = BATCHES,
) -> Path:
    """The exported checkpoint of a run with whitening heads.

    Args:
        run: directory of a training run; its checkpoint, config and packed clips are read.
        out: checkpoint folder to write.
        power: 0 only rotates, 1 gives every component the same variance.
        ridge: added to each variance, as a share of their mean.
        batches: of random crops to measure the components on; they must exceed the 512 pooled features.
    Raises:
        TrainingError: no such run, too few crops, or paths that share a head.
        CheckpointError: no checkpoint in the run, or `out` cannot be written.
    """
    folder = Path(run)
    try:
        config = TrainConfig.from_dict(json.loads((folder / CONFIG).read_text()))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{folder / CONFIG}: no training run ({error}); give a run directory") from None
    encoder = checkpoint.load(folder / EXPORT)
    crops = StepBatches(PackedClips.open(folder / CLIPS), config)
    generators = [step_generator(config.seed, _STREAM, i) for i in range(batches)]
    whiten_heads(encoder, [crops.crops(i, generator) for i, generator in enumerate(generators)], power, ridge)
    return checkpoint.save(encoder, out)


@torch.inference_mode()
def whiten_heads(encoder: Encoder, batches: list[Tensor], power: float, ridge: float) -> None:
    """Replace the heads of `encoder` in place.

    Args:
        encoder: with a head for each path, on any device.
        batches: (B, T) waveforms each, normalised.
        power: see `whiten`.
        ridge: see `whiten`.
    Raises:
        TrainingError: see `whiten`.
    """
    if encoder.config.heads != encoder.config.tasks:
        raise TrainingError(
            f"{encoder.config.heads} heads for {encoder.config.tasks} paths: whitening needs a head for each path"
        )
    folded = encoder.fold()
    pooled = [folded.encode(batch.to(encoder.device), Layer.POOLED) for batch in batches]
    for index, head in enumerate(encoder.heads):
        assert isinstance(head, torch.nn.Linear)
        features = torch.cat([p.variant if index else p.invariant for p in pooled]).double()
        if len(features) <= features.shape[1]:
            raise TrainingError(f"{len(features)} crops for {features.shape[1]} features: too few; use more batches")
        weight, bias = whitening(features, head.out_features, power, ridge)
        head.weight.copy_(weight)
        head.bias.copy_(bias)


def whitening(features: Tensor, components: int, power: float, ridge: float) -> tuple[Tensor, Tensor]:
    """Weight (components, D) and bias (components,) that whiten features (N, D) float64."""
    mean = features.mean(dim=0)
    variances, directions = torch.linalg.eigh((features - mean).T.cov())
    variances, directions = variances.flip(0)[:components].clamp_min(0), directions.flip(1)[:, :components]
    scale = (variances + ridge * variances.mean()) ** (-power / 2)
    # eigh leaves the sign of a direction open: its largest entry is made positive.
    largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
    weight = (directions * largest.sign() * scale).T
    return weight, -weight @ mean
