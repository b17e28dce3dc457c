"""Files put together from pieces of others, which libsndfile reads as if they lay on disk; used by `layout`, `mp3`."""

from __future__ import annotations

import io
import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, BinaryIO, TypeAlias

from ..errors import one_line

Piece: TypeAlias = bytes | tuple[int, int]  # bytes, or (start, end) within the file
_CHUNK, _LARGE_CHUNK = 1 << 13, 1 << 16
_END, _TAG = 1 << 40, 128


class _Pieces(io.RawIOBase):
    """Unbuffered pieces of a file, one after the other; see `Splice`."""

    def __init__(self, file: BinaryIO, pieces: Sequence[Piece], endless: bool) -> None:
        self._file, self._pieces, self._endless = file, pieces, endless
        self._ends = list(accumulate(len(p) if isinstance(p, bytes) else p[1] - p[0] for p in pieces))
        self.size = _END if endless else self._ends[-1]
        self._position = self.furthest = 0
        self.error: BaseException | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        # libsndfile seeks before the beginning of some files.
        self._position = max(0, offset + (0, self._position, self.size)[whence])
        return self._position

    def readinto(self, target: Any) -> int:
        try:
            data = self._read(len(target))
            target[: len(data)] = data
        except BaseException as error:  # which does not pass through libsndfile
            self.error, data = error, b""
        self._position += len(data)
        self.furthest = max(self.furthest, self._position)
        return len(data)

    def _read(self, most: int) -> bytes:
        at = self._position
        if at >= self._ends[-1]:
            return bytes(max(0, min(most, _END - at))) if self._endless and at >= _END - _TAG else b""
        number = bisect_right(self._ends, at)
        piece, rest = self._pieces[number], self._ends[number] - at
        if isinstance(piece, bytes):
            return piece[len(piece) - rest :][:most]
        self._file.seek(piece[1] - rest)
        return self._file.read(min(most, rest))


class Splice(io.BufferedReader):
    """A file of pieces of a seekable one, in order; that one is left open.

    For decoders that stop where the length says, an `endless` one claims to end far behind its pieces, and has zeros
    where a tag would be, at the very end.
    """

    def __init__(self, file: BinaryIO, pieces: Sequence[Piece], *, endless: bool = False) -> None:
        self._bytes = _Pieces(file, pieces, endless)
        super().__init__(self._bytes, _CHUNK)

    def check(self) -> None:
        """Raise what reading has met, if it has met an error, which is an OSError where it does not end the program."""
        if self._bytes.error is not None:
            raise as_os_error(self._bytes.error)

    @property
    def is_read(self) -> bool:
        """Whether the last of the bytes has been read."""
        return self._bytes.furthest >= self._bytes.size


def as_os_error(error: BaseException) -> BaseException:
    """An OSError in place of whatever somebody's file object raises, but for what ends the program."""
    if isinstance(error, OSError) or not isinstance(error, Exception):
        return error
    return OSError(one_line(f"{type(error).__name__}: {error}"))


def read_at(file: BinaryIO, at: int, count: int) -> bytes:
    """`count` bytes from `at`; fewer at the end of the file."""
    file.seek(min(at, _END))
    return file.read(count)


def find_all(file: BinaryIO, pattern: re.Pattern[bytes], length: int) -> Iterator[tuple[int, bytes]]:
    """Where a pattern that is `length` bytes long matches, and these bytes."""
    file.seek(0)
    place, rest = 0, b""
    while block := file.read(_LARGE_CHUNK):
        data = rest + block
        for match in pattern.finditer(data):
            yield place + match.start(), match[0]
        rest = data[max(0, len(data) - length + 1) :]
        place += len(data) - len(rest)
