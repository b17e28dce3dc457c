"""Rows of files that were computed once, kept on disk between runs; `features` asks it before it computes."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..run.files import guarded
from .classifiers import FloatArray

_TABLE = """PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; CREATE TABLE IF NOT EXISTS files
(path BLOB PRIMARY KEY, size INTEGER, changed INTEGER, count INTEGER, rows BLOB);"""
_REMEDY = "delete it, name another folder with --cache or MTSLVR_CACHE, or keep no features with --no-cache"


def default_cache() -> Path:
    """Give the folder of the cache: $MTSLVR_CACHE, or mtslvr/features in the user's cache folder."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    named = os.environ.get("MTSLVR_CACHE") or os.path.join(root, "mtslvr", "features")
    return Path(named).expanduser()


class FeatureCache:
    """Rows (k, D) of files, for one way to compute them, in an SQLite file of its own.

    A file is known by its absolute path, size and time of change. What was added is there after a kill, and several
    runs may use the cache at once. One that cannot be read or written is a ConfigError.

    Args:
        folder: of all caches, made where it is missing.
        how: plain values that the rows depend on; another `how` is another cache.
    """

    def __init__(self, folder: Path, how: Mapping[str, Any]) -> None:
        self._path = folder / f"{hashlib.sha256(json.dumps(how, sort_keys=True).encode()).hexdigest()[:20]}.sqlite"
        with guarded(self._path, _REMEDY):
            folder.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self._path, timeout=60, isolation_level=None)
            self._database.executescript(_TABLE)

    def get(self, path: Path) -> FloatArray | None:
        """Give the rows of a file, or None where it is new or has changed."""
        query = "SELECT count, rows FROM files WHERE path = ? AND size = ? AND changed = ?"
        with guarded(self._path, _REMEDY):
            found = self._database.execute(query, _identity(path)).fetchone()
        return None if found is None else np.frombuffer(found[1], np.float32).reshape(found[0], -1)

    def add(self, path: Path, rows: FloatArray) -> None:
        """Keep the float32 rows of a file."""
        values = *_identity(path), len(rows), np.ascontiguousarray(rows, np.float32).tobytes()
        with guarded(self._path, _REMEDY):
            self._database.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", values)

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()


def _identity(path: Path) -> tuple[bytes, int, int]:
    place = os.fsencode(os.path.abspath(path))
    try:
        status = os.stat(path)
    except OSError:  # said when it is read
        return place, -1, -1
    return place, status.st_size, status.st_mtime_ns
