"""Multinomial logistic regression of many episodes at once, by Newton's method; next module: `classifiers`."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError
from .episodes import IntArray
from .linear import Float64, FloatArray, LinearFit

_TOLERANCE = 1e-6
_FLOOR = 1e-12
_LARGEST = 1e7  # its square, times float64 epsilon, is still below 1
_REMEDY = "scale the features, as with scaling='l2' or 'standard'"
_SLACK = 1e-12  # rounding of an objective, relative
_MAX_NEWTON = 50
_MAX_HALVINGS = 30


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
        raise ConfigError(f"features up to {spread:.1e} from their mean: at most {_LARGEST:g}; {_REMEDY}")
    targets = torch.eye(n_way, dtype=torch.float64).repeat_interleave(n_shot, dim=0)
    point = _newton(variance * (x @ x.mT), targets)
    dual = variance * point[:, :-1]
    scores: Float64 = ((q - centre) @ (x.mT @ dual) + point[:, -1:]).numpy()
    largest: IntArray = scores.argmax(axis=-1)
    # The factors add up to 0 over the supports, so that the mean support does not matter to the weights.
    return LinearFit(largest, scores, dual.numpy())


def _newton(kernel: Tensor, targets: Tensor) -> Tensor:
    """Minimise tr(alpha' K alpha) / 2 + cross-entropy(K alpha + intercept, targets).

    At the minimum alpha = targets - P.

    Args:
        kernel: (E, S, S) positive semi-definite, float64.
        targets: (S, n_way) one-hot.

    Returns:
        (E, S + 1, n_way): alpha, then one row of intercepts.
    """
    design = torch.cat([kernel, torch.ones_like(kernel[..., :1])], dim=-1)
    point = torch.zeros(len(kernel), len(targets) + 1, targets.shape[1], dtype=kernel.dtype)
    for _ in range(_MAX_NEWTON):
        scores = design @ point
        probabilities = scores.softmax(dim=-1)
        residual = (targets - probabilities - point[:, :-1]).abs().amax(dim=(1, 2))
        if bool((residual <= _TOLERANCE * point[:, :-1].abs().amax(dim=(1, 2))).all()):
            break
        step = _newton_target(kernel, scores, probabilities, targets) - point
        point = point + _step_length(design, targets, point, step) * step
    else:
        warnings.warn(f"logistic regression has not converged; {_REMEDY}", stacklevel=4)
    return point


def _newton_target(kernel: Tensor, scores: Tensor, probabilities: Tensor, targets: Tensor) -> Tensor:
    """Find where a full Newton step leads, laid out as `_newton` returns it.

    The Hessian couples classes only through diag(p) - p p' of each support, so n_way + 1 systems of size S
    replace one of size S * n_way. With r = (diag(p) - p p') scores + targets - p and E = (K + 1/p)^-1 of a
    class, that class has alpha = r - E K r + E (shared - intercept), where `shared` = p' (new scores) of each
    support. A free intercept means that alpha sums to 0 over the supports, which gives the intercept and
    leaves E without its part along 1, the matrix F. Then the sum of alpha over classes, 0 as well, gives
    `shared`, up to a constant that shifts all classes alike.

    Source:
        Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, algorithm 3.3, there without
        an intercept.
    """
    # Where every probability is 0 or 1 the curvature vanishes; a floor keeps the systems regular.
    curved = (probabilities + _FLOOR) / (1 + _FLOOR * probabilities.shape[-1])
    root = curved.mT.sqrt()[..., None]
    system = torch.eye(kernel.shape[1], dtype=kernel.dtype) + root * kernel[:, None] * root.mT
    inverse = root * torch.cholesky_inverse(torch.linalg.cholesky(system)) * root.mT
    weight = inverse.sum(dim=-1)
    total = weight.sum(dim=-1, keepdim=True)
    free = inverse - weight[..., None] * weight[..., None, :] / total[..., None]
    pulled = curved * scores
    pulled = (pulled - curved * pulled.sum(dim=-1, keepdim=True) + targets - probabilities).mT
    reached = (kernel @ pulled.mT).mT
    damped = (free @ reached[..., None])[..., 0] + weight * pulled.sum(dim=-1, keepdim=True) / total
    # The ones fill the null space of the sum of F; they leave the rest of the solution as it is.
    coupled = free.sum(dim=1) + total.mean(dim=1)[..., None]
    shared = torch.linalg.solve(coupled, damped.sum(dim=1))[:, None]
    alpha = pulled - damped + (free @ shared[..., None])[..., 0]
    intercept = (pulled.sum(dim=-1) + (weight * (shared - reached)).sum(dim=-1)) / total[..., 0]
    return torch.cat([alpha, intercept[..., None]], dim=-1).mT


def _step_length(design: Tensor, targets: Tensor, point: Tensor, step: Tensor) -> Tensor:
    """Choose the first of 1, 1/2, 1/4, ... that does not raise an episode's objective: (E, 1, 1)."""

    def objective(at: Tensor) -> Tensor:
        scores = design @ at
        cross_entropy = scores.logsumexp(dim=-1) - (scores * targets).sum(dim=-1)
        # alpha sums to 0, so its product with K alpha is that with the scores, intercept included.
        return cross_entropy.sum(dim=1) + (at[:, :-1] * scores).sum(dim=(1, 2)) / 2

    length = torch.ones(len(point), 1, 1, dtype=point.dtype)
    limit = objective(point)
    limit = limit + _SLACK * (1 + limit.abs())
    for _ in range(_MAX_HALVINGS):
        worse = objective(point + length * step) > limit
        if not bool(worse.any()):
            break
        length[worse] /= 2
    return length
