"""Labelled examples, whole files or parts of recordings, to embeddings of windows; next: `choose`."""

from __future__ import annotations

import hashlib
import os
import re
import statistics
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, Union

import numpy as np
import numpy.typing as npt

from ..api import embed, embed_files
from ..audio.load import Excerpt, load_parts
from ..audio.windows import Pool
from ..config import EncoderConfig, Features, Layer
from ..errors import AudioError, ConfigError, MTSLVRError
from ..models import checkpoint
from ..models.hub import find, load
from ..nn.encoder import Encoder
from ..run.extract import ExtractConfig
from ..run.job import describe
from ..run.table import EmbeddingTable
from ..search import SHORTEST, check_times, embed_options, table_encoder
from .folders import check_order, find_examples, raise_all
from .labels import Label, first_bytes

Float32 = npt.NDArray[np.float32]
PathLike: TypeAlias = Union[str, "os.PathLike[str]"]

_SHORTEST_WINDOW = 0.5
_LONGER = 1.5  # times the examples' median, from which windows are told to be too long
_CUT_OUT = re.compile(r"(.+)@\d+\.\d+s_.*\.wav")  # see `clip_name`
_NEGATIVES = ("background", "noise", "_noise")


def is_negative(name: str) -> bool:
    """Whether a class is what is not to be labelled: background, noise or _noise, in any case."""
    return name.lower() in _NEGATIVES


def clip_name(recording: str, start: float, label: str, score: float) -> str:
    """Name of a clip of a recording, by which people see what it is, and `recording_of` where it is from."""
    flat, guess = (re.sub(r"[^\w.-]+", "_", part).strip("_") or "_" for part in (recording, label))
    flat, guess = first_bytes(flat, 140), first_bytes(guess, 60)
    return f"{flat}@{start:.2f}s_{guess}_{score:.2f}.wav"


def recording_of(file: str) -> str:
    """The recording that a file is of: of one that --suggest cut out, that which it names."""
    cut = _CUT_OUT.fullmatch(os.path.basename(file))
    return cut[1] if cut else file


def class_names(labels: Iterable[str]) -> list[str]:
    """The classes of examples, negative ones last; at least two, one of them positive."""
    names = sorted(set(labels), key=lambda name: (is_negative(name), name))
    if len(names) < 2 or all(map(is_negative, names)):
        raise ConfigError(
            f"examples of {', '.join(map(repr, names)) or 'no class'} only: give two classes, or one and a folder "
            f"{_NEGATIVES[0]!r} with sounds that are not it"
        )
    if others := [name for name in names if name.encode("utf-8", "replace").decode() != name]:
        raise ConfigError(f"class {others[0]!r}: its name is not in UTF-8, as labels are; rename its folder")
    return names


@dataclass(frozen=True, eq=False)
class Clip:
    """An example, cut out: its class, the recording it is of, what people know it by, and (n,) samples."""

    label: str
    recording: str
    name: str
    waveform: Float32


def cut_examples(labels: Sequence[Label], sample_rate: int, channel: int | str = "mix") -> list[Clip]:
    """Read the audio of examples, each recording once; several faults are told together, a line each."""
    of_recording: dict[str, list[Label]] = defaultdict(list)
    for label in labels:
        of_recording[label.file].append(label)
    clips: list[Clip] = []
    faults: list[MTSLVRError] = []
    for file, parts in of_recording.items():
        try:
            found, length = load_parts(file, sample_rate, [(part.start, part.end) for part in parts], channel)
        except AudioError as error:
            faults.append(error)
            continue
        for part, waveform in zip(parts, found, strict=True):
            try:
                clips.append(_clip(part, waveform, sample_rate, length))
            except MTSLVRError as error:
                faults.append(error)
    raise_all([*faults, *_in_two_classes(clips)])
    return clips


def _clip(label: Label, waveform: Float32, sample_rate: int, length: float) -> Clip:
    """The example of a recording of `length` seconds; raises where it cannot be used."""
    file = label.file
    check_times(f"{file}: the label {label.label!r}", label.start, label.end, length)
    name = file if label.start is label.end is None else f"{file} from {label.start or 0:g} s"
    if (seconds := waveform.size / sample_rate) < SHORTEST:
        raise ConfigError(f"{name}: an example of {seconds:.3f} s; give at least {SHORTEST} s, or take it out")
    if np.ptp(waveform) == 0 and not is_negative(label.label):
        raise AudioError(f"{name}: a silent example; take it out")
    return Clip(label.label, recording_of(file), name, waveform)


def _in_two_classes(clips: Iterable[Clip]) -> Iterator[ConfigError]:
    first: dict[bytes, Clip] = {}
    for clip in clips:
        other = first.setdefault(hashlib.blake2b(clip.waveform.tobytes()).digest(), clip)
        if other.label != clip.label:
            yield ConfigError(
                f"{other.name} ({other.label}) and {clip.name} ({clip.label}): the same audio in two classes; take one "
                "of them out"
            )


@dataclass(frozen=True, eq=False)
class Examples:
    """Windows of the examples, embedded."""

    embeddings: Float32  # (n, D)
    labels: list[str]  # n names of classes
    recordings: list[str]  # n names of the recordings they come from
    names: list[str]  # n, what people know each by, see `Clip`
    settings: Mapping[str, Any]  # what the rows were made with, as `read_table` has them
    silence: Float32  # (D,) embedding of a window of constant samples; zeros where the weights are not here


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
    examples: PathLike | EmbeddingTable | Sequence[PathLike],
    labels: Sequence[str] | None = None,
    model: PathLike | None = None,
    window_seconds: float | None = None,
    hop_seconds: float | None = None,
    device: str = "auto",
    *,
    features: str = "concat",
    layer: str = "head",
    channel: int | str = "mix",
    recordings: Iterable[str] = (),
) -> Examples:
    """Find and embed examples; arguments and errors as of `Classifier.fit`, `find_examples` and `mtslvr.embed`."""
    if isinstance(examples, EmbeddingTable):
        return _from_table(examples, labels)
    if labels is not None:
        paths = [examples] if isinstance(examples, (str, os.PathLike)) else [*examples]
        _check_labels(labels, len(paths), "paths")
        if others := [path for path in paths if not isinstance(path, (str, os.PathLike))]:
            raise ConfigError(f"examples: {type(others[0]).__name__} is no path; give paths, or a table of embeddings")
        found = [Label(os.fspath(path), None, None, label) for path, label in zip(paths, labels, strict=True)]
    elif isinstance(examples, (str, os.PathLike)):
        found = find_examples(examples, recordings := tuple(recordings))
    else:
        raise ConfigError("paths without labels: give labels=[...], one for each, or a folder with a folder a class")
    class_names(label.label for label in found)
    check_order(found, tuple(recordings))
    folder = find(model)
    about = checkpoint.read_config(folder / checkpoint.CONFIG_NAME)
    clips = cut_examples(found, about.frontend.sample_rate, channel)
    median = statistics.median(clip.waveform.size for clip in clips) / about.frontend.sample_rate
    fitting = round(min(max(median, _SHORTEST_WINDOW), about.window_seconds), 1)
    window = fitting if window_seconds is None else window_seconds
    if window > _LONGER * max(median, _SHORTEST_WINDOW):
        warnings.warn(
            f"windows of {window:g} s, and examples of {median:.2g} s (median): windows so much longer than the "
            "examples resemble none of them, and few will be labelled; choose windows as long as the examples",
            stacklevel=2,
        )
    hop = window / 2 if hop_seconds is None else hop_seconds
    config = ExtractConfig(Features(features), Layer(layer), Pool.NONE, window, hop, excerpt=Excerpt(channel))
    return _embed(clips, load(folder, device=device), describe(model, folder, config))


def _check_labels(labels: Sequence[str] | None, count: int, what: str) -> None:
    if labels is None or isinstance(labels, str) or len(labels) != count:
        told = f"labels={labels!r}" if labels is None or isinstance(labels, str) else f"{len(labels)} labels"
        raise ConfigError(f"{told} for {count} {what}; give a list, one for each")
    if others := [label for label in labels if not isinstance(label, str)]:
        raise ConfigError(f"labels: {others[0]!r} is no name of a class; give strings")


def _from_table(table: EmbeddingTable, labels: Sequence[str] | None) -> Examples:
    _check_labels(labels, len(table.paths), "rows of embeddings")
    if wrong := np.count_nonzero(~np.isfinite(table.embeddings).all(axis=1)):
        raise ConfigError(f"{wrong} of {len(table.paths)} embeddings are no numbers; leave them out, or embed again")
    names = [f"{path} from {start:g} s" for path, start in zip(table.paths, table.start, strict=True)]
    try:
        silence = _embed_silence(table_encoder("examples", table.settings, local_files_only=True), table.settings)
    except MTSLVRError:  # the weights are not here
        silence = np.zeros(table.embeddings.shape[1], np.float32)
    return Examples(np.asarray(table.embeddings), list(labels or ()), list(table.paths), names, table.settings, silence)


def _embed(clips: Sequence[Clip], encoder: Encoder, settings: Mapping[str, Any]) -> Examples:
    """Embed the windows of the clips, but for a short tail after others."""
    inputs = ((clip.waveform, encoder.sample_rate) for clip in clips)
    results = embed_files(inputs, encoder=encoder, pool="none", on_error="raise", **embed_options(settings))
    rows, kept = [], []
    for clip, result in zip(clips, results, strict=True):
        count = len(result.embeddings) - _has_short_tail(result.spans, settings["window_seconds"])
        rows.append(result.embeddings[:count])
        kept += [clip] * count
    labels, recordings, names = ([getattr(clip, name) for clip in kept] for name in ("label", "recording", "name"))
    return Examples(np.concatenate(rows), labels, recordings, names, settings, _embed_silence(encoder, settings))


def _has_short_tail(spans: npt.NDArray[np.float64], window: float) -> bool:
    """Whether the last of several windows is not full, and less than half a window of it is in no earlier one."""
    if len(spans) < 2:
        return False
    start, end = spans[-1]
    return bool(end - start < window - 1e-6 and end - max(start, spans[-2, 1]) < window / 2 - 1e-6)


def _embed_silence(encoder: Encoder, settings: Mapping[str, Any]) -> Float32:
    """The embedding (D,) of a window of constant samples."""
    window = settings.get("window_seconds") or encoder.config.window_seconds
    nothing = np.zeros(round(window * encoder.sample_rate), np.float32)
    row: Float32 = embed(nothing, encoder.sample_rate, encoder=encoder, **embed_options(settings))
    return row
