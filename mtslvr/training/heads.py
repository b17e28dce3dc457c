"""The heads that exist in training only: projectors, predictor, augmentation head; next: `objective`."""

from __future__ import annotations

from torch import nn


def simclr_projector(dim: int, out_dim: int = 256) -> nn.Sequential:
    """(N, dim) to (N, out_dim): Linear, ReLU, Linear."""
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(inplace=True), nn.Linear(dim, out_dim))


def simsiam_projector(dim: int, out_dim: int = 2048) -> nn.Sequential:
    """(N, dim) to (N, out_dim): three linear layers, each with batch norm, ReLU after the first two."""
    return nn.Sequential(
        *_linear_norm(dim, out_dim),
        nn.ReLU(inplace=True),
        *_linear_norm(out_dim, out_dim),
        nn.ReLU(inplace=True),
        *_linear_norm(out_dim, out_dim),
    )


def simsiam_predictor(dim: int = 2048, hidden: int = 512) -> nn.Sequential:
    """(N, dim) to (N, dim) through a bottleneck."""
    return nn.Sequential(*_linear_norm(dim, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, dim))


def augmentation_head(dim: int, labels: int = 7) -> nn.Sequential:
    """(N, dim) to (N, labels) logits: 256, 64 and 16 hidden units with batch norm and ReLU."""
    layers: list[nn.Module] = []
    for width in (256, 64, 16):
        layers += [*_linear_norm(dim, width), nn.ReLU(inplace=True)]
        dim = width
    return nn.Sequential(*layers, nn.Linear(dim, labels))


def _linear_norm(dim: int, out_dim: int) -> tuple[nn.Module, nn.Module]:
    return nn.Linear(dim, out_dim), nn.BatchNorm1d(out_dim)
