"""The published classifier for many episodes at once; next module: `classifiers`.

scikit-learn's stochastic gradient descent changes the weights by multiples of the supports only, so every score it
meets is a sum of inner products of supports. Those are taken once for all episodes, and the descent runs on them in
step: a thousand episodes cost about as much as a few in scikit-learn, whatever the width of the features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from .episodes import IntArray
from .linear import Float64, FloatArray, LinearFit

_LARGEST_INT32 = np.iinfo(np.int32).max
_ETA0, _ETA_LAST, _ETA_DIVISOR = 0.1, 1e-6, 5.0
_TOLERANCE, _PATIENCE = 1e-4, 2
_BLOCK = 512  # episodes whose state stays in the processor's cache


def sgd_fit(
    support: FloatArray,
    query: FloatArray,
    *,
    max_iter: int = 20,
    random_state: int | np.random.RandomState | None = None,
) -> LinearFit:
    """Fit the published linear classifier: what scikit-learn fits, in the same order of samples.

    Settings: SGDClassifier(loss="log_loss", alpha=0, learning_rate="adaptive", eta0=0.1, tol=1e-4,
    n_iter_no_change=2), one against the rest.

    Args:
        support: (E, n_way, n_shot, D).
        query: (E, Q, D).
        max_iter: passes over the supports, 20 or 100: both stand in a merge conflict of the published code.
        random_state: a seed for every fit, or a state that the fits draw from in turn; the published code leaves it
            None, the global state.

    Raises:
        ConfigError: features so large that the descent overflows.
    Source:
        Evaluation code of Heggan et al. 2023, whose label is the largest probability, not the largest decision value:
        where probabilities saturate at 1 the smaller label wins. Of scikit-learn 1.9 the seeds, the shuffle and the
        stopping rule; sums are in float64 here and in the type of the features there.
    """
    episodes, n_way, n_shot, dim = support.shape
    # scikit-learn computes probabilities in the type of the features, and float32 saturates sooner.
    precision = np.float32 if support.dtype == np.float32 else np.float64
    seeds = _fit_seeds(episodes, n_way, random_state)
    x = support.reshape(episodes, n_way * n_shot, dim).astype(np.float64)
    dual = np.empty((episodes, x.shape[1], seeds.shape[1]))
    scores = np.empty((episodes, query.shape[1], seeds.shape[1]))
    for start in range(0, episodes, _BLOCK):
        block = slice(start, start + _BLOCK)
        kernel = x[block] @ x[block].transpose(0, 2, 1)
        dual[block], intercept = _descend(
            kernel, _targets(n_way, n_shot), _shuffles(seeds[block], x.shape[1]), max_iter
        )
        scores[block] = query[block] @ x[block].transpose(0, 2, 1) @ dual[block] + intercept[:, None]
    if not np.isfinite(scores).all():
        largest = float(np.abs(x).max())
        raise ConfigError(f"features up to {largest:.1e}: too large for sgd; scale them, as with scaling='l2'")
    return LinearFit(_predict(scores.astype(precision)), scores, dual)


def _targets(n_way: int, n_shot: int) -> Float64:
    """(S, K) 1 where a support is of the class that a column tells from the rest; two classes need one column."""
    one_hot = np.repeat(np.eye(n_way), n_shot, axis=0)
    return one_hot[:, 1:] if n_way == 2 else one_hot


def _fit_seeds(episodes: int, n_way: int, random_state: int | np.random.RandomState | None) -> npt.NDArray[np.uint32]:
    """(E, K) seeds of the shuffles: what each binary fit of scikit-learn draws last."""
    draws = np.empty((episodes, 1 if n_way == 2 else n_way), dtype=np.uint32)
    inner = np.random.RandomState(0)
    for row in draws:
        source: Any = np.random if random_state is None else random_state
        if isinstance(random_state, int):
            source = np.random.RandomState(random_state)
        if n_way == 2:
            source.randint(1, _LARGEST_INT32)
            row[0] = source.randint(_LARGEST_INT32)
            continue
        for column, seed in enumerate(source.randint(_LARGEST_INT32, size=n_way)):
            inner.seed(seed)
            inner.randint(1, _LARGEST_INT32)
            row[column] = inner.randint(_LARGEST_INT32)
    return draws


def _shuffles(seeds: npt.NDArray[np.uint32], count: int) -> IntArray:
    """(E, K, S) the permutation that each fit applies to its order before every pass.

    Source:
        Fisher-Yates with Marsaglia's 32-bit xorshift, as in scikit-learn's `SequentialDataset.shuffle`.
    """
    state = np.where(seeds == 0, np.uint32(1), seeds).astype(np.uint32)
    order = np.broadcast_to(np.arange(count), (*seeds.shape, count)).copy()
    for i in range(count - 1):
        for shift in (13, -17, 5):
            state ^= state << np.uint32(shift) if shift > 0 else state >> np.uint32(-shift)
        j = (i + (state & np.uint32(0x7FFFFFFF)) % np.uint32(count - i)).astype(np.int64)[..., None]
        swapped = np.take_along_axis(order, j, axis=-1)
        np.put_along_axis(order, j, order[..., i : i + 1], axis=-1)
        order[..., i : i + 1] = swapped
    return order


def _descend(kernel: Float64, targets: Float64, shuffle: IntArray, max_iter: int) -> tuple[Float64, Float64]:
    """Run all fits in step: inner products (E, S, S) and targets (S, K) to factors (E, S, K), intercepts (E, K)."""
    episodes, columns, count = shuffle.shape
    rows, fits = np.arange(episodes)[:, None], np.arange(columns)
    moved = kernel + 1  # what one unit of a support's factor and of the intercept adds to every score
    score = np.zeros((episodes, columns, count))
    dual = np.zeros((episodes, columns, count))
    intercept = np.zeros((episodes, columns))
    eta = np.full((episodes, columns), _ETA0)
    best = np.full((episodes, columns), np.inf)
    stale = np.zeros((episodes, columns), dtype=np.int64)
    running = np.ones((episodes, columns), dtype=bool)
    order = np.broadcast_to(np.arange(count), shuffle.shape)
    for _ in range(max_iter):
        order = np.take_along_axis(order, shuffle, axis=-1)
        loss = np.zeros((episodes, columns))
        for step in range(count):
            sample = order[..., step]
            p, y = score[rows, fits, sample], targets[sample, fits]
            loss += np.logaddexp(0, p) - y * p
            update = np.where(running, eta * (y - _expit(p)), 0)
            dual[rows, fits, sample] += update
            intercept += update
            score += update[..., None] * moved[rows, sample]
        stale = np.where(loss / count > best - _TOLERANCE, stale + 1, 0)
        best = np.minimum(best, loss / count)
        tired = stale >= _PATIENCE
        running &= ~(tired & (eta <= _ETA_LAST))
        eta = np.where(tired, eta / _ETA_DIVISOR, eta)
        stale = np.where(tired, 0, stale)
        if not running.any():
            break
    return dual.transpose(0, 2, 1), intercept


def _expit(x: FloatArray) -> FloatArray:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def _predict(scores: FloatArray) -> IntArray:
    """Labels of the largest probability."""
    probability = _expit(scores)
    if scores.shape[-1] == 1:
        predicted: IntArray = (probability[..., 0] > 1 - probability[..., 0]).astype(np.int64)
        return predicted
    total = probability.sum(axis=-1, keepdims=True)
    predicted = np.where(total == 0, 1, probability / np.where(total == 0, 1, total)).argmax(axis=-1)
    return predicted
