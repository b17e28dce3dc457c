"""Linear classifiers of many episodes at once: what a fit is, and logistic regression; next module: `classifiers`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ..classify.logistic import SCALING_REMEDY, fit_dual
from ..errors import ConfigError
from .episodes import IntArray

FloatArray = npt.NDArray[np.floating[Any]]
Float64 = npt.NDArray[np.float64]
_LARGEST = 1e7  # its square, times float64 epsilon, is still below 1


class LinearFit(NamedTuple):
    """A linear classifier an episode."""

    predicted: IntArray  # (E, Q) labels 0 .. n_way - 1
    scores: Float64  # (E, Q, K) decision values of each query; K is n_way, or 1 for two classes (that of label 1)
    dual: Float64  # (E, S, K): the weights are the sum of the supports with these factors


def logistic_fit(support: FloatArray, query: FloatArray) -> LinearFit:
    """Fit multinomial logistic regression to convergence: scikit-learn's `LogisticRegression(C=1)`.

    It minimises the sum of cross-entropies + |W|^2 / 2 with a free intercept. The optimal weights lie in the span of
    the supports, so everything happens between their inner products, whatever D is. A free intercept takes up any shift
    of the features: subtracting the mean support changes nothing but rounding.

    Args:
        support: (E, n_way, n_shot, D).
        query: (E, Q, D).

    Raises:
        ConfigError: features beyond 1e7.
    """
    n_way, n_shot = support.shape[1:3]
    # With two classes scikit-learn has one weight vector w. Ours are w/2 and -w/2: half the penalty.
    variance = 0.5 if n_way == 2 else 1.0
    x = torch.from_numpy(np.ascontiguousarray(support, dtype=np.float64)).flatten(1, 2)
    q = torch.from_numpy(np.ascontiguousarray(query, dtype=np.float64))
    centre = x.mean(dim=1, keepdim=True)
    x = x - centre
    spread = float(x.square().sum(dim=-1).max()) ** 0.5
    if not spread < _LARGEST:
        raise ConfigError(f"features up to {spread:.1e} from their mean: at most {_LARGEST:g}; {SCALING_REMEDY}")
    targets = torch.eye(n_way, dtype=torch.float64).repeat_interleave(n_shot, dim=0)
    point = fit_dual(variance * (x @ x.mT), targets)
    dual = variance * point[:, :-1]
    scores: Float64 = ((q - centre) @ (x.mT @ dual) + point[:, -1:]).numpy()
    largest: IntArray = scores.argmax(axis=-1)
    # The factors add up to 0 over the supports, so that the mean support does not matter to the weights.
    return LinearFit(largest, scores, dual.numpy())


def weight_norms(dual: Float64, support: FloatArray, branches: Sequence[slice]) -> Float64:
    """Take Euclidean norms (E, branches) of the weights on some columns of the features.

    Args:
        dual: (E, S, K), see `LinearFit`.
        support: (E, n_way, n_shot, D), the features that it was fitted on.
        branches: columns of each branch.
    """
    x = support.reshape(len(support), -1, support.shape[-1]).astype(np.float64)
    parts = [np.linalg.norm(x[..., branch].transpose(0, 2, 1) @ dual, axis=(1, 2)) for branch in branches]
    return np.stack(parts, axis=1)
