"""Labelled sets and models to measured rows: features once, then every classifier on the same episodes."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..config import parse_enum
from ..errors import AudioError, ConfigError
from ..nn.encoder import Encoder
from ..run.machine import environment
from .classifiers import Classifier, FloatArray
from .dataset import LabelledSet
from .episodes import EpisodeConfig, draw_episodes
from .evaluate import Scaling, evaluate
from .features import LOG_MEL, FileRows, by_name, check_names, file_rows, means, without_errors
from .results import Results, Row


@dataclass(frozen=True)
class CompareConfig:
    """What `compare` measures on each set; a value outside its range is a ConfigError."""

    features: Sequence[str] = ("invariant", "variant", "concat", LOG_MEL)  # of `features.FEATURES`
    classifiers: Sequence[str] = ("sgd", "logistic")  # of `Classifier`
    episodes: Sequence[EpisodeConfig] = (EpisodeConfig(),)  # one measurement each
    scaling: str | None = None  # of `Scaling`; None is each classifier's own
    weights: bool = False  # also the share of a linear classifier's weights on each branch
    on_error: str = "stop"  # or "skip", at a file that cannot be read

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", tuple(check_names(self.features)))
        kinds = [parse_enum(Classifier, name, "classifier") for name in self.classifiers]
        if not kinds or not self.episodes:
            raise ConfigError("no classifier or no episodes given; name at least one")
        if self.scaling is not None:
            parse_enum(Scaling, self.scaling, "scaling")
        if self.on_error not in ("stop", "skip"):
            raise ConfigError(f"on_error={self.on_error!r}: unknown; use one of stop, skip")
        if self.weights and not any(kind.linear for kind in kinds):
            raise ConfigError("weights: none of the classifiers has any; add 'sgd' or 'logistic'")


def compare(
    sets: Sequence[LabelledSet],
    models: Sequence[str | None] | Mapping[str, Encoder] = (None,),
    config: CompareConfig | None = None,
    *,
    device: str = "auto",
    batch_size: int | None = None,
    cache: str | os.PathLike[str] | bool = True,
    progress: bool = False,
) -> Results:
    """Measure several models on several sets, all features on the same episodes.

    Args:
        sets: from `read_set` or `datasets.prepare`.
        models: what `mtslvr.load` takes, None being the bundled weights; or encoders by name.
        config: what is measured.
        device: what `mtslvr.load` takes.
        batch_size: windows at once through the encoder.
        cache: keep the rows of files for the next call; a folder, True for `default_cache`, False for no.
        progress: show a bar on standard error where that is a terminal.
    Raises:
        ConfigError: before any work: names that clash, settings out of range, too few classes in a set.
        AudioError: a file that cannot be read, unless `config.on_error` is "skip".
        HubError, CheckpointError: see `mtslvr.load`.
    """
    config = CompareConfig() if config is None else config
    _check_sets(sets, config)
    sources: dict[str, Encoder | None] = {}
    if set(config.features) != {LOG_MEL}:
        sources |= load_encoders(models, device)
    if LOG_MEL in config.features:
        sources[""] = None
    how: dict[str, Any] = {"batch_size": batch_size, "cache": cache, "progress": progress}
    rows: list[Row] = []
    facts: dict[str, dict[str, Any]] = {}
    for labelled in sets:
        found = {}
        for name, encoder in sources.items():
            how["window_seconds"] = labelled.window_seconds
            if encoder is None:
                how["window_seconds"] = (labelled.window_seconds or 5.0) if labelled.pieces else None
            found[name] = file_rows(labelled.paths, encoder, **how)
        usable = _usable(list(found.values()), config.on_error)
        kept = labelled.keep(usable)
        facts[labelled.name] = kept.facts()
        for name, encoder in sources.items():
            of_files = without_errors(list(itertools.compress(found[name], usable)))
            rows += _measure(kept, name, encoder, of_files, config)
    return Results(rows, facts, environment())


def _check_sets(sets: Sequence[LabelledSet], config: CompareConfig) -> None:
    names = [labelled.name for labelled in sets]
    if not sets or len(set(names)) < len(names):
        raise ConfigError(f"datasets {', '.join(names) or 'none'}: each needs a name of its own; rename a folder")
    for labelled, episode in itertools.product(sets, config.episodes):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # `_measure` gives them again
                draw_episodes(labelled.labels, replace(episode, episodes=1))
        except ConfigError as error:
            raise ConfigError(f"{labelled.name}: {error}") from None


def load_encoders(models: Sequence[str | None] | Mapping[str, Encoder], device: str) -> dict[str, Encoder]:
    """Load several encoders, each under a short name; arguments and errors as of `compare`."""
    import mtslvr

    from ..models.hub import DEFAULT_MODEL

    if isinstance(models, Mapping):
        return dict(models)
    named = [DEFAULT_MODEL if model is None else str(model) for model in models]
    short = [os.path.basename(os.path.normpath(name)) if os.path.isdir(name) else name for name in named]
    names = short if len(set(short)) == len(short) else named
    if len(set(names)) < len(names):
        raise ConfigError(f"models {', '.join(names)}: one is given twice; name each once")
    return {name: mtslvr.load(model, device=device) for name, model in zip(names, models, strict=True)}


def _usable(found: Sequence[FileRows], on_error: str) -> list[bool]:
    """Which files failed nowhere."""
    errors = [
        next((rows for rows in of_file if isinstance(rows, AudioError)), None) for of_file in zip(*found, strict=True)
    ]
    if on_error == "stop" or all(errors):
        without_errors([error for error in errors if error is not None])
    for error in filter(None, errors):
        warnings.warn(f"left out: {error}", stacklevel=3)
    return [error is None for error in errors]


def _measure(
    labelled: LabelledSet, model: str, encoder: Encoder | None, rows: Sequence[FloatArray], config: CompareConfig
) -> Iterator[Row]:
    """Every features, number of shots and classifier of one model on one set."""
    matrices = by_name(np.concatenate(rows) if labelled.pieces else means(rows), encoder)
    pieces = [len(found) for found in rows] if labelled.pieces else None
    halves = None
    if config.weights and encoder is not None and encoder.config.outputs == 2:
        width = encoder.config.head_dim
        halves = {"invariant": slice(0, width), "variant": slice(width, None)}
    names = [name for name in config.features if name in matrices]
    for name, episode in itertools.product(names, config.episodes):
        # Decibels are of one scale already. Rows of length 1 cost the baseline 3 to 5 points, and would flatter us.
        scaling = config.scaling or ("none" if name == LOG_MEL else None)
        for kind in map(Classifier, config.classifiers):
            branches = halves if name == "concat" and kind.linear else None
            how: dict[str, Any] = {"pieces": pieces, "branches": branches}
            result = evaluate(matrices[name], labelled.labels, episode, kind, scaling, **how)
            yield Row(name, kind.value, result, labelled.name, model)
