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

from .errors import ConfigError
from .shards import Shard, from_runs, part_outputs, sibling
from .writer import EmbeddingTable, Format, check_output, differences, parse_format, read_table, sidecar
from .writer.export import Rows, export
from .writer.files import atomic, guarded
from .writer.rows import npy_header

ERRORS = ".errors.jsonl"
_SOME = 10  # shards named in a message


@dataclass(frozen=True, eq=False)
class Part:
    """The output of one shard.

    Attributes:
        path: of the output.
        shard: which.
        described: what its settings say of the shard.
        table: its rows.
        files: name, place among all files or None, first row and number of rows of each file.
    """

    path: Path
    shard: Shard
    described: dict[str, Any]
    table: EmbeddingTable
    files: list[tuple[str, int | None, int, int]]


@dataclass(frozen=True)
class Merged:
    """What was joined.

    Attributes:
        parts: how many outputs.
        files: how many files have rows.
        rows: of the output.
        failed: lines of the parts' error logs.
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
    found = sorted(map(read_part, parts or _beside(output)), key=lambda part: part.shard.index)
    check_parts(found)
    missing, unfinished = missing_shards(found), [part for part in found if not part.table.settings.get("complete")]
    if not allow_missing:
        _refuse(found, missing, unfinished)
    rows = join(found)
    settings = {key: value for key, value in found[0].table.settings.items() if key != "shard"}
    settings |= {"format": chosen.value, "complete": not missing and not unfinished}
    with guarded(output):
        _write(target, chosen, rows, settings)
        failed = _join_errors(target, found)
    return Merged(len(found), len(rows.files), len(rows), failed, missing)


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
        return Part(Path(path), shard, {key: described[key] for key in ("files", "names_sha256")}, table, files)
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
        if part.shard.count != first.shard.count or part.described != first.described:
            theirs, ours = (f"shard {p.shard} of {p.described['files']} files" for p in (part, first))
            remedy = "name the parts of one run; after a change of the files run every shard again"
            raise ConfigError(f"{part.path}: {theirs}, and {first.path} is {ours}, of another list; {remedy}")
        if different := differences(first.table.settings, part.table.settings, "here"):
            raise ConfigError(f"{part.path}: not made as {first.path}, with {'; '.join(different)}; merge them apart")
    for one, other in itertools.pairwise(parts):
        if one.shard == other.shard:
            raise ConfigError(f"{other.path}: shard {one.shard}, which {one.path} is already; name it once")


def missing_shards(parts: Sequence[Part]) -> list[int]:
    """Shards that are not there and have files that can be read."""
    count, total = parts[0].shard.count, parts[0].described["files"]
    there = {part.shard.index for part in parts}
    absent = [Shard(i, count) for i in range(1, min(count, total) + 1) if i not in there]
    return [shard.index for shard in absent if _failed_files(parts[0].path, shard) < shard.size(total)]


def join(parts: Sequence[Part]) -> Rows:
    """The rows of all parts, in the order of the files."""
    offsets = np.cumsum([0, *(len(part.table.paths) for part in parts)])
    ordered = list(_ordered(parts))
    places = [np.arange(first, first + count) + offsets[i] for i, _, first, count in ordered]
    source = np.concatenate(places)
    starts = np.cumsum([0, *(count for *_, count in ordered)]).tolist()
    files = [(name, start, count) for (_, name, _, count), start in zip(ordered, starts, strict=False)]
    spans = np.concatenate([np.stack([part.table.start, part.table.end], 1) for part in parts])
    return Rows(Gathered([part.table.embeddings for part in parts], offsets, source), spans[source], files)


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

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, D)."""
        return len(self._source), self._arrays[0].shape[1]

    def __getitem__(self, places: Any, /) -> npt.NDArray[np.float32]:
        """The rows at an array of places, or a slice."""
        wanted = self._source[places]
        rows = np.empty((len(wanted), self.shape[1]), np.float32)
        array = np.searchsorted(self._offsets, wanted, side="right") - 1
        for i in np.unique(array):
            rows[array == i] = self._arrays[i][wanted[array == i] - self._offsets[i]]
        return rows


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


def _write(target: Path, form: Format, rows: Rows, settings: dict[str, Any]) -> None:
    if form is Format.NPY:
        with atomic(target) as file:
            file.write(npy_header(np.dtype("<f4"), rows.embeddings.shape))
            for _, places in rows.blocks():
                file.write(np.ascontiguousarray(rows.embeddings[places], "<f4").tobytes())
    export(target, form, rows, settings)


def _error_lines(output: Path) -> list[bytes]:
    """The error log of an output; empty where nothing failed."""
    log = sidecar(output, ERRORS)
    return log.read_bytes().splitlines(keepends=True) if log.exists() else []


def _failed_files(part: Path, shard: Shard) -> int:
    lines = _error_lines(sibling(part, shard))
    return sum(json.loads(line).get("stage") == "decode" for line in lines)


def _join_errors(target: Path, parts: Sequence[Part]) -> int:
    """One error log of those of all shards, the ones without a row included; none where nothing failed."""
    count = parts[0].shard.count
    there = {part.shard.index: part.path for part in parts}
    paths = [there.get(i) or sibling(parts[0].path, Shard(i, count)) for i in range(1, count + 1)]
    lines = [line for path in paths for line in _error_lines(path)]
    if lines:
        with atomic(sidecar(target, ERRORS)) as file:
            file.writelines(lines)
    else:
        sidecar(target, ERRORS).unlink(missing_ok=True)
    return len(lines)
