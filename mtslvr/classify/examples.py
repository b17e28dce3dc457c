"""Labelled examples, in class folders or as parts of recordings, to embeddings of windows; next: `choose`."""

from __future__ import annotations

import hashlib
import os
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..audio import find_audio, iter_blocks
from ..encoder import Encoder
from ..errors import AudioError, ConfigError
from ..extract import ExtractConfig, Source, extract
from ..hub import DEFAULT_MODEL, find, load
from ..job import describe
from ..windows import Pool
from ..writer import EmbeddingTable
from .labels import Label, read_labels

Float32 = npt.NDArray[np.float32]

SHORTEST = 0.1  # seconds of an example
_SHORTEST_WINDOW = 0.5
_TABLES = (".csv", ".tsv", ".txt")


@dataclass(frozen=True, eq=False)
class Clip:
    """An example, cut out.

    Attributes:
        label: its class.
        recording: path of the file it comes from.
        name: for people: the path, with the times of a part.
        waveform: (n,) float32 at the encoder's rate.
        seconds: length.
    """

    label: str
    recording: str
    name: str
    waveform: Float32
    seconds: float


def find_examples(examples: str | os.PathLike[str]) -> list[Label]:
    """List the examples of a folder or a table.

    Args:
        examples: a folder with a folder a class; a table that `read_labels` reads; or a folder of such tables.
    Raises:
        ConfigError: none of these, no examples, or a table with a fault.
    """
    path = Path(examples)
    if not path.is_dir():
        return read_labels(path)
    folders = sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))
    found = [Label(str(file.path), None, None, child.name) for child in folders for file in find_audio(child)]
    tables = [child for child in sorted(path.iterdir()) if child.suffix.lower() in _TABLES]
    found += [label for table in tables for label in read_labels(table)]
    if not found:
        raise ConfigError(
            f"{path}: no examples: it has neither folders of audio, one a class, nor tables of labels; see "
            "`mtslvr classify --help`"
        )
    return found


def cut_examples(labels: Sequence[Label], sample_rate: int) -> list[Clip]:
    """Read the audio of examples, each recording once.

    Args:
        labels: from `find_examples`.
        sample_rate: Hz of the waveforms.
    Raises:
        AudioError: a recording that cannot be read, or an example that is silent.
        ConfigError: times outside the recording, an example shorter than 0.1 s, or the same audio in two classes.
    """
    of_recording: dict[str, list[Label]] = defaultdict(list)
    for label in labels:
        of_recording[label.file].append(label)
    clips = [clip for file, parts in of_recording.items() for clip in _cut(file, parts, sample_rate)]
    first: dict[bytes, Clip] = {}
    for clip in clips:
        other = first.setdefault(hashlib.blake2b(clip.waveform.tobytes()).digest(), clip)
        if other.label != clip.label:
            raise ConfigError(
                f"{other.name} ({other.label}) and {clip.name} ({clip.label}): the same audio in two classes; take one "
                "of them out"
            )
    return clips


def _cut(file: str, labels: Sequence[Label], sample_rate: int) -> Iterator[Clip]:
    pieces: list[list[Float32]] = [[] for _ in labels]
    bounds = [(round((x.start or 0) * sample_rate), _end(x, sample_rate)) for x in labels]
    position = 0
    for block in iter_blocks(file, sample_rate):
        for piece, (start, end) in zip(pieces, bounds, strict=True):
            inside = block[max(0, start - position) : max(0, end - position)]
            if inside.size:
                piece.append(inside)
        position += block.size
    length = position / sample_rate
    for label, piece in zip(labels, pieces, strict=True):
        whole = label.start is None and label.end is None
        name = file if whole else f"{file} from {label.start or 0:g} s"
        if (label.start or 0) >= length or (label.end or 0) > length + 0.1:
            told = f"{label.start or 0:g} to {label.end or length:g} s"
            raise ConfigError(
                f"{file}: the label {label.label!r} is at {told}, and the recording is {length:.1f} s long"
            )
        waveform = np.concatenate(piece)
        seconds = waveform.size / sample_rate
        if seconds < SHORTEST:
            raise ConfigError(f"{name}: an example of {seconds:.3f} s; give at least {SHORTEST} s, or take it out")
        if np.ptp(waveform) == 0:
            raise AudioError(f"{name}: a silent example; take it out")
        yield Clip(label.label, file, name, waveform, seconds)


def _end(label: Label, sample_rate: int) -> int:
    return 1 << 62 if label.end is None else round(label.end * sample_rate)


@dataclass(frozen=True, eq=False)
class Examples:
    """Windows of the examples, embedded.

    Attributes:
        embeddings: (n, D).
        labels: n names of classes.
        recordings: n names of the recordings they come from.
        names: n, for people: the file, with the times of a part.
        settings: what the rows were made with, as `read_table` has them.
    """

    embeddings: Float32
    labels: list[str]
    recordings: list[str]
    names: list[str]
    settings: Mapping[str, Any]

    @property
    def halves(self) -> int:
        """2 where a row is an invariant and a variant embedding side by side."""
        return 2 if self.settings.get("features") == "concat" and self.embeddings.shape[1] % 2 == 0 else 1


def collect(
    examples: str | os.PathLike[str] | EmbeddingTable | Sequence[str | os.PathLike[str]],
    labels: Sequence[str] | None,
    model: str | os.PathLike[str] | None,
    window_seconds: float | None,
    hop_seconds: float | None,
    device: str,
) -> Examples:
    """Find and embed examples; arguments as in `Classifier.fit`.

    Raises:
        AudioError, ConfigError: see `Classifier.fit`.
    """
    if labels is not None and isinstance(labels, str):
        raise ConfigError(f"labels={labels!r}: give a list, one for each example")
    if isinstance(examples, EmbeddingTable):
        if labels is None or len(labels) != len(examples.paths):
            told = "none" if labels is None else len(labels)
            raise ConfigError(f"{told} labels for {len(examples.paths)} rows of embeddings; give one for each")
        names = list(examples.paths)
        return Examples(np.asarray(examples.embeddings), list(labels), names, names, examples.settings)
    if labels is None:
        if not isinstance(examples, (str, os.PathLike)):
            raise ConfigError(
                "paths without labels: give labels=[...], one for each, or a folder with a folder a class"
            )
        found = find_examples(examples)
    else:
        paths = [examples] if isinstance(examples, (str, os.PathLike)) else list(examples)
        if len(labels) != len(paths):
            raise ConfigError(f"{len(labels)} labels for {len(paths)} paths; give one for each")
        found = [Label(os.fspath(path), None, None, label) for path, label in zip(paths, labels, strict=True)]
    folder = find(model)
    encoder = load(folder, device=device)
    clips = cut_examples(found, encoder.sample_rate)
    window = window_seconds or fitting_window(clips, encoder.config.window_seconds)
    config = ExtractConfig(pool=Pool.NONE, window_seconds=window, hop_seconds=hop_seconds or window / 2)
    settings = describe(os.fspath(model or DEFAULT_MODEL), folder, config, encoder.config)
    return embed_clips(clips, encoder, config, settings)


def fitting_window(clips: Sequence[Clip], longest: float) -> float:
    """A length of windows in seconds that fits the examples: their median, at least 0.5 s and at most `longest`."""
    median = statistics.median(clip.seconds for clip in clips)
    return round(min(max(median, _SHORTEST_WINDOW), longest), 1)


def embed_clips(
    clips: Sequence[Clip], encoder: Encoder, config: ExtractConfig, settings: Mapping[str, Any]
) -> Examples:
    """Embed every window of the clips."""
    sources = (Source(clip.waveform, encoder.sample_rate, clip.name) for clip in clips)
    rows, kept = [], []
    for clip, result in zip(clips, extract(sources, encoder, config), strict=True):
        if result.error is not None:
            raise result.error
        rows.append(result.embeddings)
        kept += [clip] * len(result.embeddings)
    return Examples(
        np.concatenate(rows),
        [clip.label for clip in kept],
        [clip.recording for clip in kept],
        [clip.name for clip in kept],
        settings,
    )
