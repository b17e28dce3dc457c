"""What a file's bytes say of its audio: the streams in it, and how much of each its headers claim; next: `recordings`.

Most files are one stream. A chained Ogg, joined FLACs and joined MP3s are several, which may differ in rate and
channels. Where a header is wrong about a length, the stream is given to libsndfile behind one that is right.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from math import prod
from struct import calcsize, pack, unpack
from typing import BinaryIO, NamedTuple

from ..errors import AudioError
from . import mp3
from .splice import Splice, find_all, read_at, whole

CUT = "the file ends before its audio does"
_MOST_JUNK = 1024  # bytes in an MP3 that are no audio, passed over without a word
_OGG_PAGE = re.compile(rb"OggS\0[\0-\7]")  # RFC 3533: what begins a page, and its flags
_OGG_BEGIN, _OGG_END = 2, 4
_FLAC = re.compile(rb"fLaC[\0\x80]\0\0\x22")  # RFC 9639: what begins a stream, and its STREAMINFO
_FLAC_COUNT = 21  # where the number of samples is: half a byte and four bytes
_ALL_ONES = 0xFFFFFFFF
# Lengths that stand for "unknown" in a stream.
_OPEN = (range((1 << 31) - 4096, (1 << 31) + 1), range((1 << 32) - 4096, 1 << 32), range(1 << 62, 1 << 64))


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


def lay_out(file: BinaryIO, label: str, suffix: str) -> Layout:
    """Find the streams of a seekable file whose name ends in `suffix`.

    Raises:
        AudioError: it begins like an MP3 and is none.
        OSError: it cannot be read.
    """
    reader, size = whole(file)
    try:
        return _lay_out(file, reader, size, label, suffix)
    finally:
        reader.check()


def _lay_out(file: BinaryIO, reader: Splice, size: int, label: str, suffix: str) -> Layout:
    begin = 0
    while length := mp3.tag_length(read_at(reader, begin, 32)):
        begin = min(begin + length, size)
    head = read_at(reader, begin, 8)
    layout = None
    if head[:4] == b"OggS":
        layout = _ogg(file, reader, size)
    elif _FLAC.match(head):
        layout = _flac(file, reader, size)
    elif (
        suffix in mp3.SUFFIXES
        or mp3.parse_header(head[:4])
        or not head.strip(b"\0")
        or (begin > 0 and head[:4] not in _KINDS)
    ):
        layout = _mp3(file, reader, size)
        if layout is None and mp3.parse_header(head[:4]):
            raise AudioError(f"{label}: not an audio file (no two MPEG frames follow one another); leave it out")
    return layout or _chunks(file, begin, size) or Layout([Stream(Splice(file, [(begin, size)]))])


def _ogg(file: BinaryIO, reader: BinaryIO, size: int) -> Layout | None:
    """A stream for each link of a chain; logical streams that begin together are one."""
    pages = [(place, head[5]) for place, head in find_all(reader, _OGG_PAGE, 6)]
    ends = [*(place for place, _ in pages[1:]), size]
    starts: list[int] = []
    beginning, ended, cut = False, True, False
    for (place, flags), end in zip(pages, ends, strict=True):
        begins = bool(flags & _OGG_BEGIN)
        if begins and not beginning:
            cut = cut or not ended
            starts.append(place)
            ended = False
        beginning, ended = begins, ended or (bool(flags & _OGG_END) and _is_whole_page(reader, place, end))
    streams = [Stream(Splice(file, [link])) for link in zip(starts, [*starts[1:], size], strict=False)]
    return Layout(streams, None if ended and not cut else CUT) if streams else None


def _is_whole_page(reader: BinaryIO, place: int, end: int) -> bool:
    count, *lengths = read_at(reader, place + 26, 256) or [256]
    return len(lengths) >= count and place + 27 + count + sum(lengths[:count]) <= end


def _flac(file: BinaryIO, reader: BinaryIO, size: int) -> Layout:
    """A stream for each header; its number of samples, at which libsndfile would stop, is made unknown."""
    starts = [place for place, _ in find_all(reader, _FLAC, 8)]
    streams = []
    for start, end in zip(starts, [*starts[1:], size], strict=True):
        rest = start + _FLAC_COUNT + 5
        head = read_at(reader, start, rest - start)
        samples = int.from_bytes(head[_FLAC_COUNT:], "big") & (1 << 36) - 1
        head = head[:_FLAC_COUNT] + bytes([head[_FLAC_COUNT] & 0xF0]) + bytes(4)
        streams.append(Stream(Splice(file, [head, (rest, end)]), samples))
    return Layout(streams)


def _mp3(file: BinaryIO, reader: BinaryIO, size: int) -> Layout | None:
    parts, junk, cut = mp3.find_parts(reader, size)
    remark = CUT if cut else None
    if junk > _MOST_JUNK:
        remark = f"{junk} bytes that are no MPEG audio are left out"
    return Layout([Stream(part.open(file), missing=part.missing) for part in parts], remark) if parts else None


class _Family(NamedTuple):
    """How a family of files is made of chunks, each of an identifier, a length and a content."""

    first: int  # where the first chunk is
    identifier: int  # bytes of an identifier
    length: str  # of a chunk, as `struct` has it
    inclusive: bool  # a length counts identifier and length
    align: int
    audio: bytes  # begins the identifier of the chunk with the audio
    empty: int  # length of that chunk without any audio


_RIFF = _Family(12, 4, "<I", False, 2, b"data", 0)
_FAMILIES = {
    b"RIFF": _RIFF,
    b"RF64": _RIFF,
    b"RIFX": _RIFF._replace(length=">I"),
    b"FORM": _Family(12, 4, ">I", False, 2, b"SSND", 8),  # AIFF
    b"riff": _Family(40, 16, "<Q", True, 8, b"data", 0),  # W64
    b"caff": _Family(8, 4, ">Q", False, 1, b"data", 4),
}
_KINDS = frozenset((*_FAMILIES, b".snd", b"dns.", b"NIST", b"Crea"))


class _Claim(NamedTuple):
    """Where a header says that the audio is."""

    start: int
    length: int  # in bytes
    behind: int  # bytes that follow and are no part of the header either
    field: tuple[int, str] | None = None  # place and `struct` format of the length, where libsndfile goes by it
    empty: int = 0  # length of no audio


def _chunks(file: BinaryIO, begin: int, end: int) -> Layout | None:
    """The stream of a WAV, RF64, W64, AIFF, CAF, AU, VOC or NIST file; None where its header leads nowhere.

    It is handed to libsndfile without what lies before `begin`, which it takes for a tag of an MP3.
    """
    reader, size = Splice(file, [(begin, end)]), end - begin
    kind = read_at(reader, 0, 4)
    claim = _find_claim(reader, size, kind)
    reader.check()
    if claim is None:
        return None
    length, behind, present = claim.length, claim.behind, size - claim.start
    unfinished = length in (0, claim.empty) and behind > 0  # the header was written before the audio, and never again
    # The remainder of a length that 32 bits cannot hold, as some recorders write it.
    wrapped = behind >= 1 << 32 and behind % (1 << 32) < 1 << 20
    is_open = length > present and any(length in lengths for lengths in _OPEN)
    stream = Stream(reader, factor=1.0 if is_open else max(1.0, length / max(1, present)))
    if claim.field and (unfinished or wrapped or length > present):
        stream.file = Splice(file, [_open_header(reader, claim, present), (begin + claim.start, end)])
    elif (behind and not unfinished) or kind == b"riff":  # which libsndfile takes for chunks, or for audio
        last = claim.start + length + (kind == b"Crea")  # a block of no length ends a VOC file
        stream.file = Splice(file, [(begin, min(end, begin + last))])
    remark = None
    if unfinished:
        remark = "its header was never finished; read to the end of the file"
    elif not wrapped and behind > max(4096, length // 100) and any(read_at(reader, size - behind, 1 << 16)):
        remark = f"{behind} bytes behind the length that its header says are left out"
    return Layout([stream], remark)


def _open_header(reader: BinaryIO, claim: _Claim, present: int) -> bytes:
    """What lies before the audio, with a length that reaches to the end of the file."""
    assert claim.field is not None
    place, form = claim.field
    head = read_at(reader, 0, claim.start)
    if head[:4] in (b"RIFF", b"RF64"):
        head = b"RIFF" + head[4:].replace(b"ds64", b"JUNK", 1)
        if present > _ALL_ONES:
            lengths = pack("<4sI3QI", b"ds64", 28, claim.start + present + 28, present, 0, 0)
            return b"RF64\xff\xff\xff\xff" + head[8:12] + lengths + head[12:place] + b"\xff\xff\xff\xff"
    # All 32 bits set reach to the end of any other file; lengths of 64 bits have to be right.
    length = _ALL_ONES if form[1] == "I" else present + (claim.start - place + 16) * (form == "<Q")
    return head[:place] + pack(form, length) + head[place + calcsize(form) :]


def _find_claim(reader: BinaryIO, size: int, kind: bytes) -> _Claim | None:
    if kind in _FAMILIES:
        return _find_chunk(reader, size, _FAMILIES[kind])
    start, length, ending, field = size, 0, 0, None
    if kind in (b".snd", b"dns."):
        order = ">" if kind == b".snd" else "<"
        start, length = unpack(f"{order}2I", read_at(reader, 4, 8).ljust(8, b"\0"))
        field = 8, f"{order}I"
    elif kind == b"NIST":
        head = read_at(reader, 0, 1024)
        counts = re.findall(rb"^(?:sample_count|sample_n_bytes|channel_count) -[is]\d* (\d+)", head, re.MULTILINE)
        if head[8:16].strip().isdigit() and len(counts) == 3:
            start, length = int(head[8:16]), prod(map(int, counts))
    elif kind == b"Crea":
        first = int.from_bytes(read_at(reader, 20, 2), "little")
        block = read_at(reader, first, 4)
        if block[:1] in (b"\x01", b"\x09"):
            start, length = first + 4, int.from_bytes(block[1:], "little")
            ending = 1 if read_at(reader, start + length, 1) == b"\0" else size  # another block may follow
    return _Claim(start, length, max(0, size - start - length - ending), field) if start < size else None


def _find_chunk(reader: BinaryIO, size: int, family: _Family) -> _Claim | None:
    at, long = family.first, None
    while (chunk := _chunk(reader, at, family)) is not None:
        identifier, start, length = chunk
        if identifier == b"ds64":
            long = int.from_bytes(read_at(reader, start + 8, 8), "little")
        if long is not None and length == _ALL_ONES:
            length = long
        at = start + -(-length // family.align) * family.align
        if identifier.startswith(family.audio):
            following = _chunk(reader, at, family)
            # Neither samples that look like a chunk nor another file are a part of this one.
            is_chunk = following and following[0][:4] not in _FAMILIES and following[1] + following[2] <= size
            field = start - calcsize(family.length), family.length
            return _Claim(start, length, 0 if is_chunk else max(0, size - at), field, family.empty)
    return None


def _chunk(reader: BinaryIO, at: int, family: _Family) -> tuple[bytes, int, int] | None:
    """Identifier, place of the content and its length, of the chunk at `at`; None where there is none."""
    whole_head = family.identifier + calcsize(family.length)
    head = read_at(reader, at, whole_head)
    if len(head) < whole_head or not head[:4].isascii() or not head[:4].decode().isprintable():
        return None
    [length] = unpack(family.length, head[family.identifier :])
    return head[: family.identifier], at + whole_head, max(0, length - whole_head) if family.inclusive else length
