"""What runs have finished of an output, in an SQLite file beside it, and whether a new one may go on; next: `recorder`.

SQLite keeps every transaction whole, whatever ends the process or the machine, so there is nothing to recover here.
While a run is on, all rows are in the file; when it is finished, they are in the output alone.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..config import EncoderConfig
from ..errors import ConfigError
from .files import STATE, state_folder

# The same in all runs that add to one output.
FIXED = ("format", "features", "layer", "pool", "window_seconds", "hop_seconds", "dtype", "channel")
DEFAULTS = {"dtype": "float32", "channel": "mix"}  # of settings that are stored only where they are others
_JOURNAL = "journal.jsonl"  # of mtslvr 0.2
_VERSION = 4  # 1 was that journal, 2 and 3 never released


@dataclass(frozen=True)
class FileEntry:
    """An input as it was when a run planned it, and once it was taken up, what became of it."""

    path: str  # absolute
    name: str  # what it goes by in the output
    size: int
    mtime_ns: int
    ctime_ns: int
    id: int | None = None  # in the database
    rows: int = 0  # of an unfinished input, windows that are stored
    seconds: float = 0.0  # of audio
    error: str = ""  # why there are no rows
    note: str = ""  # what is to be known of the rows
    finished: bool = True

    def unchanged(self, found: FileEntry) -> bool:
        """Whether the file system knows of no change: one of the content alone, as by `cp -p`, changes the ctime."""
        return (self.size, self.mtime_ns, self.ctime_ns) == (found.size, found.mtime_ns, found.ctime_ns)


@dataclass
class State:
    """What earlier runs left."""

    settings: dict[str, Any]  # of the output, its format among them
    entries: dict[str, FileEntry] = field(default_factory=dict)  # finished inputs by path, as they finished
    open: FileEntry | None = None  # the unfinished input
    complete: int | None = None  # the size of the output in bytes once all is in it


_SCHEMA = (
    "CREATE TABLE output (settings TEXT NOT NULL, complete INTEGER)",
    "CREATE TABLE files (id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, entry TEXT NOT NULL)",  # both are JSON
    "CREATE TABLE rows (file INTEGER NOT NULL REFERENCES files ON DELETE CASCADE, number INTEGER NOT NULL, "
    "start REAL NOT NULL, stop REAL NOT NULL, embedding BLOB NOT NULL, PRIMARY KEY (file, number))",
    f"PRAGMA user_version = {_VERSION}",
)


def open_state(folder: Path, settings: Mapping[str, Any]) -> sqlite3.Connection:
    """The database of an output for writing, made with these settings where there was none; the caller has the lock."""
    db = sqlite3.connect(folder / STATE)
    db.execute("PRAGMA foreign_keys = ON")
    db.execute("PRAGMA page_size = 16384")  # of several rows
    db.execute("PRAGMA wal_autocheckpoint = 64")  # pages, some hundred rows, that a power cut may lose
    try:
        (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
    except sqlite3.OperationalError:  # a file system without shared memory
        (mode,) = db.execute("PRAGMA journal_mode = DELETE").fetchone()
    db.execute(f"PRAGMA synchronous = {'NORMAL' if mode == 'wal' else 'FULL'}")
    if db.execute("PRAGMA user_version").fetchone() == (0,):
        db.execute("BEGIN")
        for statement in _SCHEMA:
            db.execute(statement)
        db.execute("INSERT INTO output VALUES (?, NULL)", (json.dumps(settings),))
        db.commit()
    return db


def store(db: sqlite3.Connection, entry: FileEntry) -> FileEntry:
    """Have an input in the place of what has its id, whose rows stay, and of what has its path, rows included.

    An unfinished one leaves the rows that an earlier run has of its path.
    """
    # JSON, because a name on Linux may be any bytes.
    values = ("" if entry.finished else "unfinished ") + json.dumps(entry.path), json.dumps(vars(entry))
    if entry.id is not None:
        db.execute("UPDATE OR REPLACE files SET path = ?, entry = ? WHERE id = ?", (*values, entry.id))
        return entry
    return replace(entry, id=db.execute("INSERT OR REPLACE INTO files (path, entry) VALUES (?, ?)", values).lastrowid)


def load_state(db: sqlite3.Connection) -> State:
    """Everything but the rows."""
    settings, complete = db.execute("SELECT settings, complete FROM output").fetchone()
    state = State(json.loads(settings), complete=complete)
    for number, fields in db.execute("SELECT id, entry FROM files ORDER BY id"):
        entry = FileEntry(**{**json.loads(fields), "id": number})
        if entry.finished:
            state.entries[entry.path] = entry
        else:
            state.open = entry
    return state


def read_state(target: Path) -> State | None:
    """What earlier runs left of an output, without writing; None where there is nothing."""
    path = state_folder(target) / STATE
    if not path.exists():
        return None
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version not in (0, _VERSION):
                said = f"version {version}, of another mtslvr, where this has {_VERSION}"
                raise ConfigError(f"{path}: {said}; use that one, or start anew with --overwrite")
            return load_state(db) if version else None  # killed as it began
    except (sqlite3.Error, OSError, TypeError) as error:
        remedy = "make it readable, or start anew with --overwrite"
        raise ConfigError(f"{path}: cannot be read ({error}); {remedy}") from None


def delete_state(folder: Path) -> None:
    """Forget what runs of any version have left in their folder, but for the lock."""
    for path in sorted(folder.iterdir(), reverse=True):  # the database last: without its -wal it is an older one
        if path.name != "lock":
            path.unlink()


def earlier_state(target: Path, settings: Mapping[str, Any], *, overwrite: bool = False) -> State | None:
    """What a run with these settings goes on from; None where it begins anew."""
    if overwrite:
        return None
    state = read_state(target)
    size = target.stat().st_size if target.exists() else None
    remedy = "choose another -o, or start anew with --overwrite"
    if state is None:
        if (journal := state_folder(target) / _JOURNAL).exists():
            raise ConfigError(f"{journal}: of a run of mtslvr 0.2; {remedy}")
        if size is not None:
            raise ConfigError(f"{target}: exists, and no journal beside it says how it was made; {remedy}")
        return None
    if state.complete is not None and size is None:  # finished and gone, so it is wanted anew
        return None
    if different := differences(state.settings, settings):
        raise ConfigError(f"{target}: begun with {'; '.join(different)}. Go on with the same, {remedy}")
    if state.complete not in (None, size):
        raise ConfigError(f"{target}: {size} bytes, and {state.complete} when its run ended; {remedy}")
    return state


def differences(old: Mapping[str, Any], new: Mapping[str, Any], word: str = "now") -> list[str]:
    """Settings that keep rows of two runs apart, each with both values; `word` comes before the second."""
    different = []
    for name in FIXED:
        before, now = (settings.get(name, DEFAULTS.get(name)) for settings in (old, new))
        if before != now:
            different.append(f"{name} {before!r}, {word} {now!r}")
    if (old.get("model_sha256"), _encoder(old)) != (new.get("model_sha256"), _encoder(new)):
        before, now = (f"{s.get('model')!r} (sha256 {str(s.get('model_sha256'))[:12]})" for s in (old, new))
        different.append(f"model {before}, {word} {now}")
    return different


def _encoder(settings: Mapping[str, Any]) -> Any:
    """The encoder's config, with defaults for what an earlier version did not know."""
    try:
        return EncoderConfig.from_dict(settings["encoder"])
    except (KeyError, ConfigError):
        return settings.get("encoder")
