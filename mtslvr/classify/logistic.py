"""Multinomial logistic regression of several problems at once, by Newton's method in the span of the examples."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

_TOLERANCE = 1e-6
_FLOOR = 1e-12
_SLACK = 1e-12  # rounding of an objective, relative
_MAX_NEWTON = 50
_MAX_HALVINGS = 30
SCALING_REMEDY = "scale the features, as with scaling='l2' or 'standard'"


def fit_dual(kernel: Tensor, targets: Tensor) -> Tensor:
    """Minimise tr(alpha' K alpha) / 2 + cross-entropy(K alpha + intercept, targets).

    At the minimum alpha = targets - P. With K = C X X' the weights are C X' alpha, those of scikit-learn's
    `LogisticRegression(C=C)` for more than two classes.

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
        warnings.warn(f"logistic regression has not converged; {SCALING_REMEDY}", stacklevel=4)
    return point


def _newton_target(kernel: Tensor, scores: Tensor, probabilities: Tensor, targets: Tensor) -> Tensor:
    """Find where a full Newton step leads, laid out as `fit_dual` returns it.

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
