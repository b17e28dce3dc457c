"""Clips of the same kind without labels: mutual nearest neighbours of the embeddings that a run starts from."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..config import Features
from ..encoder import Encoder
from ..errors import TrainingError
from .views import IntArray, StepBatches, step_generator

TABLE = "neighbours.npy"
_BATCH = 32
_ROWS = 4096  # of similarities at once
_STREAM = 5  # of random numbers, beside those of epochs, batches and whitening


def find_neighbours(folder: Path, encoder: Encoder, batches: StepBatches) -> None:
    """Find the neighbours of a run's clips and keep them in its folder.

    Args:
        folder: run directory.
        encoder: as the run starts; not changed.
        batches: of the clips that are trained on; those held out have no neighbours and are none.
    """
    among = mutual_neighbours(embed_clips(encoder, batches), batches.config.neighbours)
    table = np.full((len(batches.clips), batches.config.neighbours), -1, dtype=np.int64)
    table[batches.members] = np.where(among >= 0, batches.members[among], -1)
    part = folder / (TABLE + ".part")
    with open(part, "wb") as file:
        np.save(file, table)
    os.replace(part, folder / TABLE)


def read_neighbours(folder: Path, batches: StepBatches) -> IntArray:
    """What `find_neighbours` kept: (clips, k) int64, see `mutual_neighbours`.

    Raises:
        TrainingError: no table, or of other clips.
    """
    path = folder / TABLE
    try:
        table: IntArray = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path}: no neighbours of the run's clips ({error}); start the run anew") from None
    if table.shape != (len(batches.clips), batches.config.neighbours):
        raise TrainingError(f"{path}: neighbours of other clips, {table.shape}; start the run anew")
    return table


@torch.inference_mode()
def embed_clips(encoder: Encoder, batches: StepBatches) -> Tensor:
    """(members, D) invariant embeddings of length 1: one crop of each training clip, as long as the encoder's window.

    Args:
        encoder: on any device; not changed.
        batches: of the clips that are trained on.
    """
    folded, config = encoder.fold(), batches.config
    whole = StepBatches(batches.clips, dataclasses.replace(config, crop_seconds=config.encoder.window_seconds))
    generator = step_generator(config.seed, _STREAM, 0)
    found = []
    for start in range(0, len(batches.members), _BATCH):
        crops = whole.crops(batches.members[start : start + _BATCH], generator).to(encoder.device)
        found.append(folded.embedding(crops, Features.INVARIANT, normalized=True).float().cpu())
    return F.normalize(torch.cat(found), dim=1)


def mutual_neighbours(embeddings: Tensor, k: int) -> IntArray:
    """The rows that are among each other's nearest.

    Args:
        embeddings: (N, D) of length 1.
        k: how many nearest ones, by cosine similarity, to look at; N - 1 at most are there.
    Returns:
        (N, k) int64: of each row the others among its k nearest that have it among theirs, nearest first, then -1.
    Source:
        Qin et al. 2011, Hello neighbor: accurate object retrieval with k-reciprocal nearest neighbors (CVPR).
    """
    number = min(k, len(embeddings) - 1)
    nearest = []
    for start in range(0, len(embeddings), _ROWS):
        similarities = embeddings[start : start + _ROWS] @ embeddings.T
        rows = torch.arange(len(similarities))
        similarities[rows, start + rows] = -torch.inf
        nearest.append(similarities.topk(number, dim=1).indices)
    of = torch.cat(nearest)
    mutual = (of[of] == torch.arange(len(of))[:, None, None]).any(dim=2)
    # Stable, so that the nearest stays first.
    order = (~mutual).to(torch.int8).argsort(dim=1, stable=True)
    kept = of.masked_fill(~mutual, -1).gather(1, order)
    table: IntArray = F.pad(kept, (0, k - number), value=-1).numpy()
    return table
