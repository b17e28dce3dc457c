"""A linear classifier of windows that stands in one file; made by `Classifier.fit`; next: `events`."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..api import embed_windows
from ..errors import ConfigError
from ..nn.encoder import Encoder
from ..run.files import write_file
from ..run.state import DEFAULTS
from ..run.table import SETTINGS, EmbeddingTable, check_types
from ..search import embed_options, table_encoder
from .choose import FIGURES, Float64, Int64, choose, figures, fit_linear, softmax, unit_rows
from .events import EventConfig, find_events
from .examples import Examples, PathLike, class_names, collect, invariant_width, is_negative
from .labels import Label
from .output import check_file

Float32 = npt.NDArray[np.float32]

FORMAT_VERSION = 1
HEADER_KEY = "mtslvr.classifier"  # of the header of a stored one
_ABOUT: Mapping[str, Any] = {  # the fields in the header, as JSON
    "classes": list, "share": float, "temperature": float, "least_similarity": float, "settings": dict,
    "figures": FIGURES,
}  # fmt: skip
_ARRAYS = ("weights", "means", "silence")
_MOST_ROWS = 3000  # of the examples: time grows with their third power
_BLOCK = 4096  # windows at once
_SILENT = 1 - 1e-5  # cosine to the embedding of silence from which a window is taken for it


@dataclass(frozen=True, eq=False, repr=False)
class Classifier:
    """Classes of sound, learned from a few labelled examples.

    Attributes:
        classes: their names; negative ones (`is_negative`) last.
        weights: (D + 1, C) of rows of length 1, the intercepts in the last row.
        means: (P, D) of length 1, of the examples of each positive class.
        share: how much of the inner product of two rows is from the invariant embedding, 0 to 1.
        temperature: by which decision values are divided before softmax.
        least_similarity: cosine to the mean of a class below which a window is not of it.
        settings: the model, its weights' sum, window, hop and features that rows must be made with.
        figures: what the cross-validation found, for people; see `choose.figures`.
        silence: (D,) of length 1, of a window of constant samples; zeros where it is not known.
    """

    classes: tuple[str, ...]
    weights: Float32
    means: Float32
    share: float
    temperature: float
    least_similarity: float
    settings: Mapping[str, Any]
    figures: Mapping[str, Any]
    silence: Float32

    def __repr__(self) -> str:
        count = sum(self.figures["classes"].values())
        return f"Classifier({', '.join(self.classes)}; {self.figures['features']}; {count} examples)"

    @property
    def positive(self) -> tuple[str, ...]:
        """The classes that are labelled."""
        return tuple(name for name in self.classes if not is_negative(name))

    @classmethod
    def fit(
        cls,
        examples: PathLike | EmbeddingTable | Sequence[PathLike],
        labels: Sequence[str] | None = None,
        *,
        model: PathLike | None = None,
        window_seconds: float | None = None,
        hop_seconds: float | None = None,
        device: str = "auto",
    ) -> Classifier:
        """Learn from labelled examples, and choose the features by them.

        Args:
            examples: a folder with a folder a class, or a table of labels, see `find_examples`; paths of files; or
                a table of embeddings, see `read_table`.
            labels: one for each path, or for each row of embeddings; a folder has its own.
            model: what `mtslvr.load` takes; None is the bundled default. A table of embeddings has its own.
            window_seconds: length of the windows; None is the median of the examples, from 0.5 s to the model's own.
            hop_seconds: from one window to the next; None is half a window.
            device: see `mtslvr.load`.

        Raises:
            AudioError: an example that cannot be read, or is silent and of a positive class.
            ConfigError: one class only, the same clip in two classes, times outside a recording, or another number of
                labels than of examples.
        """
        return fit_examples(collect(examples, labels, model, window_seconds, hop_seconds, device))

    @classmethod
    def choose(cls, *examples: Any, **options: Any) -> Mapping[str, Any]:
        """The figures by which `fit` chooses the features; arguments as there."""
        return cls.fit(*examples, **options).figures

    def probabilities(self, embeddings: npt.NDArray[Any], *, reject: bool = True) -> Float32:
        """Classify windows.

        Args:
            embeddings: (n, D) made with `settings`.
            reject: give windows no class that they are far from.

        Returns:
            (n, C) in the order of `classes`, each row with the sum 1 but for zeros in place of classes that it is not.

        Raises:
            ConfigError: another width, or rows that are no numbers.
        """
        found, near = self.judge(embeddings)
        return found * near if reject else found

    def judge(self, embeddings: npt.NDArray[Any], name: str = "rows") -> tuple[Float32, npt.NDArray[np.bool_]]:
        """The probabilities (n, C) of windows, zeros for silence alone, and whether each (n, C) is near the class."""
        width = self.means.shape[1]
        if embeddings.ndim != 2 or embeddings.shape[1] != width:
            raise ConfigError(f"{name}: embeddings of shape {embeddings.shape}, and this classifier takes (n, {width})")
        found = np.empty((len(embeddings), len(self.classes)), np.float32)
        near = np.ones(found.shape, dtype=bool)
        invariant = invariant_width(self.settings, width)
        for first in range(0, len(embeddings), _BLOCK):
            block = slice(first, first + _BLOCK)
            rows = unit_rows(embeddings[block], self.share, invariant).astype(np.float32)
            scores = (rows @ self.weights[:-1] + self.weights[-1]).astype(np.float64)
            found[block] = softmax(scores / self.temperature) * (rows @ self.silence < _SILENT)[:, None]
            near[block, : len(self.positive)] = rows @ self.means.T >= self.least_similarity
        if wrong := np.count_nonzero(~np.isfinite(found).all(axis=1)):
            raise ConfigError(f"{name}: {wrong} of {len(found)} embeddings are no numbers; embed it again")
        return found, near

    def predict_windows(
        self, file: PathLike, config: EventConfig | None = None, *, device: str = "auto"
    ) -> list[Label]:
        """The events of one recording of any length, by start.

        Raises:
            AudioError: see `mtslvr.embed`.
            ConfigError: no path or no `EventConfig`, or the weights that the classifier was made with are not here.
        """
        if not isinstance(file, str | os.PathLike):
            raise ConfigError(f"file of type {type(file).__name__}: give the path of a recording")
        if not isinstance(config, EventConfig | None):
            raise ConfigError(f"config of type {type(config).__name__}: give a mtslvr.classify.EventConfig")
        embeddings, spans = self._embed(file, device)
        rows = self.probabilities(embeddings)
        return find_events(os.fspath(file), rows, spans, self.positive, config or EventConfig())

    def predict(
        self, files: Sequence[PathLike], *, threshold: float = EventConfig.threshold, device: str = "auto"
    ) -> list[str | None]:
        """The class of each file: the positive one with the highest probability of a window, as `--per-file` gives it.

        Args:
            files: paths.
            threshold: probability from which a window counts; None is returned for a file where none does.
            device: see `mtslvr.load`.
        """
        if isinstance(files, str | bytes | os.PathLike) or not isinstance(files, Iterable):
            raise ConfigError(f"files={files!r}: is no list of paths; give one")
        EventConfig(threshold)  # in its range
        found: list[str | None] = []
        for file in files:
            scores = self.probabilities(self._embed(file, device)[0])[:, : len(self.positive)].max(axis=0)
            found.append(self.positive[int(scores.argmax())] if scores.max() >= threshold and scores.any() else None)
        return found

    def _embed(self, file: PathLike, device: str) -> tuple[Float32, Float64]:
        encoder, channel = _encoder(json.dumps(self.settings), device), self.settings.get("channel", "mix")
        return embed_windows(file, encoder=encoder, channels=channel, **embed_options(self.settings))

    def check_settings(self, settings: Mapping[str, Any], name: str) -> None:
        """Refuse embeddings, called `name`, that were not made as the examples were; the hop may be another."""
        for key in ("model_sha256", "features", "layer", "window_seconds", "pool", "channel"):
            theirs, ours = (each.get(key, DEFAULTS.get(key)) for each in (settings, self.settings))
            if theirs != ours:
                remedy = f", or give --channel {theirs}" if key == "channel" else ""
                if key == "model_sha256":
                    both = (settings, self.settings)
                    theirs, ours = (f"{x.get('model')} (sha256 {str(x.get(key))[:12]})" for x in both)
                raise ConfigError(
                    f"{name}: made with {key.removesuffix('_sha256')}={theirs}, and the classifier with {ours}; embed "
                    f"the recordings anew, or make the classifier with the settings of these embeddings{remedy}"
                )

    def save(self, path: PathLike) -> None:
        """Write one file: safetensors, with what is not numbers as JSON in its header.

        Raises:
            ConfigError: the file cannot be written, or is there and is no classifier.
        """
        check_file(path, "classifier", HEADER_KEY)
        about = {"format_version": FORMAT_VERSION, **{name: getattr(self, name) for name in _ABOUT}}
        write_file(path, save({name: getattr(self, name) for name in _ARRAYS}, {HEADER_KEY: json.dumps(about)}))

    @classmethod
    def load(cls, path: PathLike) -> Classifier:
        """Read what `save` wrote.

        Raises:
            ConfigError: missing, another kind of file, damaged, or of a later version.
        """
        try:
            with safe_open(os.fspath(path), "numpy") as file:
                about = json.loads((file.metadata() or {})[HEADER_KEY])
                arrays = {name: file.get_tensor(name) for name in _ARRAYS}
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ConfigError(f"{path}: not a classifier ({error}); write one with mtslvr classify --save") from None
        try:
            check_types(about, {"format_version": int}, "header", whole=True)
            if (version := about["format_version"]) != FORMAT_VERSION:
                raise ConfigError(f"{path}: in format {version}, and this reads {FORMAT_VERSION}; upgrade mtslvr")
            check_types(about, _ABOUT, whole=True)
            check_types(about["settings"], SETTINGS)
            found = cls(**arrays, **{name: about[name] for name in _ABOUT} | {"classes": tuple(about["classes"])})
            _check(found)
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(f"{path}: a damaged classifier ({error}); make it anew") from None
        return found


def _check(found: Classifier) -> None:
    """Raise a ValueError where names and numbers cannot be those of one classifier."""
    if set(map(type, found.classes)) != {str}:
        raise ValueError(f"its classes are {found.classes!r:.60}")
    width, arrays = found.silence.size, (found.weights, found.means, found.silence)
    shapes = [(width + 1, len(found.classes)), (len(found.positive), width), (width,)]
    finite = all(np.isfinite(array).all() for array in arrays)
    if [x.shape for x in arrays] != shapes or not (finite and 0 <= found.share <= 1 and found.temperature > 0):
        raise ValueError("numbers out of their range, or others than its classes have")


@functools.lru_cache(maxsize=2)
def _encoder(settings: str, device: str) -> Encoder:
    return table_encoder("classifier", json.loads(settings), device=device)


def fit_examples(examples: Examples) -> Classifier:
    """Make a classifier from embedded examples.

    Raises:
        ConfigError: fewer than two classes, or no positive one.
    """
    names = class_names(examples.labels)
    step = -(-len(examples.labels) // _MOST_ROWS)
    fewer = {name: getattr(examples, name)[::step] for name in ("embeddings", "labels", "recordings", "names")}
    examples = replace(examples, **fewer)
    targets: Int64 = np.array([names.index(label) for label in examples.labels])
    invariant = invariant_width(examples.settings, examples.embeddings.shape[1])
    features = examples.settings.get("features", "concat")
    choice = choose(examples.embeddings, targets, examples.recordings, invariant, features)
    share = choice.chosen.share
    rows = unit_rows(examples.embeddings, share, invariant)
    factors, intercepts = fit_linear((rows @ rows.T)[None], targets, len(names))
    means = _unit(np.stack([rows[targets == k].sum(axis=0) for k, name in enumerate(names) if not is_negative(name)]))
    return Classifier(
        classes=tuple(names),
        weights=np.concatenate([rows.T @ factors[0], intercepts]).astype(np.float32),
        means=means.astype(np.float32),
        share=share,
        temperature=choice.chosen.temperature,
        least_similarity=_least_similarity(rows, targets, means, examples.recordings),
        settings=examples.settings,
        figures=figures(choice, names, targets, examples.names, examples.recordings),
        silence=unit_rows(examples.silence[None], share, invariant)[0].astype(np.float32),
    )


def _unit(rows: Float64) -> Float64:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))


def _least_similarity(rows: Float64, targets: Int64, means: Float64, recordings: Sequence[str]) -> float:
    """Halfway between the cosines of examples to the mean of their own class and to those of the others.

    The first are to the class's other recordings alone; it is -1 where no class has two recordings.
    """
    number = np.unique(np.array(recordings), return_inverse=True)[1]
    kin = (targets[:, None] == targets) & (number[:, None] != number)
    known = kin.any(axis=1) & (targets < len(means))
    own = (rows * _unit(kin @ rows)).sum(axis=1)[known]
    others = (rows @ means.T)[targets[:, None] != np.arange(len(means))]
    return float(own.mean() + others.mean()) / 2 if own.size else -1.0
