"""Embeddings to two dimensions and to clusters; next module: `plot`."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError

_BLOCK = 8192  # rows at once
Float64 = npt.NDArray[np.float64]


def project(embeddings: npt.NDArray[np.float32], method: str = "pca") -> Float64:
    """Two coordinates a row, from rows brought to length 1.

    Args:
        embeddings: (n, D).
        method: "pca", or "umap" by cosine with a fixed seed.
    Returns:
        (n, 2).
    Raises:
        ConfigError: fewer than two rows, or four for UMAP.
    """
    if len(embeddings) < (4 if method == "umap" else 2):
        raise ConfigError(f"{len(embeddings)} rows: too few for a map by {method}; embed more files")
    return _umap(embeddings) if method == "umap" else _pca(embeddings)


def _unit(rows: npt.NDArray[np.float32]) -> Float64:
    rows64 = np.asarray(rows, np.float64)
    unit: Float64 = rows64 / np.maximum(np.linalg.norm(rows64, axis=1, keepdims=True), 1e-30)
    return unit


def _pca(embeddings: npt.NDArray[np.float32]) -> Float64:
    width = embeddings.shape[1]
    total, squares = np.zeros(width), np.zeros((width, width))
    for first in range(0, len(embeddings), _BLOCK):
        rows = _unit(embeddings[first : first + _BLOCK])
        total += rows.sum(axis=0)
        squares += rows.T @ rows
    mean = total / len(embeddings)
    _, vectors = np.linalg.eigh(squares / len(embeddings) - np.outer(mean, mean))
    axes = vectors[:, [-1, -2]] if width > 1 else np.array([[1.0, 0.0]])
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), [0, 1]] < 0, -1, 1)  # the sign is free: make it one
    blocks = (_unit(embeddings[i : i + _BLOCK]) - mean for i in range(0, len(embeddings), _BLOCK))
    return np.concatenate([block @ axes for block in blocks])


def _umap(embeddings: npt.NDArray[np.float32]) -> Float64:
    import umap

    neighbours = min(15, len(embeddings) - 1)
    # Its spectral start needs more rows than dimensions to spare.
    start = "random" if len(embeddings) < 10 else "spectral"
    reducer = umap.UMAP(n_neighbors=neighbours, metric="cosine", init=start, random_state=42, n_jobs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(reducer.fit_transform(np.asarray(embeddings)), np.float64)


def clusters(embeddings: npt.NDArray[np.float32], count: int) -> list[str]:
    """Group rows of length 1 by k-means: "cluster 1" is the largest. Needs scikit-learn.

    Args:
        embeddings: (n, D).
        count: of clusters, from 2 to n.
    Raises:
        ConfigError: `count` is out of range.
    """
    from sklearn.cluster import KMeans

    if not 2 <= count <= len(embeddings):
        raise ConfigError(f"clusters={count}: must be from 2 to the number of rows, {len(embeddings)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fewer different rows than clusters
        found = KMeans(count, n_init=4, random_state=42).fit_predict(_unit(embeddings))
    places = np.empty(count, int)
    places[np.argsort(-np.bincount(found, minlength=count), kind="stable")] = np.arange(1, count + 1)
    return [f"cluster {places[i]}" for i in found]
