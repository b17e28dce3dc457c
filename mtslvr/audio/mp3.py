"""Where the audio of an MP3 begins and ends, by its frames, whatever its tags and headers claim; next: `recordings`.

Frames: ISO/IEC 11172-3 and 13818-3, layers 1 to 3, and MPEG 2.5. Headers of Xing, LAME and Fraunhofer IIS (VBRI) stand
in a first frame that holds no audio.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

from .splice import Splice, Window

_MOST_JUNK = 1 << 20  # bytes before the first frame, tags left out, that an MP3 may have
_LONGEST_FRAME = 1 << 12
_INFO = (b"Xing", b"Info")
_TAGS = (b"ID3", b"TAG", b"APETAGEX")
_LOW = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_KBITS = {  # by whether it is MPEG 1, and the layer
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): _LOW,
    (False, 3): _LOW,
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


class _Info(NamedTuple):
    """A frame that holds the header of Xing, LAME or Fraunhofer IIS."""

    frame: bytes
    frames: int | None  # of audio, that it claims
    frames_at: int
    bytes_at: int | None  # where it claims a number of bytes

    def corrected(self, frames: int, audio_bytes: int) -> bytes:
        """The frame with the right number of bytes, and of frames where it claims too few to play."""
        frame = bytearray(self.frame)
        if self.bytes_at is not None:
            frame[self.bytes_at : self.bytes_at + 4] = (len(frame) + audio_bytes & 0xFFFFFFFF).to_bytes(4, "big")
        if self.frames is not None and self.frames + 1 < frames:
            frame[self.frames_at : self.frames_at + 4] = frames.to_bytes(4, "big")
        return bytes(frame)


@dataclass
class Part:
    """Frames of one format that a decoder reads in one go.

    Attributes:
        format: of all frames.
        ranges: (start, end) of the frames within the file.
        frames: how many.
        info: the header before them.
    """

    format: Format
    ranges: list[tuple[int, int]] = field(default_factory=list)
    frames: int = 0
    info: _Info | None = None

    @property
    def claimed_frames(self) -> int:
        """Frames by the header, or by count; the two may differ by one."""
        claimed = 0 if self.info is None or self.info.frames is None else self.info.frames
        return claimed if claimed > self.frames + 1 else self.frames

    def seconds(self, frames: int) -> float:
        """How long so many of its frames last."""
        return frames * self.format.samples / self.format.rate

    def add(self, start: int, end: int, frames: int) -> None:
        """Take the frames from `start` to `end`."""
        if self.ranges and self.ranges[-1][1] == start:
            start = self.ranges.pop()[0]
        self.ranges.append((start, end))
        self.frames += frames

    def open(self, file: BinaryIO) -> Splice:
        """A file of these frames alone, behind a header that is true where there is one."""
        if self.info is None or self.info.frames is None:
            # libmpg123 estimates the length from the first frames, and libsndfile reads no further.
            return Splice(file, self.ranges, endless=True)
        audio_bytes = sum(end - start for start, end in self.ranges)
        return Splice(file, [self.info.corrected(self.frames, audio_bytes), *self.ranges])


class Parts(NamedTuple):
    """What an MP3 is made of.

    Attributes:
        parts: in order.
        junk: bytes that are neither frames nor tags nor zeros.
        cut: the file ends within a frame.
    """

    parts: list[Part]
    junk: int
    cut: bool


def find_parts(file: BinaryIO) -> Parts:
    """Walk over all frames of a file; no parts where it has no two that follow one another."""
    window, parts = Window(file), list[Part]()
    at = junk = 0
    synchronous = False
    while at < window.size and (parts or junk <= _MOST_JUNK):
        length, form = parse_header(window.read(at, 4)) or (0, None)
        if form is None or not ((synchronous and form == parts[-1].format) or _confirmed(window, at)):
            at, skipped = _skip(window, at)
            junk, synchronous = junk + skipped, False
            continue
        info = _read_info(window, at, length, form)
        if info is not None or not parts or form != parts[-1].format:
            parts.append(Part(form, info=info))
        if info is not None:
            at += length
        else:
            end, count = _run(window, at, form)
            parts[-1].add(at, min(end, window.size), count)
            at = end
        synchronous = True
    several = [part for part in parts if part.frames > 1]  # libmpg123 reads no single one
    return Parts(several, junk, at > window.size)


def begins_like_mpeg(file: BinaryIO) -> bool:
    """Whether what looks like a frame stands at the beginning of a file, or behind its tags."""
    window, at = Window(file), 0
    while length := _tag_length(window.read(at, 32)):
        at += length
    return parse_header(window.read(at, 4)) is not None


@functools.lru_cache(4096)
def parse_header(header: bytes) -> tuple[int, Format] | None:
    """Bytes and format of the frame that begins with these four; None where they begin none.

    Frames of a free bit rate, which do not tell their length, are not among them.
    """
    if len(header) < 4 or header[0] != 0xFF or header[1] < 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    bits, rate = header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or layer == 4 or bits in (0, 15) or rate == 3:
        return None
    form = Format(version == 3, layer, (44100, 48000, 32000)[rate] >> (2, 0, 1, 0)[version], header[3] >> 6 == 3)
    slot = 4 if layer == 1 else 1
    bytes_a_second, padding = 125 * _KBITS[form.mpeg1, layer][bits - 1], header[2] >> 1 & 1
    return (form.samples * bytes_a_second // (slot * form.rate) + padding) * slot, form


def _run(window: Window, at: int, form: Format) -> tuple[int, int]:
    """The frame at `at` and those of its format behind it, in one chunk: where they end, and how many."""
    data, start = window.chunk(at, _LONGEST_FRAME)
    ends = window.size - at <= len(data) - start
    info_at, last = form.info_at, len(data) - (1 if ends else _LONGEST_FRAME)
    here, count = start, 0
    while count == 0 or here <= last:
        length, found = parse_header(data[here : here + 4]) or (0, None)
        if found != form or (count and data[here + info_at : here + info_at + 4] in _INFO):
            break
        here += length
        count += 1
    return at + here - start, count


def _confirmed(window: Window, at: int) -> bool:
    """Whether what looks like a frame has others, tags or the end of the file behind it."""
    length, form = parse_header(window.read(at, 4)) or (0, None)
    for _ in range(2):
        at += length
        if at == window.size or window.read(at, 8).startswith(_TAGS):
            return True
        length, following = parse_header(window.read(at, 4)) or (0, None)
        if following != form:
            return False
    return True


def _read_info(window: Window, at: int, length: int, form: Format) -> _Info | None:
    frame, place = window.read(at, length), form.info_at
    if frame[place : place + 4] in _INFO and not any(frame[6:place]):
        flags, count_at = int.from_bytes(frame[place + 4 : place + 8], "big"), place + 8
        count = int.from_bytes(frame[count_at : count_at + 4], "big") if flags & 1 else None
        return _Info(frame, count, count_at, count_at + 4 * (flags & 1) if flags & 2 else None)
    if frame[36:40] == b"VBRI":
        return _Info(frame, int.from_bytes(frame[50:54], "big"), 50, 46)
    return None


def _skip(window: Window, at: int) -> tuple[int, int]:
    """Where to look for a frame next, and how many bytes before it are neither tags nor zeros."""
    end = at + _tag_length(window.read(at, 32))
    if at < end <= window.size:
        return end, 0
    data, start = window.chunk(at, 2)
    found = data.find(b"\xff", start + 1)
    end = len(data) if found < 0 else found
    return at + end - start, end - start - data.count(0, start, end)


def _tag_length(head: bytes) -> int:
    if head[:3] == b"ID3" and len(head) >= 10:
        # Four bytes of seven bits each; a footer of ten bytes has a flag.
        return (
            10
            + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
            + head[5] // 16 % 2 * 10
        )
    if head[:8] == b"APETAGEX" and len(head) == 32:
        is_header = head[23] & 0x20
        return 32 + (int.from_bytes(head[12:16], "little") if is_header else 0)
    return 128 if head[:3] == b"TAG" else 0
