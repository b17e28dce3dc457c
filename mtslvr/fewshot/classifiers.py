"""Supports and queries of a batch of episodes to predicted labels; next module: `evaluate`."""

from __future__ import annotations

import enum

import numpy as np

from .episodes import IntArray
from .linear import Float64, FloatArray, logistic_fit
from .sgd import sgd_fit


class Classifier(str, enum.Enum):
    """What learns from the supports of an episode.

    LOGISTIC: multinomial, L2-regularised. SGD: the published one. CENTROID: nearest class mean. COSINE: class mean of
    the directions, nearest by angle.
    """

    LOGISTIC = "logistic"
    SGD = "sgd"
    CENTROID = "centroid"
    COSINE = "cosine"

    @property
    def linear(self) -> bool:
        """Whether it fits weights, one a feature and class."""
        return self in (Classifier.LOGISTIC, Classifier.SGD)


def classify(
    kind: Classifier,
    support: FloatArray,
    query: FloatArray,
    *,
    random_state: int | np.random.RandomState | None = None,
    max_iter: int = 20,
) -> tuple[IntArray, Float64 | None]:
    """Fit each episode on its supports and label its queries.

    Args:
        kind: which classifier.
        support: (E, n_way, n_shot, D).
        query: (E, Q, D).
        random_state, max_iter: of SGD, see `sgd_fit`.

    Returns:
        (E, Q) labels 0 .. n_way - 1, and the factors of a linear classifier, see `LinearFit`.
    """
    if kind is Classifier.CENTROID:
        return nearest_centroid(support, query), None
    if kind is Classifier.COSINE:
        return cosine_prototypes(support, query), None
    if kind is Classifier.SGD:
        fit = sgd_fit(support, query, max_iter=max_iter, random_state=random_state)
    else:
        fit = logistic_fit(support, query)
    return fit.predicted, fit.dual


def nearest_centroid(support: FloatArray, query: FloatArray) -> IntArray:
    """Label each query by the nearest mean support, squared Euclidean; ties go to the smaller label.

    Source:
        The alternative classifier of Heggan et al. 2023's evaluation code.
    """
    centroids = np.asarray(support, dtype=np.float64).mean(axis=2)
    # |q - c|^2 = |q|^2 + |c|^2 - 2 q.c, where |q|^2 is the same for every class.
    distances = (centroids**2).sum(-1)[:, None] - 2 * (query @ centroids.transpose(0, 2, 1))
    nearest: IntArray = distances.argmin(axis=-1)
    return nearest


def cosine_prototypes(support: FloatArray, query: FloatArray) -> IntArray:
    """Label each query by the class whose mean direction, of supports of length 1, has the smallest angle.

    Source:
        Prototypical networks (Snell et al. 2017) with the cosine of Matching Networks (Vinyals et al. 2016).
    """
    prototypes = directions(directions(support).mean(axis=2))
    nearest: IntArray = (directions(query) @ prototypes.transpose(0, 2, 1)).argmax(axis=-1)
    return nearest


def directions(features: FloatArray) -> Float64:
    """Rows of length 1; a zero row stays zero."""
    rows = np.asarray(features, dtype=np.float64)
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    found: Float64 = rows / np.where(norms > 0, norms, 1)
    return found
