"""Any audio file comes in, its samples go out stream by stream, as far as its bytes go; next: `audio`.

Most files hold one stream. A chained Ogg and joined MP3s hold several, which may differ in rate and channels.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol

import numpy.typing as npt

from ..errors import AudioError, one_line
from . import ffmpeg, mp3
from .containers import ogg_links, read_claim
from .sndfile import SndfileStream
from .splice import Splice

MPEG_SUFFIXES = frozenset((".mp3", ".mp2", ".mp1", ".mpga"))
_CUT = "the file ends before its audio does"
_MOST_JUNK = 1024  # bytes in an MP3 that are no audio, passed over without a word
_TEXTS = (  # how files begin that were saved under an audio file's name
    (b"<!doctype", "a web page", "download it again"),
    (b"<html", "a web page", "download it again"),
    (b"<?xml", "an XML document", "download it again"),
    (b'{"', "a JSON document", "download it again"),
    (b"version https://git-lfs", "a pointer of Git LFS", "fetch it with git lfs pull"),
)


@dataclass
class Notes:
    """What was noticed about a recording while it was read.

    Attributes:
        incomplete: what of it is missing, as `6.0 s of the 12.0 s its header says`; None when all is there.
        above_half: it has content above half of the target rate, where nothing is heard of it.
    """

    incomplete: str | None = None
    above_half: bool = False


class Stream(Protocol):
    """Samples of one rate.

    Attributes:
        rate: Hz.
        frames: samples of a channel read so far.
    """

    rate: int
    frames: int

    def blocks(self, step: int) -> Iterator[npt.NDArray[Any]]:
        """Read (m, channels) samples at a time, m = `step` but for the last."""
        ...


def read_streams(source: object, label: str, notes: Notes) -> Iterator[Stream]:
    """Open the streams of a path or binary file object, each to be read before the next.

    Args:
        source: read from its beginning.
        label: what errors call it.
        notes: filled when all streams are read.
    Raises:
        AudioError: missing, a folder, a pipe, not audio, or broken midway.
    """
    with ExitStack() as stack:
        file = _open(source, label, stack)
        suffix = _suffix(source)
        layout = _Layout()
        try:
            layout = _lay_out(file, label, suffix)
            first = SndfileStream(layout.files[0], label)
        except OSError as error:
            raise AudioError(f"{label}: cannot be read ({error}); copy it anew") from None
        except AudioError as error:
            refused = error
        else:
            yield from _decode(layout, first, label, notes)
            return
        file.seek(0)
        if not ffmpeg.may_read(file.read(16), suffix):
            raise refused
        if not (isinstance(source, (str, os.PathLike)) and ffmpeg.available()):
            raise AudioError(f"{refused}, or install ffmpeg and pass a path")
        try:
            yield from _decode_with_ffmpeg(os.fsdecode(source), label, layout.remark, notes)
        except AudioError as error:
            raise (error if suffix in ffmpeg.SUFFIXES else refused) from None


def _decode(layout: _Layout, first: SndfileStream, label: str, notes: Notes) -> Iterator[Stream]:
    reached = claimed = 0.0
    broken_off = False
    for number, part in enumerate(layout.files):
        with first if number == 0 else SndfileStream(part, label) as stream:
            yield stream
        reached += stream.frames / stream.rate
        claimed += stream.claimed / stream.rate
        broken_off = broken_off or stream.broken_off
    if layout.claimed is not None:
        claimed = layout.claimed
    notes.incomplete = _describe(reached, max(claimed, reached * layout.factor), layout.remark, broken_off)


def _decode_with_ffmpeg(path: str, label: str, remark: str | None, notes: Notes) -> Iterator[Stream]:
    with ffmpeg.open_with_ffmpeg(path, label) as stream:
        yield stream
        remark = remark or (f"ffmpeg: {stream.complaint}" if stream.complaint else None)
        notes.incomplete = _describe(stream.frames / stream.rate, 0.0, remark, False)


def _describe(reached: float, claimed: float, remark: str | None, broken_off: bool) -> str | None:
    if claimed - reached > 0.05:
        return f"{reached:.1f} s of the {claimed:.1f} s its header says"
    remark = _CUT if broken_off and remark is None else remark
    return None if remark is None else f"{reached:.1f} s: {remark}"


@dataclass
class _Layout:
    """The files that libsndfile opens one after the other, and what their headers are worth.

    Attributes:
        files: the whole, or pieces of it.
        claimed: seconds by the header, where libsndfile does not know them; 0 where the header does not either.
        factor: how many times the audio that is there the header claims.
        remark: what is wrong, where it is not the length.
    """

    files: list[Any] = field(default_factory=list)
    claimed: float | None = None
    factor: float = 1.0
    remark: str | None = None


def _lay_out(file: BinaryIO, label: str, suffix: str) -> _Layout:
    file.seek(0)
    head = file.read(512)
    _check_text(head, label)
    head = head[:4]
    if head == b"OggS":
        return _lay_out_ogg(file)
    if head[:3] == b"ID3" or suffix in MPEG_SUFFIXES or mp3.begins_like_mpeg(file):
        found = mp3.find_parts(file)
        if found.parts:
            return _lay_out_mp3(file, found)
        if mp3.begins_like_mpeg(file):
            raise AudioError(f"{label}: not an audio file (no two MPEG frames follow one another); leave it out")
    claim = read_claim(file)
    if claim is None:
        return _Layout([file])
    layout = _Layout([claim.open(file) or file], factor=claim.factor)
    if claim.unfinished:
        layout.remark = "its header was never finished; read to the end of the file"
    elif (
        not claim.wrapped and claim.behind > max(4096, (claim.length or 0) // 100) and _has_content(file, claim.behind)
    ):
        layout.remark = f"{claim.behind} bytes behind the length that its header says are left out"
    return layout


def _lay_out_ogg(file: BinaryIO) -> _Layout:
    links = ogg_links(file)
    files = [Splice(file, [(link.start, link.end)]) for link in links] if len(links) > 1 else [file]
    unfinished = any(not link.finished for link in links)
    return _Layout(files, 0.0, remark=_CUT if unfinished else None)


def _lay_out_mp3(file: BinaryIO, found: mp3.Parts) -> _Layout:
    short = any(part.claimed_frames > part.frames for part in found.parts)
    claimed = sum(part.seconds(part.claimed_frames) for part in found.parts) if short else 0.0
    remark = _CUT if found.cut else None
    if found.junk > _MOST_JUNK:
        remark = f"{found.junk} bytes that are no MPEG audio are left out"
    return _Layout([part.open(file) for part in found.parts], claimed, remark=remark)


def _has_content(file: BinaryIO, behind: int) -> bool:
    file.seek(-behind, os.SEEK_END)
    return any(file.read(1 << 16))


def _suffix(source: object) -> str:
    name = source if isinstance(source, (str, os.PathLike)) else getattr(source, "name", "")
    return os.path.splitext(os.fsdecode(name))[1].lower() if isinstance(name, (str, bytes, os.PathLike)) else ""


def _open(source: object, label: str, stack: ExitStack) -> Any:
    if isinstance(source, (str, os.PathLike)):
        return stack.enter_context(_open_path(os.fsdecode(source), label))
    if not hasattr(source, "read"):
        kind = type(source).__name__
        raise AudioError(f"{label}: type {kind}: pass a path, a binary file object, an array or a tensor")
    if isinstance(source, io.TextIOBase):
        raise AudioError(f"{label}: a text file object; open it in binary mode, open(path, 'rb')")
    try:
        if not (hasattr(source, "seekable") and source.seekable()):
            return io.BytesIO(source.read())
        source.seek(0)  # type: ignore[attr-defined]
    except (OSError, ValueError, TypeError) as error:
        raise AudioError(f"{label}: cannot be read ({error}); pass an open binary file object") from None
    return source


def _open_path(path: str, label: str) -> BinaryIO:
    if os.path.isdir(path):
        raise AudioError(f"{label} is a folder; use find_audio or mtslvr-embed")
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        raise AudioError(f"{label}: no such file; check the path") from None
    if not stat.S_ISREG(found.st_mode):
        raise AudioError(f"{label}: a pipe, device or socket, no file; save what it gives to a file")
    if found.st_size == 0:
        raise AudioError(f"{label}: an empty file (0 bytes), zero samples; leave it out")
    try:
        return open(path, "rb", buffering=0)
    except OSError as error:
        raise AudioError(f"{label}: {(error.strerror or str(error)).lower()}; make it readable") from None


def _check_text(head: bytes, label: str) -> None:
    head = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for begin, what, remedy in _TEXTS:
        if head.lower().startswith(begin):
            said = one_line(head.decode(errors="replace"), 20)
            raise AudioError(f"{label}: not audio but {what} (begins with {said!r}); {remedy}")
