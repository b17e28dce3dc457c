"""File labels to episodes, arrays of file indices; next module: `classifiers`, `evaluate`."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EpisodeConfig:
    """What an episode is, and how many are drawn; a value outside its range is a ConfigError."""

    n_way: int = 5  # classes in an episode
    n_shot: int = 1  # support files a class
    n_query: int = 1  # query files a class
    episodes: int = 1000
    seed: int = 42  # of every draw
    sampler: str = "uniform"  # or "published", see `published_tasks`

    def __post_init__(self) -> None:
        ranges = {"n_way": (2, 10_000), "n_shot": (1, 10_000), "n_query": (1, 10_000)}
        for name, (low, high) in {**ranges, "episodes": (1, 10_000_000), "seed": (0, 2**32 - 1)}.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ConfigError(f"{name}={value!r}: must be an integer from {low} to {high}")
        if self.sampler not in ("uniform", "published"):
            raise ConfigError(f"sampler={self.sampler!r}: unknown; use one of uniform, published")

    @property
    def files_per_class(self) -> int:
        """Files that an episode takes from each of its classes."""
        return self.n_shot + self.n_query


def usable_classes(labels: npt.ArrayLike, config: EpisodeConfig) -> npt.NDArray[Any]:
    """List the classes with enough files for one episode, ascending; a warning names the dropped ones."""
    classes, counts = np.unique(_checked(labels), return_counts=True)
    small = counts < config.files_per_class
    if small.any():
        named = ", ".join(f"{c} ({n})" for c, n in zip(classes[small], counts[small], strict=True))
        needed = f"{config.n_shot} support + {config.n_query} query"
        warnings.warn(f"dropped classes with fewer than {needed} files: {named}", stacklevel=3)
    return classes[~small]


def draw_episodes(labels: npt.ArrayLike, config: EpisodeConfig) -> IntArray:
    """Draw episodes of distinct classes and distinct files, all combinations equally likely unless as published.

    The first m of many episodes are the m episodes of the same seed.

    Args:
        labels: (n,) one label a file, integers or strings.
        config: which episodes.
    Returns:
        (episodes, n_way, n_shot + n_query) indices into `labels`, supports first.
    Raises:
        ConfigError: fewer than `n_way` classes have enough files.
    """
    if config.sampler == "published":
        return published_tasks(labels, config)
    labels = _checked(labels)
    usable = usable_classes(labels, config)
    if len(usable) < config.n_way:
        raise _too_few(labels, config)
    names, counts = np.unique(labels, return_counts=True)
    place = np.searchsorted(names, usable)
    first, by_class = (np.cumsum(counts) - counts)[place], np.argsort(labels, kind="stable")
    n_way, depth = config.n_way, config.files_per_class
    uniform = np.random.default_rng(config.seed).random((config.episodes, n_way * (1 + depth)))
    classes = _distinct(uniform[:, :n_way], np.full(config.episodes, len(usable)))
    places = _distinct(uniform[:, n_way:].reshape(-1, n_way, depth), counts[place][classes])
    files: IntArray = by_class[first[classes][..., None] + places]
    return files


def published_tasks(labels: npt.ArrayLike, config: EpisodeConfig) -> IntArray:
    """Draw the tasks of the published sampler, number by number.

    A task takes the classes with the n_way smallest of one uniform number a class. Each class then shuffles its own
    list of files in place, so a task starts from the order that the last one left. Where fewer than n_way classes have
    enough files, all classes come back with one query each. Arguments and result are those of `draw_episodes`.

    Raises:
        ConfigError: fewer than `n_way` classes, or in that case one with fewer than n_shot + 1 files.
    Source:
        Evaluation code of Heggan et al. 2023, `numpy.random.seed(seed)` before its sampler is built.
    """
    labels = _checked(labels)
    usable = usable_classes(labels, config)
    if len(usable) < config.n_way:
        usable = np.unique(labels)
        config = dataclasses.replace(config, n_query=1)
        warnings.warn("too few classes have enough files: all classes, one query each, as published", stacklevel=2)
    members = [np.flatnonzero(labels == label) for label in usable]
    if len(usable) < config.n_way or min(map(len, members)) < config.files_per_class:
        raise _too_few(labels, config)
    rng = np.random.RandomState(config.seed)
    tasks = np.empty((config.episodes, config.n_way, config.files_per_class), dtype=np.int64)
    for task in tasks:
        for way, label in enumerate(np.argsort(rng.uniform(size=len(usable)))[: config.n_way]):
            rng.shuffle(members[label])
            task[way] = members[label][: config.files_per_class]
    return tasks


def _too_few(labels: npt.NDArray[Any], config: EpisodeConfig) -> ConfigError:
    _, counts = np.unique(labels, return_counts=True)
    return ConfigError(
        f"n_way={config.n_way} takes {config.n_way} classes, n_shot={config.n_shot} and n_query={config.n_query} take "
        f"{config.files_per_class} files of each; here are {len(counts)} classes, and "
        f"{(counts >= config.files_per_class).sum()} of them have so many files. Ask for less, or add files: a folder "
        "a class, its clips in it"
    )


def _checked(labels: npt.ArrayLike) -> npt.NDArray[Any]:
    array = np.asarray(labels)
    if array.ndim != 1 or len(array) == 0:
        raise ConfigError(f"labels of shape {array.shape}: expected (n,), one label a file")
    return array


def _distinct(uniform: npt.NDArray[np.float64], sizes: IntArray) -> IntArray:
    """Draw (..., m) distinct numbers from range(sizes), by (..., m) numbers in [0, 1).

    Draw j is uniform among the sizes - j numbers left. Counting it past each earlier draw that is not above it, from
    the smallest up, gives the number that it stands for.
    """
    drawn = np.empty(uniform.shape, dtype=np.int64)
    for j in range(uniform.shape[-1]):
        number = (uniform[..., j] * (sizes - j)).astype(np.int64)
        earlier = np.sort(drawn[..., :j], axis=-1)
        for i in range(j):
            number += number >= earlier[..., i]
        drawn[..., j] = number
    return drawn
