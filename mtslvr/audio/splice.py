"""Files put together from pieces of others, which libsndfile reads as if they lay on disk; used by `layout`, `mp3`."""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import BinaryIO, TypeAlias

from ..errors import AudioError, one_line

Piece: TypeAlias = bytes | tuple[int, int]  # bytes, or (start, end) within the file
_CHUNK, _END, _TAG = 1 << 16, 1 << 40, 128


class Original:
    """A seekable binary file of `size` bytes, called `label`; errors are kept, for none passes through libsndfile."""

    def __init__(self, file: BinaryIO, label: str) -> None:
        self._file, self.label = file, label
        self.error: BaseException | None = None
        self.size = 0
        try:
            self.size = file.seek(0, os.SEEK_END) or file.tell()
        except BaseException as error:
            self.error = error

    def read(self, at: int, most: int) -> bytes:
        """Up to `most` bytes from `at`; none once there was an error."""
        if self.error is None:
            try:
                self._file.seek(at)
                return bytes(memoryview(self._file.read(most))[:most])
            except BaseException as error:
                self.error = error
        return b""

    def check(self) -> None:
        """Raise an AudioError where reading has met an error, or what ends the program."""
        if isinstance(self.error, Exception):
            raise AudioError(f"{self.label}: cannot be read ({what_failed(self.error)}); copy it anew") from None
        if self.error is not None:
            raise self.error


def what_failed(error: Exception) -> str:
    """What is said of whatever a file object raises."""
    return str(error) if isinstance(error, OSError) else one_line(f"{type(error).__name__}: {error}")


class Splice:
    """A file of pieces of another, in order.

    For decoders that stop where the length says, an `endless` one claims to end far behind its pieces, and has zeros
    where a tag would be, at the very end.
    """

    def __init__(self, file: Original, pieces: Sequence[Piece], *, endless: bool = False) -> None:
        self._file, self._pieces, self._endless = file, pieces, endless
        self._ends = list(accumulate(len(p) if isinstance(p, bytes) else p[1] - p[0] for p in pieces))
        self.size = _END if endless else self._ends[-1]
        self._position = self._furthest = 0

    @property
    def is_read(self) -> bool:
        """Whether the last of the bytes has been read."""
        return self._furthest >= self.size

    def tell(self) -> int:
        """The position."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position; not before the beginning, where libsndfile seeks in some files."""
        self._position = max(0, offset + (0, self._position, self.size)[whence])
        return self._position

    def read(self, count: int) -> bytes:
        """Read on; fewer at the end of the file."""
        data = self.read_at(self._position, count)
        self._position += len(data)
        self._furthest = max(self._furthest, self._position)
        return data

    def read_at(self, at: int, count: int) -> bytes:
        """`count` bytes from `at`; fewer at the end of the file."""
        data = self._read_piece(at, count)
        while len(data) < count and (more := self._read_piece(at + len(data), count - len(data))):
            data += more
        return data

    def _read_piece(self, at: int, most: int) -> bytes:
        if at >= self._ends[-1]:
            return bytes(max(0, min(most, _END - at))) if self._endless and at >= _END - _TAG else b""
        number = bisect_right(self._ends, at)
        piece, rest = self._pieces[number], self._ends[number] - at
        if isinstance(piece, bytes):
            return piece[len(piece) - rest :][:most]
        return self._file.read(piece[1] - rest, min(most, rest))


def find_all(file: Splice, pattern: re.Pattern[bytes], length: int) -> Iterator[tuple[int, bytes]]:
    """Where a pattern that is `length` bytes long matches, and these bytes."""
    place, rest = 0, b""
    while block := file.read_at(place + len(rest), _CHUNK):
        data = rest + block
        for match in pattern.finditer(data):
            yield place + match.start(), match[0]
        rest = data[max(0, len(data) - length + 1) :]
        place += len(data) - len(rest)
