"""The views of a batch and their augmentation labels to the joint loss; next: `loop`."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..encoder import Embeddings, Encoder, exact_float32
from .distributed import gather
from .heads import augmentation_head, simclr_projector, simsiam_predictor, simsiam_projector
from .losses import augmentation_loss, group_nt_xent_loss, simsiam_loss


@dataclass(frozen=True)
class Losses:
    """Scalars of one step; `joint` is what is minimised. An objective that is off is 0."""

    joint: Tensor
    contrastive: Tensor
    predictive: Tensor
    variant_contrastive: Tensor


class Objective(nn.Module):
    """L = L_contrastive + lambda L_MLAP (+ mu L_variant) on the embeddings of one encoder.

    The invariant embedding feeds the contrastive loss, the variant one the augmentation head. With two crops of a clip,
    L_variant also asks of the variant embedding to find the other crop that was transformed alike, among other clips
    and among crops of the same clip that were transformed otherwise: it has to hold what stays over a clip and what a
    transformation changes.

    Source:
        Heggan et al. 2023, MT-SLVR, https://arxiv.org/abs/2305.17191; L_variant after Xiao et al. 2021, "What should
        not be contrastive in contrastive learning", https://arxiv.org/abs/2008.05659
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        contrastive: str = "simclr",
        augmentation_weight: float = 1.0,
        variant_weight: float = 0.0,
        temperature: float = 0.07,
        spared_negatives: float = 0.0,
        separate_views: bool = False,
        only: str = "",
        predicted_views: int = 2,
        labels: int = 7,
    ) -> None:
        super().__init__()
        dim = encoder.config.head_dim
        self.encoder = encoder
        self.augmentation_weight = augmentation_weight
        self.variant_weight = variant_weight
        self.temperature = temperature
        self.spared_negatives = spared_negatives
        self.separate_views = separate_views
        self.only = only
        self.predicted_views = predicted_views
        self.projector = {"simclr": simclr_projector, "simsiam": simsiam_projector}.get(contrastive, _no_head)(dim)
        self.predictor = simsiam_predictor() if contrastive == "simsiam" else None
        self.augmentation_head = augmentation_head(dim, labels) if augmentation_weight else None
        self.variant_projector = simclr_projector(dim) if variant_weight else None

    def forward(self, views: Tensor, augmentation_labels: Tensor) -> Losses:
        """The losses of one batch.

        Args:
            views: (2, C, B, channels, n_mels, frames) spectrograms: C crops of B clips, each augmented twice; crops of
                a clip that share the first index share the parameters of their transformations.
            augmentation_labels: (B, K), shared by all views of a clip.
        """
        embeddings = self.embed_views(views)
        contrastive = views.new_zeros(()) if self.only == "variant" else self.contrastive_loss(embeddings.invariant)
        predictive = variant = contrastive.new_zeros(())
        if self.augmentation_head is not None and self.only != "invariant":
            logits = self.augmentation_head(embeddings.variant.flatten(0, 2))
            repeats = embeddings.variant.shape[0] * embeddings.variant.shape[1]
            predictive = augmentation_loss(logits, augmentation_labels.repeat(repeats, 1))
        if self.variant_projector is not None and self.only != "invariant":
            variant = self.variant_loss(embeddings.variant)
        joint = contrastive + self.augmentation_weight * predictive + self.variant_weight * variant
        return Losses(joint, contrastive, predictive, variant)

    def embed_views(self, views: Tensor) -> Embeddings:
        """The embeddings of all views, (2, C, B, D), from one pass a view or from one over all.

        The variant ones of the first `predicted_views` alone.
        """
        groups = views.unbind(0) if self.separate_views else (views,)
        rows = views.shape[1] * views.shape[2]
        wanted = [self.predicted_views * rows]
        if self.separate_views:
            wanted = [rows if index < self.predicted_views else 0 for index in range(len(groups))]
        if self.only == "variant":  # the invariant embeddings of the other views are not wanted
            groups, wanted = groups[: self.predicted_views], wanted[: self.predicted_views]
        parts = [self.embed(group.flatten(0, -4), count) for group, count in zip(groups, wanted, strict=True)]
        shape = (-1, *views.shape[1:3], parts[0].invariant.shape[-1])
        invariant = torch.cat([part.invariant for part in parts]).view(shape)
        return Embeddings(invariant, torch.cat([part.variant for part in parts]).view(shape))

    def embed(self, spectrograms: Tensor, variant_rows: int) -> Embeddings:
        """Both embeddings of (N, channels, n_mels, frames), or the one that `only` names under both names.

        The variant ones of the first `variant_rows` alone.
        """
        encoder, few = self.encoder, spectrograms[:variant_rows]
        last = encoder.config.tasks - 1
        with exact_float32(spectrograms.device):
            if self.only == "variant":
                with torch.no_grad():
                    shared = encoder.shared(few)
                variant = encoder.heads[-1](encoder.pooled(shared, few, last))
                return Embeddings(variant, variant)
            shared = encoder.shared(spectrograms)
            pooled = encoder.pooled(shared, spectrograms, 0)
            invariant = encoder.heads[0](pooled)
            if variant_rows == 0 or self.only or encoder.config.outputs == 1:
                return Embeddings(invariant, invariant[:variant_rows])
            pooled = encoder.pooled(shared[:variant_rows], few, last) if last else pooled[:variant_rows]
            return Embeddings(invariant, encoder.heads[-1](pooled))

    def contrastive_loss(self, invariant: Tensor) -> Tensor:
        """NT-Xent or SimSiam on the invariant embeddings (2, C, B, D): all views of a clip belong together."""
        if self.projector is None:
            return invariant.new_zeros((), dtype=torch.float32)
        if self.predictor is None:
            z = gather(self.projector(invariant), dim=2)
            clips = torch.arange(z.shape[2], device=z.device)
            spared = int(self.spared_negatives * (z[..., 0].numel() - 2 * z.shape[1]))
            return group_nt_xent_loss(z.flatten(0, 2), clips.expand(z.shape[:3]).flatten(), self.temperature, spared)
        # Where there are two crops, the views of a pair differ in both.
        z1, z2 = self.projector(invariant[0].flatten(0, 1)), self.projector(invariant[1].flip(0).flatten(0, 1))
        return simsiam_loss(self.predictor(z1), self.predictor(z2), z1, z2)

    def variant_loss(self, variant: Tensor) -> Tensor:
        """NT-Xent on the variant embeddings (2, C, B, D): crops of a clip transformed alike belong together."""
        assert self.variant_projector is not None
        z = gather(self.variant_projector(variant), dim=2)
        alike = torch.arange(2 * z.shape[2], device=z.device).view(2, 1, -1)
        return group_nt_xent_loss(z.flatten(0, 2), alike.expand(z.shape[:3]).flatten(), self.temperature)


def select_trained(encoder: Encoder, only: str) -> None:
    """Let only some weights learn.

    Args:
        encoder: changed in place.
        only: "" is all; "invariant" all but what belongs to the variant path alone; "variant" nothing but that.
    """
    if not only:
        return
    last = encoder.config.tasks - 1
    for name, parameter in encoder.named_parameters():
        owner = path_of(name)
        parameter.requires_grad_(owner == last if only == "variant" else owner != last)


def path_of(name: str) -> int | None:
    """The task that a parameter of an encoder with two paths belongs to; None where both share it."""
    match = re.search(r"^heads\.(\d)\.|^branches\..*(?:adapters|norms)\.(\d)\.|^branches\.end_norms\.(\d)\.", name)
    return None if match is None else int(next(group for group in match.groups() if group))


def _no_head(dim: int) -> None:
    return None
