"""The rows that a run has finished and the windows of the file it is at, on disk; next: `journal`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import ConfigError
from ..windows import Float32, Float64
from .files import Format
from .rows import GrowingArray, RowFile, ShortArrayError
from .state import Commit, OpenFile, State
from .table import as_utf8, read_table

_COPY = 1024  # rows at once


class Store:
    """The rows of one output, in its journal's folder; for npy in the output itself.

    Args:
        target: the output.
        folder: of its journal.
        form: of the output.
        width: numbers a row.
    """

    def __init__(self, target: Path, folder: Path, form: Format, width: int) -> None:
        self._target, self._folder, self._format, self._width = target, folder, form, width
        self.files: list[RowFile] = []

    @property
    def opened(self) -> bool:
        """Whether `open` came and `close` did not."""
        return bool(self.files)

    @property
    def rows(self) -> RowFile:
        """Of finished files."""
        return self.files[0]

    @property
    def tails(self) -> list[RowFile]:
        """Two files of windows: of the unfinished file, and of the one before."""
        return self.files[1:]

    def open(self, state: State) -> int | None:
        """Open what a journal speaks of.

        Returns:
            None, or the line of a batch that is not on disk, which a power cut may have kept it from; nothing is
            open then.
        Raises:
            ConfigError: rows are missing that have been on disk.
        """
        try:
            self.files.append(self._open_rows(state.rows))
            for i in (0, 1):
                held = state.open.windows if state.open is not None and state.open.tail == i else 0
                paths = self._folder / f"tail{i}.npy", self._folder / f"tail{i}.spans.npy"
                self.files.append(RowFile(*paths, self._width, held))
        except ShortArrayError as error:
            self.close()
            if not state.unsynced:
                raise ConfigError(f"{self._target}: its journal lacks rows ({error}); use --overwrite") from None
            return state.unsynced[0].line
        lost = next((commit.line for commit in state.unsynced if not self._is_intact(commit, state.open)), None)
        if lost is not None:
            self.close()
        return lost

    def _is_intact(self, commit: Commit, unfinished: OpenFile | None) -> bool:
        opened = commit.open
        if opened is not None and unfinished is not None and opened["path"] == unfinished.path:
            tail = self.tails[opened["tail"]]
            if tail.checksum(opened["from"], opened["windows"]) != opened["crc"]:
                return False
        return self.rows.checksum(*commit.rows) == commit.checksum

    def restore(self, state: State) -> None:
        """Bring the rows of a complete output back.

        Raises:
            ConfigError: not the output of that journal.
        """
        table = read_table(self._target)
        names = [entry.name for entry in state.entries.values() for _ in range(entry.rows)]
        if self._format is Format.PARQUET:  # which holds UTF-8 only
            names = [as_utf8(name) for name in names]
        if table.embeddings.shape[1:] != (self._width,) or list(table.paths) != names:
            raise ConfigError(f"{self._target}: not the output of its journal; start anew with --overwrite")
        spans = np.stack([table.start, table.end], 1)
        if self._format is Format.NPY:
            every = np.zeros((state.rows, 2))
            every[[row for e in state.entries.values() for row in range(e.first, e.first + e.rows)]] = spans
            array = GrowingArray(self._folder / "spans.npy", "<f8", 2)
            array.append(every)
            array.sync()
            return array.close()
        rows = self._open_rows(0)
        for first in range(0, len(spans), _COPY):
            rows.append(table.embeddings[first : first + _COPY], spans[first : first + _COPY])
        rows.sync()
        rows.close()

    def _open_rows(self, rows: int) -> RowFile:
        path = self._target if self._format is Format.NPY else self._folder / "rows.npy"
        return RowFile(path, self._folder / "spans.npy", self._width, rows)

    def held_rows(self, held: OpenFile) -> Iterator[tuple[Float32, Float64]]:
        """The windows of an unfinished file, in blocks."""
        tail = self.tails[held.tail]
        for first in range(0, held.windows, _COPY):
            last = min(first + _COPY, held.windows)
            yield tail.embeddings.read(first, last), tail.spans.read(first, last)

    def close(self) -> None:
        """Close all files."""
        for file in self.files:
            file.close()
        self.files = []

    def remove(self) -> None:
        """Delete what is not the output."""
        for path in self._folder.glob("*.npy"):
            path.unlink()
