"""Rows of files that were computed once, kept on disk between runs; `features` asks it before it computes."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .classifiers import FloatArray

_TABLE = """PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; CREATE TABLE IF NOT EXISTS files
(path BLOB PRIMARY KEY, size INTEGER, changed INTEGER, count INTEGER, rows BLOB);"""


def default_cache() -> Path:
    """Give the folder of the cache: $MTSLVR_CACHE, or mtslvr/features in the user's cache folder."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    named = os.environ.get("MTSLVR_CACHE") or os.path.join(root, "mtslvr", "features")
    return Path(named).expanduser()


class FeatureCache:
    """Rows (k, D) of files, for one way to compute them, in an SQLite file of its own.

    A file is known by its absolute path, size and time of change. What was added is there after a kill, and several
    runs may use the cache at once. One that cannot be read or written costs a warning, not the run.

    Args:
        folder: of all caches, made where it is missing; None is for no cache.
        how: plain values that the rows depend on; another `how` is another cache.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, how: Mapping[str, Any]) -> None:
        self._database: sqlite3.Connection | None = None
        if folder is None:
            return
        self.path = Path(folder) / f"{hashlib.sha256(json.dumps(how, sort_keys=True).encode()).hexdigest()[:20]}.sqlite"
        with self._given_up_at_errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            self._database.executescript(_TABLE)

    def get(self, path: Path) -> FloatArray | None:
        """Give the rows of a file, or None where it is new or has changed."""
        query = "SELECT count, rows FROM files WHERE path = ? AND size = ? AND changed = ?"
        found = self._execute(query, path)
        return None if found is None else np.frombuffer(found[1], np.float32).reshape(found[0], -1)

    def add(self, path: Path, rows: FloatArray) -> None:
        """Keep the float32 rows of a file."""
        values = len(rows), np.ascontiguousarray(rows, np.float32).tobytes()
        self._execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", path, *values)

    def close(self) -> None:
        """Let go of the file."""
        if self._database is not None:
            self._database.close()

    def _execute(self, query: str, path: Path, *values: Any) -> Any:
        """The first row that a query about a file finds, or None."""
        try:
            status = os.stat(path)
        except OSError:  # it will be reported when it is read
            return None
        identity = os.fsencode(os.path.abspath(path)), status.st_size, status.st_mtime_ns
        with self._given_up_at_errors():
            if self._database is not None:
                return self._database.execute(query, (*identity, *values)).fetchone()
        return None

    @contextmanager
    def _given_up_at_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            self.close()
            self._database = None
            told = getattr(error, "strerror", None) or error
            warnings.warn(
                f"{self.path}: features cannot be cached ({told}); delete it, or name another folder with --cache or "
                "MTSLVR_CACHE",
                stacklevel=4,
            )
