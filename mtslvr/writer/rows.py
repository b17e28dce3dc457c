"""Arrays on disk that grow row by row, as .npy files that NumPy can map at any time; next: `journal`."""

from __future__ import annotations

import io
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class ShortArrayError(Exception):
    """A file that holds fewer rows than it should."""


class GrowingArray:
    """An (n, width) .npy file, opened for appending; rows beyond `rows` are cut off.

    Args:
        path: made where missing.
        dtype: of the elements.
        width: elements a row.
        rows: how many rows of an existing file count.
    Raises:
        ShortArrayError: holds fewer rows.
        OSError: cannot be opened.
    """

    def __init__(self, path: Path, dtype: str, width: int, rows: int = 0) -> None:
        self.path, self.rows = path, 0
        self._dtype, self._width = np.dtype(dtype), width
        self._start = len(self._header(0))
        self._file = open(path, "r+b" if path.exists() else "w+b", buffering=0)  # noqa: SIM115  # closed by close()
        if os.fstat(self._file.fileno()).st_size < (self._offset(rows) if rows else 0):
            self._file.close()
            raise ShortArrayError(f"{path.name} holds fewer than {rows} rows")
        self.truncate(rows)

    def append(self, array: Array) -> None:
        """Add rows (k, width)."""
        self.write(self.rows, array)

    def write(self, first: int, array: Array) -> None:
        """Put rows (k, width) from row `first` on, in the place of what is there."""
        self._put(self._offset(first), np.ascontiguousarray(array, self._dtype).tobytes())
        self.rows = max(self.rows, first + len(array))
        self._put(0, self._header(self.rows))

    def truncate(self, rows: int) -> None:
        """Keep the first rows only."""
        self.rows = rows
        self._file.truncate(self._offset(rows))
        self._put(0, self._header(rows))

    def read(self, start: int, stop: int) -> Array:
        """Rows start to stop, a copy."""
        self._file.seek(self._offset(start))
        data = self._file.read((stop - start) * self._width * self._dtype.itemsize)
        return np.frombuffer(data, self._dtype).reshape(-1, self._width)

    def map(self) -> Array:
        """All rows, mapped and not read."""
        if self.rows == 0:
            return np.empty((0, self._width), self._dtype)
        return np.memmap(self.path, self._dtype, "r", self._start, (self.rows, self._width))

    def sync(self) -> None:
        """Have everything on disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _put(self, offset: int, data: bytes) -> None:
        self._file.seek(offset)
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]

    def _offset(self, rows: int) -> int:
        return self._start + rows * self._width * self._dtype.itemsize

    def _header(self, rows: int) -> bytes:
        # NumPy pads the header so that the number of rows can grow in place.
        return npy_header(self._dtype, (rows, self._width))


class RowFile:
    """Embeddings (n, D) float32 and their start and end (n, 2) float64, growing together."""

    def __init__(self, embeddings: Path, spans: Path, width: int, rows: int = 0) -> None:
        self.embeddings = GrowingArray(embeddings, "<f4", width, rows)
        self.spans = GrowingArray(spans, "<f8", 2, rows)

    @property
    def rows(self) -> int:
        """Rows so far."""
        return self.embeddings.rows

    def append(self, embeddings: Array, spans: Array) -> None:
        """Add rows."""
        self.write(self.rows, embeddings, spans)

    def write(self, first: int, embeddings: Array, spans: Array) -> None:
        """Put rows from row `first` on, in the place of what is there."""
        self.spans.write(first, spans)
        self.embeddings.write(first, embeddings)

    def truncate(self, rows: int) -> None:
        """Keep the first rows only."""
        self.embeddings.truncate(rows)
        self.spans.truncate(rows)

    def checksum(self, start: int, stop: int, block: int = 1024) -> int:
        """CRC-32 of rows start to stop."""
        crc = 0
        for first in range(start, stop, block):
            last = min(first + block, stop)
            crc = zlib.crc32(self.spans.read(first, last).tobytes(), crc)
            crc = zlib.crc32(self.embeddings.read(first, last).tobytes(), crc)
        return crc

    def sync(self) -> None:
        """Have everything on disk."""
        self.embeddings.sync()
        self.spans.sync()

    def close(self) -> None:
        """Close both files."""
        self.embeddings.close()
        self.spans.close()


def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """What a .npy file begins with."""
    buffer = io.BytesIO()
    fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()
