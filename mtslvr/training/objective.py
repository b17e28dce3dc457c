"""Two views of a batch and their augmentation labels to the joint loss; next: `loop`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..encoder import Embeddings, Encoder
from .heads import augmentation_head, simclr_projector, simsiam_predictor, simsiam_projector
from .losses import augmentation_loss, nt_xent_loss, simsiam_loss


@dataclass(frozen=True)
class Losses:
    """Scalars of one step; `joint` is what is minimised. An objective that is off is 0."""

    joint: Tensor
    contrastive: Tensor
    predictive: Tensor


class Objective(nn.Module):
    """L = L_contrastive + lambda L_MLAP on the embeddings of one encoder.

    The invariant embedding feeds the contrastive loss, the variant one the augmentation head.

    Source:
        Heggan et al. 2023, MT-SLVR, https://arxiv.org/abs/2305.17191
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        contrastive: str = "simclr",
        augmentation_weight: float = 1.0,
        temperature: float = 0.07,
        separate_views: bool = False,
        labels: int = 7,
    ) -> None:
        super().__init__()
        dim = encoder.config.head_dim
        self.encoder = encoder
        self.augmentation_weight = augmentation_weight
        self.temperature = temperature
        self.separate_views = separate_views
        self.projector = {"simclr": simclr_projector, "simsiam": simsiam_projector}.get(contrastive, _no_head)(dim)
        self.predictor = simsiam_predictor() if contrastive == "simsiam" else None
        self.augmentation_head = augmentation_head(dim, labels) if augmentation_weight else None

    def forward(self, view1: Tensor, view2: Tensor, augmentation_labels: Tensor) -> Losses:
        """The losses of one batch.

        Args:
            view1, view2: (B, channels, n_mels, frames) spectrograms.
            augmentation_labels: (B, K), shared by both views.
        """
        first, second = self.embed_views(view1, view2)
        contrastive = self.contrastive_loss(first.invariant, second.invariant)
        predictive = contrastive.new_zeros(())
        if self.augmentation_head is not None:
            logits = self.augmentation_head(torch.cat([first.variant, second.variant]))
            predictive = augmentation_loss(logits, augmentation_labels.repeat(2, 1))
        return Losses(contrastive + self.augmentation_weight * predictive, contrastive, predictive)

    def embed_views(self, view1: Tensor, view2: Tensor) -> tuple[Embeddings, Embeddings]:
        """The embeddings of each view, from two passes or from one over both."""
        if self.separate_views:
            return self.encoder.encode_spectrogram(view1), self.encoder.encode_spectrogram(view2)
        both = self.encoder.encode_spectrogram(torch.cat([view1, view2]))
        (i1, i2), (v1, v2) = both.invariant.chunk(2), both.variant.chunk(2)
        return Embeddings(i1, v1), Embeddings(i2, v2)

    def contrastive_loss(self, first: Tensor, second: Tensor) -> Tensor:
        """NT-Xent or SimSiam on the invariant embeddings of the two views, (B, D) each."""
        if self.projector is None:
            return first.new_zeros((), dtype=torch.float32)
        z1, z2 = self.projector(first), self.projector(second)
        if self.predictor is None:
            return nt_xent_loss(z1, z2, self.temperature)
        return simsiam_loss(self.predictor(z1), self.predictor(z2), z1, z2)


def _no_head(dim: int) -> None:
    return None
