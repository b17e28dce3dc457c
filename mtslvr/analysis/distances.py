"""Distances between embeddings of clips, in units of the spread of all; next module: `invariance`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError

Float64 = npt.NDArray[np.float64]


def mahalanobis(originals: Float64, copies: Float64, shrinkage: float) -> Float64:
    """Measure how far copies lie from their originals, in units of the spread of the originals.

    With S the covariance of the originals, the distance is sqrt((z' - z)^T C^-1 (z' - z)) with
    C = (1 - shrinkage) S + shrinkage tr(S) / D I: one covariance for all transformations, regularised because there may
    be fewer clips than dimensions.

    Args:
        originals: (n, D).
        copies: (..., n, D).
        shrinkage: share of the identity.

    Returns:
        (..., n) distances.
    """
    centred = originals - originals.mean(axis=0)
    covariance = centred.T @ centred / len(originals)
    dim = len(covariance)
    scale = np.trace(covariance) / dim
    if not scale > 0:
        raise ConfigError("all embeddings are the same: no distance can be told; are all files silent?")
    root = np.linalg.cholesky((1 - shrinkage) * covariance + shrinkage * scale * np.eye(dim))
    moved = np.linalg.solve(root, (copies - originals).reshape(-1, dim).T).T
    distances: Float64 = np.linalg.norm(moved, axis=1).reshape(copies.shape[:-1])
    return distances


def mean_distance(cosines: Float64) -> float:
    """Give the mean distance between different clips, rows of length 1 with (n, n) cosines among them."""
    distances = np.sqrt(np.maximum(2 - 2 * cosines, 0))
    np.fill_diagonal(distances, 0)
    return float(distances.sum() / (len(cosines) * (len(cosines) - 1)))


def ledoit_wolf(originals: Float64) -> float:
    """Find the shrinkage that brings the covariance nearest to that of all clips there could be.

    Args:
        originals: (n, D).

    Returns:
        From 0, for many clips, to 1, for few.
    Source:
        Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices", lemma 3.3; as
        `sklearn.covariance.ledoit_wolf_shrinkage`.
    """
    centred = originals - originals.mean(axis=0)
    count, dim = centred.shape
    covariance = centred.T @ centred / count
    spread = float((covariance**2).sum())
    error = float(((centred**2).sum(axis=1) ** 2).mean() - spread) / count
    distance = spread - float(np.trace(covariance)) ** 2 / dim
    return min(error / distance, 1.0) if distance > 0 else 1.0
