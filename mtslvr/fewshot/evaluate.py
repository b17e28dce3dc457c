"""A feature matrix and labels to few-shot accuracy with its 95% interval; next module: `command`."""

from __future__ import annotations

import dataclasses
import enum
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import parse_enum
from ..errors import ConfigError
from .classifiers import Classifier, FloatArray, logistic_regression, nearest_centroid, sgd
from .episodes import EpisodeConfig, IntArray, draw_episodes

_BLOCK_BYTES = 64 * 2**20


class Scaling(str, enum.Enum):
    """L2: each row to length 1. STANDARD: each feature by mean and deviation of the episode's supports."""

    NONE = "none"
    L2 = "l2"
    STANDARD = "standard"


# The published evaluation of 2023-08 scales nothing.
DEFAULT_SCALING = {
    Classifier.LOGISTIC: Scaling.L2,
    Classifier.SGD: Scaling.NONE,
    Classifier.CENTROID: Scaling.NONE,
}


@dataclass(frozen=True)
class FewShotResult:
    """Accuracy over episodes.

    Attributes:
        mean: in percent.
        ci95: half width of the 95% interval of the mean, in percentage points.
        accuracies: (episodes,) in percent.
        settings: what was measured, plain types.
    """

    mean: float
    ci95: float
    accuracies: npt.NDArray[np.float64] = dataclasses.field(repr=False)
    settings: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.ci95:.2f}"


def evaluate(
    features: npt.ArrayLike,
    labels: npt.ArrayLike,
    config: EpisodeConfig | None = None,
    classifier: str | Classifier = Classifier.LOGISTIC,
    scaling: str | Scaling | None = None,
    *,
    pieces: npt.ArrayLike | None = None,
    episodes: npt.ArrayLike | None = None,
) -> FewShotResult:
    """Measure the few-shot accuracy of any features.

    Args:
        features: (n, D), one row a file; (sum of `pieces`, D), file by file, where files have several pieces.
        labels: (n,) one label a file, integers or strings.
        config: which episodes; `EpisodeConfig()` by default.
        classifier: "logistic", "sgd" (published; needs scikit-learn) or "centroid".
        scaling: "none", "l2" or "standard"; by default "l2" for logistic and "none" for the others.
        pieces: (n,) rows of each file: a support uses one of them at random, a query all, by majority vote.
        episodes: (E, n_way, n_shot + n_query) indices into `labels` to use instead of drawing, as from
            `published_tasks`.

    Raises:
        ConfigError: shapes that do not match, values that are not finite, unknown names, too few classes,
            or "sgd" without scikit-learn.
    Source:
        Heggan et al. 2023: frozen features, a linear classifier an episode; the interval is 1.96 population
        deviations / sqrt(E).
    """
    config = EpisodeConfig() if config is None else config
    classifier = parse_enum(Classifier, classifier, "classifier")
    scaling = DEFAULT_SCALING[classifier] if scaling is None else parse_enum(Scaling, scaling, "scaling")
    labels = np.asarray(labels)
    matrix = _checked_features(features)
    counts = _checked_pieces(pieces, len(labels), len(matrix))
    drawn = draw_episodes(labels, config) if episodes is None else np.asarray(episodes)
    _check_episodes(drawn, config, len(labels))
    if scaling is Scaling.L2:
        matrix = l2_normalize(matrix)
    rng = np.random.RandomState(config.seed)
    chosen = draw_support_pieces(counts[drawn[:, :, : config.n_shot]], rng)
    accuracies = np.empty(len(drawn))
    size = _block_size(config, int(counts.max()), matrix.shape[1])
    for start in range(0, len(drawn), size):
        block = slice(start, start + size)
        votes = classify_files(
            matrix, counts, drawn[block], chosen[block], classifier, scaling is Scaling.STANDARD, rng
        )
        accuracies[block] = 100 * (votes == np.arange(votes.shape[1])[:, None]).mean(axis=(1, 2))
    settings = {**dataclasses.asdict(config), "classifier": classifier.value, "scaling": scaling.value}
    settings.update(episodes=len(drawn), n_query=drawn.shape[2] - config.n_shot)
    return FewShotResult(float(accuracies.mean()), confidence_interval(accuracies), accuracies, settings)


def confidence_interval(accuracies: npt.NDArray[np.float64]) -> float:
    """Give half the width of the 95% interval of the mean, in the unit given: 1.96 * std / sqrt(E)."""
    return float(1.96 * accuracies.std() / math.sqrt(len(accuracies)))


def l2_normalize(features: FloatArray) -> FloatArray:
    """Bring rows of (n, D) to length 1; a zero row stays zero."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(norms > 0, norms, 1)


def l2_concat(invariant: FloatArray, variant: FloatArray) -> FloatArray:
    """Concatenate (n, D1) and (n, D2) with each row of each to length 1: both halves weigh the same."""
    return np.concatenate([l2_normalize(invariant), l2_normalize(variant)], axis=1)


def draw_support_pieces(counts: IntArray, rng: np.random.RandomState) -> IntArray:
    """Draw one piece for each support file.

    Args:
        counts: pieces of each file, any shape.
        rng: of the draws.

    Returns:
        Same shape, each from 0 to its count - 1.
    """
    flat = [rng.randint(0, count) for count in counts.ravel().tolist()]
    return np.array(flat, dtype=np.int64).reshape(counts.shape)


def classify_files(
    features: FloatArray,
    pieces: IntArray,
    episodes: IntArray,
    support_pieces: IntArray,
    classifier: Classifier,
    standardize: bool = False,
    random_state: int | np.random.RandomState | None = None,
    max_iter: int = 20,
) -> IntArray:
    """Label the query files of a block of episodes.

    Args:
        features: (sum of `pieces`, D), file by file.
        pieces: (n,) rows of each file.
        episodes: (E, n_way, n_shot + n_query) file indices.
        support_pieces: (E, n_way, n_shot) which piece of each support file to learn from.
        classifier: which.
        standardize: scale by the supports first, see `Scaling`.
        random_state: of the SGD fits.
        max_iter: of the SGD fits.

    Returns:
        (E, n_way, n_query) labels 0 .. n_way - 1.
    """
    first = np.cumsum(pieces) - pieces
    n_shot = support_pieces.shape[2]
    support = features[first[episodes[..., :n_shot]] + support_pieces]
    files = episodes[..., n_shot:]
    place = np.arange(pieces[files].max())
    # A file of fewer pieces repeats its first in the places beyond its last, which have no vote.
    valid = place < pieces[files][..., None]
    query = features[first[files][..., None] + np.where(valid, place, 0)]
    query = query.reshape(len(episodes), -1, features.shape[1])
    if standardize:
        support, query = _standardized(support, query)
    if classifier is Classifier.SGD:
        predicted = sgd(support, query, max_iter=max_iter, random_state=random_state)
    elif classifier is Classifier.CENTROID:
        predicted = nearest_centroid(support, query)
    else:
        predicted = logistic_regression(support, query)
    return majority_vote(predicted.reshape(valid.shape), valid)


def majority_vote(predicted: IntArray, valid: npt.NDArray[np.bool_] | None = None) -> IntArray:
    """Find the most frequent label along the last axis; ties go to the smallest, as published.

    Args:
        predicted: (..., P) labels from 0.
        valid: (..., P) which of them vote; all by default.

    Returns:
        (...) labels.
    """
    if predicted.shape[-1] == 1:
        return predicted[..., 0]
    valid = np.ones(predicted.shape, dtype=bool) if valid is None else valid
    counts = [((predicted == label) & valid).sum(axis=-1) for label in range(int(predicted.max()) + 1)]
    winner: IntArray = np.stack(counts).argmax(axis=0)
    return winner


def _standardized(support: FloatArray, query: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Scale both by mean and population deviation of the supports; a constant feature is only centred."""
    mean = support.mean(axis=(1, 2), keepdims=True)
    std = support.std(axis=(1, 2), keepdims=True)
    std = np.where(std > 0, std, 1)
    return (support - mean) / std, (query - mean[:, 0]) / std[:, 0]


def _block_size(config: EpisodeConfig, pieces: int, dim: int) -> int:
    """Count episodes whose features and systems in `logistic_regression` stay near 64 MiB."""
    supports = config.n_way * config.n_shot
    rows = supports + config.n_way * config.n_query * pieces
    return max(1, _BLOCK_BYTES // (8 * (2 * rows * dim + 4 * config.n_way * supports**2)))


def _checked_features(features: npt.ArrayLike) -> FloatArray:
    matrix = np.asarray(features)
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise ConfigError(f"features of shape {matrix.shape}: expected (n, D), one row a file or piece")
    if not np.issubdtype(matrix.dtype, np.floating):
        matrix = matrix.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if len(bad):
        raise ConfigError(f"features: {len(bad)} rows hold NaN or infinity, first {bad[0]}; leave them out")
    return matrix


def _checked_pieces(pieces: npt.ArrayLike | None, files: int, rows: int) -> IntArray:
    counts = np.ones(files, dtype=np.int64) if pieces is None else np.asarray(pieces)
    if counts.shape != (files,) or not np.issubdtype(counts.dtype, np.integer) or (counts < 1).any():
        raise ConfigError(f"pieces: expected {files} integers of at least 1, one a label")
    if counts.sum() != rows:
        raise ConfigError(f"features have {rows} rows, labels and pieces ask for {counts.sum()}: one a piece")
    return counts.astype(np.int64)


def _check_episodes(episodes: IntArray, config: EpisodeConfig, files: int) -> None:
    shape = episodes.shape
    if len(shape) != 3 or shape[0] == 0 or shape[1] != config.n_way or shape[2] <= config.n_shot:
        expected = f"(E, {config.n_way}, {config.n_shot} + queries)"
        raise ConfigError(f"episodes of shape {shape}: expected {expected}")
    if not np.issubdtype(episodes.dtype, np.integer) or episodes.min() < 0 or episodes.max() >= files:
        raise ConfigError(f"episodes: expected file indices from 0 to {files - 1}")
