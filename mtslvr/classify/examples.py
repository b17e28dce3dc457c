"""Labelled examples, in class folders or as parts of recordings, to embeddings of windows; next: `choose`."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import statistics
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..audio.load import find_audio, load_parts
from ..audio.windows import Pool
from ..config import EncoderConfig, Features, Layer
from ..errors import AudioError, ConfigError
from ..models import checkpoint
from ..models.hub import DEFAULT_MODEL, find, load
from ..nn.encoder import Encoder
from ..run.extract import ExtractConfig, Source, check_windows, extract
from ..run.job import describe
from ..run.table import EmbeddingTable
from .labels import Label, by_name, read_labels

Float32 = npt.NDArray[np.float32]

SHORTEST = 0.1  # seconds of an example
_SHORTEST_WINDOW = 0.5
_TABLES = (".csv", ".tsv", ".txt")
_CUT_OUT = re.compile(r"(.+)@\d+\.\d+s_.*\.wav")  # see `clip_name`
_NEGATIVES = ("background", "noise", "_noise")


def is_negative(name: str) -> bool:
    """Whether a class is what is not to be labelled: background, noise or _noise, in any case."""
    return name.lower() in _NEGATIVES


def clip_name(recording: str, start: float, label: str, score: float) -> str:
    """Name of a clip of a recording, by which people see what it is, and `recording_of` where it is from."""
    flat, guess = (re.sub(r"[^\w.-]+", "_", part).strip("_") for part in (recording, label))
    return f"{flat}@{start:.2f}s_{guess}_{score:.2f}.wav"


def class_names(labels: Iterable[str]) -> list[str]:
    """The classes of examples, negative ones last.

    Raises:
        ConfigError: fewer than two, or no positive one.
    """
    names = sorted(set(labels), key=lambda name: (is_negative(name), name))
    if len(names) < 2 or all(map(is_negative, names)):
        raise ConfigError(
            f"examples of {', '.join(map(repr, names)) or 'no class'} only: give two classes, or one and a folder "
            f"{_NEGATIVES[0]!r} with sounds that are not it"
        )
    return names


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


def find_examples(examples: str | os.PathLike[str], recordings: Iterable[str] = ()) -> list[Label]:
    """List the examples of a folder or a table.

    Args:
        examples: a folder with a folder a class; a table that `read_labels` reads; or a folder of such tables. Beside
            folders of audio, one that is no such table is passed over with a warning.
        recordings: paths of recordings that tables may name without their folder.
    Raises:
        ConfigError: none of these, no examples, or a table with a fault.
    """
    path, elsewhere = Path(examples), by_name(recordings)
    if not path.is_dir():
        return read_labels(path, elsewhere)
    folders = sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))
    found = [Label(str(file.path), None, None, child.name) for child in folders for file in find_audio(child)]
    in_folders = bool(found)
    children = path.iterdir() if in_folders else path.rglob("*")
    for table in sorted(child for child in children if child.suffix.lower() in _TABLES):
        try:
            found += read_labels(table, elsewhere, empty=True)
        except ConfigError as error:
            if not in_folders:
                raise
            warnings.warn(f"passed over: {error}", stacklevel=2)
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
        AudioError: a recording that cannot be read, or a positive example that is silent.
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
    waveforms, length = load_parts(file, sample_rate, [(label.start, label.end) for label in labels])
    for label, waveform in zip(labels, waveforms, strict=True):
        name = part_name(label)
        if (label.start or 0) >= length or (label.end or 0) > length + 0.1:
            told = f"{label.start or 0:g} to {label.end or length:g} s"
            raise ConfigError(
                f"{file}: the label {label.label!r} is at {told}, and the recording is {length:.1f} s long; correct "
                "the times"
            )
        seconds = waveform.size / sample_rate
        if seconds < SHORTEST:
            raise ConfigError(f"{name}: an example of {seconds:.3f} s; give at least {SHORTEST} s, or take it out")
        if np.ptp(waveform) == 0 and not is_negative(label.label):
            raise AudioError(f"{name}: a silent example; take it out")
        yield Clip(label.label, recording_of(file), name, waveform, seconds)


def part_name(label: Label) -> str:
    """What a label is of, for people: the file, or the file with the times."""
    if label.start is None and label.end is None:
        return label.file
    return f"{label.file} from {label.start or 0:g} s"


def recording_of(file: str) -> str:
    """The recording that a file is of: of one that --suggest cut out, that which it names."""
    cut = _CUT_OUT.fullmatch(os.path.basename(file))
    return cut[1] if cut else file


@dataclass(frozen=True, eq=False)
class Examples:
    """Windows of the examples, embedded.

    Attributes:
        embeddings: (n, D).
        labels: n names of classes.
        recordings: n names of the recordings they come from.
        names: n, for people: the file, with the times of a part.
        settings: what the rows were made with, as `read_table` has them.
        silence: (D,) embedding of a window of constant samples; None where it is not known.
    """

    embeddings: Float32
    labels: list[str]
    recordings: list[str]
    names: list[str]
    settings: Mapping[str, Any]
    silence: Float32 | None = None


def invariant_width(settings: Mapping[str, Any], width: int) -> int:
    """How many of the `width` numbers of a row are the invariant embedding; all of them where there is one feature."""
    if settings.get("features") != "concat":
        return width
    try:
        encoder = EncoderConfig.from_dict(settings["encoder"])
    except (KeyError, ConfigError):
        return width // 2
    return encoder.embedding_dim(Features.INVARIANT, Layer(settings.get("layer", "head")))


def collect(
    examples: str | os.PathLike[str] | EmbeddingTable | Sequence[str | os.PathLike[str]],
    labels: Sequence[str] | None,
    model: str | os.PathLike[str] | None,
    window_seconds: float | None,
    hop_seconds: float | None,
    device: str,
    *,
    features: str = "concat",
    layer: str = "head",
    recordings: Iterable[str] = (),
) -> Examples:
    """Find and embed examples; arguments as in `Classifier.fit`, `find_examples` and `mtslvr.embed`.

    Raises:
        AudioError, ConfigError: see `Classifier.fit`.
    """
    if labels is not None and isinstance(labels, str):
        raise ConfigError(f"labels={labels!r}: give a list, one for each example")
    if isinstance(examples, EmbeddingTable):
        if labels is None or len(labels) != len(examples.paths):
            told = "none" if labels is None else len(labels)
            raise ConfigError(f"{told} labels for {len(examples.paths)} rows of embeddings; give one for each")
        recordings = list(examples.paths)
        names = [f"{path} from {start:g} s" for path, start in zip(recordings, examples.start, strict=True)]
        return Examples(np.asarray(examples.embeddings), list(labels), recordings, names, examples.settings)
    if labels is None:
        if not isinstance(examples, (str, os.PathLike)):
            raise ConfigError(
                "paths without labels: give labels=[...], one for each, or a folder with a folder a class"
            )
        found = find_examples(examples, recordings)
    else:
        paths = [examples] if isinstance(examples, (str, os.PathLike)) else [*examples]
        if len(labels) != len(paths):
            raise ConfigError(f"{len(labels)} labels for {len(paths)} paths; give one for each")
        found = [Label(os.fspath(path), None, None, label) for path, label in zip(paths, labels, strict=True)]
    class_names(label.label for label in found)
    folder = find(model)
    about = checkpoint.read_config(folder / checkpoint.CONFIG_NAME)
    clips = cut_examples(found, about.frontend.sample_rate)
    window = fitting_window(clips, about.window_seconds) if window_seconds is None else window_seconds
    hop = window / 2 if hop_seconds is None else hop_seconds
    config = ExtractConfig(Features(features), Layer(layer), Pool.NONE, window, hop)
    check_windows(about, config)
    name = os.fspath(model or DEFAULT_MODEL)
    named = os.path.abspath(folder) if folder == Path(name).expanduser() else name
    settings = describe(named, folder, config, about)
    return embed_clips(clips, load(folder, device=device), config, settings)


def fitting_window(clips: Sequence[Clip], longest: float) -> float:
    """A length of windows in seconds that fits the examples: their median, at least 0.5 s and at most `longest`."""
    median = statistics.median(clip.seconds for clip in clips)
    return round(min(max(median, _SHORTEST_WINDOW), longest), 1)


def _has_short_tail(spans: npt.NDArray[np.float64], window: float) -> bool:
    """Whether the last of several windows is not full, and less than half a window of it is in no earlier one."""
    if len(spans) < 2:
        return False
    start, end = spans[-1]
    return bool(end - start < window - 1e-6 and end - max(start, spans[-2, 1]) < window / 2 - 1e-6)


def embed_clips(
    clips: Sequence[Clip], encoder: Encoder, config: ExtractConfig, settings: Mapping[str, Any]
) -> Examples:
    """Embed the windows of the clips, but for a short tail after others, and silence."""
    sources = [Source(clip.waveform, encoder.sample_rate, clip.name) for clip in clips]
    nothing = np.zeros(round((config.window_seconds or SHORTEST) * encoder.sample_rate), np.float32)
    sources.append(Source(nothing, encoder.sample_rate, "silence"))
    rows, kept = [], []
    for clip, result in itertools.zip_longest(clips, extract(sources, encoder, config)):
        if result.error is not None:
            raise result.error
        count = len(result.embeddings) - _has_short_tail(result.spans, config.window_seconds or 0.0)
        rows.append(result.embeddings[:count])
        kept += [clip] * count if clip else []
    silence = rows.pop()[0]
    return Examples(
        np.concatenate(rows),
        [clip.label for clip in kept],
        [clip.recording for clip in kept],
        [clip.name for clip in kept],
        settings,
        silence,
    )
