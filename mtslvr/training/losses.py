"""The three losses of MT-SLVR, and NT-Xent for more than two views; next module: `objective`."""

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
    Returns:
        Scalar, the mean over 2N views; 0 for N = 1, where there are no negatives.
    Source:
        Chen et al. 2020, SimCLR, https://arxiv.org/abs/2002.05709
    """
    return group_nt_xent_loss(torch.cat([z1, z2]), torch.arange(len(z1), device=z1.device).repeat(2), temperature)


def group_nt_xent_loss(z: Tensor, groups: Tensor, temperature: float, spared: int = 0) -> Tensor:
    """NT-Xent with any number of positives: all other members of a row's group, weighted alike.

    Args:
        z: (N, D) projections.
        groups: (N,) integers; every group has at least two members.
        temperature: divides the cosine similarities.
        spared: leave out the most similar negatives of each row, this many: they are often of the same kind, and
            pushing them away teaches to tell recordings of one thing apart.
    Returns:
        Scalar, the mean over rows. With groups of two and nothing spared it is NT-Xent.
    Source:
        Khosla et al. 2020, supervised contrastive learning, L_out, https://arxiv.org/abs/2004.11362; `spared` after
        Huynh et al. 2022, false negative cancellation, https://arxiv.org/abs/2011.11765
    """
    with torch.autocast(z.device.type, enabled=False):  # which would round the similarities to 8 bits
        z = F.normalize(z.float(), dim=1)
        similarities = z @ z.T
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    alike = groups[:, None] == groups
    positive = alike & ~itself
    logits = (similarities / temperature).masked_fill(itself, -torch.inf)
    if spared:
        nearest = logits.detach().masked_fill(alike, -torch.inf).topk(spared, dim=1).indices
        logits = logits.scatter(1, nearest, -torch.inf)
    log_share = F.log_softmax(logits, dim=1)
    # masked_fill, not a product: the diagonal is -inf, and 0 times that is no number.
    per_row = log_share.masked_fill(~positive, 0).sum(dim=1) / positive.sum(dim=1)
    return -per_row.mean()


def simsiam_loss(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
    """Symmetric negative cosine similarity with a stop-gradient on the projections.

    Args:
        p1, p2: (N, D) predictions.
        z1, z2: (N, D) projections; no gradient flows into them.
    Returns:
        Scalar in [-1, 1], the mean over clips.
    Source:
        Chen and He 2021, SimSiam, https://arxiv.org/abs/2011.10566
    """
    first = F.cosine_similarity(p1.float(), z2.detach().float(), dim=1).mean()
    second = F.cosine_similarity(p2.float(), z1.detach().float(), dim=1).mean()
    return -(first + second) / 2


def augmentation_loss(logits: Tensor, augmentation_labels: Tensor) -> Tensor:
    """Multi-label augmentation prediction (MLAP): mean binary cross-entropy over views and transformations.

    Args:
        logits: (B, K).
        augmentation_labels: (B, K), 1 where the transformation was applied.
    Source:
        Heggan et al. 2023, MT-SLVR, https://arxiv.org/abs/2305.17191
    """
    return F.binary_cross_entropy_with_logits(logits.float(), augmentation_labels.float())
