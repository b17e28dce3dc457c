"""Where the audio of an MP3 begins and ends, by its frames, whatever its tags and headers claim; next: `layout`.

Frames: ISO/IEC 11172-3 and 13818-3, layers 1 to 3, and MPEG 2.5. Headers of Xing, LAME and Fraunhofer IIS (VBRI) stand
in a first frame that holds no audio.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from typing import NamedTuple

from .splice import Original, Splice

SUFFIXES = frozenset((".mp3", ".mp2", ".mp1", ".mpga"))
_MOST_JUNK = 1 << 20  # bytes before the first frame, tags left out, that an MP3 may have
_MAYBE_HEADER = re.compile(rb"\xff[\xe2-\xe7\xf2-\xff][\x10-\xef]")  # of a version, a layer and a bit rate
_HEAD = 48  # bytes of a frame in which the header of lengths begins
_TAGS = (b"ID3", b"TAG", b"APETAGEX")
_KBITS = {  # by whether it is MPEG 1, and the layer; layer 3 of MPEG 2 has those of its layer 2
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


class Format(NamedTuple):
    """What the frames of one part have in common; a decoder begins anew where it changes."""

    mpeg1: bool
    layer: int
    rate: int
    mono: bool

    @property
    def samples(self) -> int:
        """Samples of a channel in a frame."""
        return 384 if self.layer == 1 else 576 if self.layer == 3 and not self.mpeg1 else 1152

    @property
    def info_at(self) -> int:
        """Where in its frame the header of Xing or LAME stands: behind four bytes and the side information."""
        return 4 + ((17, 32) if self.mpeg1 else (9, 17))[not self.mono]


@dataclass
class Part:
    """Frames of one format that a decoder reads in one go."""

    format: Format
    header: bytes = b""  # the frame before them that says how many there are, of Xing or LAME
    ranges: list[tuple[int, int]] = field(default_factory=list)  # start and end within the file
    frames: int = 0

    @property
    def claimed(self) -> int:
        """Frames by the header; 0 where there is none."""
        at = self.format.info_at + 8
        return int.from_bytes(self.header[at : at + 4], "big")

    @property
    def missing(self) -> float:
        """Seconds that the header claims and that are not there; it may count itself."""
        frames = self.claimed - self.frames
        return frames * self.format.samples / self.format.rate if frames > 1 else 0.0

    def add(self, start: int, end: int) -> None:
        """Take a frame."""
        if self.ranges and self.ranges[-1][1] == start:
            start = self.ranges.pop()[0]
        self.ranges.append((start, end))
        self.frames += 1

    def open(self, file: Original) -> Splice:
        """A file of these frames alone, behind a header that is true where there is one."""
        if not self.header:
            # libmpg123 estimates the length from the first frames, and libsndfile reads no further.
            return Splice(file, self.ranges, endless=True)
        header, at = bytearray(self.header), self.format.info_at + 8
        if self.claimed + 1 < self.frames:
            header[at : at + 4] = self.frames.to_bytes(4, "big")
        if header[at - 1] & 2:  # it has the number of bytes, too
            size = len(header) + sum(end - start for start, end in self.ranges)
            header[at + 4 : at + 8] = (size & 0xFFFFFFFF).to_bytes(4, "big")
        return Splice(file, [bytes(header), *self.ranges])


def find_parts(file: Splice) -> tuple[list[Part], int, bool]:
    """The parts of a file, how many of its bytes are neither frames nor tags nor zeros, and whether it ends in a frame.

    There are none where no two frames follow one another. A frame that is cut short is left out.
    """
    parts: list[Part] = []
    at = junk = 0
    synchronous = False
    while at < file.size and (parts or junk <= _MOST_JUNK):
        head = file.read_at(at, _HEAD)
        length, form = parse_header(head[:4]) or (0, None)
        if form is None or not ((synchronous and form == parts[-1].format) or _is_confirmed(file, at)):
            at, skipped = _skip(file, at)
            junk, synchronous = junk + skipped, False
            continue
        if at + length > file.size:
            at = file.size + 1
            break
        is_header, counts = _is_header(head, form)
        if is_header or not parts or form != parts[-1].format:
            parts.append(Part(form, file.read_at(at, length) if counts else b""))
        if not is_header:
            parts[-1].add(at, at + length)
        at, synchronous = at + length, True
    return [part for part in parts if part.frames > 1], junk, at > file.size  # libmpg123 reads no single frame


@functools.lru_cache(4096)
def parse_header(header: bytes) -> tuple[int, Format] | None:
    """Bytes and format of the frame that begins with these four; None for none, or one of a free bit rate."""
    if len(header) < 4 or header[0] != 0xFF or header[1] < 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    bits, rate = header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or layer == 4 or bits in (0, 15) or rate == 3:
        return None
    form = Format(version == 3, layer, (44100, 48000, 32000)[rate] >> (2, 0, 1, 0)[version], header[3] >> 6 == 3)
    slot = 4 if layer == 1 else 1
    rates = _KBITS[form.mpeg1, layer if form.mpeg1 else min(layer, 2)]
    bytes_a_second, padding = 125 * rates[bits - 1], header[2] >> 1 & 1
    return (form.samples * bytes_a_second // (slot * form.rate) + padding) * slot, form


def tag_length(head: bytes) -> int:
    """Bytes of the tag that begins with these 32, ID3 of either version or APE; 0 for none."""
    if head[:3] == b"ID3" and len(head) >= 10:
        # Four bytes of seven bits each; a footer of ten bytes has a flag.
        size = functools.reduce(lambda size, byte: size << 7 | byte, head[6:10])
        return 10 + size + head[5] // 16 % 2 * 10
    if head[:8] == b"APETAGEX" and len(head) == 32:
        is_header = head[23] & 0x20
        return 32 + (int.from_bytes(head[12:16], "little") if is_header else 0)
    return 128 if head[:3] == b"TAG" else 0


def _is_confirmed(file: Splice, at: int) -> bool:
    """Whether what looks like a frame has others, tags or the end of the file behind it."""
    length, form = parse_header(file.read_at(at, 4)) or (0, None)
    for _ in range(2):
        at += length
        following = file.read_at(at, 8)
        if at == file.size or following.startswith(_TAGS):
            return True
        length, other = parse_header(following[:4]) or (0, None)
        if other != form:
            return False
    return True


def _is_header(head: bytes, form: Format) -> tuple[bool, bool]:
    """Whether a frame with this beginning is a header and holds no audio, and whether libmpg123 counts frames by it."""
    at = form.info_at
    if head[at : at + 4] in (b"Xing", b"Info") and not any(head[6:at]):
        return True, bool(head[at + 7] & 1)
    return head[36:40] == b"VBRI", False


def _skip(file: Splice, at: int) -> tuple[int, int]:
    """Where to look for a frame next, and how many bytes before it are neither tags nor zeros."""
    end = at + tag_length(file.read_at(at, 32))
    if at < end <= file.size:
        return end, 0
    data = file.read_at(at, 1 << 12)
    if not data:  # the file has become shorter, or cannot be read
        return file.size, 0
    found = _MAYBE_HEADER.search(data, 1)
    skipped = data[: found.start()] if found else data[:-2] if len(data) > 2 else data
    return at + len(skipped), len(skipped) - skipped.count(0)
