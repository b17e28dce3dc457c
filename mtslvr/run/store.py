"""What runs have finished of an output, in an SQLite file beside it: a transaction a batch; next: `recorder`.

SQLite keeps every transaction whole, whatever ends the process or the machine, so there is nothing to recover here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..audio.windows import Float32, Float64
from ..errors import ConfigError
from .export import BLOCK, Rows
from .files import STATE, state_folder
from .state import FileEntry, State, read_journal

VERSION = 2  # 1 was the journal of 0.2
_SYNC_SECONDS = 5.0
# Paths are bytes, for a name on Linux need not be text. Rows of an npy that lie in the output have no embedding here.
_SCHEMA = (
    "CREATE TABLE output (settings TEXT NOT NULL, total INTEGER NOT NULL, complete INTEGER)",
    "CREATE TABLE files (id INTEGER PRIMARY KEY, path BLOB NOT NULL, name BLOB NOT NULL, size INTEGER NOT NULL, "
    "mtime_ns INTEGER NOT NULL, first INTEGER NOT NULL, rows INTEGER NOT NULL, seconds REAL NOT NULL, "
    "error BLOB NOT NULL, note BLOB NOT NULL, digest BLOB NOT NULL, finished INTEGER NOT NULL)",
    "CREATE TABLE rows (file INTEGER NOT NULL, number INTEGER NOT NULL, start REAL NOT NULL, stop REAL NOT NULL, "
    "embedding BLOB, PRIMARY KEY (file, number))",
    f"PRAGMA user_version = {VERSION}",
)
_SAVE = "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_LISTED = "FROM temp.listing CROSS JOIN rows ON rows.file = listing.file ORDER BY position, number"


class Store:
    """The rows of one output and the files that they are of, opened for writing.

    Nothing counts before `commit`. Errors are those of `sqlite3`.

    Args:
        folder: see `state_folder`; the caller holds its lock.
        begin: what it holds where there is none yet.
    """

    def __init__(self, folder: Path, begin: State) -> None:
        self.db = sqlite3.connect(folder / STATE)
        self._synced = time.monotonic()
        self.db.execute("PRAGMA page_size = 16384")  # of several rows
        try:
            (mode,) = self.db.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError:  # a file system without shared memory
            (mode,) = self.db.execute("PRAGMA journal_mode = DELETE").fetchone()
        self.db.execute(f"PRAGMA synchronous = {'NORMAL' if mode == 'wal' else 'FULL'}")
        if self.db.execute("PRAGMA user_version").fetchone() == (0,):
            self.db.execute("BEGIN")
            for statement in _SCHEMA:
                self.db.execute(statement)
            output = json.dumps(begin.settings), begin.total, begin.complete
            self.db.execute("INSERT INTO output VALUES (?, ?, ?)", output)
            for id, entry in enumerate(begin.entries.values(), 1):
                self.save(dataclasses.replace(entry, id=id))
            self.db.commit()

    def state(self) -> State:
        """Everything but the rows."""
        return _load(self.db)

    def save(self, entry: FileEntry, *, finished: bool = True) -> None:
        """Have an input in the place of what has its id."""
        path, name = os.fsencode(entry.path), os.fsencode(entry.name)
        error, note = os.fsencode(entry.error), os.fsencode(entry.note)
        stat = path, name, entry.size, entry.mtime_ns
        found = entry.first, entry.rows, entry.seconds, error, note, entry.digest
        self.db.execute(_SAVE, (entry.id, *stat, *found, finished))

    def remove(self, id: int) -> None:
        """Forget an input and its rows."""
        self.db.execute("DELETE FROM rows WHERE file = ?", (id,))
        self.db.execute("DELETE FROM files WHERE id = ?", (id,))

    def append(self, id: int, first: int, embeddings: Float32 | None, spans: Float64) -> None:
        """Add rows (k, D) and (k, 2) of an input, the first of which is its row `first`; None lie in the output."""
        count = len(spans)
        blobs = [None] * count if embeddings is None else [row.tobytes() for row in np.asarray(embeddings, "<f4")]
        rows = zip([id] * count, range(first, first + count), *spans.T.tolist(), blobs, strict=True)
        self.db.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?)", rows)

    def windows(self, id: int) -> Iterator[tuple[Float32, Float64]]:
        """The rows of an input, in blocks."""
        found = self.db.execute("SELECT start, stop, embedding FROM rows WHERE file = ? ORDER BY number", (id,))
        while block := found.fetchmany(BLOCK):
            yield _stacked([row[2] for row in block]), np.array([row[:2] for row in block], np.float64)

    def rows(self, entries: Sequence[FileEntry], width: int) -> Rows:
        """The rows of finished inputs, in this order; read when they are asked for."""
        self.db.execute("CREATE TEMP TABLE IF NOT EXISTS listing (position INTEGER PRIMARY KEY, file INTEGER)")
        self.db.execute("DELETE FROM temp.listing")
        self.db.executemany("INSERT INTO temp.listing VALUES (NULL, ?)", ((entry.id,) for entry in entries))
        found = self.db.execute(f"SELECT start, stop {_LISTED}")
        blocks = iter(lambda: found.fetchmany(BLOCK), [])
        spans = np.concatenate([np.empty((0, 2)), *(np.array(block, np.float64) for block in blocks)])
        return Rows([(entry.name, entry.rows) for entry in entries], spans, width, self._embeddings)

    def _embeddings(self) -> Iterator[Float32]:
        found = self.db.execute(f"SELECT embedding {_LISTED}")
        while block := found.fetchmany(BLOCK):
            yield _stacked([row[0] for row in block])

    def needs_output(self) -> bool:
        """Whether rows lie in the output alone, as those of earlier runs do in an npy."""
        oldest = self.db.execute("SELECT embedding IS NULL FROM rows ORDER BY rowid LIMIT 1").fetchone()
        return oldest is not None and bool(oldest[0])

    def placed_rows(self) -> Iterator[tuple[int, bytes]]:
        """Place in an npy and bytes of each row that does not lie there already."""
        query = "SELECT first + number, embedding FROM rows JOIN files ON files.id = file"
        return iter(self.db.execute(f"{query} WHERE finished AND embedding IS NOT NULL ORDER BY rows.rowid"))

    def commit(self, total: int) -> None:
        """Have all that was done since the last time count, and on disk what is older than a few seconds."""
        self.db.execute("UPDATE output SET total = ?, complete = NULL", (total,))
        self.db.commit()
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self.db.execute("PRAGMA wal_checkpoint")
            self._synced = time.monotonic()

    def complete(self, settings: Mapping[str, Any], firsts: Iterable[tuple[int, int]], total: int, size: int) -> None:
        """Give up the rows, which the output has now.

        Args:
            settings: of the output.
            firsts: first rows there, and ids, of files whose first row is another now.
            total: its rows.
            size: its bytes.
        """
        self.db.executemany("UPDATE files SET first = ? WHERE id = ?", firsts)
        self.db.execute("DELETE FROM rows")
        self.db.execute("UPDATE output SET settings = ?, total = ?, complete = ?", (json.dumps(settings), total, size))
        self.db.commit()
        with contextlib.suppress(sqlite3.OperationalError):  # someone is reading
            self.db.execute("VACUUM")
            self.db.execute("PRAGMA journal_mode = DELETE")


def read_state(target: Path) -> State | None:
    """What earlier runs left of an output, without writing.

    Returns:
        None where no run has begun it.
    Raises:
        ConfigError: unreadable, of a later version, or begun by mtslvr 0.2 and not finished.
    """
    path = state_folder(target) / STATE
    if not path.exists():
        return read_journal(path.parent)
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version > VERSION:
                raise ConfigError(f"{path}: version {version}, of a later mtslvr; upgrade mtslvr")
            return _load(db) if version else read_journal(path.parent)  # killed before it had begun
    except (sqlite3.Error, OSError, ValueError, TypeError) as error:
        if isinstance(error, ConfigError):
            raise
        remedy = "make it readable, or start anew with --overwrite"
        raise ConfigError(f"{path}: cannot be read ({error}); {remedy}") from None


def delete_store(folder: Path) -> None:
    """Forget what runs of any version have left in their folder, but for the lock."""
    for name in (f"{STATE}-wal", f"{STATE}-shm", f"{STATE}-journal"):  # or a new store would take them for its own
        (folder / name).unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()


def _load(db: sqlite3.Connection) -> State:
    settings, total, complete = db.execute("SELECT settings, total, complete FROM output").fetchone()
    state = State(json.loads(settings), {}, None, total, complete)
    columns = "finished, path, name, error, note, size, mtime_ns, id, first, rows, seconds, digest"
    for finished, *row in db.execute(f"SELECT {columns} FROM files ORDER BY id"):
        path, name, error, note = map(os.fsdecode, row[:4])
        entry = FileEntry(path, name, row[4], row[5], row[6], row[7], row[8], row[9], error, note, bytes(row[10]))
        state.last_id = entry.id
        if finished:
            state.entries[path] = entry
        else:
            query = "SELECT count(*), coalesce(max(stop), 0) FROM rows WHERE file = ?"
            windows, seconds = db.execute(query, (entry.id,)).fetchone()
            state.open = dataclasses.replace(entry, rows=windows, seconds=seconds)
    return state


def _stacked(blobs: list[bytes]) -> npt.NDArray[np.float32]:
    return np.frombuffer(b"".join(blobs), "<f4").reshape(len(blobs), -1)
