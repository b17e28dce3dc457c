"""The record of a run, beside its output: each batch is stored as it comes, and survives whatever ends the run.

Rows go to a store (for npy the output itself), the windows of an unfinished file to one of two tails, and last a
line to the journal says that they are there. Nothing that a line speaks of is written over before the next line,
so after kill -9 the journal, cut after its last whole line, is true. Next: `export`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from ..shards import Shard, to_runs
from ..windows import Float32, Float64, Pool, Pooling
from .export import IndexWriter, Rows, export, write_meta
from .files import Format, atomic, guarded, sidecar
from .state import (
    JOURNAL_VERSION,
    FileEntry,
    FileStat,
    OpenFile,
    State,
    check_earlier,
    journal_folder,
    read_state,
)
from .store import Store
from .table import INDEX, META

_SYNC_SECONDS = 5.0
_WAITING = 1024  # rows


class Recorder:
    """Writes one output, taking up an earlier run where there is one.

    Args:
        target: see `check_output`.
        settings: everything the rows depend on, and `format`.
        width: numbers a row.
        overwrite: forget earlier runs.
    Raises:
        ConfigError: another run is writing, the output is of another run or changed since, other settings.
    """

    def __init__(self, target: Path, settings: Mapping[str, Any], width: int, *, overwrite: bool = False) -> None:
        self.target, self.settings, self.width = target, dict(settings), width
        self.format, self.pool = Format(settings["format"]), Pool(settings["pool"])
        self.folder = journal_folder(target)
        self._stack = contextlib.ExitStack()
        self._store = Store(target, self.folder, self.format, width)
        self._index: IndexWriter | None = None
        self._overwrite = overwrite
        with guarded(self.target):
            self.folder.mkdir(exist_ok=True)
            self._lock()
        self._reset(self._take_up())
        if self.state.length and self.state.complete is None:
            try:
                with self.guarded():
                    self._open_intact()  # before anyone plans with the state
            except ConfigError:
                self.close()
                raise

    def _reset(self, state: State) -> None:
        self.state, self._open, self._committed = state, state.open, state.rows
        self._finished: list[FileEntry] = []
        self._waiting: list[tuple[Float32, Float64]] = []
        self._next = state.rows  # where the next new row goes
        self._pooling: Pooling | None = None
        self._held = 0  # windows of the open file that the journal speaks of
        self._synced = time.monotonic()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # Taking up

    def _lock(self) -> None:
        import filelock

        lock = filelock.FileLock(self.folder / "lock")
        try:
            self._stack.enter_context(lock.acquire(timeout=0))
        except filelock.Timeout:
            raise ConfigError(f"{self.target}: another run is writing it; wait for it, or choose another -o") from None

    def _take_up(self) -> State:
        state = read_state(self.target)
        if self._overwrite:
            return State(self.settings)
        try:
            check_earlier(self.target, state, self.settings)
        except ConfigError:
            self._stack.close()
            if state is None:
                shutil.rmtree(self.folder, ignore_errors=True)
            raise
        if state is None or (state.complete is not None and not self.target.exists()):
            return State(self.settings)
        if state.complete is not None:
            self._store.remove()  # of a run that was killed at its very end
        return state

    def begin(self) -> None:
        """Open the store for appending; needed before `add` and `export`.

        Raises:
            ConfigError: an output that is not what the journal says.
        """
        with self.guarded():
            if self.state.length == 0:
                self._discard()
                self._write_journal([])
            self._overwrite = False
            complete = self.state.complete is not None
            if complete:
                self._store.restore(self.state)
            if not self._store.opened:
                self._open_intact()
            if complete:
                self._append({"commit": [self.state.rows, self.state.rows], "files": [], "open": None})
            self.sync()
            self._reload_pooling()
            if self.format is Format.NPY:
                write_meta(self.target, {**self.settings, "complete": False})
                self._index = IndexWriter(self.target, self._listing(), self._store.rows.spans)

    def _open_intact(self) -> None:
        while (lost := self._store.open(self.state)) is not None:
            state = read_state(self.target, lost)
            assert state is not None
            # The windows of an unfinished file may be gone with what came after them.
            state.open = None
            self._reset(state)

    def _reload_pooling(self) -> None:
        if self._open is None:
            return
        self._held = self._open.windows
        if self.pool is Pool.MEAN:
            self._pooling = Pooling(Pool.MEAN)
            for embeddings, spans in self._store.held_rows(self._open):
                self._pooling.add(embeddings, spans)

    def recover(self) -> None:
        """Go back to the last commit, whatever was under way."""
        self._close_files()
        self._reset(self._take_up())
        self.begin()

    # Adding

    @property
    def unfinished(self) -> OpenFile | None:
        """The unfinished input."""
        return self._open

    def drop_open(self) -> None:
        """Have the unfinished input begin anew."""
        self._open, self._pooling, self._held = None, None, 0

    def add(self, file: FileStat, embeddings: Float32, spans: Float64, last: bool) -> FileEntry | None:
        """Take the next windows of an input, (k, D) and (k, 2); finished where they are its last."""
        held = self._open if self._open is not None and self._open.path == file.path else None
        if not last:
            self._hold(file, held, embeddings, spans)
            return None
        count = 1 if self.pool is Pool.MEAN else (held.windows if held else 0) + len(embeddings)
        first = self._place(file, count)
        at, seconds = first, 0.0
        for rows, times in self._pooled(held, embeddings, spans):
            self._write(at, rows, times)
            at += len(rows)
            seconds = float(times[-1, 1]) if len(times) else seconds
        entry = FileEntry(**_stat(file), first=first, rows=count, seconds=seconds)
        self._finished.append(entry)
        self.drop_open()
        return entry

    def fail(self, file: FileStat, message: str) -> None:
        """Note that an input has no embeddings."""
        self._finished.append(FileEntry(**_stat(file), error=message))
        if self._open is not None and self._open.path == file.path:
            self.drop_open()

    def commit(self) -> None:
        """Make what was added since the last time count, whatever happens from here on."""
        self._flush()
        rows = self._store.rows.rows
        record: dict[str, Any] = {
            "commit": [self._committed, rows],
            "files": [vars(entry) for entry in self._finished],
            "crc": self._store.rows.checksum(self._committed, rows),
            "open": None,
        }
        if self._open is not None:
            tail = self._store.tails[self._open.tail]
            crc = tail.checksum(self._held, self._open.windows)
            record["open"] = {**vars(self._open), "from": self._held, "crc": crc}
        self._append(record)
        if self._index is not None:
            self._index.add([entry for entry in self._finished if entry.rows])
        self.state.entries.update((entry.path, entry) for entry in self._finished)
        self.state.open, self.state.rows, self.state.complete = self._open, rows, None
        self._finished, self._committed = [], rows
        self._held = self._open.windows if self._open is not None else 0
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Have everything on disk, as far as the system tells."""
        for store in self._store.files:
            store.sync()
        self._append({"synced": True})
        self._synced = time.monotonic()

    @property
    def relisted(self) -> bool:
        """Whether the inputs have other places among all than those that a finished output of a shard holds."""
        return self.state.settings.get("shard") != self.settings.get("shard")

    def rename(self, old: str, file: FileStat) -> None:
        """Let a finished input go by another path and name."""
        entry = self.state.entries.pop(old)
        self.state.entries[file.path] = dataclasses.replace(entry, **_stat(file))

    def _place(self, file: FileStat, count: int) -> int:
        """The first row of an input: where it was, if it has as many rows as it had, else after all others.

        Writing over the old rows loses nothing: until the next commit the journal has the file as it was, so
        that it is embedded anew.
        """
        earlier = self.state.entries.get(file.path)
        return earlier.first if earlier is not None and earlier.rows == count else self._next

    def _write(self, first: int, rows: Float32, times: Float64) -> None:
        """Put rows where they belong; new ones wait for each other, up to `_WAITING` of them."""
        if first < self._next:
            return self._store.rows.write(first, rows, times)
        self._waiting.append((rows, times))
        self._next += len(rows)
        if self._next - self._store.rows.rows > _WAITING:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            rows, times = zip(*self._waiting, strict=True)
            self._store.rows.append(np.concatenate(rows), np.concatenate(times))
        self._waiting = []

    def _hold(self, file: FileStat, held: OpenFile | None, embeddings: Float32, spans: Float64) -> None:
        if held is None:
            # The other tail: the last line of the journal may speak of this one.
            number = 1 - self.state.open.tail if self.state.open is not None else 0
            held = OpenFile(**_stat(file), tail=number)
            self._store.tails[number].truncate(0)
            self._pooling, self._held = Pooling(Pool.MEAN), 0
        self._store.tails[held.tail].append(embeddings, spans)
        if self.pool is Pool.MEAN and self._pooling is not None:
            self._pooling.add(embeddings, spans)
        self._open = dataclasses.replace(held, windows=held.windows + len(embeddings))

    def _pooled(
        self, held: OpenFile | None, embeddings: Float32, spans: Float64
    ) -> Iterator[tuple[Float32, npt.NDArray[Any]]]:
        if self.pool is Pool.MEAN:
            pooling = self._pooling if held is not None and self._pooling is not None else Pooling(Pool.MEAN)
            pooling.add(embeddings, spans)
            yield pooling.result()
            return
        if held is not None:
            yield from self._store.held_rows(held)
        yield embeddings, spans

    # The output

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
        with self.guarded():
            entries = self._listing(order)
            if complete and not entries:
                self._abandon()
            elif entries:
                names = [(entry.name, entry.first, entry.rows) for entry in entries]
                rows = Rows(self._store.rows.embeddings.map(), self._store.rows.spans.map(), names)
                export(self.target, self.format, rows, {**self._described(entries, order), "complete": complete})
                if complete:
                    self._give_up_store(entries)
        return sum(entry.rows for entry in entries)

    def _described(self, entries: Sequence[FileEntry], order: Sequence[str]) -> dict[str, Any]:
        """The settings; those of a shard with the places of its files among all, by which parts are joined."""
        if "shard" not in self.settings:
            return self.settings
        shard = Shard(self.settings["shard"]["index"], self.settings["shard"]["count"])
        place = {path: shard.place(i) for i, path in enumerate(order)}
        runs = to_runs((place.get(entry.path) for entry in entries), shard.count)
        return {**self.settings, "shard": {**self.settings["shard"], "places": runs}}

    def _listing(self, order: Sequence[str] = ()) -> list[FileEntry]:
        entries = [entry for entry in self.state.entries.values() if entry.rows]
        if self.format is Format.NPY:
            return sorted(entries, key=lambda entry: entry.first)
        place = {path: i for i, path in enumerate(order)}
        return sorted(entries, key=lambda entry: place.get(entry.path, len(place)))

    def _give_up_store(self, entries: list[FileEntry]) -> None:
        total = self._store.rows.rows if self.format is Format.NPY else 0
        if self.format is not Format.NPY:
            for i, entry in enumerate(entries):
                entries[i] = dataclasses.replace(entry, first=total)
                total += entry.rows
        failed = [entry for entry in self.state.entries.values() if not entry.rows]
        self._close_files()
        self._write_journal([*entries, *failed], total, self.target.stat().st_size)
        self._store.remove()

    # Files

    def _write_journal(self, entries: Sequence[FileEntry], rows: int = 0, complete: int | None = None) -> None:
        """A new journal with these inputs finished."""
        lines: list[dict[str, Any]] = [{"journal": JOURNAL_VERSION, "settings": self.settings}]
        if entries:
            files = [vars(entry) for entry in entries]
            lines.append({"commit": [0, rows], "files": files, "open": None})
        if complete is not None:
            lines.append({"complete": complete})
        with atomic(self.folder / "journal.jsonl") as file:
            for line in lines:
                file.write(json.dumps(line).encode() + b"\n")
            self.state.length = file.tell()

    def _append(self, record: dict[str, Any]) -> None:
        line = json.dumps(record).encode() + b"\n"
        with open(self.folder / "journal.jsonl", "r+b", buffering=0) as file:
            file.truncate(self.state.length)  # what a killed or failed write left of a line
            file.seek(self.state.length)
            left = memoryview(line)
            while left:
                left = left[file.write(left) :]
            if "synced" in record:
                os.fsync(file.fileno())
        self.state.length += len(line)

    def guarded(self) -> contextlib.AbstractContextManager[None]:
        """Errors of the file system become one that says that what is finished is kept."""
        remedy = f"what is finished is kept in {self.folder.name}: make space and run the same command again"
        return guarded(self.target, remedy)

    def _close_files(self) -> None:
        self._store.close()
        if self._index is not None:
            self._index.close()
        self._index = None

    def _discard(self) -> None:
        """Forget earlier runs; for npy the output with them, being the store."""
        names = [path for path in self.folder.iterdir() if path.name != "lock"]
        for path in [*names, *([self.target] if self.format is Format.NPY else [])]:
            path.unlink(missing_ok=True)

    def _abandon(self) -> None:
        """Leave nothing of a run that brought nothing."""
        self._close_files()
        self._discard()
        if self.format is Format.NPY:
            for suffix in (INDEX, META):
                sidecar(self.target, suffix).unlink(missing_ok=True)
        self.state.length = 0

    def close(self) -> None:
        """Close all files and let other runs write."""
        self._close_files()
        self._stack.close()
        if self.state.length == 0 and not self._overwrite:
            shutil.rmtree(self.folder, ignore_errors=True)


def _stat(file: FileStat) -> dict[str, Any]:
    return {"path": file.path, "name": file.name, "size": file.size, "mtime_ns": file.mtime_ns}
