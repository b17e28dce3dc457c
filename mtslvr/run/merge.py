"""The outputs of shards come in, one output goes out that equals that of a run over all files; see `shards`."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from .export import Rows, export, in_blocks
from .files import STATE, atomic, check_output, guarded, locked, parse_format, sidecar, state_folder
from .shards import Shard, from_runs, part_outputs
from .state import differences
from .store import delete_store
from .table import EmbeddingTable, read_table

ERRORS = ".errors.jsonl"
_SOME = 10  # shards named in a message


@dataclass(frozen=True, eq=False)
class Part:
    """The output of one shard.

    Attributes:
        path: of the output.
        shard: which.
        described: what its settings say of the list of files.
        failed: how many of its files have no rows; -1 where the mtslvr that wrote it did not say.
        table: its rows.
        files: name, place among all files or None, first row and number of rows of each file.
    """

    path: Path
    shard: Shard
    described: dict[str, Any]
    failed: int
    table: EmbeddingTable
    files: list[tuple[str, int | None, int, int]]


@dataclass(frozen=True)
class Merged:
    """What was joined.

    Attributes:
        parts: how many outputs.
        files: how many files have rows.
        rows: of the output.
        failed: inputs that the parts have no rows of.
        missing: shards left out.
    """

    parts: int
    files: int
    rows: int
    failed: int
    missing: list[int]


def merge(
    output: str | os.PathLike[str],
    parts: Sequence[str | os.PathLike[str]] = (),
    *,
    form: str | None = None,
    allow_missing: bool = False,
    overwrite: bool = False,
) -> Merged:
    """Join the outputs of shards.

    Rows, their order and the settings are those of a run over all files. Files that are no inputs any more come
    after the others, unless another shard has them now.

    Args:
        output: what to write.
        parts: outputs of shards; none are those beside `output`, named after it.
        form: see `check_output`.
        allow_missing: go on without shards that are missing or unfinished.
        overwrite: replace an output that is there.
    Raises:
        ConfigError: parts that are unreadable, no shards, of other settings, files or numbers of shards, of one shard
            twice or missing; an output that is there or cannot be written.
    """
    target, chosen = check_output(output, form), parse_format(output, form)
    if target.exists() and not overwrite:
        raise ConfigError(f"{output}: exists; choose another name, or replace it with --overwrite")
    if (state_folder(target) / STATE).exists() and not overwrite:
        remedy = "choose another name, or forget what it has finished with --overwrite"
        raise ConfigError(f"{output}: begun by a run of mtslvr-embed that left {state_folder(target).name}; {remedy}")
    found = sorted(map(read_part, parts or _beside(output)), key=lambda part: part.shard.index)
    check_parts(found)
    missing, unfinished = missing_shards(found), [part for part in found if not part.table.settings.get("complete")]
    if not allow_missing:
        _refuse(found, missing, unfinished)
    rows = join(found)
    if not rows.files:
        raise ConfigError(f"{output}: not written, for none of the parts has a row; see their {ERRORS[1:]}")
    settings = {key: value for key, value in found[0].table.settings.items() if key != "shard"}
    settings |= {"format": chosen.value, "complete": not missing and not unfinished}
    with guarded(output), locked(target) as folder:
        delete_store(folder)  # of a run that wrote what is replaced now
        export(target, chosen, rows, settings)
        failed = _join_errors(target, found)
    return Merged(len(found), len(rows.files), len(rows.spans), failed, missing)


def read_part(path: str | os.PathLike[str]) -> Part:
    """Read the output of a shard.

    Raises:
        ConfigError: unreadable, no shard's, or of a run that was killed.
    """
    table = read_table(path)
    described = table.settings.get("shard")
    if not isinstance(described, dict):
        beside = "" if table.settings else f" ({Path(path).name}.meta.json is not beside it)"
        raise ConfigError(f"{path}: not the output of a shard{beside}; write parts with mtslvr-embed --shard i/n")
    if "places" not in described:
        raise ConfigError(f"{path}: its run was killed; give the same command again, then merge")
    try:
        shard = Shard(described["index"], described["count"])
        places = from_runs(described["places"], shard.count)
        names = [(name, len(list(rows))) for name, rows in itertools.groupby(table.paths)]
        ends = itertools.accumulate(count for _, count in names)
        files = [
            (name, place, end - count, count) for (name, count), place, end in zip(names, places, ends, strict=True)
        ]
        listed = {key: described[key] for key in ("files", "names_sha256")}
        return Part(Path(path), shard, listed, int(described.get("failed", -1)), table, files)
    except (KeyError, TypeError, ValueError):
        remedy = "embed that shard again with --overwrite"
        raise ConfigError(f"{path}: its rows are not those that its settings speak of; {remedy}") from None


def check_parts(parts: Sequence[Part]) -> None:
    """See that parts belong together.

    Raises:
        ConfigError: other settings, files or numbers of shards, or one shard twice.
    """
    first = parts[0]
    for part in parts[1:]:
        theirs, ours = (f"shard {p.shard} of {p.described['files']} files" for p in (part, first))
        both = f"{part.path}: {theirs}, and {first.path} is {ours}"
        if part.shard.count != first.shard.count:
            remedy = "leave out the one that is not wanted; a single task of a job array run again takes every file, so"
            raise ConfigError(f"{both}, of another number of parts; {remedy} name its part with --shard i/n")
        if part.described != first.described:
            remedy = "name the parts of one run; after a change of the files run every shard again"
            raise ConfigError(f"{both}, of another list; {remedy}")
        if different := differences(first.table.settings, part.table.settings, "here"):
            raise ConfigError(f"{part.path}: not made as {first.path}, with {'; '.join(different)}; merge them apart")
    for one, other in itertools.pairwise(parts):
        if one.shard == other.shard:
            raise ConfigError(f"{other.path}: shard {one.shard}, which {one.path} is already; name it once")


def missing_shards(parts: Sequence[Part]) -> list[int]:
    """Shards that are not there and have files."""
    count, total = parts[0].shard.count, parts[0].described["files"]
    there = {part.shard.index for part in parts}
    return [i for i in range(1, min(count, total) + 1) if i not in there]


def join(parts: Sequence[Part]) -> Rows:
    """The rows of all parts, in the order of the files."""
    offsets = np.cumsum([0, *(len(part.table.paths) for part in parts)])
    ordered = list(_ordered(parts))
    places = [np.arange(first, first + count) + offsets[i] for i, _, first, count in ordered]
    source = np.concatenate([np.empty(0, np.int64), *places])
    spans = np.concatenate([np.stack([part.table.start, part.table.end], 1) for part in parts])
    gathered = Gathered([part.table.embeddings for part in parts], offsets, source)
    return Rows([(name, count) for _, name, _, count in ordered], spans[source], gathered.width, gathered.blocks)


class Gathered:
    """Rows that lie in several arrays, copied when they are asked for.

    Args:
        arrays: (n_i, D) each, mapped or in memory.
        offsets: where each begins, were they one.
        source: (n,) places in that one, in the order wanted.
    """

    def __init__(
        self, arrays: Sequence[npt.NDArray[np.float32]], offsets: npt.NDArray[np.int64], source: npt.NDArray[np.int64]
    ) -> None:
        self._arrays, self._offsets, self._source = arrays, offsets, source
        self.width = max(array.shape[1] for array in arrays)  # text without rows does not say how wide they were

    def blocks(self) -> Iterator[npt.NDArray[np.float32]]:
        """All rows in their order, some at a time."""
        for wanted in in_blocks(self._source):
            rows = np.empty((len(wanted), self.width), np.float32)
            array = np.searchsorted(self._offsets, wanted, side="right") - 1
            for i in np.unique(array):
                rows[array == i] = self._arrays[i][wanted[array == i] - self._offsets[i]]
            yield rows


def _beside(output: str | os.PathLike[str]) -> list[Path]:
    parts = part_outputs(output)
    if not parts:
        expected = Path(Shard(1, 2).output(os.fspath(output))).name
        raise ConfigError(
            f"{output}: no parts such as {expected} beside it; name them, or run mtslvr-embed --shard i/n"
        )
    return parts


def _refuse(parts: Sequence[Part], missing: Sequence[int], unfinished: Sequence[Part]) -> None:
    remedy = "run mtslvr-embed again with the same --shard, or leave out what is missing with --allow-missing"
    if unfinished:
        raise ConfigError(f"{unfinished[0].path}: its run was interrupted; {remedy}")
    if missing:
        named = ", ".join(map(str, missing[:_SOME])) + (" ..." if len(missing) > _SOME else "")
        raise ConfigError(f"shard {named} of {parts[0].shard.count}: missing beside {parts[0].path}; {remedy}")


def _ordered(parts: Sequence[Part]) -> Iterator[tuple[int, str, int, int]]:
    """Part, name, first row there and number of rows of each file, in the order of the output."""
    files = [(place, i, name, first, count) for i, part in enumerate(parts) for name, place, first, count in part.files]
    # Those without a place are no inputs any more; a file may have moved to another shard since.
    files.sort(key=lambda file: (file[0] is None, file[0] or 0))
    names = set()
    for _, i, name, first, count in files:
        if name not in names:
            names.add(name)
            yield i, name, first, count


def _error_lines(output: Path) -> list[bytes]:
    """The error log of an output; empty where nothing failed."""
    log = sidecar(output, ERRORS)
    return log.read_bytes().splitlines(keepends=True) if log.exists() else []


def _join_errors(target: Path, parts: Sequence[Part]) -> int:
    """One error log of those of all parts; none where nothing failed. Says how many inputs failed."""
    logs = [_error_lines(part.path) for part in parts]
    if any(logs):
        with atomic(sidecar(target, ERRORS)) as file:
            for lines in logs:
                file.writelines(lines)
    else:
        sidecar(target, ERRORS).unlink(missing_ok=True)
    failed = [sum(json.loads(line).get("stage") != "warning" for line in lines) for lines in logs]
    # A log may not lie beside its part any more.
    return sum(max(count, part.failed) for count, part in zip(failed, parts, strict=True))
