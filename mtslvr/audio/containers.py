"""Where the audio of a container begins and ends: links of a chained Ogg, lengths that headers claim; see `recordings`.

Ogg: RFC 3533. Headers of WAV, RF64, W64, AIFF, CAF and AU: chunks of an identifier and a length, one of which is the
audio.
"""

from __future__ import annotations

from struct import calcsize, pack, unpack
from typing import BinaryIO, NamedTuple

from .splice import Splice, Window

_BEGIN, _END = 2, 4  # flags of an Ogg page
_OPEN = ((1 << 31) - 4096, (1 << 31) + 1), ((1 << 32) - 4096, 1 << 32)  # lengths that stand for "unknown" in a stream


class Link(NamedTuple):
    """One of the Ogg streams that follow one another in a file.

    Attributes:
        start: its first byte.
        end: behind its last byte.
        finished: its last page is there.
    """

    start: int
    end: int
    finished: bool


def ogg_links(file: BinaryIO) -> list[Link]:
    """Walk over all pages of an Ogg file; streams that begin together are one link."""
    window, links = Window(file), list[Link]()
    at, beginning = 0, False
    while at < window.size:
        head = window.read(at, 27 + 255)
        if head[:4] != b"OggS" or len(head) < 27:
            data, start = window.chunk(at, 4)
            found = data.find(b"OggS", start + 1)
            at += max(len(data) - start - 3, 1) if found < 0 else found - start
            continue
        end = at + 27 + head[26] + sum(head[27 : 27 + head[26]])
        whole = end <= window.size
        if end < window.size and window.read(end, 4) != b"OggS":
            cut = window.read(at, end - at).find(b"OggS", 4)  # another stream behind a page that is cut
            end, whole = (end, whole) if cut < 0 else (at + cut, False)
        begins = bool(head[5] & _BEGIN)
        if begins and not beginning:
            links.append(Link(at, window.size, False))
        if links:
            previous = links.pop()
            finished = previous.finished or (bool(head[5] & _END) and whole)
            links.append(Link(previous.start, end, finished))
        at, beginning = end, begins
    return links


class _Layout(NamedTuple):
    """How a family of files is made of chunks."""

    first: int  # where the first chunk is
    identifier: int  # bytes of an identifier
    length: str  # of a chunk, as `struct` has it
    whole: bool  # a length counts identifier and length
    align: int
    audio: bytes  # begins the identifier of the chunk with the audio
    empty: int  # length of that chunk without any audio


_RIFF = _Layout(12, 4, "<I", False, 2, b"data", 0)
_LAYOUTS = {
    b"RIFF": _RIFF,
    b"RF64": _RIFF,
    b"FORM": _Layout(12, 4, ">I", False, 2, b"SSND", 8),
    b"riff": _Layout(40, 16, "<Q", True, 8, b"data", 0),
    b"caff": _Layout(8, 4, ">Q", False, 1, b"data", 4),
}


class Claim(NamedTuple):
    """The audio of a file by its header and by its bytes.

    Attributes:
        kind: the first four bytes of the file.
        start: where it begins.
        length: bytes that the header claims; None where it leaves that open.
        present: bytes from `start` to the end of the file.
        behind: of these, the ones behind the claimed length that are no part of the header either.
        empty: the length of no audio.
    """

    kind: bytes
    start: int
    length: int | None
    present: int
    behind: int
    empty: int

    @property
    def unfinished(self) -> bool:
        """The header was written before the audio, and never again."""
        return self.length in (0, self.empty) and self.behind > 0

    @property
    def wrapped(self) -> bool:
        """The header has the remainder of a length that 32 bits cannot hold, as some recorders write it."""
        return self.length is not None and self.behind >= 1 << 32 and self.behind % (1 << 32) < 1 << 20

    @property
    def factor(self) -> float:
        """How many times the bytes that are there the header claims; at least 1."""
        return max(1.0, self.length / self.present) if self.length and self.present else 1.0

    def open(self, file: BinaryIO) -> Splice | None:
        """A file whose header is right about the length, where libsndfile would go by one that is not; else None."""
        size = self.start + self.present
        if self.kind in (b"RIFF", b"RF64") and (self.unfinished or self.wrapped):
            file.seek(0)
            head = file.read(self.start).replace(b"ds64", b"JUNK", 1)
            lengths = pack("<4sI3QI", b"ds64", 28, size + 28, self.present, 0, 0)
            begin = b"RF64\xff\xff\xff\xff" + head[8:12] + lengths + head[12:-4] + b"\xff\xff\xff\xff"
        elif self.kind == b"caff" and (self.length is None or self.factor > 1):
            file.seek(0)
            begin = file.read(self.start - 8) + pack(">Q", self.present)
        elif self.kind in (b"FORM", b".snd") and self.unfinished:
            file.seek(0)
            head, place = file.read(self.start), 8 if self.kind == b".snd" else self.start - 4
            begin = head[:place] + b"\xff\xff\xff\xff" + head[place + 4 :]
        else:
            return None
        return Splice(file, [begin, (self.start, size)])


def read_claim(file: BinaryIO) -> Claim | None:
    """What the header of a WAV, RF64, W64, AIFF, CAF or AU file says; None for others, and where it leads nowhere."""
    window = Window(file)
    kind = window.read(0, 4)
    if kind == b".snd":
        start, length = unpack(">2I", window.read(4, 8).ljust(8, b"\0"))
        return _claim(window, kind, start, length, 0, None)
    layout = _LAYOUTS.get(kind)
    at, long = 0 if layout is None else layout.first, 0
    while layout is not None and (chunk := _chunk(window, at, layout)) is not None:
        identifier, start, length = chunk
        if identifier.startswith(layout.audio):
            length = long if kind == b"RF64" and length == 0xFFFFFFFF else length
            return _claim(window, kind, start, length, layout.empty, layout)
        if identifier == b"ds64":
            [long] = unpack("<Q", window.read(start + 8, 8).ljust(8, b"\0"))
        at = _behind(start, length, layout)
    return None


def _claim(window: Window, kind: bytes, start: int, length: int, empty: int, layout: _Layout | None) -> Claim:
    present = max(0, window.size - start)
    if length > present and (length >= 1 << 62 or any(low <= length < high for low, high in _OPEN)):
        return Claim(kind, start, None, present, 0, empty)
    at = start + length if layout is None else _behind(start, length, layout)
    behind = 0 if layout is not None and _is_chunk(window, at, layout) else max(0, window.size - at)
    return Claim(kind, start, length, present, behind, empty)


def _is_chunk(window: Window, at: int, layout: _Layout) -> bool:
    """Whether there is a chunk that fits into the file, and neither samples that look like one nor another file."""
    chunk = _chunk(window, at, layout)
    return chunk is not None and chunk[0][:4] not in _LAYOUTS and chunk[1] + chunk[2] <= window.size


def _behind(start: int, length: int, layout: _Layout) -> int:
    """Where the next chunk begins."""
    return start + -(-length // layout.align) * layout.align


def _chunk(window: Window, at: int, layout: _Layout) -> tuple[bytes, int, int] | None:
    """Identifier, place of the content and length of the chunk at `at`; None where there is none."""
    width = calcsize(layout.length)
    head = window.read(at, layout.identifier + width)
    if len(head) < layout.identifier + width or not head[:4].isascii() or not head[:4].decode().isprintable():
        return None
    [length] = unpack(layout.length, head[layout.identifier :])
    return head[: layout.identifier], at + len(head), max(0, length - len(head)) if layout.whole else length
