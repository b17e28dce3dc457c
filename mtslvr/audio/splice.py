"""Files seen as bytes at positions, and files put together from pieces of others; used by `mp3` and `containers`."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, BinaryIO, TypeAlias

Piece: TypeAlias = bytes | tuple[int, int]  # bytes, or (start, end) within the file

_CHUNK = 1 << 16


class Window:
    """Reads a file from front to back in large chunks, whatever small pieces are asked for.

    Attributes:
        size: bytes of the file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        file.seek(0, os.SEEK_END)
        self.size = file.tell()
        self._data, self._start = b"", 0

    def chunk(self, at: int, least: int) -> tuple[bytes, int]:
        """Bytes that hold at least those from `at` to `at + least`, as far as the file goes, and where `at` is."""
        if at >= self.size:
            return b"", 0
        if not self._start <= at or at + least > self._start + len(self._data):
            self._file.seek(at)
            self._data, self._start = self._file.read(max(_CHUNK, least)), at
        return self._data, at - self._start

    def read(self, at: int, count: int) -> bytes:
        """`count` bytes from `at`; fewer at the end of the file."""
        data, start = self.chunk(at, count)
        return data[start : start + count]


class Splice:
    """Pieces of a file, one after the other, as a file to read.

    Args:
        file: what ranges refer to.
        pieces: in order.
        endless: a decoder that stops where the length of the file says so is told of one far beyond the pieces. Their
            last read is filled up with zeros, for a frame that is cut before the end of its file counts as an error,
            and the last bytes before that end, where a tag is looked for, are zeros.
    """

    END = 1 << 40
    TAG = 128

    def __init__(self, file: BinaryIO, pieces: Sequence[Piece], *, endless: bool = False) -> None:
        self._file, self._pieces = file, pieces
        lengths = (len(piece) if isinstance(piece, bytes) else piece[1] - piece[0] for piece in pieces)
        self._ends = list(accumulate(lengths))
        self._endless = endless
        self.size = self.END if endless else self._ends[-1]
        self._position = 0
        self._buffer, self._start = b"", 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position, which is returned."""
        self._position = max(0, offset + (0, self._position, self.size)[whence])
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position

    def readinto(self, target: Any) -> int:
        """Fill a buffer with the next bytes, and say how many there were."""
        size, offset = len(target), self._position - self._start
        if offset < 0 or offset + size > len(self._buffer):
            return self._read_anew(target, size)
        target[:size] = self._buffer[offset : offset + size]
        self._position += size
        return size

    def _read_anew(self, target: Any, size: int) -> int:
        if self._endless and self._position >= self.END - self.TAG:
            data = bytes(size)
        else:
            self._fill(max(size, _CHUNK))
            data = self._buffer[:size]
            data = data.ljust(size, b"\0") if self._endless and data else data
        target[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _fill(self, size: int) -> None:
        self._start, parts = self._position, []
        at, end = self._position, min(self._position + size, self._ends[-1])
        while at < end:
            number = bisect_right(self._ends, at)
            upto, piece = min(end, self._ends[number]), self._pieces[number]
            if isinstance(piece, bytes):
                parts.append(piece[len(piece) - self._ends[number] + at :][: upto - at])
            else:
                self._file.seek(piece[1] - self._ends[number] + at)
                parts.append(self._file.read(upto - at))
            at = upto
        self._buffer = b"".join(parts)


def whole(file: BinaryIO) -> Splice:
    """All of a file."""
    file.seek(0, os.SEEK_END)
    return Splice(file, [(0, file.tell())])
