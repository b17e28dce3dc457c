"""Rows of files that were computed once, kept on disk between runs; `features` asks it before it computes."""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .linear import FloatArray

_SHARD_BYTES = 32 * 2**20
_SHARD_SECONDS = 20.0
_Identity = tuple[str, int, int]


def default_cache() -> Path:
    """Give the folder of the cache: $MTSLVR_CACHE, or mtslvr/features in the user's cache folder."""
    named = os.environ.get("MTSLVR_CACHE")
    if named:
        return Path(named)
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return Path(root).expanduser() / "mtslvr" / "features"


class FeatureCache:
    """Rows (k, D) of files, for one way to compute them.

    A file is known by its absolute path, size and time of change. Rows are written every few seconds in a pair of
    files, NAME.npy and NAME.json, the second one last: a run that is killed leaves complete pairs, and several runs may
    write at once.

    Args:
        folder: of all caches; made when the first rows are written.
        how: plain values that the rows depend on; another `how` is another cache.
    """

    def __init__(self, folder: str | os.PathLike[str], how: Mapping[str, Any]) -> None:
        key = hashlib.sha256(json.dumps(how, sort_keys=True).encode()).hexdigest()[:20]
        self.folder = Path(folder) / key
        self._how = dict(how)
        self._known: dict[_Identity, tuple[npt.NDArray[Any], int, int]] = {}
        self._new: list[tuple[_Identity, FloatArray]] = []
        self._new_bytes = 0
        self._written = time.monotonic()
        self._usable = True
        for index in sorted(self.folder.glob("*.json")):
            self._read(index)

    def get(self, path: Path) -> FloatArray | None:
        """Give the rows of a file, or None where it is new or has changed."""
        found = self._known.get(_identity(path))
        if found is None:
            return None
        rows, start, stop = found
        return np.array(rows[start:stop])

    def add(self, path: Path, rows: FloatArray) -> None:
        """Keep the rows of a file; `close` writes what is not on disk yet."""
        self._new.append((_identity(path), rows))
        self._new_bytes += rows.nbytes
        if self._new_bytes > _SHARD_BYTES or time.monotonic() - self._written > _SHARD_SECONDS:
            self.close()

    def close(self) -> None:
        """Write the rows that are not on disk yet; a folder that cannot be written costs a warning, not the run."""
        new, self._new, self._new_bytes = self._new, [], 0
        self._written = time.monotonic()
        if not new or not self._usable:
            return
        try:
            self._write(new)
        except OSError as error:
            self._usable = False
            warnings.warn(
                f"{self.folder}: features cannot be cached ({error.strerror or error}); name another folder with "
                "--cache or MTSLVR_CACHE",
                stacklevel=2,
            )

    def _write(self, new: list[tuple[_Identity, FloatArray]]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        base = self.folder / uuid.uuid4().hex
        counts = [len(rows) for _, rows in new]
        np.save(base.with_suffix(".npy"), np.concatenate([rows for _, rows in new]))
        index = {"how": self._how, "files": [[*identity, n] for (identity, _), n in zip(new, counts, strict=True)]}
        part = base.with_suffix(".part")
        part.write_text(json.dumps(index), encoding="utf-8")
        os.replace(part, base.with_suffix(".json"))

    def _read(self, index: Path) -> None:
        try:
            files = json.loads(index.read_text(encoding="utf-8"))["files"]
            rows = np.load(index.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
            counts = [int(count) for *_, count in files]
            if sum(counts) != len(rows):
                raise ValueError(f"{len(rows)} rows for {sum(counts)}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            warnings.warn(f"{index}: damaged ({error}), its features are computed again; delete it", stacklevel=3)
            return
        stop = 0
        for (name, size, changed, _), count in zip(files, counts, strict=True):
            start, stop = stop, stop + count
            self._known[name, size, changed] = (rows, start, stop)


def _identity(path: Path) -> _Identity:
    try:
        status = os.stat(path)
    except OSError:  # it will be reported when it is read
        return os.path.abspath(path), -1, -1
    return os.path.abspath(path), status.st_size, status.st_mtime_ns
