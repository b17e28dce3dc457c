"""What runs have finished of an output, in an SQLite file beside it: a transaction a batch; next: `recorder`.

SQLite keeps every transaction whole, whatever ends the process or the machine, so there is nothing to recover here.
While a run is on, all rows are in the store; when it is finished, they are in the output alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..audio.windows import Float32, Float64
from ..errors import ConfigError
from .export import BLOCK, Rows
from .files import STATE, state_folder
from .state import FileEntry, State, check_earlier, read_journal

VERSION = 2  # 1 was the journal of 0.2
EARLIER = "earlier"  # the folder of the state that belongs to the output while a run begins anew
_SYNC_SECONDS = 5.0
_TEXTS = ("path", "name", "error", "note")  # stored as bytes, for a name on Linux need not be text
_SCHEMA = (
    "CREATE TABLE output (settings TEXT NOT NULL, complete INTEGER)",
    "CREATE TABLE files (id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, name BLOB NOT NULL, size INTEGER NOT NULL, "
    "mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, inode INTEGER NOT NULL, rows INTEGER NOT NULL, "
    "seconds REAL NOT NULL, error BLOB NOT NULL, note BLOB NOT NULL, digest BLOB NOT NULL, finished INTEGER NOT NULL)",
    "CREATE TABLE rows (file INTEGER NOT NULL REFERENCES files ON DELETE CASCADE, number INTEGER NOT NULL, "
    "start REAL NOT NULL, stop REAL NOT NULL, embedding BLOB NOT NULL, PRIMARY KEY (file, number))",
    f"PRAGMA user_version = {VERSION}",
)
_COLUMNS = tuple(name for name in FileEntry.__dataclass_fields__ if name != "id")
_INSERT = f"INSERT OR REPLACE INTO files ({', '.join(_COLUMNS)}) VALUES ({', '.join(f':{c}' for c in _COLUMNS)})"
_UPDATE = f"UPDATE files SET {', '.join(f'{c} = :{c}' for c in _COLUMNS)} WHERE id = :id"
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
        self.db.execute("PRAGMA foreign_keys = ON")
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
            self.db.execute("INSERT INTO output VALUES (?, ?)", (json.dumps(begin.settings), begin.complete))
            for entry in begin.entries.values():
                self.insert(entry)
            self.db.commit()

    def insert(self, entry: FileEntry) -> int:
        """Have an input in the place of what there is of its path, rows included; gives its id."""
        return int(self.db.execute(_INSERT, _values(entry)).lastrowid or 0)

    def update(self, entry: FileEntry) -> None:
        """Have an input in the place of what has its id; its rows stay."""
        self.db.execute(_UPDATE, _values(entry))

    def remove(self, id: int) -> None:
        """Forget an input and its rows."""
        self.db.execute("DELETE FROM files WHERE id = ?", (id,))

    def append(self, id: int, first: int, embeddings: Float32, spans: Float64) -> None:
        """Add rows (k, D) and (k, 2) of an input, the first of which is its row `first`."""
        blobs = (row.tobytes() for row in np.asarray(embeddings, "<f4"))
        rows = ((id, first + i, *span, blob) for i, (span, blob) in enumerate(zip(spans.tolist(), blobs, strict=True)))
        self.db.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?)", rows)

    def clear(self, id: int) -> None:
        """Forget the rows of an input."""
        self.db.execute("DELETE FROM rows WHERE file = ?", (id,))

    def windows(self, id: int) -> Iterator[tuple[Float32, Float64]]:
        """The rows of an input, in blocks."""
        found = self.db.execute("SELECT embedding, start, stop FROM rows WHERE file = ? ORDER BY number", (id,))
        while block := found.fetchmany(BLOCK):
            yield _stacked([row[0] for row in block]), np.array([row[1:] for row in block], np.float64)

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

    def commit(self) -> None:
        """Have all that was done since the last time count, and on disk what is older than a few seconds."""
        self.db.execute("UPDATE output SET complete = NULL")
        self.db.commit()
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self.db.execute("PRAGMA wal_checkpoint")
            self._synced = time.monotonic()

    def complete(self, settings: Mapping[str, Any], size: int) -> None:
        """Give up the rows, which the output of so many bytes has now."""
        self.db.execute("DELETE FROM rows")
        self.db.execute("UPDATE output SET settings = ?, complete = ?", (json.dumps(settings), size))
        self.db.commit()
        with contextlib.suppress(sqlite3.OperationalError):  # someone is reading
            self.db.execute("VACUUM")
            self.db.execute("PRAGMA journal_mode = DELETE")


def read_state(target: Path) -> State | None:
    """What earlier runs left of an output, without writing; None where there is nothing.

    Raises:
        ConfigError: not what a run has left, or a run of a later version.
    """
    path = state_folder(target) / STATE
    if not path.exists():
        return read_journal(path.parent)
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version > VERSION:
                raise ConfigError(f"{path}: version {version}, of a later mtslvr; upgrade mtslvr")
            return load_state(db) if version else read_journal(path.parent)  # killed before it had begun
    except (sqlite3.Error, OSError, TypeError) as error:
        remedy = "make it readable, or start anew with --overwrite"
        raise ConfigError(f"{path}: cannot be read ({error}); {remedy}") from None


def earlier_state(target: Path, settings: Mapping[str, Any], *, overwrite: bool = False) -> State | None:
    """What a run with these settings goes on from; None where it begins anew.

    Raises:
        ConfigError: see `read_state` and `check_earlier`; not with `overwrite`.
    """
    if overwrite:
        return None
    state = read_state(target)
    check_earlier(target, state, settings)
    # A finished output that is gone is wanted anew.
    gone = state is not None and state.complete is not None and not target.exists()
    return None if gone else state


def load_state(db: sqlite3.Connection) -> State:
    """Everything but the rows."""
    settings, complete = db.execute("SELECT settings, complete FROM output").fetchone()
    state = State(json.loads(settings), complete=complete)
    for id, *values in db.execute(f"SELECT id, {', '.join(_COLUMNS)} FROM files ORDER BY id"):
        fields = dict(zip(_COLUMNS, values, strict=True))
        texts = {name: os.fsdecode(fields[name]) for name in _TEXTS}
        entry = FileEntry(**{**fields, **texts, "id": id, "finished": bool(fields["finished"])})
        if entry.finished:
            state.entries[entry.path] = entry
        else:
            state.open = entry
    return state


def set_aside(folder: Path) -> None:
    """Keep the state of an output until another one takes its place, and begin anew."""
    earlier = folder / EARLIER
    if earlier.exists():  # what came after it has written no output
        delete_store(folder, keep=EARLIER)
    elif found := [path for path in folder.iterdir() if path.name != "lock"]:
        earlier.mkdir()
        for path in found:
            os.replace(path, earlier / path.name)


def put_back(folder: Path) -> None:
    """Forget what was done since `set_aside`."""
    delete_store(folder, keep=EARLIER)
    for path in (folder / EARLIER).iterdir():
        os.replace(path, folder / path.name)
    (folder / EARLIER).rmdir()


def delete_store(folder: Path, keep: str = "") -> None:
    """Forget what runs of any version have left in their folder, but for the lock and what has the name `keep`."""
    for name in (f"{STATE}-wal", f"{STATE}-shm", f"{STATE}-journal"):  # or a new store would take them for its own
        (folder / name).unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.name in ("lock", keep):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _values(entry: FileEntry) -> dict[str, Any]:
    return {**vars(entry), **{name: os.fsencode(getattr(entry, name)) for name in _TEXTS}}


def _stacked(blobs: list[bytes]) -> npt.NDArray[np.float32]:
    return np.frombuffer(b"".join(blobs), "<f4").reshape(len(blobs), -1)
