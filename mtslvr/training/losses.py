"""The three losses of MT-SLVR; next module: `objective`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def nt_xent_loss(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross entropy over the 2N views of N clips.

    Each view's positive is the other view of its clip; the remaining 2N - 2 views are its negatives.

    Args:
        z1, z2: (N, D) projections of the two views.
        temperature: divides the cosine similarities.
    Source:
        Chen et al. 2020, SimCLR, https://arxiv.org/abs/2002.05709
    """
    with torch.autocast(z1.device.type, enabled=False):  # which would round the similarities to 8 bits
        z = F.normalize(torch.cat([z1, z2]).float(), dim=1)
        logits = z @ z.T / temperature
    logits = logits.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), -torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z), device=z.device).roll(len(z1)))


def simsiam_loss(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
    """Symmetric negative cosine similarity with a stop-gradient on the projections.

    Args:
        p1, p2: (N, D) predictions.
        z1, z2: (N, D) projections; no gradient flows into them.
    Source:
        Chen and He 2021, SimSiam, https://arxiv.org/abs/2011.10566
    """
    first = F.cosine_similarity(p1.float(), z2.detach().float(), dim=1).mean()
    second = F.cosine_similarity(p2.float(), z1.detach().float(), dim=1).mean()
    return -(first + second) / 2


def augmentation_loss(logits: Tensor, augmentation_labels: Tensor) -> Tensor:
    """Multi-label augmentation prediction (MLAP): mean binary cross-entropy of (B, K) logits and labels, 0 or 1.

    Source:
        Heggan et al. 2023, MT-SLVR, https://arxiv.org/abs/2305.17191
    """
    return F.binary_cross_entropy_with_logits(logits.float(), augmentation_labels.float())
