"""Any audio file comes in, its samples go out stream by stream, as far as its bytes go; next: `load`."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
import soundfile

from ..errors import AudioError
from . import ffmpeg, layout
from .layout import CUT, Layout
from .splice import Original, Splice, what_failed

BLOCK_FRAMES = 1 << 14
_UNKNOWN_FRAMES = 1 << 35
# Rates in Hz, and blocks of (m, channels) samples.
Streams: TypeAlias = Generator[tuple[int, Iterator[npt.NDArray[Any]]], None, None]


@dataclass
class Notes:
    """What was noticed about a recording while it was read."""

    incomplete: str | None = None  # what of it is missing, as `6.0 s of the 12.0 s its header says`
    above_half: bool = False  # it has content above half of the target rate, where nothing is heard of it


def header(path: str | os.PathLike[str]) -> tuple[float, int]:
    """Seconds and rate in Hz that the header of a file claims; zeros for what it does not tell libsndfile."""
    with suppress(OSError, RuntimeError, UnicodeError):
        # soundfile encodes text strictly, and a name on Linux may be any bytes.
        info = soundfile.info(os.fsencode(path) if os.name == "posix" else path)
        return (info.duration if info.frames < _UNKNOWN_FRAMES else 0.0), info.samplerate
    return 0.0, 0


def read_streams(source: object, label: str, notes: Notes) -> Streams:
    """The streams of a path or binary file object, each to be read before the next; then `notes` are filled."""
    suffix = _suffix(source)
    with ExitStack() as stack:
        file = Original(_open(source, label, stack), label)
        file.check()
        if file.size == 0:
            raise AudioError(f"{label}: an empty file (0 bytes), zero samples; leave it out")
        found = Layout()
        try:
            found = layout.lay_out(file, suffix)
            first = SndfileStream(found.streams[0], file)
        except AudioError as error:
            refused = error
        else:
            yield from _decode(found, first, file, notes)
            return
        known = suffix in ffmpeg.SUFFIXES
        if not (isinstance(source, (str, os.PathLike)) and ffmpeg.available()):
            raise AudioError(f"{refused}, or install ffmpeg and pass a path") if known else refused
        try:
            yield from _decode_with_ffmpeg(os.fsdecode(source), label, found.remark, notes)
        except AudioError as error:
            raise (error if known else refused) from None


def _decode(found: Layout, first: SndfileStream, file: Original, notes: Notes) -> Streams:
    reached = missing = 0.0
    remark = found.remark
    for number, part in enumerate(found.streams):
        with closing(first if number == 0 else SndfileStream(part, file)) as stream:
            yield stream.rate, stream.blocks()
        reached += stream.frames / stream.rate
        missing += stream.missing
        remark = remark or (CUT if stream.broken_off else None)
    if missing > 0.05:
        notes.incomplete = f"{reached:.1f} s of the {reached + missing:.1f} s its header says"
    elif remark is not None:
        notes.incomplete = f"{reached:.1f} s: {remark}"


def _decode_with_ffmpeg(path: str, label: str, remark: str | None, notes: Notes) -> Streams:
    with ffmpeg.open_with_ffmpeg(path, label) as stream:
        yield stream.rate, stream.blocks(BLOCK_FRAMES)
        remark = remark or (f"ffmpeg: {stream.complaint}" if stream.complaint else None)
        notes.incomplete = remark and f"{stream.frames / stream.rate:.1f} s: {remark}"


class _SequentialFile(soundfile.SoundFile):  # type: ignore[misc, unused-ignore]
    """Reads straight on: no seek after each block, no frame count trusted, as soundfile does otherwise."""

    def seekable(self) -> bool:
        return False


class SndfileStream:
    """A stream that libsndfile decodes, straight on to where its bytes end.

    `rate` is in Hz, `frames` have been read so far, and `broken_off` says whether more had to come.
    """

    def __init__(self, stream: layout.Stream, file: Original) -> None:
        self._stream, self._original = stream, file
        try:
            stream.file.seek(0)
            self._file = _SequentialFile(stream.file, closefd=False)
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            file.check()
            said = f"{_beginning(stream.file)}{_reason(error)}"
            raise AudioError(f"{file.label}: not an audio file ({said}); convert it to WAV or FLAC") from None
        file.check()
        self.rate: int = self._file.samplerate
        self.frames, self.broken_off = 0, False
        self._claimed: int = stream.samples or (self._file.frames if self._file.frames < _UNKNOWN_FRAMES else 0)

    def close(self) -> None:
        """Let go of libsndfile's memory; the file that was given stays open."""
        self._file.close()

    @property
    def missing(self) -> float:
        """Seconds that the header claims beyond those that were read."""
        claimed = max(self._claimed, self.frames * self._stream.factor)
        return max(self._stream.missing, (claimed - self.frames) / self.rate)

    def blocks(self) -> Iterator[npt.NDArray[np.float32]]:
        """Read (m, channels) samples at a time."""
        failure = None
        while failure is None:
            block = np.full((BLOCK_FRAMES, self._file.channels), np.nan, np.float32)
            try:
                block = self._file.read(out=block)
            except (OSError, RuntimeError) as error:
                block, failure = block[~np.isnan(block).any(axis=1)], error  # what was decoded before the damage
            self._original.check()
            self.frames += len(block)
            if len(block):
                yield block
            elif failure is None:
                return
        # Behind all the samples of the header other bytes may follow; before the end of the file none may.
        if not 0 < self._claimed <= self.frames:
            self.broken_off = self._stream.file.is_read
            if not self.broken_off:
                at = f"decoding fails after {self.frames / self.rate:.3f} s ({_reason(failure)})"
                raise AudioError(f"{self._original.label}: {at}; encode it again or cut it there")


def _reason(error: Exception) -> str:
    text = getattr(error, "error_string", None)
    return str(error) if text is None else f"libsndfile: {str(text).removeprefix('Error : ').rstrip('.')}"


def _beginning(file: Splice) -> str:
    """How a text begins that was saved under the name of audio, such as a web page or a pointer of Git LFS."""
    head = " ".join(file.read_at(0, 40).decode(errors="replace").split())
    return f"begins with {head!r}, " if head and head.isprintable() else ""


def _suffix(source: object) -> str:
    name = source if isinstance(source, (str, os.PathLike)) else getattr(source, "name", "")
    return os.path.splitext(os.fsdecode(name))[1].lower() if isinstance(name, (str, bytes, os.PathLike)) else ""


def hold(source: Any, label: str) -> Any:
    """What can be read more than once: a file object that cannot seek is read to memory, anything else given back."""
    if not hasattr(source, "read") or isinstance(source, io.TextIOBase):
        return source
    try:
        seekable = hasattr(source, "seekable") and source.seekable()
        return source if seekable else io.BytesIO(memoryview(source.read()))
    except Exception as error:
        said = f"cannot be read ({what_failed(error)}); open it anew as a binary file"
        raise AudioError(f"{label}: {said}") from None


def _open(source: object, label: str, stack: ExitStack) -> Any:
    """The source as a seekable binary file."""
    if isinstance(source, (str, os.PathLike)):
        return stack.enter_context(_open_path(os.fsdecode(source), label))
    if not hasattr(source, "read"):
        kind = type(source).__name__
        raise AudioError(f"{label}: type {kind}: pass a path, a binary file object, an array or a tensor")
    if isinstance(source, io.TextIOBase):
        raise AudioError(f"{label}: a text file object; open it in binary mode, open(path, 'rb')")
    return hold(source, label)


def _open_path(path: str, label: str) -> BinaryIO:
    if os.path.isdir(path):
        raise AudioError(f"{label} is a folder; give its files to mtslvr.embed_files, or use mtslvr-embed")
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        raise AudioError(f"{label}: no such file; check the path") from None
    if not stat.S_ISREG(mode):
        raise AudioError(f"{label}: a pipe, device or socket, no file; save what it gives to a file")
    try:
        return open(path, "rb")
    except OSError as error:
        raise AudioError(f"{label}: {(error.strerror or str(error)).lower()}; make it readable") from None
