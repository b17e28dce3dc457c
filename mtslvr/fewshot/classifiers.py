"""Supports and queries of a batch of episodes to predicted labels; next module: `evaluate`.

Both linear classifiers move their weights within the span of the supports only, so every score they meet is a sum of
inner products of supports. Those are taken once for all episodes, and all fits run on them in step: a thousand episodes
cost about as much as a few in scikit-learn, whatever the width of the features.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..classify.logistic import SCALING_REMEDY, fit_dual
from ..errors import ConfigError
from .episodes import IntArray

FloatArray = npt.NDArray[np.floating[Any]]
Float64 = npt.NDArray[np.float64]
_LARGEST = 1e7  # its square, times float64 epsilon, is still below 1
_LARGEST_INT32 = np.iinfo(np.int32).max
_ETA0, _ETA_LAST, _ETA_DIVISOR = 0.1, 1e-6, 5.0
_TOLERANCE, _PATIENCE = 1e-4, 2
_BLOCK = 512  # episodes whose state stays in the processor's cache


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
    rng: np.random.RandomState | None = None,
    max_iter: int = 20,
) -> tuple[IntArray, Float64 | None]:
    """Fit each episode on its supports (E, n_way, n_shot, D) and label its queries (E, Q, D).

    Returns:
        (E, Q) labels 0 .. n_way - 1, and of a linear classifier the factors (E, S, K) with which its weights are the
        sum of the supports; K is n_way, or 1 where SGD has two classes. `rng` and `max_iter` are as of `sgd_fit`.
    """
    if kind is Classifier.CENTROID:
        return nearest_centroid(support, query), None
    if kind is Classifier.COSINE:
        return cosine_prototypes(support, query), None
    return sgd_fit(support, query, rng, max_iter) if kind is Classifier.SGD else logistic_fit(support, query)


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
    return rows / np.where(norms > 0, norms, 1)


def logistic_fit(support: FloatArray, query: FloatArray) -> tuple[IntArray, Float64]:
    """Fit multinomial logistic regression to convergence: scikit-learn's `LogisticRegression(C=1)`.

    It minimises the sum of cross-entropies + |W|^2 / 2 with a free intercept, which takes up any shift of the features:
    subtracting the mean support changes nothing but rounding.

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
    largest: IntArray = ((q - centre) @ (x.mT @ dual) + point[:, -1:]).numpy().argmax(axis=-1)
    # The factors add up to 0 over the supports, so that the mean support does not matter to the weights.
    return largest, dual.numpy()


def weight_norms(dual: Float64, support: FloatArray, branches: Sequence[slice]) -> Float64:
    """Norms (E, branches) of the weights, by the factors of `classify`, on some columns of the supports."""
    x = support.reshape(len(support), -1, support.shape[-1]).astype(np.float64)
    parts = [np.linalg.norm(x[..., branch].transpose(0, 2, 1) @ dual, axis=(1, 2)) for branch in branches]
    return np.stack(parts, axis=1)


def sgd_fit(
    support: FloatArray, query: FloatArray, rng: np.random.RandomState | None = None, max_iter: int = 20
) -> tuple[IntArray, Float64]:
    """Fit the published linear classifier: what scikit-learn fits, in the same order of samples.

    Settings: SGDClassifier(loss="log_loss", alpha=0, learning_rate="adaptive", eta0=0.1, tol=1e-4,
    n_iter_no_change=2), one against the rest.

    Args:
        support, query: as of `classify`.
        rng: the random state that the fits draw from in turn; a new one of seed 0 by default.
        max_iter: passes over the supports, 20 or 100: both stand in a merge conflict of the published code.
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
    targets = np.repeat(np.eye(n_way), n_shot, axis=0)
    targets = targets[:, 1:] if n_way == 2 else targets  # one column tells two classes apart
    seeds = _fit_seeds(episodes, n_way, np.random.RandomState(0) if rng is None else rng)
    x = support.reshape(episodes, n_way * n_shot, dim).astype(np.float64)
    dual = np.empty((episodes, x.shape[1], seeds.shape[1]))
    scores = np.empty((episodes, query.shape[1], seeds.shape[1]))
    for start in range(0, episodes, _BLOCK):
        block = slice(start, start + _BLOCK)
        kernel = x[block] @ x[block].transpose(0, 2, 1)
        dual[block], intercept = _descend(kernel, targets, _shuffles(seeds[block], x.shape[1]), max_iter)
        scores[block] = query[block] @ x[block].transpose(0, 2, 1) @ dual[block] + intercept[:, None]
    if not np.isfinite(scores).all():
        largest = float(np.abs(x).max())
        raise ConfigError(f"features up to {largest:.1e}: too large for sgd; scale them, as with scaling='l2'")
    return _predict(scores.astype(precision)), dual


def _fit_seeds(episodes: int, n_way: int, rng: np.random.RandomState) -> npt.NDArray[np.uint32]:
    """(E, K) seeds of the shuffles: what each binary fit of scikit-learn draws last."""
    draws = np.empty((episodes, 1 if n_way == 2 else n_way), dtype=np.uint32)
    inner = np.random.RandomState(0)
    for row in draws:
        if n_way == 2:
            rng.randint(1, _LARGEST_INT32)
            row[0] = rng.randint(_LARGEST_INT32)
            continue
        for column, seed in enumerate(rng.randint(_LARGEST_INT32, size=n_way)):
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
