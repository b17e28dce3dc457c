"""Intervals of a mean accuracy: over the clips that there might have been, and over the draws of episodes alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from .classifiers import Float64
from .episodes import IntArray


def draws_interval(accuracies: Float64) -> float:
    """Give half the width of the 95% interval over draws from the same clips, as published: 1.96 * std / sqrt(E)."""
    return float(1.96 * accuracies.std() / math.sqrt(len(accuracies)))


def clips_interval(accuracies: Float64, episodes: IntArray, labels: npt.NDArray[Any]) -> float:
    """Give half the width of the 95% interval of the mean over other clips of the same classes, draws included.

    The mean accuracy of all episodes that the clips allow is a U-statistic: each class lends m = n_shot + n_query of
    its n clips. Without clip i it would be off by m / (n - m) times the difference between the episodes that have i
    and those that have its class, times the share of episodes with that class; the squares of these add up to the
    variance (the jackknife). The episodes drawn tell the differences, so nothing is fitted again; the noise of the
    draws in them, of known size, is taken off. A bootstrap would not do: a clip drawn twice is both support and query.

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
    found = float((scale * difference**2).sum())
    noise = float((scale * np.maximum(variance, 0) / times[seen]).sum())
    return 1.96 * math.sqrt(max(found - noise, 0) + float(accuracies.var()) / count)
