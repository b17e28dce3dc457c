"""What a file's bytes say of its audio: the streams in it, and how much of each its headers claim; next: `recordings`.

Most files are one stream. A chained Ogg, joined FLACs and joined MP3s are several, which may differ in rate and
channels. Where a header is wrong about a length, the stream is given to libsndfile behind one that is right.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from struct import pack, unpack
from typing import NamedTuple

from ..errors import AudioError
from . import mp3
from .splice import Original, Splice, find_all

CUT = "the file ends before its audio does"
_MOST_JUNK = 1024  # bytes in an MP3 that are no audio, passed over without a word
_OGG_PAGE = re.compile(rb"OggS\0[\0-\7]")  # RFC 3533: what begins a page, and its flags
_OGG_BEGIN, _OGG_END = 2, 4
_FLAC = re.compile(rb"fLaC[\0\x80]\0\0\x22")  # RFC 9639: what begins a stream, and its STREAMINFO
_FLAC_COUNT = 21  # where the number of samples is: half a byte and four bytes
_ALL_ONES = 0xFFFFFFFF
# Lengths that stand for "unknown" in a stream.
_OPEN = (range((1 << 31) - 4096, (1 << 31) + 1), range((1 << 32) - 4096, 1 << 32))


class _Family(NamedTuple):
    """How a kind of files is made of chunks, each of an identifier of four bytes, a length and a content."""

    length: str  # as `struct` has it
    audio: bytes  # identifier of the chunk with the audio
    empty: int  # length of that chunk without any audio


_FAMILIES = {b"RIFF": _Family("<I", b"data", 0), b"RF64": _Family("<I", b"data", 0), b"FORM": _Family(">I", b"SSND", 8)}
# How these begin, and others that libsndfile reads as they are.
_CHUNKED = frozenset((*_FAMILIES, b"RIFX", b"riff", b"caff", b".snd", b"dns.", b"NIST", b"Crea"))


@dataclass
class Stream:
    """What libsndfile opens as one file."""

    file: Splice
    samples: int = 0  # of a channel by the header, where libsndfile does not know
    missing: float = 0.0  # seconds that the header claims and that are not in the file
    factor: float = 1.0  # how many times the audio that is in the file the header claims


@dataclass
class Layout:
    """The streams of a file, in order, and what is wrong with it where that is not the length."""

    streams: list[Stream] = field(default_factory=list)
    remark: str | None = None


def lay_out(file: Original, suffix: str) -> Layout:
    """Find the streams of a file whose name ends in `suffix`."""
    reader, begin, layout = Splice(file, [(0, file.size)]), 0, None
    try:
        while length := mp3.tag_length(reader.read_at(begin, 32)):
            begin = min(begin + length, file.size)
        head = reader.read_at(begin, 8)
        is_mpeg = mp3.parse_header(head[:4]) is not None
        if head[:4] == b"OggS":
            layout = _ogg(file, reader)
        elif _FLAC.match(head):
            layout = _flac(file, reader)
        elif suffix in mp3.SUFFIXES or is_mpeg or not head.strip(b"\0") or (begin > 0 and head[:4] not in _CHUNKED):
            layout = _mp3(file, reader)
        if layout is None and is_mpeg:
            raise AudioError(f"{file.label}: not an audio file (no two MPEG frames follow one another); leave it out")
        return layout or _chunks(file, begin) or Layout([Stream(Splice(file, [(begin, file.size)]))])
    finally:
        file.check()  # what was read behind an error is empty


def _ogg(file: Original, reader: Splice) -> Layout | None:
    """A stream for each link of a chain; logical streams that begin together are one."""
    pages = [(place, head[5]) for place, head in find_all(reader, _OGG_PAGE, 6)]
    ends = [*(place for place, _ in pages[1:]), file.size]
    starts: list[int] = []
    beginning, ended, cut = False, True, False
    for (place, flags), end in zip(pages, ends, strict=True):
        begins = bool(flags & _OGG_BEGIN)
        if begins and not beginning:
            cut = cut or not ended
            starts.append(place)
            ended = False
        beginning, ended = begins, ended or (bool(flags & _OGG_END) and _is_whole_page(reader, place, end))
    streams = [Stream(Splice(file, [link])) for link in zip(starts, [*starts[1:], file.size], strict=False)]
    return Layout(streams, None if ended and not cut else CUT) if streams else None


def _is_whole_page(reader: Splice, place: int, end: int) -> bool:
    count, *lengths = reader.read_at(place + 26, 256) or [256]
    return len(lengths) >= count and place + 27 + count + sum(lengths[:count]) <= end


def _flac(file: Original, reader: Splice) -> Layout:
    """A stream for each header; its number of samples, at which libsndfile would stop, is made unknown."""
    starts = [place for place, _ in find_all(reader, _FLAC, 8)]
    streams = []
    for start, end in zip(starts, [*starts[1:], file.size], strict=True):
        rest = start + _FLAC_COUNT + 5
        head = reader.read_at(start, rest - start)
        samples = int.from_bytes(head[_FLAC_COUNT:], "big") & (1 << 36) - 1
        head = head[:_FLAC_COUNT] + bytes([head[_FLAC_COUNT] & 0xF0]) + bytes(4)
        streams.append(Stream(Splice(file, [head, (rest, end)]), samples))
    return Layout(streams)


def _mp3(file: Original, reader: Splice) -> Layout | None:
    parts, junk, cut = mp3.find_parts(reader)
    remark = CUT if cut else None
    if junk > _MOST_JUNK:
        remark = f"{junk} bytes that are no MPEG audio are left out"
    return Layout([Stream(part.open(file), missing=part.missing) for part in parts], remark) if parts else None


def _chunks(file: Original, begin: int) -> Layout | None:
    """The stream of a WAV, RF64 or AIFF file; None for another file, and where the header leads nowhere.

    It is handed to libsndfile without what lies before `begin`, which it takes for a tag of an MP3.
    """
    reader = Splice(file, [(begin, file.size)])
    family = _FAMILIES.get(reader.read_at(0, 4))
    audio = None if family is None else _find_audio(reader, family)
    if family is None or audio is None:
        return None
    start, length, behind = audio
    present = reader.size - start
    unfinished = length in (0, family.empty) and behind > 0  # the header was written before the audio, and never again
    # The remainder of a length that 32 bits cannot hold, as some recorders write it.
    wrapped = behind >= 1 << 32 and behind % (1 << 32) < 1 << 20
    is_open = length > present and any(length in lengths for lengths in _OPEN)
    stream = Stream(reader, factor=1.0 if is_open else max(1.0, length / max(1, present)))
    remark = None
    if unfinished or wrapped or length > present:
        stream.file = Splice(file, [_open_header(reader, start, present, family), (begin + start, file.size)])
        remark = "its header was never finished; read to the end of the file" if unfinished else None
    elif behind:  # which libsndfile takes for chunks, or for audio
        stream.file = Splice(file, [(begin, begin + start + length)])
        if behind > max(4096, length // 100) and any(reader.read_at(reader.size - behind, 1 << 16)):
            remark = f"{behind} bytes behind the length that its header says are left out"
    return Layout([stream], remark)


def _open_header(reader: Splice, start: int, present: int, family: _Family) -> bytes:
    """What lies before the audio, with a length that reaches to the end of the file."""
    head = reader.read_at(0, start - 4)
    if family.length == "<I":
        head = b"RIFF" + head[4:].replace(b"ds64", b"JUNK", 1)
        if present > _ALL_ONES:
            lengths = pack("<4sI3QI", b"ds64", 28, start + present + 28, present, 0, 0)
            head = b"RF64\xff\xff\xff\xff" + head[8:12] + lengths + head[12:]
    return head + b"\xff\xff\xff\xff"  # all bits set reach to the end of the file


def _find_audio(reader: Splice, family: _Family) -> tuple[int, int, int] | None:
    """Of the chunk with the audio: where its content is, its length, and how many bytes follow that are no chunk."""
    at, long = 12, None
    while (chunk := _chunk(reader, at, family)) is not None:
        identifier, start, length = chunk
        if identifier == b"ds64":
            long = int.from_bytes(reader.read_at(start + 8, 8), "little")
        if long is not None and length == _ALL_ONES:
            length = long
        at = start + length + length % 2
        if identifier == family.audio:
            following = _chunk(reader, at, family)
            # Neither samples that look like a chunk nor another file are a part of this one.
            is_chunk = following and following[0] not in _FAMILIES and following[1] + following[2] <= reader.size
            return start, length, 0 if is_chunk else max(0, reader.size - at)
    return None


def _chunk(reader: Splice, at: int, family: _Family) -> tuple[bytes, int, int] | None:
    """Identifier, place of the content and its length, of the chunk at `at`; None where there is none."""
    head = reader.read_at(at, 8)
    if len(head) < 8 or not head[:4].isascii() or not head[:4].decode().isprintable():
        return None
    [length] = unpack(family.length, head[4:])
    return head[:4], at + 8, length
