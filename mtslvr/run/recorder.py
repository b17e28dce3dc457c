"""The rows of a run, batch by batch, to the store and at the end to the output; `job` and the command line call it.

A batch is a transaction of the store, so whatever ends a run, the next one goes on after the last whole batch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..audio.windows import Float32, Float64, Pool, Pooling
from ..errors import ConfigError
from .export import export, grow_npy, write_index, write_meta
from .files import Format, guarded, locked, sidecar, state_folder
from .shards import Shard, to_runs
from .state import JOURNAL, FileEntry, FileStat, State, check_earlier, content_digest
from .store import Store, delete_store, read_state
from .table import INDEX, META, as_utf8, read_table

# An npy is brought up to date so often while a run is on, or after so many times as long as that takes.
_NPY_SECONDS, _NPY_SHARE = 5.0, 20


class Recorder(contextlib.AbstractContextManager["Recorder"]):
    """Writes one output, taking up an earlier run where there is one; the only one to do so until it is closed.

    Args:
        target: see `check_output`.
        settings: everything the rows depend on, and `format`.
        width: numbers a row.
        overwrite: forget earlier runs.
    Attributes:
        state: what is finished.
        relisted: whether the inputs have other places among all than those that an earlier run of a shard saw.
    Raises:
        ConfigError: another run is writing, the output is of another run or changed since, other settings.
    """

    def __init__(self, target: Path, settings: Mapping[str, Any], width: int, *, overwrite: bool = False) -> None:
        self.target, self.settings, self.width = target, dict(settings), width
        self.format, self.pool = Format(settings["format"]), Pool(settings["pool"])
        with guarded(target), contextlib.ExitStack() as stack:
            self._folder = stack.enter_context(locked(target))
            earlier = None if overwrite else read_state(target)
            if not overwrite:
                check_earlier(target, earlier, self.settings)
            self._stack = stack.pop_all()
        # A finished output that is gone is wanted anew.
        self._anew = earlier is None or (earlier.complete is not None and not target.exists())
        self.state = State(self.settings) if earlier is None or self._anew else earlier
        self.relisted = self.state.settings.get("shard") != self.settings.get("shard")

    def __exit__(self, *_: object) -> None:
        """Close the store and let other runs write."""
        self._stack.close()

    def begin(self) -> None:
        """Open the store; needed before what follows.

        Raises:
            ConfigError: an output that is not the one that was written.
        """
        with guarded_rows(self.target):
            if self._anew:
                _discard(self._folder, self.target, self.format)
            self._store = Store(self._folder, self.state)
            self._stack.callback(self._store.db.close)
            self.recover()
            if self.state.complete is not None:
                _restore(self._store, self.target, self.state, self.width)
                (self._folder / JOURNAL).unlink(missing_ok=True)
                self.recover()
            elif not self.target.exists() and self._store.needs_output():
                raise ConfigError(f"{self.target}: is gone, with rows of earlier runs; start anew with --overwrite")

    def recover(self) -> None:
        """Go back to the last commit, whatever was under way."""
        self._store.db.rollback()
        self.state = self._store.state()
        self._open, self._total, self._ids = self.state.open, self.state.total, itertools.count(self.state.last_id + 1)
        self._finished: list[FileEntry] = []
        self._pooling = Pooling(self.pool)
        self._due = time.monotonic() + _NPY_SECONDS

    def resume(self, file: FileStat | None) -> int:
        """Go on with the unfinished input if it is this one, else forget it.

        Returns:
            How many windows are stored, which it need not give again.
        """
        held = self._open
        if held is None:
            return 0
        if file is None or held.path != file.path or not held.unchanged(file):
            self._store.remove(held.id)
            self._open = None
            return 0
        if self.pool is Pool.MEAN:
            for block in self._store.windows(held.id):
                self._pooling.add(*block)
        return held.rows

    def add(self, file: FileStat, embeddings: Float32, spans: Float64, last: bool, note: str = "") -> FileEntry | None:
        """Take the next windows of an input, (k, D) and (k, 2); finished where they are its last.

        Args:
            file: the input.
            embeddings: of the windows.
            spans: their start and end in seconds.
            last: no more follow.
            note: what is to be known of its rows.
        """
        held = self._open if self._open is not None and self._open.path == file.path else None
        if held is None:
            self._pooling = Pooling(self.pool)
        id, stored = (next(self._ids), 0) if held is None else (held.id, held.rows)
        seconds = float(spans[-1, 1]) if len(spans) else (0.0 if held is None else held.seconds)
        if self.pool is Pool.MEAN:
            self._pooling.add(embeddings, spans)
        if not last:
            self._open = FileEntry(**file.base, id=id, rows=stored + len(spans), seconds=seconds)
            if held is None:
                self._store.save(self._open, finished=False)
            self._store.append(self._open.id, stored, embeddings, spans)
            return None
        if self.pool is Pool.MEAN:
            embeddings, spans = self._pooling.result()
            if held is not None:
                self._store.remove(held.id)
            stored = 0
        self._open = None
        self._store.append(id, stored, embeddings, spans)
        digest = content_digest(file.path)
        return self._finish(file, stored + len(spans), id=id, seconds=seconds, note=note, digest=digest)

    def fail(self, file: FileStat, message: str) -> None:
        """Note that an input has no embeddings."""
        if self._open is not None and self._open.path == file.path:
            self._store.remove(self._open.id)
            self._open = None
        self._finish(file, 0, id=next(self._ids), error=message)

    def _finish(self, file: FileStat, rows: int, **found: Any) -> FileEntry:
        """Have an input in the place of what an earlier run made of it: in an npy, too, if it has as many rows."""
        earlier, first = self.state.entries.get(file.path), self._total
        if earlier is not None:
            self._store.remove(earlier.id)
        if earlier is not None and earlier.rows == rows:
            first = earlier.first
        else:
            self._total += rows
        entry = FileEntry(**file.base, first=first, rows=rows, **found)
        self._store.save(entry)
        self._finished.append(entry)
        return entry

    def rename(self, old: str, file: FileStat) -> None:
        """Let a finished input go by another path and name."""
        entry = dataclasses.replace(self.state.entries.pop(old), **file.base)
        self.state.entries[file.path] = entry
        self._store.save(entry)

    def commit(self) -> None:
        """Make what was added since the last time count, whatever happens from here on."""
        self._store.commit(self._total)
        self.state.entries.update((entry.path, entry) for entry in self._finished)
        self.state.open, self.state.total, self.state.complete = self._open, self._total, None
        self._finished = []
        if self.format is Format.NPY and (started := time.monotonic()) > self._due:
            self.export((), complete=False)
            ended = time.monotonic()
            self._due = ended + max(_NPY_SECONDS, _NPY_SHARE * (ended - started))

    def export(self, order: Sequence[str], *, complete: bool) -> int:
        """Write the output from what is finished.

        Args:
            order: paths of inputs; their rows come in this order, those of other inputs after them.
            complete: nothing is left to do; the store is given up.
        Returns:
            Rows written.
        Raises:
            ConfigError: cannot be written; what is finished is kept.
        """
        with guarded_rows(self.target):
            entries = _listing(self.state, order, self.format)
            says_failures = "shard" in self.settings and bool(order)
            if entries or (complete and says_failures):
                settings = {**_described(self.settings, self.state, entries, order), "complete": complete}
                rows = self._store.rows(entries, self.width)
                if self.format is Format.NPY:
                    grow_npy(self.target, self._store.placed_rows(), self._total, self.width)
                    write_index(self.target, ((entry.name, entry.first, entry.rows) for entry in entries), rows.spans)
                    write_meta(self.target, settings)
                else:
                    export(self.target, self.format, rows, settings)
                if complete:
                    firsts = () if self.format is Format.NPY else itertools.accumulate(e.rows for e in entries)
                    moved = [(last - entry.rows, entry.id) for entry, last in zip(entries, firsts, strict=False)]
                    self._store.complete(self.settings, moved, self._total, self.target.stat().st_size)
            elif complete:
                self._store.db.close()
                _discard(self._folder, self.target, self.format)
        return sum(entry.rows for entry in entries)


def guarded_rows(target: Path) -> contextlib.AbstractContextManager[None]:
    """Errors of the file system become one that says that what is finished is kept."""
    remedy = f"what is finished is kept in {state_folder(target).name}: make space and run the same command again"
    return guarded(target, remedy)


def _discard(folder: Path, target: Path, form: Format) -> None:
    """Forget earlier runs; for npy the output with them, which grows in place."""
    delete_store(folder)
    if form is Format.NPY:
        for path in (sidecar(target, INDEX), sidecar(target, META), target):
            path.unlink(missing_ok=True)


def _restore(store: Store, target: Path, state: State, width: int) -> None:
    """Bring the rows of a finished output back to its store; those of an npy stay where they are."""
    table, form = read_table(target), Format(state.settings["format"])
    entries = sorted((entry for entry in state.entries.values() if entry.rows), key=lambda entry: entry.first)
    names = [entry.name for entry in entries for _ in range(entry.rows)]
    if form is Format.PARQUET:  # which holds UTF-8 only
        names = [as_utf8(name) for name in names]
    if list(table.paths) != names or (names and table.embeddings.shape[1] != width):
        raise ConfigError(f"{target}: not the output of its journal; start anew with --overwrite")
    spans, first = np.stack([table.start, table.end], 1), 0
    for entry in entries:
        rows = slice(first, first + entry.rows)
        store.append(entry.id, 0, None if form is Format.NPY else table.embeddings[rows], spans[rows])
        first += entry.rows
    store.commit(state.total)


def _listing(state: State, order: Sequence[str], form: Format) -> list[FileEntry]:
    """The inputs with rows, in the order of the output."""
    entries = [entry for entry in state.entries.values() if entry.rows]
    if form is Format.NPY:
        return sorted(entries, key=lambda entry: entry.first)
    place = {path: i for i, path in enumerate(order)}
    return sorted(entries, key=lambda entry: place.get(entry.path, len(place)))


def _described(
    settings: dict[str, Any], state: State, entries: Sequence[FileEntry], order: Sequence[str]
) -> dict[str, Any]:
    """The settings; those of a shard with the places of its files among all and how many failed, for `merge`."""
    if "shard" not in settings:
        return settings
    shard = Shard(settings["shard"]["index"], settings["shard"]["count"])
    place = {path: shard.place(i) for i, path in enumerate(order)}
    runs = to_runs((place.get(entry.path) for entry in entries), shard.count)
    failed = sum(path in state.entries and bool(state.entries[path].error) for path in order)
    return {**settings, "shard": {**settings["shard"], "places": runs, "failed": failed}}
