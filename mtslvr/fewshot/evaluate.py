"""A feature matrix and labels to few-shot accuracy with its 95% interval; next module: `command`."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import parse_enum
from ..errors import ConfigError
from .classifiers import Classifier, Float64, FloatArray, classify, weight_norms
from .episodes import EpisodeConfig, IntArray, draw_episodes

_BLOCK_BYTES = 64 * 2**20


class Scaling(str, enum.Enum):
    """L2: each row to length 1. STANDARD: each feature by mean and deviation of the episode's supports."""

    NONE = "none"
    L2 = "l2"
    STANDARD = "standard"


@dataclass(frozen=True)
class FewShotResult:
    """Accuracy over episodes, in percent.

    Attributes:
        ci95: half width of the 95% interval of the mean over other clips of the same classes, see `clips_interval`.
        ci95_draws: the same over other draws from these clips, as published.
        accuracies: (episodes,).
        settings: what was measured, plain types.
        per_class: label to the accuracy of its queries, for every class that an episode had.
        weight_share: branch to its share of the classifier's weights, where `evaluate` was given `branches`.
    """

    mean: float
    ci95: float
    ci95_draws: float
    accuracies: npt.NDArray[np.float64] = dataclasses.field(repr=False)
    settings: dict[str, Any]
    per_class: dict[str, float] = dataclasses.field(default_factory=dict, repr=False)
    weight_share: dict[str, float] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± " + ("?" if math.isnan(self.ci95) else f"{self.ci95:.2f}")


def evaluate(
    features: npt.ArrayLike,
    labels: npt.ArrayLike,
    config: EpisodeConfig | None = None,
    classifier: str | Classifier = Classifier.LOGISTIC,
    scaling: str | Scaling | None = None,
    *,
    pieces: npt.ArrayLike | None = None,
    branches: Mapping[str, slice] | None = None,
) -> FewShotResult:
    """Measure the few-shot accuracy of any features.

    Args:
        features: (n, D), one row a file; (sum of `pieces`, D), file by file, where files have several pieces.
        labels: (n,) one label a file, integers or strings.
        config: which episodes; `EpisodeConfig()` by default.
        classifier: "logistic", "sgd" (published), "centroid" or "cosine".
        scaling: "none", "l2" or "standard"; by default "l2" for logistic and "none" for the others.
        pieces: (n,) rows of each file: a support uses one of them at random, a query all, by majority vote.
        branches: name to columns; measures the share of the classifier's weights on each. An episode's share is the
            norm of the weights on the branch over the sum of the norms on all, and the result their mean.
    Raises:
        ConfigError: shapes that do not match, values that are not finite, unknown names, too few classes,
            or `branches` with a classifier that has no weights.
    Source:
        Heggan et al. 2023: frozen features, a linear classifier an episode.
    """
    config = EpisodeConfig() if config is None else config
    classifier = parse_enum(Classifier, classifier, "classifier")
    if scaling is None:  # the published evaluation of 2023-08 scales nothing
        scaling = Scaling.L2 if classifier is Classifier.LOGISTIC else Scaling.NONE
    scaling = parse_enum(Scaling, scaling, "scaling")
    if branches and not classifier.linear:
        raise ConfigError(f"branches: classifier={classifier.value!r} has no weights; use 'sgd' or 'logistic'")
    labels = np.asarray(labels)
    matrix = _checked_features(features)
    counts = _checked_pieces(pieces, len(labels), len(matrix))
    drawn = draw_episodes(labels, config)
    if scaling is Scaling.L2:
        lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
        matrix = matrix / np.where(lengths > 0, lengths, 1)
    rng = np.random.RandomState(config.seed)
    chosen = draw_support_pieces(counts[drawn[:, :, : config.n_shot]], rng)
    correct = np.empty(drawn.shape[:2])
    norms = np.empty((len(drawn), len(branches or {})))
    size = _block_size(config, int(counts.max()), matrix.shape[1])
    for start in range(0, len(drawn), size):
        block = slice(start, start + size)
        votes, norms[block] = classify_files(
            matrix, counts, drawn[block], chosen[block], classifier, rng,
            standardize=scaling is Scaling.STANDARD, branches=list((branches or {}).values()),
        )  # fmt: skip
        correct[block] = (votes == np.arange(votes.shape[1])[:, None]).mean(axis=2)
    settings = {**dataclasses.asdict(config), "classifier": classifier.value, "scaling": scaling.value}
    settings["n_query"] = drawn.shape[2] - config.n_shot
    accuracies = 100 * correct.mean(axis=1)
    return FewShotResult(
        float(accuracies.mean()),
        clips_interval(accuracies, drawn, labels),
        draws_interval(accuracies),
        accuracies,
        settings,
        _per_class(labels[drawn[:, :, 0]], correct),
        _shares(norms, list(branches or {})),
    )


def draws_interval(accuracies: Float64) -> float:
    """Give half the width of the 95% interval over draws from the same clips, as published: 1.96 * std / sqrt(E)."""
    return float(1.96 * accuracies.std() / math.sqrt(len(accuracies)))


def clips_interval(accuracies: Float64, episodes: IntArray, labels: npt.NDArray[Any]) -> float:
    """Give half the width of the 95% interval of the mean over other clips of the same classes, draws included.

    The mean accuracy of all episodes that the clips allow is a U-statistic: each class lends m = n_shot + n_query of
    its n clips. Without clip i it would be off by m / (n - m) times the difference between the episodes that have i
    and those that have its class, times the share of episodes with that class; the squares of these add up to the
    variance (the jackknife). The episodes drawn tell the differences, so nothing is fitted again; the noise of the
    draws in them, of known size, is taken off. Where it hides them, its own standard error stands for what is hidden,
    so that the interval is too wide rather than too narrow. A bootstrap would not do: a clip drawn twice is both
    support and query.

    Args:
        accuracies: (E,) of the episodes; of two features on the same episodes, their difference gives its interval.
        episodes: (E, n_way, m) indices into `labels`.
        labels: (n,) one label a file.
    Returns:
        In the unit given. NaN where a class has no clip beyond those of each of its episodes.
    Source:
        Arvesen 1969, doi 10.1214/aoms/1177697287; with the noise of draws as in Wager, Hastie and Efron 2014,
        "Confidence intervals for random forests: the jackknife and the infinitesimal jackknife", section 3.
    """
    count, n_way, taken = episodes.shape
    classes, place = np.unique(labels, return_inverse=True)
    files = np.bincount(place)
    weights = np.repeat(accuracies, n_way * taken)
    times = np.bincount(episodes.ravel(), minlength=len(labels))
    of_class = place[episodes[:, :, 0]].ravel()
    class_times = np.bincount(of_class, minlength=len(classes))
    if (files[class_times > 0] <= taken).any():
        return math.nan
    seen = times > 0
    mean = np.bincount(episodes.ravel(), weights, len(labels))[seen] / times[seen]
    variance = np.bincount(episodes.ravel(), weights**2, len(labels))[seen] / times[seen] - mean**2
    class_sums = np.bincount(of_class, np.repeat(accuracies, n_way), len(classes))
    mine = place[seen]
    difference = mean - class_sums[mine] / class_times[mine]
    n = files[mine]
    scale = (class_times[mine] / count * taken / (n - taken)) ** 2 * (n - 1) / n
    # The episodes that have a clip are a part of those that have its class, and their mean is off by that much less.
    noise = scale * np.maximum(variance, 0) * (1 / times[seen] - 1 / class_times[mine])
    hidden = math.sqrt(2 * float((noise**2).sum()))
    of_clips = max(float((scale * difference**2 - noise).sum()), hidden)
    return 1.96 * math.sqrt(of_clips + float(accuracies.var()) / count)


def _per_class(classes: npt.NDArray[Any], correct: Float64) -> dict[str, float]:
    """Average the fractions of right queries (E, n_way) over the episodes that had a class (E, n_way)."""
    names, place = np.unique(classes, return_inverse=True)
    share = 100 * np.bincount(place.ravel(), weights=correct.ravel()) / np.bincount(place.ravel())
    return {str(name): float(value) for name, value in zip(names, share, strict=True)}


def _shares(norms: Float64, names: list[str]) -> dict[str, float]:
    """Average each episode's shares; an episode without any weight says nothing."""
    total = norms.sum(axis=1, keepdims=True)
    shares = norms[total[:, 0] > 0] / total[total[:, 0] > 0]
    return dict(zip(names, shares.mean(axis=0).tolist(), strict=True)) if len(shares) else {}


def draw_support_pieces(counts: IntArray, rng: np.random.RandomState) -> IntArray:
    """Draw one of the pieces of each support file, by their counts in any shape."""
    flat = [rng.randint(0, count) for count in counts.ravel().tolist()]
    return np.array(flat, dtype=np.int64).reshape(counts.shape)


def classify_files(
    features: FloatArray,
    pieces: IntArray,
    episodes: IntArray,
    support_pieces: IntArray,
    classifier: Classifier,
    rng: np.random.RandomState,
    *,
    standardize: bool = False,
    max_iter: int = 20,
    branches: Sequence[slice] = (),
) -> tuple[IntArray, Float64]:
    """Label the query files of a block of episodes, learning from one piece (E, n_way, n_shot) of each support file.

    Returns:
        (E, n_way, n_query) labels 0 .. n_way - 1, and (E, branches) norms of a linear classifier's weights.
    """
    first = np.cumsum(pieces) - pieces
    n_shot = support_pieces.shape[2]
    support = features[first[episodes[..., :n_shot]] + support_pieces]
    files = episodes[..., n_shot:]
    place = np.arange(pieces[files].max())
    # A file of fewer pieces repeats its first in the places beyond its last, which have no vote.
    valid = place < pieces[files][..., None]
    query = features[first[files][..., None] + np.where(valid, place, 0)].reshape(len(episodes), -1, features.shape[1])
    if standardize:
        support, query = _standardized(support, query)
    predicted, dual = classify(classifier, support, query, rng, max_iter)
    votes = majority_vote(predicted.reshape(valid.shape), valid)
    return votes, np.empty((len(votes), 0)) if dual is None or not branches else weight_norms(dual, support, branches)


def majority_vote(predicted: IntArray, valid: npt.NDArray[np.bool_]) -> IntArray:
    """Find the most frequent of the valid labels along the last axis; ties go to the smallest, as published."""
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
    """Count episodes whose features and systems in `logistic_fit` stay near 64 MiB."""
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
