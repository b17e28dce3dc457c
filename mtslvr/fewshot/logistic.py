"""Multinomial logistic regression of many episodes at once; next module: `classifiers`."""

from __future__ import annotations

import numpy as np
import torch

from ..classify.logistic import SCALING_REMEDY, fit_dual
from ..errors import ConfigError
from .episodes import IntArray
from .linear import Float64, FloatArray, LinearFit

_LARGEST = 1e7  # its square, times float64 epsilon, is still below 1


def logistic_regression(support: FloatArray, query: FloatArray, *, inverse_penalty: float = 1.0) -> IntArray:
    """Fit multinomial logistic regression to convergence, all episodes at once.

    It minimises inverse_penalty * (sum of cross-entropies) + |W|^2 / 2 with a free intercept: scikit-learn's
    `LogisticRegression(C=inverse_penalty)`.

    Args:
        support: (E, n_way, n_shot, D).
        query: (E, Q, D).
        inverse_penalty: scikit-learn's C.

    Returns:
        (E, Q) labels 0 .. n_way - 1.

    Raises:
        ConfigError: `inverse_penalty` is not positive, or features are beyond 1e7.
    """
    return logistic_fit(support, query, inverse_penalty=inverse_penalty).predicted


def logistic_fit(support: FloatArray, query: FloatArray, *, inverse_penalty: float = 1.0) -> LinearFit:
    """Give the decision values and the weights of `logistic_regression`.

    The optimal weights lie in the span of the supports, so everything happens between their inner products,
    whatever D is. A free intercept takes up any shift of the features: subtracting the mean support changes
    nothing but rounding.

    Args:
        support: (E, n_way, n_shot, D).
        query: (E, Q, D).
        inverse_penalty: scikit-learn's C.

    Raises:
        ConfigError: `inverse_penalty` is not positive, or features are beyond 1e7.
    """
    if not inverse_penalty > 0:
        raise ConfigError(f"inverse_penalty={inverse_penalty!r}: must be positive")
    n_way, n_shot = support.shape[1:3]
    # With two classes scikit-learn has one weight vector w. Ours are w/2 and -w/2: half the penalty.
    variance = inverse_penalty / 2 if n_way == 2 else inverse_penalty
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
