"""Any audio file or array comes in, a mono float32 waveform at one rate goes out, in blocks; next: `windows`."""

from __future__ import annotations

import itertools
import math
import numbers
import os
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias, Union

import numpy as np
import numpy.typing as npt
import soxr
from torch import Tensor

from ..errors import AudioError, ConfigError
from .recordings import BLOCK_FRAMES, Notes, Streams, read_streams

AudioInput: TypeAlias = Union[str, "os.PathLike[str]", BinaryIO, npt.NDArray[Any], Tensor]
Block: TypeAlias = npt.NDArray[np.float32]

MIN_RATE = 1000
MAX_RATE = 768_000
MOST_CHANNELS = 16  # of an array; more rows are clips, not channels
_TOLERANCE = 0.05  # seconds that a file may be shorter than what is said elsewhere: a codec's frame or two


@dataclass(frozen=True)
class Excerpt:
    """What is read of a recording."""

    channel: int | str = "mix"  # the mean over all, or a number, counted from 0
    start: float | None = None  # in seconds; None is the beginning
    end: float | None = None  # in seconds; None is the end of the recording

    def __post_init__(self) -> None:
        whole = isinstance(self.channel, numbers.Integral) and not isinstance(self.channel, bool)
        if whole and self.channel >= 0:  # type: ignore[operator]
            object.__setattr__(self, "channel", int(self.channel))
        elif self.channel != "mix":
            raise ConfigError(f"channels={self.channel!r}: must be 'mix' or the number of a channel, counted from 0")
        for name in ("start", "end"):
            if (time := getattr(self, name)) is not None:
                if not isinstance(time, (str, bytes, bool)):
                    with suppress(TypeError, ValueError):
                        object.__setattr__(self, name, float(time))  # of any library
                if not isinstance(getattr(self, name), float) or not 0 <= getattr(self, name) < math.inf:
                    raise ConfigError(f"{name}={time!r}: must be a time in seconds from 0, or None")
        if self.end is not None and not (self.start or 0) < self.end:
            raise ConfigError(f"end={self.end!r}: must be after start={self.start or 0!r}; correct the times")


WHOLE = Excerpt()


def load_audio(
    source: AudioInput, target_rate: int, *, sample_rate: int | None = None, label: str | None = None
) -> Block:
    """Read a whole file or array as one mono waveform: (n,) float32, n > 0 and every value finite.

    Args:
        source: a path, a seekable or plain binary file object (read from its beginning), or an array or
            tensor, (samples,) or (channels, samples). Integers are scaled by the range of their dtype.
        target_rate: Hz.
        sample_rate: Hz of an array, required for one; a file's own rate is used, whatever is given here.
        label: what errors call the source; see `audio_label`.
    """
    return np.concatenate(list(iter_blocks(source, target_rate, sample_rate=sample_rate, label=label)))


def iter_blocks(
    source: AudioInput,
    target_rate: int,
    *,
    sample_rate: int | None = None,
    label: str | None = None,
    notes: Notes | None = None,
    excerpt: Excerpt = WHOLE,
) -> Iterator[Block]:
    """Read the waveform of `load_audio`, or an excerpt, in consecutive blocks, decoded and resampled one at a time.

    `notes` are filled by the time the last block is read, where that is the end of the source.
    """
    label = audio_label(source) if label is None else label
    notes = Notes() if notes is None else notes
    target_rate = _check_rate(target_rate, "target_rate", label)
    blocks = _whole_blocks(source, target_rate, sample_rate, label, notes, excerpt.channel)
    return blocks if excerpt.start is excerpt.end is None else _cut(blocks, target_rate, excerpt, label)


def _whole_blocks(
    source: AudioInput, target_rate: int, sample_rate: int | None, label: str, notes: Notes, channel: int | str
) -> Iterator[Block]:
    made, energy, resampled_energy = 0, 0.0, 0.0
    with closing(_streams(source, sample_rate, label, notes)) as streams:
        for given_rate, blocks in streams:
            rate, position = _check_rate(given_rate, "sample_rate", label), 0
            resampler = None if rate == target_rate else soxr.ResampleStream(rate, target_rate, 1, dtype="float32")
            for samples in itertools.chain(blocks, [None]):
                block = np.empty(0, np.float32) if samples is None else _mono(samples, channel, label)
                if (bad := np.flatnonzero(~np.isfinite(block))).size:
                    where = f"index {position + bad[0]} ({(position + bad[0]) / rate:.3f} s)"
                    said = f"NaN or infinite samples, or beyond float32, the first at {where}"
                    raise AudioError(f"{label}: {said}; repair or remove them")
                position += block.size
                if resampler is not None:
                    energy += float(np.dot(block, block)) / rate
                    block = resampler.resample_chunk(block, last=samples is None)
                    resampled_energy += float(np.dot(block, block)) / target_rate
                made += block.size
                if block.size:
                    yield block
    # What is missing lay above half of the target rate; a codec's or a resampler's own noise does not reach -30 dB.
    notes.above_half = energy - resampled_energy > 1e-3 * energy
    if made == 0:
        raise AudioError(f"{label}: {notes.incomplete or 'zero samples'}; leave it out")


def _cut(blocks: Iterator[Block], rate: int, excerpt: Excerpt, label: str) -> Iterator[Block]:
    first, last = _sample(excerpt.start or 0, rate), _sample(excerpt.end, rate)
    if first == last:
        raise AudioError(f"{label}: end={excerpt.end!r}: not a sample after start={excerpt.start!r}; correct the times")
    position = 0
    for block in blocks:
        piece = block[max(0, first - position) : last - position]
        position += block.size
        if piece.size:
            yield piece
        if position >= last:
            return
    seconds = position / rate
    if position <= first or (excerpt.end is not None and excerpt.end > seconds + _TOLERANCE):
        name = "start" if position <= first else "end"
        said = f"{name}={getattr(excerpt, name):g} s is beyond its end at {seconds:.2f} s"
        raise AudioError(f"{label}: {said}; correct the times")


def load_parts(
    source: AudioInput,
    target_rate: int,
    parts: Sequence[tuple[float | None, float | None]],
    channel: int | str = "mix",
) -> tuple[list[Block], float]:
    """Parts of a file, by start and end in seconds, shorter or empty where it ends before, and the file's seconds."""
    pieces: list[list[Block]] = [[np.empty(0, np.float32)] for _ in parts]
    bounds = [(_sample(start or 0, target_rate), _sample(end, target_rate)) for start, end in parts]
    position = 0
    for block in iter_blocks(source, target_rate, excerpt=Excerpt(channel_of(source, channel))):
        for piece, (first, last) in zip(pieces, bounds, strict=True):
            if first < position + block.size and last > position:
                piece.append(block[max(0, first - position) : last - position])
        position += block.size
    return [np.concatenate(piece) for piece in pieces], position / target_rate


def _sample(seconds: float | None, rate: int) -> int:
    return 1 << 62 if seconds is None else round(seconds * rate)


def count_channels(source: AudioInput, label: str | None = None) -> int:
    """How many channels a file or array has, a file as it begins; raises as `load_audio`."""
    label = audio_label(source) if label is None else label
    with closing(_streams(source, MIN_RATE, label, Notes())) as streams:  # an array needs no rate for this
        for block in itertools.chain.from_iterable(blocks for _, blocks in streams):
            return int(block.shape[1])
    raise AudioError(f"{label}: zero samples; leave it out")


def channel_of(source: AudioInput, channel: int | str) -> int | str:
    """`channel`, or "mix" where the source has one alone, such as a clip that was cut out; raises as `load_audio`."""
    return "mix" if channel == "mix" or count_channels(source) == 1 else channel


def audio_label(source: object, index: int | None = None) -> str:
    """What errors call `source`: a path as given, `<array>`, `<file object 3>` by its place in a list, or its type."""
    if isinstance(source, (str, os.PathLike)):
        with suppress(Exception):  # of a path of another library
            return os.fsdecode(source)
    kind = "file object" if hasattr(source, "read") else type(source).__name__
    kind = "array" if isinstance(source, (np.ndarray, Tensor)) else kind
    return f"<{kind}>" if index is None else f"<{kind} {index}>"


def _streams(source: AudioInput, sample_rate: int | None, label: str, notes: Notes) -> Streams:
    if not isinstance(source, (np.ndarray, Tensor)):
        yield from read_streams(source, label, notes)
    elif sample_rate is None:
        raise AudioError(f"{label}: array input needs sample_rate=... (Hz)")
    else:
        array = _check_array(source, label)
        starts = range(0, array.shape[1], BLOCK_FRAMES)
        yield sample_rate, (_to_unit(array[:, start : start + BLOCK_FRAMES]).T for start in starts)


def _check_rate(value: object, name: str, label: str) -> int:
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not (whole and MIN_RATE <= value <= MAX_RATE):  # type: ignore[operator]
        raise AudioError(f"{label}: {name}={value!r}: must be a whole number of Hz from {MIN_RATE} to {MAX_RATE}")
    return int(value)  # type: ignore[call-overload, no-any-return]


def _mono(block: npt.NDArray[Any], channel: int | str, label: str) -> Block:
    """One channel of (m, channels) samples, or their mean."""
    channels = block.shape[1]
    if isinstance(channel, int) and channel >= channels:
        raise AudioError(f"{label}: no channel {channel}, counted from 0, of {channels}; choose another")
    with np.errstate(over="ignore", invalid="ignore"):
        if channels == 1 or isinstance(channel, int):
            return np.ascontiguousarray(block[:, channel if isinstance(channel, int) else 0], np.float32)
        # Column by column is several times as fast as `block.mean(axis=1)`.
        total = block[:, 0].astype(np.float64)
        for other in range(1, channels):
            total += block[:, other]
        mono: Block = (total / channels).astype(np.float32)
    return mono


def _check_array(source: npt.NDArray[Any] | Tensor, label: str) -> npt.NDArray[Any]:
    if isinstance(source, Tensor):
        source = source.detach().cpu()
        # NumPy has no bfloat16; float32 holds every floating type of 16 bits or fewer exactly.
        source = (source.float() if source.is_floating_point() and source.itemsize < 4 else source).numpy()
    array = np.asarray(source)
    if array.dtype.kind not in "fiu":
        raise AudioError(f"{label}: dtype {array.dtype}: must be floating point or integer samples")
    rows = np.atleast_2d(array)
    if array.ndim not in (1, 2):
        said = "must be (samples,) or (channels, samples)"
    elif array.size == 0:
        said = "zero samples; leave it out"
    elif len(rows) > rows.shape[1]:
        said = f"{len(rows)} channels of {rows.shape[1]} samples; pass (channels, samples)"
    elif len(rows) > MOST_CHANNELS:
        remedy = "pass a batch of clips as a list of 1-D arrays, list(batch)"
        said = f"more than {MOST_CHANNELS} rows are no channels of a recording; {remedy}"
    else:
        return rows
    raise AudioError(f"{label}: shape {array.shape}: {said}")


def _to_unit(block: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if block.dtype.kind == "f":
        return block
    half = 2.0 ** (8 * block.dtype.itemsize - 1)
    offset = half if block.dtype.kind == "u" else 0.0
    return (block.astype(np.float64) - offset) / half
