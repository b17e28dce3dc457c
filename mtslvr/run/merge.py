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

from ..audio.windows import Float32
from ..errors import ConfigError
from .export import Rows, export, in_blocks
from .files import ERRORS, STATE, atomic, check_output, guarded, locked, parse_format, sidecar, state_folder
from .shards import Shard, from_runs, part_outputs
from .state import differences
from .store import delete_store
from .table import EmbeddingTable, read_table

_NAMED = 10  # shards in a message


@dataclass(frozen=True, eq=False)
class Part:
    """The output of one shard."""

    path: Path
    shard: Shard
    listed: dict[str, Any]  # what its settings say of the list of files
    failed: int  # files without rows; -1 where the mtslvr that wrote it did not say
    table: EmbeddingTable
    files: list[tuple[str, int | None, int, int]]  # name, place among all or None, first row, number of rows


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
    found = sorted(map(_read_part, parts or _beside(output)), key=lambda part: part.shard.index)
    _check_parts(found)
    count, files = found[0].shard.count, found[0].listed["files"]
    missing = sorted({*range(1, min(count, files) + 1)} - {part.shard.index for part in found})
    unfinished = [part for part in found if not part.table.settings.get("complete")]
    if not allow_missing:
        _refuse(found[0], missing, unfinished)
    rows = _join(found)
    if not rows.files:
        raise ConfigError(f"{output}: not written, for none of the parts has a row; see their {ERRORS[1:]}")
    settings = {key: value for key, value in found[0].table.settings.items() if key != "shard"}
    settings |= {"format": chosen.value, "complete": not missing and not unfinished}
    with guarded(output), locked(target) as folder:
        delete_store(folder)  # of a run that wrote what is replaced now
        export(target, chosen, rows, settings)
        failed = _join_errors(target, found)
    return Merged(len(found), len(rows.files), len(rows.spans), failed, missing)


def _beside(output: str | os.PathLike[str]) -> list[Path]:
    parts = part_outputs(output)
    if not parts:
        expected = Path(Shard(1, 2).output(os.fspath(output))).name
        remedy = "name them, or run mtslvr-embed --shard i/n"
        raise ConfigError(f"{output}: no parts such as {expected} beside it; {remedy}")
    return parts


def _read_part(path: str | os.PathLike[str]) -> Part:
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
        counts = [(name, len(list(rows))) for name, rows in itertools.groupby(table.paths)]
        ends = itertools.accumulate(count for _, count in counts)
        files = [(name, place, end - n, n) for (name, n), place, end in zip(counts, places, ends, strict=True)]
        listed = {key: described[key] for key in ("files", "names_sha256")}
        return Part(Path(path), shard, listed, int(described.get("failed", -1)), table, files)
    except (KeyError, TypeError, ValueError):
        remedy = "embed that shard again with --overwrite"
        raise ConfigError(f"{path}: its rows are not those that its settings speak of; {remedy}") from None


def _check_parts(parts: Sequence[Part]) -> None:
    """See that parts belong together."""
    first = parts[0]
    for part in parts[1:]:
        theirs, ours = (f"shard {p.shard} of {p.listed['files']} files" for p in (part, first))
        both = f"{part.path}: {theirs}, and {first.path} is {ours}"
        if part.shard.count != first.shard.count:
            remedy = "leave out the one that is not wanted; a single task of a job array run again takes every file, so"
            raise ConfigError(f"{both}, of another number of parts; {remedy} name its part with --shard i/n")
        if part.listed != first.listed:
            remedy = "name the parts of one run; after a change of the files run every shard again"
            raise ConfigError(f"{both}, of another list; {remedy}")
        if different := differences(first.table.settings, part.table.settings, "here"):
            raise ConfigError(f"{part.path}: not made as {first.path}, with {'; '.join(different)}; merge them apart")
    for one, other in itertools.pairwise(parts):
        if one.shard == other.shard:
            raise ConfigError(f"{other.path}: shard {one.shard}, which {one.path} is already; name it once")


def _refuse(first: Part, missing: Sequence[int], unfinished: Sequence[Part]) -> None:
    remedy = "run mtslvr-embed again with the same --shard, or leave out what is missing with --allow-missing"
    if unfinished:
        raise ConfigError(f"{unfinished[0].path}: its run was interrupted; {remedy}")
    if missing:
        named = ", ".join(map(str, missing[:_NAMED])) + (" ..." if len(missing) > _NAMED else "")
        raise ConfigError(f"shard {named} of {first.shard.count}: missing beside {first.path}; {remedy}")


def _join(parts: Sequence[Part]) -> Rows:
    """The rows of all parts, in the order of the files."""
    offsets = np.cumsum([0, *(len(part.table.paths) for part in parts)])
    files = [(place, i, name, first, count) for i, part in enumerate(parts) for name, place, first, count in part.files]
    # Those without a place are no inputs any more; a file may have moved to another shard since.
    files.sort(key=lambda file: (file[0] is None, file[0] or 0))
    ordered: dict[str, tuple[int, int, int]] = {}
    for _, i, name, first, count in files:
        ordered.setdefault(name, (i, first, count))
    places = [np.arange(first, first + count) + offsets[i] for i, first, count in ordered.values()]
    source = np.concatenate([np.empty(0, np.int64), *places])
    spans = np.concatenate([np.stack([part.table.start, part.table.end], 1) for part in parts])
    width = max(part.table.embeddings.shape[1] for part in parts)  # text without rows does not say how wide they were

    def embeddings() -> Iterator[Float32]:
        for wanted in in_blocks(source):
            rows, of = np.empty((len(wanted), width), np.float32), np.searchsorted(offsets, wanted, side="right") - 1
            for i in np.unique(of):
                rows[of == i] = parts[i].table.embeddings[wanted[of == i] - offsets[i]]
            yield rows

    return Rows([(name, count) for name, (_, _, count) in ordered.items()], spans[source], width, embeddings)


def _join_errors(target: Path, parts: Sequence[Part]) -> int:
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
