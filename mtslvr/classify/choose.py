"""Which features a task wants, found from its labelled examples alone; next: `classifier`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .logistic import fit_dual

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

# How much of the inner product of two rows comes from the invariant embedding, the rest from the variant one.
SHARES = {
    0.0: "variant",
    0.25: "25% invariant + 75% variant",
    0.5: "concat",
    0.75: "75% invariant + 25% variant",
    1.0: "invariant",
}
# scikit-learn's C. Of 1, 10 and 100, 100 is best on the visible validation sets from five examples a class on, and no
# worse with fewer.
INVERSE_PENALTY = 100.0
_TEMPERATURES = np.geomspace(0.1, 10.0, 41)
FIGURES = {  # what `figures` gives
    "classes": dict, "recordings": int, "features": str, "reason": str, "candidates": list, "confusion": list,
    "doubtful": list,
}  # fmt: skip
_MOST_FOLDS = 20
_MOST_DOUBTFUL = 20
_MOST_ROWS = 400  # of the examples that the choice is measured on
# Few examples say little of a temperature: it is drawn to this one, and at 20 examples halfway. Of 0.2 to 1 this has
# the lowest log loss on the visible validation sets, with one, two and five examples a class.
_USUAL_TEMPERATURE, _TRUSTED = 0.7, 20


@dataclass(frozen=True)
class Candidate:
    """What the cross-validation says of one choice of features."""

    features: str  # invariant, variant, concat, or both with the weight of each
    share: float  # of the invariant embedding, see `SHARES`
    accuracy: float = math.nan  # of examples held out, 0 to 1, the mean over classes
    log_loss: float = math.nan  # of examples held out, in nats, at the best temperature
    temperature: float = _USUAL_TEMPERATURE  # by which decision values are divided for calibrated probabilities


@dataclass(frozen=True, eq=False)
class Choice:
    """The features for a task."""

    chosen: Candidate  # whose figures are NaN where nothing could be measured
    candidates: tuple[Candidate, ...]  # all that were tried
    rows: Int64  # (m,) which of the examples were held out in turn
    probabilities: Float64  # (m, C) of these by classifiers that had not seen their recording
    reason: str  # for people


def unit_rows(embeddings: npt.NDArray[Any], share: float, invariant: int) -> Float64:
    """Bring rows (n, D) to length 1, the squared lengths of both halves being `share` and 1 - `share`.

    The invariant half is the first `invariant` numbers; where that is all of them, the share does not matter.
    """
    rows = np.array(embeddings, np.float64)
    for part, weight in ((rows[:, :invariant], share), (rows[:, invariant:], 1 - share)):
        weight = 1.0 if invariant == rows.shape[1] else weight
        with np.errstate(invalid="ignore"):  # infinite numbers, which become none
            part *= math.sqrt(weight) / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)
    return rows


def fit_linear(kernels: Float64, targets: Int64, classes: int) -> tuple[Float64, Float64]:
    """Fit logistic regressions with L2 penalty for several kernels (E, n, n) of the same examples.

    Gives factors (E, n, classes), the weights being the sum of the examples times these, and intercepts (E, classes)
    for classes that are equally frequent, however many examples each has.
    """
    one_hot = torch.eye(classes, dtype=torch.float64)[torch.from_numpy(targets)]
    point = fit_dual(INVERSE_PENALTY * torch.from_numpy(kernels), one_hot).numpy()
    frequency = np.bincount(targets, minlength=classes) / len(targets)
    return INVERSE_PENALTY * point[:, :-1], point[:, -1] - np.log(frequency * classes)


def softmax(scores: Float64) -> Float64:
    """Probabilities (..., C) of decision values."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def folds(targets: Int64, recordings: Sequence[str]) -> list[npt.NDArray[np.bool_]]:
    """Masks (n,) of examples that are held out together, those of a recording, or of several where there are over 20.

    Examples whose class has no other recording are in none of them. Recordings that share a fold are of different
    classes where that can be, for else a class would have none left.
    """
    by_class = dict.fromkeys(recordings[row] for row in np.argsort(targets, kind="stable"))
    number = {name: i % _MOST_FOLDS for i, name in enumerate(by_class)}
    fold = np.array([number[name] for name in recordings])
    masks = [fold == i for i in np.unique(fold)]
    masks = [out & np.isin(targets, targets[~out]) for out in masks]
    return [out for out in masks if out.any()]


def choose(
    embeddings: npt.NDArray[Any],
    targets: Int64,
    recordings: Sequence[str],
    invariant: int,
    features: str = "concat",
) -> Choice:
    """Measure by cross-validation whether a task wants the invariant features, the variant ones, or both.

    Args:
        embeddings: (n, D) of the examples, the invariant embedding first.
        targets: (n,) classes from 0 on.
        recordings: n names; rows of one recording never stand on both sides.
        invariant: width of the invariant half; D where there is nothing to choose, but probabilities to calibrate.
        features: the name of the only ones then.
    """
    shares = {1.0: features} if invariant == embeddings.shape[1] else SHARES
    rows = np.arange(len(targets))[:: -(-len(targets) // _MOST_ROWS)]
    targets, classes = targets[rows], int(targets.max()) + 1
    x = np.stack([unit_rows(embeddings[rows], share, invariant) for share in shares])
    scores, measured = _held_out(x @ x.transpose(0, 2, 1), targets, [recordings[row] for row in rows], classes)
    if not measured.any():
        even = Candidate(shares[share := min(shares, key=_unevenness)], share)
        told = "no class has examples of two recordings, so nothing can be measured"
        return Choice(even, (), np.empty(0, np.int64), np.empty((0, classes)), told)
    scores, targets = scores[:, measured], targets[measured]
    tried = [_candidate(*pair, s, targets) for pair, s in zip(shares.items(), scores, strict=True)]
    candidates = tuple(candidate for candidate, _ in tried)
    best, told = _best(candidates, np.stack([losses for _, losses in tried]))
    probabilities = softmax(scores[best] / candidates[best].temperature)
    return Choice(candidates[best], candidates, rows[measured], probabilities, told)


def _best(candidates: Sequence[Candidate], losses: Float64) -> tuple[int, str]:
    """The number of the candidate that losses (E, n) of n examples speak for, and why.

    That with the lowest mean; but one embedding alone where it is better than the other alone, and no mixture better
    than it, by more than a standard error. On the visible validation sets this comes nearer to the better embedding.
    """
    means = losses.mean(axis=1).round(3)  # as they are shown
    best = min(range(len(means)), key=lambda i: (means[i], _unevenness(candidates[i].share)))
    alone, other = (0, len(means) - 1) if means[0] <= means[-1] else (len(means) - 1, 0)
    over = "of examples held out with their recording"
    if best != alone and _is_lower(losses[alone], losses[other]) and not _is_lower(losses[best], losses[alone]):
        return alone, f"one embedding alone within a standard error of the lowest log loss {over}"
    if not means.any():
        return best, f"log loss 0.000 {over}, whatever the features; too easy to choose by, so an even mixture"
    equal = "; of equal ones the most even mixture" if (means == means.min()).sum() > 1 else ""
    return best, f"lowest log loss {over}{equal}"


def _is_lower(losses: Float64, than: Float64) -> bool:
    """Whether losses (n,) of examples are lower by more than a standard error of the difference."""
    gain = than - losses
    return bool(gain.mean() > gain.std() / math.sqrt(len(gain)))


def _unevenness(share: float) -> float:
    return abs(share - 0.5)


def _held_out(
    kernels: Float64, targets: Int64, recordings: Sequence[str], classes: int
) -> tuple[Float64, npt.NDArray[np.bool_]]:
    """Decision values (E, n, classes) of examples by classifiers without their recordings, and which (n,) have them."""
    scores = np.full((*kernels.shape[:2], classes), -np.inf)
    measured = np.zeros(len(targets), dtype=bool)
    for held_out in folds(targets, recordings):
        present, inner = np.unique(targets[~held_out], return_inverse=True)
        factors, intercepts = fit_linear(kernels[:, ~held_out][:, :, ~held_out], inner, len(present))
        given = kernels[:, held_out][:, :, ~held_out] @ factors + intercepts[:, None]
        scores[np.ix_(np.arange(len(kernels)), held_out.nonzero()[0], present)] = given
        measured |= held_out
    return scores, measured


def _candidate(share: float, features: str, scores: Float64, targets: Int64) -> tuple[Candidate, Float64]:
    """What decision values (n, C) of examples held out say, and the log loss (n,) of each."""
    right = scores.argmax(axis=1) == targets
    accuracy = float(np.mean([right[targets == k].mean() for k in np.unique(targets)]))
    losses = [log_losses(softmax(scores / temperature), targets) for temperature in _TEMPERATURES]
    best = int(np.argmin([each.mean() for each in losses]))
    trust = len(targets) / (len(targets) + _TRUSTED)
    temperature = float(_TEMPERATURES[best] ** trust * _USUAL_TEMPERATURE ** (1 - trust))
    return Candidate(features, share, accuracy, float(losses[best].mean()), temperature), losses[best]


def log_losses(probabilities: Float64, targets: Int64) -> Float64:
    """-log of the true class's probability for each row, in nats."""
    true = np.take_along_axis(probabilities, targets[:, None], axis=1)[:, 0]
    return -np.log(np.maximum(true, 1e-6)) + 0.0  # not -0


def figures(
    choice: Choice, classes: Sequence[str], targets: Int64, clips: Sequence[str], recordings: Sequence[str]
) -> dict[str, Any]:
    """What people are told of n examples: what `choose` found, and how clips, their windows together, were taken.

    In "confusion" a class is a row and a column what its clips held out were taken for; "doubtful" are those that were
    taken for another class, the surest first: perhaps mislabelled.
    """
    keys = list(zip(clips, targets.tolist(), strict=True))
    row = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    total = np.zeros((len(row), len(classes)))
    np.add.at(total, [row[keys[held_out]] for held_out in choice.rows], choice.probabilities)
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    wrong = []
    for (clip, true), summed in zip(row, total, strict=True):
        taken, sure = int(summed.argmax()), float(summed.max() / max(summed.sum(), 1e-12))
        confusion[true, taken] += sure > 0
        if sure > 0 and taken != true:
            wrong.append({"clip": clip, "label": classes[true], "taken_for": classes[taken], "probability": sure})
    return {
        "classes": {name: sum(true == i for _, true in row) for i, name in enumerate(classes)},
        "recordings": len(set(recordings)),
        "features": choice.chosen.features,
        "reason": choice.reason,
        "candidates": [vars(candidate) for candidate in choice.candidates],
        "confusion": confusion.tolist(),
        "doubtful": sorted(wrong, key=lambda clip: -clip["probability"])[:_MOST_DOUBTFUL],
    }
