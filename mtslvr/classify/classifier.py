"""A linear classifier of windows that stands in one file; made by `Classifier.fit`; next: `events`."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..api import embed_windows
from ..errors import ConfigError
from ..nn.encoder import Encoder
from ..run.table import EmbeddingTable
from ..search import table_encoder
from .choose import Choice, Float64, Int64, choose, fit_linear, softmax, unit_rows
from .events import EventConfig, find_events
from .examples import Examples, class_names, collect, invariant_width, is_negative
from .labels import Label

Float32 = npt.NDArray[np.float32]

FORMAT_VERSION = 1
_MOST_ROWS = 3000  # of the examples: time grows with their third power
_BLOCK = 4096  # windows at once
_KEY = "mtslvr.classifier"
_ABOUT = ("classes", "share", "temperature", "least_similarity", "settings", "figures")
_MOST_DOUBTFUL = 20
_OUTLIERS = 0.05  # share of the examples that may be farther from the others than the distance that counts
# Times that distance. Of 1, 1.25, 1.5 and 2, on synthetic recordings, 1 has a higher precision and 2 a higher recall.
_SLACK = 1.5
_SILENT = 1 - 1e-5  # cosine to the embedding of silence from which a window is taken for it


@dataclass(frozen=True, eq=False, repr=False)
class Classifier:
    """Classes of sound, learned from a few labelled examples.

    Attributes:
        classes: their names; negative ones (`is_negative`) last.
        weights: (D + 1, C) of rows of length 1, the intercepts in the last row.
        examples: (n, D) rows of length 1 that it was made from.
        share: how much of the inner product of two rows is from the invariant embedding, 0 to 1.
        temperature: by which decision values are divided before softmax.
        least_similarity: cosine to the nearest example below which a window is none of the classes; None where negative
            examples say what is not.
        settings: the model, its weights' sum, window, hop and features that rows must be made with.
        figures: what the cross-validation found, for people.
        silence: (D,) of length 1, of a window of constant samples, which is none of the classes; None where it is not
            known.
    """

    classes: tuple[str, ...]
    weights: Float32
    examples: Float32
    share: float
    temperature: float
    least_similarity: float | None
    settings: Mapping[str, Any]
    figures: Mapping[str, Any]
    silence: Float32 | None = None

    def __repr__(self) -> str:
        return f"Classifier({', '.join(self.classes)}; {self.figures['features']}; {len(self.examples)} examples)"

    @property
    def positive(self) -> tuple[str, ...]:
        """The classes that are labelled."""
        return tuple(name for name in self.classes if not is_negative(name))

    @classmethod
    def fit(
        cls,
        examples: str | os.PathLike[str] | EmbeddingTable | Sequence[str | os.PathLike[str]],
        labels: Sequence[str] | None = None,
        *,
        model: str | os.PathLike[str] | None = None,
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
        return cls.choose(
            examples, labels, model=model, window_seconds=window_seconds, hop_seconds=hop_seconds, device=device
        )[0]

    @staticmethod
    def choose(
        examples: str | os.PathLike[str] | EmbeddingTable | Sequence[str | os.PathLike[str]],
        labels: Sequence[str] | None = None,
        *,
        model: str | os.PathLike[str] | None = None,
        window_seconds: float | None = None,
        hop_seconds: float | None = None,
        device: str = "auto",
    ) -> tuple[Classifier, Examples, Choice]:
        """`fit`, with the embedded examples and how the features were chosen; arguments as there."""
        found = collect(examples, labels, model, window_seconds, hop_seconds, device)
        classifier, choice = fit_examples(found)
        return classifier, found, choice

    def probabilities(self, embeddings: npt.NDArray[Any], *, reject: bool = True) -> Float32:
        """Classify windows.

        Args:
            embeddings: (n, D) made with `settings`.
            reject: give windows far from every example no class, where there are no negative examples.
        Returns:
            (n, C) in the order of `classes`, each row with the sum 1; zeros for a window that is none of them.
        Raises:
            ConfigError: another width.
        """
        found, near = self.judge(embeddings)
        return found * near[:, None] if reject else found

    def judge(self, embeddings: npt.NDArray[Any]) -> tuple[Float32, npt.NDArray[np.bool_]]:
        """The probabilities (n, C) of windows, zeros for silence alone, and which of them (n,) are near an example."""
        width = self.examples.shape[1]
        if embeddings.ndim != 2 or embeddings.shape[1] != width:
            raise ConfigError(f"embeddings of shape {embeddings.shape}: this classifier takes (n, {width})")
        found = np.empty((len(embeddings), len(self.classes)), np.float32)
        near = np.ones(len(embeddings), dtype=bool)
        invariant = invariant_width(self.settings, width)
        for first in range(0, len(embeddings), _BLOCK):
            rows = unit_rows(embeddings[first : first + _BLOCK], self.share, invariant).astype(np.float32)
            scores = (rows @ self.weights[:-1] + self.weights[-1]).astype(np.float64)
            found[first : first + _BLOCK] = softmax(scores / self.temperature)
            if self.silence is not None:
                found[first : first + _BLOCK][rows @ self.silence > _SILENT] = 0
            if self.least_similarity is not None:
                near[first : first + _BLOCK] = (rows @ self.examples.T).max(axis=1) >= self.least_similarity
        return found, near

    def predict_windows(
        self, file: str | os.PathLike[str], config: EventConfig | None = None, *, device: str = "auto"
    ) -> list[Label]:
        """The events of one recording.

        Args:
            file: any length.
            config: threshold and how windows are joined.
            device: see `mtslvr.load`.
        Returns:
            Labels with start and end in seconds, by start.
        Raises:
            AudioError: see `mtslvr.embed`.
            ConfigError: the weights that the classifier was made with are not here.
        """
        embeddings, spans = self._embed(file, device)
        rows = self.probabilities(embeddings)
        return find_events(os.fspath(file), rows, spans, self.positive, config or EventConfig())

    def predict(
        self, files: Sequence[str | os.PathLike[str]], *, threshold: float = EventConfig.threshold, device: str = "auto"
    ) -> list[str | None]:
        """The class of each file: the positive one with the highest probability of a window, as `--per-file` gives it.

        Args:
            files: paths.
            threshold: probability from which a window counts; None is returned for a file where none does.
            device: see `mtslvr.load`.
        Raises:
            AudioError, ConfigError: see `predict_windows`.
        """
        found: list[str | None] = []
        for file in files:
            scores = self.probabilities(self._embed(file, device)[0])[:, : len(self.positive)].max(axis=0)
            found.append(self.positive[int(scores.argmax())] if scores.max() >= threshold else None)
        return found

    def _embed(self, file: str | os.PathLike[str], device: str) -> tuple[Float32, npt.NDArray[np.float64]]:
        found: tuple[Float32, npt.NDArray[np.float64]] = embed_windows(
            file,
            features=self.settings["features"],
            layer=self.settings["layer"],
            window_seconds=self.settings["window_seconds"],
            hop_seconds=self.settings["hop_seconds"],
            encoder=_encoder(json.dumps(self.settings), device),
        )
        return found

    def describe(self) -> list[str]:
        """Lines for people: classes, which features were tried and how they did, and what scores are worth."""
        figures = self.figures
        counts = ", ".join(f"{name} ({count})" for name, count in figures["classes"].items())
        lines = [f"examples: {counts}, of {figures['recordings']} recordings"]
        if figures["candidates"]:
            lines.append(f"{'features':32} accuracy  log loss")
        for found in figures["candidates"]:
            mark = "  <- chosen" if found["share"] == self.share else ""
            lines.append(f"{found['features']:32} {found['accuracy']:7.1%} {found['log_loss']:9.3f}{mark}")
        lines.append(f"features: {figures['features']} ({figures['reason']})")
        calibrated = f"calibrated on {len(figures['candidates']) and sum(map(sum, figures['confusion']))} examples"
        lines.append(
            f"scores: {calibrated if figures['candidates'] else 'not calibrated, there being nothing to do it on'}"
        )
        return lines

    def check_settings(self, settings: Mapping[str, Any], name: str) -> None:
        """See that embeddings were made as the examples were.

        Args:
            settings: of the embeddings.
            name: what errors call them.
        Raises:
            ConfigError: another model, layer, feature or window, or a row a file. The hop may be another.
        """
        for key in ("model_sha256", "features", "layer", "window_seconds", "pool"):
            ours, theirs = self.settings.get(key), settings.get(key)
            if ours != theirs:
                raise ConfigError(
                    f"{name}: made with {key}={theirs!r}, and the classifier with {ours!r}; embed the recordings "
                    "anew, or make the classifier with the settings of these embeddings"
                )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one file: safetensors, with what is not numbers as JSON in its header.

        Raises:
            ConfigError: the file cannot be written.
        """
        about = {name: getattr(self, name) for name in _ABOUT}
        header = {_KEY: json.dumps({"format_version": FORMAT_VERSION, **about})}
        arrays = {"weights": self.weights, "examples": self.examples, "silence": self.silence}
        try:
            save_file({name: x for name, x in arrays.items() if x is not None}, os.fspath(path), metadata=header)
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"{path}: the classifier cannot be written ({error}); choose another place") from None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Classifier:
        """Read what `save` wrote.

        Raises:
            ConfigError: missing, another kind of file, or of a later version.
        """
        try:
            with safe_open(os.fspath(path), "numpy") as file:
                about = json.loads((file.metadata() or {})[_KEY])
                arrays = {name: file.get_tensor(name) for name in ("weights", "examples")}
                arrays |= {name: file.get_tensor(name) for name in {"silence"}.intersection(file.keys())}
            version = about["format_version"]
            if version == FORMAT_VERSION:
                values = {name: about[name] for name in _ABOUT}
                return cls(**arrays, **{**values, "classes": tuple(values["classes"])})
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{path}: not a classifier ({error}); write one with mtslvr classify --save") from None
        raise ConfigError(f"{path}: in format {version}, and this reads {FORMAT_VERSION}; upgrade mtslvr")


@functools.lru_cache(maxsize=2)
def _encoder(settings: str, device: str) -> Encoder:
    return table_encoder("classifier", json.loads(settings), device=device)


def fit_examples(examples: Examples) -> tuple[Classifier, Choice]:
    """Make a classifier from embedded examples.

    Raises:
        ConfigError: fewer than two classes, or no positive one.
    """
    names = class_names(examples.labels)
    kept = np.arange(len(examples.labels))[:: -(-len(examples.labels) // _MOST_ROWS)]
    targets: Int64 = np.array([names.index(examples.labels[i]) for i in kept])
    recordings = [examples.recordings[i] for i in kept]
    embeddings = examples.embeddings[kept]
    invariant = invariant_width(examples.settings, embeddings.shape[1])
    choice = choose(embeddings, targets, recordings, invariant)
    rows = unit_rows(embeddings, choice.chosen.share, invariant)
    factors, intercepts = fit_linear((rows @ rows.T)[None], targets, len(names))
    weights = np.concatenate([rows.T @ factors[0], intercepts]).astype(np.float32)
    negative = any(map(is_negative, names))
    single = invariant == embeddings.shape[1]  # what there is, whatever the share
    shown = [{"features": examples.settings["features"] if single else c.name, **vars(c)} for c in choice.candidates]
    clips = [examples.names[i] for i in kept]
    figures = {
        "classes": {
            name: len({c for c, t in zip(clips, targets, strict=True) if t == i}) for i, name in enumerate(names)
        },
        "recordings": len(set(recordings)),
        "features": examples.settings["features"] if single else choice.chosen.name,
        "reason": choice.reason,
        "candidates": shown,
        **_held_out(choice, targets, clips, names),
    }
    silence = None if examples.silence is None else unit_rows(examples.silence[None], choice.chosen.share, invariant)
    made = Classifier(
        classes=tuple(names),
        weights=weights,
        examples=rows.astype(np.float32),
        share=choice.chosen.share,
        temperature=choice.chosen.temperature,
        least_similarity=None if negative else _least_similarity(rows, targets, recordings),
        settings=examples.settings,
        figures=figures,
        silence=None if silence is None else silence[0].astype(np.float32),
    )
    return made, choice


def _held_out(choice: Choice, targets: Int64, clips: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """What classifiers that had not seen a clip's recording took it for; a clip's windows count together.

    Returns:
        confusion: clips, a row a class and a column what it was taken for.
        doubtful: clips that were taken for another class, the surest first: perhaps mislabelled.
    """
    number = {clip: i for i, clip in enumerate(dict.fromkeys(clips[row] for row in choice.rows))}
    total = np.zeros((len(number), len(names)))
    true = np.zeros(len(number), np.int64)
    for row, probabilities in zip(choice.rows, choice.probabilities, strict=True):
        total[number[clips[row]]] += probabilities
        true[number[clips[row]]] = targets[row]
    taken = total.argmax(axis=1)
    confusion = np.zeros((len(names), len(names)), np.int64)
    np.add.at(confusion, (true, taken), 1)
    sure = total.max(axis=1) / np.maximum(total.sum(axis=1), 1e-12)
    order = [i for i in np.argsort(-sure, kind="stable") if taken[i] != true[i]][:_MOST_DOUBTFUL]
    listed = list(number)
    doubtful = [
        {"clip": listed[i], "label": names[true[i]], "taken_for": names[taken[i]], "probability": float(sure[i])}
        for i in order
    ]
    return {"confusion": confusion.tolist(), "doubtful": doubtful}


def _least_similarity(rows: Float64, targets: Int64, recordings: Sequence[str]) -> float:
    """Cosine to the nearest example below which a window is far from all.

    Nearly all examples are no farther than some distance (1 - cosine) from the nearest one of their class in another
    recording; windows, which do not begin where a call does, may be half as far again.
    """
    number = np.unique(np.array(recordings), return_inverse=True)[1]
    cosine = rows @ rows.T
    cosine[(targets[:, None] != targets) | (number[:, None] == number)] = -1
    nearest = cosine.max(axis=1)
    known = nearest[nearest > -1]
    return 1 - _SLACK * (1 - float(np.quantile(known, _OUTLIERS))) if known.size else -1.0
