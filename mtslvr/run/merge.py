"""The outputs of shards come in, one output goes out that equals that of a run over all files; see `shards`."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from .export import Row, export
from .files import ERRORS, STATE, atomic, guarded, locked, parse_format, resolve, sidecar, state_folder
from .recorder import delete_state
from .shards import Shard, from_runs, part_outputs
from .state import differences
from .table import EmbeddingTable, read_table


@dataclass(frozen=True, eq=False)
class _Part:
    """The output of one shard."""

    path: Path
    table: EmbeddingTable
    shard: Shard
    listed: tuple[int, str]  # how many files all shards have together, and a digest of their names
    failed: int  # files without rows
    files: list[tuple[int | None, str, int, int]]  # place among all or None, name, first row, number of rows


@dataclass(frozen=True)
class Merged:
    """How many parts were joined, files with rows, rows, and failed inputs; and which shards were left out."""

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
    """Join the outputs of shards, by default those beside `output` that are named after it.

    Rows, their order and the settings are those of a run over all files. Files that are no inputs any more come
    after the others, unless another shard has them now.

    Raises:
        ConfigError: parts that are unreadable, no shards, of other settings, files or numbers of shards, of one shard
            twice or, unless that is allowed, missing; an output that is there or cannot be written.
    """
    chosen, target = parse_format(output, form), resolve(output, writable=True)
    if target.exists() and not overwrite:
        raise ConfigError(f"{output}: exists; choose another name, or replace it with --overwrite")
    if (state_folder(target) / STATE).exists() and not overwrite:
        remedy = "choose another name, or forget what it has finished with --overwrite"
        raise ConfigError(f"{output}: begun by a run of mtslvr-embed that left {state_folder(target).name}; {remedy}")
    found = sorted(map(_read_part, parts or _beside(output)), key=lambda part: part.shard.index)
    missing = _check_parts(found)
    complete = not missing and all(part.table.settings.get("complete") for part in found)
    if not complete and not allow_missing:
        _refuse(found, missing)
    files = _join(found)
    if not files:
        raise ConfigError(f"{output}: not written, for none of the parts has a row; see their {ERRORS[1:]}")
    settings = {key: value for key, value in found[0].table.settings.items() if key != "shard"}
    settings |= {"format": chosen.value, "complete": complete}
    count = sum(count for _, _, count in files.values())
    width = max(part.table.embeddings.shape[1] for part in found)  # text without rows does not say how wide they were
    with guarded(output), locked(target) as folder:
        delete_state(folder)  # of a run that wrote what is replaced now
        export(target, chosen, _rows(files), (count, width), settings)
        failed = _join_errors(target, found)
    return Merged(len(found), len(files), count, failed, missing)


def _beside(output: str | os.PathLike[str]) -> list[Path]:
    parts = part_outputs(output)
    if not parts:
        expected = Path(Shard(1, 2).output(os.fspath(output))).name
        remedy = "name them, or run mtslvr-embed --shard i/n"
        raise ConfigError(f"{output}: no parts such as {expected} beside it; {remedy}")
    return parts


def _read_part(path: str | os.PathLike[str]) -> _Part:
    table = read_table(path)
    described = table.settings.get("shard")
    if not isinstance(described, dict):
        beside = "" if table.settings else f" ({Path(path).name}.meta.json is not beside it)"
        raise ConfigError(f"{path}: not the output of a shard{beside}; write parts with mtslvr-embed --shard i/n")
    try:
        shard = Shard(described["index"], described["count"])
        places, first, files = from_runs(described["places"], shard.count), 0, []
        for place, (name, rows) in zip(places, itertools.groupby(table.paths), strict=True):
            count = len(list(rows))
            files.append((place, name, first, count))
            first += count
        listed = described["files"], described["names_sha256"]
        return _Part(Path(path), table, shard, listed, described.get("failed", 0), files)
    except (KeyError, TypeError, ValueError):
        remedy = "embed that shard again with --overwrite"
        raise ConfigError(f"{path}: its rows are not those that its settings speak of; {remedy}") from None


def _check_parts(parts: Sequence[_Part]) -> list[int]:
    """See that parts belong together; gives the shards that are missing."""
    first = parts[0]
    for one, part in itertools.pairwise(parts):
        theirs, ours = (f"shard {p.shard} of {p.listed[0]} files" for p in (part, first))
        both = f"{part.path}: {theirs}, and {first.path} is {ours}"
        if part.shard.count != first.shard.count:
            remedy = "leave out the one that is not wanted; a single task of a job array run again takes every file, so"
            raise ConfigError(f"{both}, of another number of parts; {remedy} name its part with --shard i/n")
        if part.listed != first.listed:
            remedy = "name the parts of one run; after a change of the files run every shard again"
            raise ConfigError(f"{both}, of another list; {remedy}")
        if different := differences(first.table.settings, part.table.settings, "here"):
            raise ConfigError(f"{part.path}: not made as {first.path}, with {'; '.join(different)}; merge them apart")
        if one.shard == part.shard:
            raise ConfigError(f"{part.path}: shard {part.shard}, which {one.path} is already; name it once")
    wanted = range(1, min(first.shard.count, first.listed[0]) + 1)
    return sorted({*wanted} - {part.shard.index for part in parts})


def _refuse(parts: Sequence[_Part], missing: Sequence[int]) -> None:
    remedy = "run mtslvr-embed again with the same --shard, or leave out what is missing with --allow-missing"
    for part in parts:
        if not part.table.settings.get("complete"):
            raise ConfigError(f"{part.path}: its run was interrupted; {remedy}")
    named = ", ".join(map(str, missing[:10])) + (" ..." if len(missing) > 10 else "")
    raise ConfigError(f"shard {named} of {parts[0].shard.count}: missing beside {parts[0].path}; {remedy}")


def _join(parts: Sequence[_Part]) -> dict[str, tuple[EmbeddingTable, int, int]]:
    """Table, first row and number of rows of each file, in the order of the files."""
    files = [(*file, part.table) for part in parts for file in part.files]
    # Those without a place are no inputs any more; a file may have moved to another shard since.
    files.sort(key=lambda file: (file[0] is None, file[0] or 0))
    ordered: dict[str, tuple[EmbeddingTable, int, int]] = {}
    for _, name, first, count, table in files:
        ordered.setdefault(name, (table, first, count))
    return ordered


def _rows(files: Mapping[str, tuple[EmbeddingTable, int, int]]) -> Iterator[Row]:
    for name, (table, first, count) in files.items():
        for i in range(first, first + count):
            yield name, table.start[i], table.end[i], table.embeddings[i].tobytes()


def _join_errors(target: Path, parts: Sequence[_Part]) -> int:
    """One error log of those of all parts; none where nothing failed. Gives how many inputs failed."""
    log, failed, lines = sidecar(target, ERRORS), 0, []
    for part in parts:
        beside = sidecar(part.path, ERRORS)
        ours = beside.read_bytes().splitlines(keepends=True) if beside.exists() else []
        lines += ours
        # A log may not lie beside its part any more.
        failed += max(part.failed, sum(json.loads(line).get("stage") != "warning" for line in ours))
    if lines:
        with atomic(log) as file:
            file.writelines(lines)
    else:
        log.unlink(missing_ok=True)
    return failed
