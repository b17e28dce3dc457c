"""Any audio file or array comes in, a mono float32 waveform at one rate goes out; next module: `windows`.

Long files are decoded block by block (`iter_blocks`), so memory does not grow with their length.
"""

from __future__ import annotations

import numbers
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any, BinaryIO, TypeAlias, Union

import numpy as np
import numpy.typing as npt
import soxr
from torch import Tensor

from ..errors import AudioError
from .find import AUDIO_SUFFIXES as AUDIO_SUFFIXES
from .find import FoundAudio as FoundAudio
from .find import find_audio as find_audio
from .recordings import Notes, Stream, read_streams

AudioInput: TypeAlias = Union[str, "os.PathLike[str]", BinaryIO, npt.NDArray[Any], Tensor]
Block: TypeAlias = npt.NDArray[np.float32]

MIN_RATE = 1000
MAX_RATE = 768_000
BLOCK_FRAMES = 1 << 14
MOST_CHANNELS = 16  # of an array; more rows are clips, not channels


def load_audio(
    source: AudioInput, target_rate: int, *, sample_rate: int | None = None, label: str | None = None
) -> Block:
    """Read a whole file or array as one mono waveform.

    Args:
        source: a path, a seekable or plain binary file object (read from its beginning), or an array or
            tensor, (samples,) or (channels, samples). Integers are scaled by the range of their dtype.
        target_rate: Hz.
        sample_rate: Hz of an array, required for one; a file's own rate is used, whatever is given here.
        label: what errors call the source; see `audio_label`.

    Returns:
        (n,) float32, the mean over channels at `target_rate` Hz; n > 0 and every value finite.

    Raises:
        AudioError: missing, a folder, not audio, broken midway, zero samples, NaN or infinite samples,
            a wrong rank, dtype or rate.
    """
    return np.concatenate(list(iter_blocks(source, target_rate, sample_rate=sample_rate, label=label)))


def iter_blocks(
    source: AudioInput,
    target_rate: int,
    *,
    sample_rate: int | None = None,
    label: str | None = None,
    notes: Notes | None = None,
) -> Iterator[Block]:
    """Read the waveform of `load_audio` in consecutive blocks, decoded and resampled one at a time.

    Args:
        source: see `load_audio`, as the others.
        target_rate: see `load_audio`.
        sample_rate: see `load_audio`.
        label: see `load_audio`.
        notes: filled by the time the last block is read.
    Yields:
        (m,) float32 with m > 0, about `BLOCK_FRAMES` samples or fewer.
    Raises:
        AudioError: as `load_audio`, while iterating.
    """
    label = audio_label(source) if label is None else label
    notes = Notes() if notes is None else notes
    target_rate = _check_rate(target_rate, "target_rate", label)
    levels, made, rate = _Levels(), 0, 0
    with closing(_streams(source, sample_rate, label, notes)) as streams:
        for stream in streams:
            rate = _check_rate(stream.rate, "sample_rate", label)
            mono = _check_samples(map(_mix, stream.blocks(_step(rate, target_rate))), rate, label)
            for block in mono if rate == target_rate else _resample(mono, rate, target_rate, levels):
                made += block.size
                yield block
    notes.above_half = levels.above_half
    if made == 0 and levels.seconds:
        raise AudioError(f"{label}: at {rate} Hz shorter than one sample at {target_rate} Hz; leave it out")
    if made == 0:
        raise AudioError(f"{label}: {notes.incomplete or 'zero samples'}; leave it out")


def load_parts(
    source: AudioInput, target_rate: int, parts: Sequence[tuple[float | None, float | None]]
) -> tuple[list[Block], float]:
    """Read parts of a file in one pass, holding no more than these.

    Args:
        source: see `load_audio`.
        target_rate: Hz.
        parts: start and end of each in seconds; None is the beginning and the end.
    Returns:
        A waveform (n,) each, shorter than asked for, or empty, where the file ends before; and the file's seconds.
    Raises:
        AudioError: see `load_audio`.
    """
    pieces: list[list[Block]] = [[np.empty(0, np.float32)] for _ in parts]
    bounds = [(_sample(start or 0, target_rate), _sample(end, target_rate)) for start, end in parts]
    position = 0
    for block in iter_blocks(source, target_rate):
        for piece, (first, last) in zip(pieces, bounds, strict=True):
            if first < position + block.size and last > position:
                piece.append(block[max(0, first - position) : last - position])
        position += block.size
    return [np.concatenate(piece) for piece in pieces], position / target_rate


def _sample(seconds: float | None, rate: int) -> int:
    return 1 << 62 if seconds is None else round(seconds * rate)


def audio_label(source: object, index: int | None = None) -> str:
    """Name `source` in an error.

    Returns:
        The path as given, `<file object>`, `<array>` or the name of another type in angle brackets; all but a path with
        `index`, their place in a list.
    """
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source)
    kind = "file object" if hasattr(source, "read") else type(source).__name__
    kind = "array" if isinstance(source, (np.ndarray, Tensor)) else kind
    return f"<{kind}>" if index is None else f"<{kind} {index}>"


class _ArrayStream:
    """An array as a `Stream`."""

    def __init__(self, array: npt.NDArray[Any], rate: int) -> None:
        self.rate, self.frames, self._array = rate, 0, array

    def blocks(self, step: int) -> Iterator[npt.NDArray[Any]]:
        for start in range(0, self._array.shape[1], step):
            yield _to_unit(self._array[:, start : start + step]).T


def _streams(source: AudioInput, sample_rate: int | None, label: str, notes: Notes) -> Generator[Stream, None, None]:
    if not isinstance(source, (np.ndarray, Tensor)):
        yield from read_streams(source, label, notes)
    elif sample_rate is None:
        raise AudioError(f"{label}: array input needs sample_rate=... (Hz)")
    else:
        yield _ArrayStream(_check_array(source, label), sample_rate)


def _check_rate(value: object, name: str, label: str) -> int:
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not (whole and MIN_RATE <= value <= MAX_RATE):  # type: ignore[operator]
        raise AudioError(f"{label}: {name}={value!r}: must be a whole number of Hz from {MIN_RATE} to {MAX_RATE}")
    return int(value)  # type: ignore[call-overload, no-any-return]


def _step(rate: int, target_rate: int) -> int:
    # A block may grow by target_rate / rate in resampling; neither side of it exceeds BLOCK_FRAMES.
    return max(1, min(BLOCK_FRAMES, BLOCK_FRAMES * rate // target_rate))


def _check_array(source: npt.NDArray[Any] | Tensor, label: str) -> npt.NDArray[Any]:
    array = _to_numpy(source, label) if isinstance(source, Tensor) else np.asarray(source)
    if array.dtype.kind not in "fiu":
        raise AudioError(f"{label}: dtype {array.dtype}: must be floating point or integer samples")
    if array.ndim not in (1, 2):
        raise AudioError(f"{label}: shape {array.shape}: must be (samples,) or (channels, samples)")
    if array.size == 0:
        raise AudioError(f"{label}: shape {array.shape}: zero samples; leave it out")
    if array.ndim == 2 and array.shape[0] > array.shape[1]:
        raise AudioError(
            f"{label}: shape {array.shape}: {array.shape[0]} channels of {array.shape[1]} samples; "
            "pass (channels, samples)"
        )
    if array.ndim == 2 and array.shape[0] > MOST_CHANNELS:
        raise AudioError(
            f"{label}: shape {array.shape}: more than {MOST_CHANNELS} rows are no channels of a recording; "
            "pass a batch of clips as a list of 1-D arrays, list(batch)"
        )
    return np.atleast_2d(array)


def _to_numpy(tensor: Tensor, label: str) -> npt.NDArray[Any]:
    try:
        tensor = tensor.detach().cpu()
        # NumPy has no bfloat16; float32 holds every floating type of 16 bits or fewer exactly.
        return (tensor.float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor).numpy()
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise AudioError(f"{label}: {tensor.dtype} tensor that NumPy cannot hold ({error})") from None


def _to_unit(block: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if block.dtype.kind == "f":
        return block
    half = 2.0 ** (8 * block.dtype.itemsize - 1)
    offset = half if block.dtype.kind == "u" else 0.0
    return (block.astype(np.float64) - offset) / half


def _mix(block: npt.NDArray[Any]) -> Block:
    channels = block.shape[1]
    with np.errstate(over="ignore", invalid="ignore"):
        if channels == 1:
            return np.ascontiguousarray(block[:, 0], np.float32)
        # Column by column is several times as fast as `block.mean(axis=1)`.
        total = block[:, 0].astype(np.float64)
        for channel in range(1, channels):
            total += block[:, channel]
        mono: Block = (total / channels).astype(np.float32)
    return mono


def _check_samples(blocks: Iterator[Block], rate: int, label: str) -> Iterator[Block]:
    position = 0
    for block in blocks:
        finite = np.isfinite(block)
        if not finite.all():
            bad = np.flatnonzero(~finite)
            first = position + int(bad[0])
            count = bad.size + sum(int(np.count_nonzero(~np.isfinite(later))) for later in blocks)
            where = f"the first at index {first} ({first / rate:.3f} s)"
            raise AudioError(f"{label}: NaN or infinite samples: {count}, {where}; repair or remove them")
        position += block.size
        yield block


class _Levels:
    """Energy before and after resampling: what is missing lay above half of the target rate.

    A recording counts as having content there when a thousandth of its energy does (-30 dB); a codec's or a
    resampler's own noise is below that.
    """

    LEAST = 1e-3

    def __init__(self) -> None:
        self.seconds = self._before = self._after = 0.0

    def add_source(self, block: Block, rate: int) -> None:
        self.seconds += block.size / rate
        self._before += float(np.dot(block, block)) / rate

    def add_result(self, block: Block, rate: int) -> None:
        self._after += float(np.dot(block, block)) / rate

    @property
    def above_half(self) -> bool:
        return self._before - self._after > self.LEAST * self._before


def _resample(blocks: Iterable[Block], rate: int, target_rate: int, levels: _Levels) -> Iterator[Block]:
    stream = soxr.ResampleStream(rate, target_rate, 1, dtype="float32")
    for block in blocks:
        levels.add_source(block, rate)
        out = stream.resample_chunk(block)
        levels.add_result(out, target_rate)
        if out.size:
            yield out
    out = stream.resample_chunk(np.empty(0, np.float32), last=True)
    levels.add_result(out, target_rate)
    if out.size:
        yield out
