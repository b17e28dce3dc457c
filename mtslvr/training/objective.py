"""The views of a batch and the targets of their transformations to the three losses of MT-SLVR; next: `trainer`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..nn.encoder import Embeddings, Encoder, exact_float32
from .config import TrainConfig


@dataclass(frozen=True)
class Losses:
    """Scalars of one step; `joint` is what is minimised. An objective that is off is 0."""

    joint: Tensor
    contrastive: Tensor
    predictive: Tensor


class Objective(nn.Module):
    """L = L_contrastive + lambda L_predictive on the embeddings of one encoder.

    The invariant embedding feeds the contrastive loss, the variant one the augmentation head: that of each view, to
    tell which transformations it had, or those of both, to tell by how much they differ.

    Source:
        Heggan et al. 2023, MT-SLVR, https://arxiv.org/abs/2305.17191
    """

    def __init__(self, encoder: Encoder, config: TrainConfig) -> None:
        super().__init__()
        self.encoder, self.config = encoder, config
        dim, labels = encoder.config.head_dim, len(config.augment.transformations)
        projectors = {"simclr": simclr_projector, "simsiam": simsiam_projector}
        self.projector = projectors[config.contrastive](dim) if config.contrastive in projectors else None
        self.predictor = simsiam_predictor() if config.contrastive == "simsiam" else None
        self.augmentation_head = augmentation_head(dim, labels) if config.augmentation_weight else None

    def forward(self, views: Tensor, targets: Tensor) -> Losses:
        """The losses of spectrograms (2, B, channels, n_mels, frames) of two views, and of targets, see `Batch`."""
        embeddings = self.embed_views(views)
        contrastive = self.contrastive_loss(embeddings.invariant)
        predictive = self.predictive_loss(embeddings.variant, targets)
        return Losses(contrastive + self.config.augmentation_weight * predictive, contrastive, predictive)

    def embed_views(self, views: Tensor) -> Embeddings:
        """(2, B, D) of all views, the variant ones of `predicted_views` alone; one pass a view or one over all."""
        count, predicted = views.shape[1], self.config.predicted_views
        if not self.config.separate_views:
            both = self.embed(views.flatten(0, 1), predicted * count)
            return Embeddings(*(found.view(-1, count, found.shape[1]) for found in (both.invariant, both.variant)))
        parts = [self.embed(view, count if i < predicted else 0) for i, view in enumerate(views)]
        variant = torch.stack([part.variant for part in parts[:predicted]])
        return Embeddings(torch.stack([part.invariant for part in parts]), variant)

    def embed(self, spectrograms: Tensor, variant_rows: int) -> Embeddings:
        """Both embeddings of (N, channels, n_mels, frames), the variant ones of the first `variant_rows` alone."""
        encoder, few = self.encoder, spectrograms[:variant_rows]
        last = encoder.config.tasks - 1
        with exact_float32(spectrograms.device):
            shared = encoder.trunk(spectrograms)
            pooled = encoder.pooled(shared, spectrograms, 0)
            invariant = encoder.heads[0](pooled)
            if variant_rows == 0 or encoder.config.outputs == 1:
                return Embeddings(invariant, invariant[:variant_rows])
            pooled = encoder.pooled(shared[:variant_rows], few, last) if last else pooled[:variant_rows]
            return Embeddings(invariant, encoder.heads[-1](pooled))

    def contrastive_loss(self, invariant: Tensor) -> Tensor:
        """NT-Xent or SimSiam on the invariant embeddings (2, B, D)."""
        if self.projector is None:
            return invariant.new_zeros((), dtype=torch.float32)
        if self.predictor is None:
            first, second = self.projector(invariant)
            return nt_xent_loss(first, second, self.config.temperature)
        z1, z2 = self.projector(invariant[0]), self.projector(invariant[1])
        return simsiam_loss(self.predictor(z1), self.predictor(z2), z1, z2)

    def predictive_loss(self, variant: Tensor, targets: Tensor) -> Tensor:
        """How wrong the augmentation head is on the variant embeddings (`predicted_views`, B, D)."""
        if self.augmentation_head is None:
            return variant.new_zeros((), dtype=torch.float32)
        return augmentation_loss(self.augmentation_head(variant.flatten(0, 1)), targets.repeat(len(variant), 1))


def simclr_projector(dim: int, out_dim: int = 256) -> nn.Sequential:
    """(N, dim) to (N, out_dim): Linear, ReLU, Linear."""
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(inplace=True), nn.Linear(dim, out_dim))


def simsiam_projector(dim: int, out_dim: int = 2048) -> nn.Sequential:
    """(N, dim) to (N, out_dim): three linear layers, each with batch norm, ReLU after the first two."""
    layers = [*_linear_norm_relu(dim, out_dim), *_linear_norm_relu(out_dim, out_dim)]
    return nn.Sequential(*layers, *_linear_norm_relu(out_dim, out_dim)[:2])


def simsiam_predictor(dim: int = 2048, hidden: int = 512) -> nn.Sequential:
    """(N, dim) to (N, dim) through a bottleneck."""
    return nn.Sequential(*_linear_norm_relu(dim, hidden), nn.Linear(hidden, dim))


def augmentation_head(dim: int, labels: int = 7) -> nn.Sequential:
    """(N, dim) to (N, labels) logits: 256, 64 and 16 hidden units with batch norm and ReLU."""
    layers = [*_linear_norm_relu(dim, 256), *_linear_norm_relu(256, 64), *_linear_norm_relu(64, 16)]
    return nn.Sequential(*layers, nn.Linear(16, labels))


def _linear_norm_relu(dim: int, out_dim: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    return nn.Linear(dim, out_dim), nn.BatchNorm1d(out_dim), nn.ReLU(inplace=True)


def nt_xent_loss(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross entropy over the 2N views of N clips.

    Of the projections (N, D) each has the one of the other view for its positive, and the 2N - 2 others for negatives.

    Source:
        Chen et al. 2020, SimCLR, https://arxiv.org/abs/2002.05709
    """
    with torch.autocast(z1.device.type, enabled=False):  # which would round the similarities to 8 bits
        z = F.normalize(torch.cat([z1, z2]).float(), dim=1)
        logits = z @ z.T / temperature
    logits = logits.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), -torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z), device=z.device).roll(len(z1)))


def simsiam_loss(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
    """Symmetric negative cosine similarity of predictions p and projections z (N, D); no gradient flows into z.

    Source:
        Chen and He 2021, SimSiam, https://arxiv.org/abs/2011.10566
    """
    first = F.cosine_similarity(p1.float(), z2.detach().float(), dim=1).mean()
    second = F.cosine_similarity(p2.float(), z1.detach().float(), dim=1).mean()
    return -(first + second) / 2


def augmentation_loss(logits: Tensor, augmentation_labels: Tensor) -> Tensor:
    """Multi-label augmentation prediction: mean binary cross-entropy of (B, K) logits and labels, 0 or 1."""
    return F.binary_cross_entropy_with_logits(logits.float(), augmentation_labels.float())
