"""The rows of a run, batch by batch, to the state and at the end to the output; `job` and the command line call it.

A batch is a transaction, so whatever ends a run, the next one goes on after the last whole batch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..audio.windows import Float32, Float64, Pool, Pooling
from ..errors import ConfigError
from .export import Row, export, in_blocks
from .files import INDEX, META, STATE, Format, guarded, locked, sidecar, state_folder
from .shards import Shard, to_runs
from .state import (
    JOURNAL,
    FileEntry,
    FileStat,
    State,
    content_digest,
    earlier_state,
    insert,
    load_state,
    open_state,
    update,
)
from .table import as_utf8, read_table

_EARLIER = "earlier.sqlite"  # the state that belongs to the output while a run begins anew
_SYNC_SECONDS = 5.0


class Recorder(contextlib.AbstractContextManager["Recorder"]):
    """Writes one output of rows of `width`, going on with an earlier run; the only one to do so until it is closed.

    Attributes:
        settings: everything the rows depend on, and `format`.
        state: what was finished before, and after `export` what is.
        relisted: whether the inputs have other places among all than those that an earlier run of a shard saw.
    Raises:
        ConfigError: another run is writing, the output is of another run or changed since, other settings.
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
        self._synced = time.monotonic()

    def __exit__(self, *_: object) -> None:
        """Close the state and let other runs write."""
        self._stack.close()

    def begin(self, moved: Iterable[tuple[str, FileStat]] = ()) -> None:
        """Open the state, needed for what follows; `moved` are old paths of finished inputs, and what they are now."""
        with guarded_rows(self.target):
            if self._anew:
                _set_aside(self._folder)
            self._db = open_state(self._folder, self.state)
            self._stack.callback(self._db.close)
            self.state = load_state(self._db)
            if self.state.complete is not None:
                self._restore()
            for old, file in moved:
                update(self._db, dataclasses.replace(self.state.entries[old], **vars(file)))
            self.commit()
            (self._folder / JOURNAL).unlink(missing_ok=True)
        self._open: FileEntry | None = None
        self._pooling = Pooling(self.pool)

    def _restore(self) -> None:
        """Bring the rows of a finished output back to the state."""
        table, first = read_table(self.target), 0
        spans = np.stack([table.start, table.end], 1)
        encode = as_utf8 if self.format is Format.PARQUET else str
        entries = {encode(entry.name): entry for entry in self.state.entries.values() if entry.rows}
        found = [(name, len(list(rows))) for name, rows in itertools.groupby(table.paths)]
        if sorted(found) != sorted((name, entry.rows) for name, entry in entries.items()):
            raise ConfigError(f"{self.target}: not the output of its journal; start anew with --overwrite")
        for name, count in found:
            rows = slice(first, first + count)
            self._append(entries[name], 0, table.embeddings[rows], spans[rows])
            first += count

    def resume(self, file: FileStat | None) -> int:
        """Go on with the unfinished input if it is this one, else forget it; give how many windows are stored."""
        held = self.state.open
        if held is None:
            return 0
        if held.stat != file:
            self._db.execute("DELETE FROM files WHERE id = ?", (held.id,))
            return 0
        self._open = held
        if self.pool is Pool.MEAN:
            for _, spans, embeddings in in_blocks(self._rows([held])):
                self._pooling.add(embeddings, spans)
        return held.rows

    def add(self, file: FileStat, embeddings: Float32, spans: Float64, last: bool, note: str = "") -> FileEntry | None:
        """Take the next windows of an input, (k, D) and (k, 2), and a note of its rows; give it once it is finished."""
        held = self._open
        if held is None:
            held = FileEntry(**vars(file), finished=False)
            held = dataclasses.replace(held, id=insert(self._db, held))
            self._pooling = Pooling(self.pool)
        first, seconds = held.rows, float(spans[-1, 1]) if len(spans) else held.seconds
        if self.pool is Pool.MEAN:
            self._pooling.add(embeddings, spans)
            if last:
                self._db.execute("DELETE FROM rows WHERE file = ?", (held.id,))
                first, (embeddings, spans) = 0, self._pooling.result()
        self._append(held, first, embeddings, spans)
        entry = dataclasses.replace(held, rows=first + len(spans), seconds=seconds)
        if last:
            entry = dataclasses.replace(entry, note=note, digest=content_digest(file.path), finished=True)
        update(self._db, entry)
        self._open = None if last else entry
        return entry if last else None

    def _append(self, entry: FileEntry, first: int, embeddings: Float32, spans: Float64) -> None:
        numbered = enumerate(zip(spans.tolist(), np.asarray(embeddings, "<f4"), strict=True), first)
        rows = ((entry.id, number, *span, row.tobytes()) for number, (span, row) in numbered)
        self._db.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?)", rows)

    def fail(self, file: FileStat, message: str) -> None:
        """Note that an input has no embeddings."""
        self._open = None
        insert(self._db, FileEntry(**vars(file), error=message))

    def commit(self) -> None:
        """Have all that was done since the last time count, and on disk what is older than a few seconds."""
        self._db.execute("UPDATE output SET complete = NULL")
        self._db.commit()
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self._db.execute("PRAGMA wal_checkpoint")
            self._synced = time.monotonic()

    def export(self, order: Sequence[str], *, complete: bool) -> int:
        """Write the output from what was committed; gives the number of rows.

        Those of inputs with the paths `order` come in this order, others after them. Where it is `complete`, nothing
        being left to do, the output alone has the rows then.
        """
        earlier = self._folder / _EARLIER
        with guarded_rows(self.target):
            self._db.rollback()
            self.state = load_state(self._db)
            place = {path: i for i, path in enumerate(order)}
            entries = [entry for entry in self.state.entries.values() if entry.rows]
            entries.sort(key=lambda entry: place.get(entry.path, len(place)))
            count = sum(entry.rows for entry in entries)
            if entries or (complete and order and "shard" in self.settings):
                settings = {**self._described(entries, place), "complete": complete}
                export(self.target, self.format, self._rows(entries), (count, self.width), settings)
                earlier.unlink(missing_ok=True)
                if complete:
                    self._finish()
            elif earlier.exists() and self.state.open is None:
                self._db.close()
                delete_state(self._folder, keep=_EARLIER)
                os.replace(earlier, self._folder / STATE)
            elif complete:
                self._db.close()
                delete_state(self._folder)
                if not self._anew:  # of what is in the output nothing holds any more
                    for path in (self.target, sidecar(self.target, INDEX), sidecar(self.target, META)):
                        path.unlink(missing_ok=True)
        return count

    def _rows(self, entries: Iterable[FileEntry]) -> Iterator[Row]:
        select = "SELECT start, stop, embedding FROM rows WHERE file = ? ORDER BY number"
        return ((entry.name, *row) for entry in entries for row in self._db.execute(select, (entry.id,)))

    def _described(self, entries: Sequence[FileEntry], place: Mapping[str, int]) -> dict[str, Any]:
        """The settings; of a shard with its files' places among all and how many of them failed, for `merge`."""
        if "shard" not in self.settings:
            return self.settings
        shard = Shard(self.settings["shard"]["index"], self.settings["shard"]["count"])
        places = [shard.place(place[entry.path]) if entry.path in place else None for entry in entries]
        failed = sum(bool(entry.error) for path, entry in self.state.entries.items() if path in place)
        described = {"places": to_runs(places, shard.count), "failed": failed}
        return {**self.settings, "shard": {**self.settings["shard"], **described}}

    def _finish(self) -> None:
        self._db.execute("DELETE FROM rows")
        complete = (json.dumps(self.settings), self.target.stat().st_size)
        self._db.execute("UPDATE output SET settings = ?, complete = ?", complete)
        self._db.commit()
        with contextlib.suppress(sqlite3.OperationalError):  # someone is reading
            self._db.execute("VACUUM")
            self._db.execute("PRAGMA journal_mode = DELETE")


def guarded_rows(target: Path) -> contextlib.AbstractContextManager[None]:
    """Errors of the file system become one that says that what is finished is kept."""
    remedy = f"what is finished is kept in {state_folder(target).name}: make space and run the same command again"
    return guarded(target, remedy)


def _set_aside(folder: Path) -> None:
    """Forget what runs have left, but for the state of a finished one, until another output takes the place of its."""
    unfinished = (folder / f"{STATE}-wal").exists()
    if (folder / STATE).is_file() and not unfinished and not (folder / _EARLIER).exists():
        os.replace(folder / STATE, folder / _EARLIER)
    delete_state(folder, keep=_EARLIER)


def delete_state(folder: Path, keep: str = "") -> None:
    """Forget what runs of any version have left in their folder, but for the lock and what has the name `keep`."""
    for path in sorted(folder.iterdir(), reverse=True):  # the database last: without its -wal it is an older one
        if path.name not in ("lock", keep):
            path.unlink()
