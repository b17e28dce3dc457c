"""The rows of a run, batch by batch, to the state and at the end to the output; `job` and the command line call it.

A batch is a transaction, so whatever ends a run, the next one goes on after the last whole batch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..audio.windows import Float32, Float64, Pool, Pooling
from ..errors import ConfigError
from .export import Row, export, in_blocks
from .files import Format, guarded, locked, state_folder
from .shards import Shard
from .state import FileEntry, State, delete_state, earlier_state, load_state, open_state, store
from .table import read_table


class Recorder(contextlib.AbstractContextManager["Recorder"]):
    """Writes one output of rows of `width`, going on with an earlier run; the only one to do so until it is closed.

    Attributes:
        settings: everything the rows depend on, and `format`.
        state: what was finished before, and after `export` what is.
        relisted: whether the inputs have other places among all than those that an earlier run of a shard saw.
    """

    def __init__(self, target: Path, settings: Mapping[str, Any], width: int, *, overwrite: bool = False) -> None:
        self.target, self.settings, self.width = target, dict(settings), width
        self.format, self.pool = Format(settings["format"]), Pool(settings["pool"])
        with guarded(target), contextlib.ExitStack() as stack:
            self._folder = stack.enter_context(locked(target))
            earlier = earlier_state(target, self.settings, overwrite=overwrite)
            self._stack = stack.pop_all()
        self._anew = earlier is None
        self.state = earlier or State(self.settings)
        self.relisted = self.state.settings.get("shard") != self.settings.get("shard")

    def __exit__(self, *_: object) -> None:
        """Close the state and let other runs write."""
        self._stack.close()

    def begin(self, moved: Iterable[FileEntry] = ()) -> None:
        """Open the state, needed for what follows; `moved` are finished inputs that have another path or name now."""
        with guarded_rows(self.target):
            if self._anew:
                delete_state(self._folder)
            self._db = open_state(self._folder, self.settings)
            self._stack.callback(self._db.close)
            if self.state.complete is not None:
                self._restore()
            for entry in moved:
                store(self._db, entry)
            self.commit()

    def _restore(self) -> None:
        """Bring the rows of a finished output back to the state."""
        table, first = read_table(self.target), 0
        spans = np.stack([table.start, table.end], 1)
        entries = {entry.name: entry for entry in self.state.entries.values() if entry.rows}
        found = [(name, len(list(rows))) for name, rows in itertools.groupby(table.paths)]
        if sorted(found) != sorted((name, entry.rows) for name, entry in entries.items()):
            raise ConfigError(f"{self.target}: not the output of its journal; start anew with --overwrite")
        for name, count in found:
            rows = slice(first, first + count)
            self._append(entries[name], 0, table.embeddings[rows], spans[rows])
            first += count

    def resume(self, file: FileEntry | None) -> int:
        """Go on with the unfinished input if it is this one, else forget it; give how many windows are stored."""
        held = self.state.open
        if held is None:
            return 0
        if file is not None and (held.path, held.name) == (file.path, file.name) and held.unchanged(file):
            return held.rows
        self._db.execute("DELETE FROM files WHERE id = ?", (held.id,))
        self.state.open = None
        return 0

    def add(self, file: FileEntry, embeddings: Float32, spans: Float64, last: bool, note: str = "") -> FileEntry | None:
        """Take the next windows of an input, (k, D) and (k, 2), and a note of its rows; give it once it is finished."""
        held = self.state.open or store(self._db, dataclasses.replace(file, finished=False))
        first, seconds = held.rows, float(spans[-1, 1]) if len(spans) else held.seconds
        if last and self.pool is Pool.MEAN:
            pooling = Pooling(self.pool)
            for _, times, rows in in_blocks(self._rows([held])):
                pooling.add(rows, times)
            pooling.add(embeddings, spans)
            self._db.execute("DELETE FROM rows WHERE file = ?", (held.id,))
            first, (embeddings, spans) = 0, pooling.result()
        self._append(held, first, embeddings, spans)
        entry = dataclasses.replace(held, rows=first + len(spans), seconds=seconds, note=note, finished=last)
        self.state.open = None if last else entry
        store(self._db, entry)
        return entry if last else None

    def _append(self, entry: FileEntry, first: int, embeddings: Float32, spans: Float64) -> None:
        numbered = enumerate(zip(spans.tolist(), np.asarray(embeddings, "<f4"), strict=True), first)
        rows = ((entry.id, number, *span, row.tobytes()) for number, (span, row) in numbered)
        self._db.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?)", rows)

    def fail(self, file: FileEntry, message: str) -> bool:
        """Note that an input has no embeddings, or else give that it has those of an earlier run, which stay."""
        self.resume(None)
        earlier = self.state.entries.get(file.path)
        if earlier is None or not earlier.rows:
            store(self._db, dataclasses.replace(file, error=message))
            return False
        store(self._db, dataclasses.replace(earlier, name=file.name))  # as it was then, so that it is tried again
        return True

    def commit(self) -> None:
        """Have all that was done since the last time count."""
        self._db.execute("UPDATE output SET complete = NULL")
        self._db.commit()

    def export(self, order: Sequence[str], *, complete: bool) -> int:
        """Write the output from what was committed, inputs in this order, then others; gives the number of rows.

        Where it is `complete`, nothing being left to do, the output alone has the rows then.
        """
        with guarded_rows(self.target):
            self._db.rollback()
            self.state = load_state(self._db)
            place = {path: i for i, path in enumerate(order)}
            entries = [entry for entry in self.state.entries.values() if entry.rows]
            entries.sort(key=lambda entry: place.get(entry.path, len(place)))
            count = sum(entry.rows for entry in entries)
            if entries or (complete and "shard" in self.settings and (order or not self._anew)):
                settings = {**self._described(entries, place), "complete": complete}
                export(self.target, self.format, self._rows(entries), (count, self.width), settings)
                if complete:
                    self._finish()
            elif complete:
                self._db.close()
                delete_state(self._folder)
        return count

    def _rows(self, entries: Iterable[FileEntry]) -> Iterator[Row]:
        select = "SELECT start, stop, embedding FROM rows WHERE file = ? ORDER BY number"
        return ((entry.name, *row) for entry in entries for row in self._db.execute(select, (entry.id,)))

    def _described(self, entries: Sequence[FileEntry], place: Mapping[str, int]) -> dict[str, Any]:
        """The settings; of a shard with places among all of its files without rows, for `merge`."""
        if "shard" not in self.settings:
            return self.settings
        shard = Shard(self.settings["shard"]["index"], self.settings["shard"]["count"])
        there = {entry.path for entry in entries}
        missing = [shard.place(i) for path, i in place.items() if path not in there]
        return {**self.settings, "shard": {**self.settings["shard"], "missing": missing}}

    def _finish(self) -> None:
        self.resume(None)
        self._db.execute("DELETE FROM rows")
        complete = (json.dumps(self.settings), self.target.stat().st_size)
        self._db.execute("UPDATE output SET settings = ?, complete = ?", complete)
        self._db.commit()
        with contextlib.suppress(sqlite3.OperationalError):  # someone is reading
            self._db.execute("VACUUM")
            self._db.execute("PRAGMA journal_mode = DELETE")


def guarded_rows(target: Path) -> contextlib.AbstractContextManager[None]:
    """Errors of the file system become one that says that what is finished is kept."""
    remedy = "make space or allow writing, and run the same command again"
    return guarded(target, f"what is finished is kept in {state_folder(target).name}: {remedy}")
