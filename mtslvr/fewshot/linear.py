"""What a linear classifier of an episode is, and how its weights are spread over parts of the features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .episodes import IntArray

FloatArray = npt.NDArray[np.floating[Any]]
Float64 = npt.NDArray[np.float64]


class LinearFit(NamedTuple):
    """A linear classifier an episode.

    Attributes:
        predicted: (E, Q) labels 0 .. n_way - 1.
        scores: (E, Q, K) decision values of each query; K is n_way, or 1 for two classes (that of label 1).
        dual: (E, S, K): the weights are the sum of the supports with these factors.
    """

    predicted: IntArray
    scores: Float64
    dual: Float64


def weight_norms(dual: Float64, support: FloatArray, branches: Sequence[slice]) -> Float64:
    """Take the norm of the weights on each branch of the features.

    Args:
        dual: (E, S, K), see `LinearFit`.
        support: (E, n_way, n_shot, D), the features that it was fitted on.
        branches: columns of each branch.

    Returns:
        (E, branches): Euclidean norms of the (D_branch, K) weights.
    """
    x = support.reshape(len(support), -1, support.shape[-1]).astype(np.float64)
    parts = [np.linalg.norm(x[..., branch].transpose(0, 2, 1) @ dual, axis=(1, 2)) for branch in branches]
    return np.stack(parts, axis=1)
