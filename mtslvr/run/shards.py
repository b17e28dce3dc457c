"""A part of the inputs, one of n, and the outputs of all parts joined to one that equals that of a run over all files.

File k of the sorted list belongs to part k mod n, so that the parts are disjoint, together everything, and about
equally long.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..errors import ConfigError
from .export import Row, export
from .files import ERRORS, STATE, atomic, guarded, locked, parse_format, resolve, sidecar, state_folder
from .state import delete_state, differences
from .table import EmbeddingTable, read_table

Item = TypeVar("Item")

_REMEDY = "give i/n with i from 1 to n, such as 2/8, or slurm inside a Slurm job"


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`, counted from 1."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise ConfigError(f"shard {self.index}/{self.count}: no such part; {_REMEDY}")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The part that "i/n" names, or "slurm": the task of an array job, or without one of a step started by srun."""
        if text == "slurm":
            return _from_slurm()
        match = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
        if match is None:
            raise ConfigError(f"shard {text!r}: not a part; {_REMEDY}")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def take(self, items: Sequence[Item]) -> list[Item]:
        """The items of this part, in their order."""
        return list(items[self.index - 1 :: self.count])

    def place(self, position: int) -> int:
        """Where item `position` of this part is among all."""
        return self.index - 1 + position * self.count

    def output(self, path: str) -> str:
        """The output of this part, beside that of all: out.npz to out-00002-of-00008.npz."""
        whole = Path(path)
        return str(whole.with_name(f"{whole.stem}-{self.index:05}-of-{self.count:05}{whole.suffix}"))

    def describe(self, names: Sequence[str]) -> dict[str, Any]:
        """What goes to the settings of an output, so that parts of other lists of names are told apart."""
        digest = hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()
        return {"index": self.index, "count": self.count, "files": len(names), "names_sha256": digest}


def part_outputs(path: str | os.PathLike[str]) -> list[Path]:
    """The outputs of parts that lie beside the output of all, sorted."""
    whole = Path(path)
    name = re.compile(rf"{re.escape(whole.stem)}-[0-9]{{5,}}-of-[0-9]{{5,}}{re.escape(whole.suffix)}")
    folder = whole.parent
    return sorted(found for found in folder.iterdir() if name.fullmatch(found.name)) if folder.is_dir() else []


def _from_slurm() -> Shard:
    array = "SLURM_ARRAY_TASK_ID" in os.environ
    names = ("ARRAY_TASK_ID", "ARRAY_TASK_MIN", "ARRAY_TASK_COUNT") if array else ("PROCID", None, "NTASKS")
    try:
        task, first, count = (0 if name is None else int(os.environ[f"SLURM_{name}"]) for name in names)
    except (KeyError, ValueError) as error:
        remedy = "start it with sbatch --array or srun, or give i/n"
        said = f"neither SLURM_ARRAY_TASK_ID nor SLURM_PROCID is set with what belongs to it ({error!r})"
        raise ConfigError(f"shard 'slurm': {said}; {remedy}") from None
    if not first <= task < first + count:
        remedy = f"use one without them, such as --array=1-{count}"
        raise ConfigError(f"shard 'slurm': task {task} of {count} from {first} on: the array has holes; {remedy}")
    if array and count == 1:  # of an earlier array, run again
        said = "an array of one task would take every file; name the part"
        raise ConfigError(f"shard 'slurm': {said}, such as --shard {task}/8")
    return Shard(task - first + 1, count)


@dataclass(frozen=True, eq=False)
class _Part:
    """The output of one shard."""

    path: Path
    table: EmbeddingTable
    shard: Shard
    listed: tuple[int, str]  # how many files all shards have together, and a digest of their names
    files: list[tuple[int | None, str, range]]  # place among all or None, name, rows


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
    """
    chosen, target = parse_format(output, form), resolve(output, writable=True)
    if target.exists() and not overwrite:
        remedy = "choose another name, or replace it with --overwrite; OUT comes before the parts"
        raise ConfigError(f"{output}: exists; {remedy}")
    if target.exists() and _is_part(target):
        raise ConfigError(f"{output}: a part itself, which would be replaced; OUT comes before the parts")
    if (state_folder(target) / STATE).exists() and not overwrite:
        remedy = "choose another name, or forget what it has finished with --overwrite"
        raise ConfigError(f"{output}: begun by a run of mtslvr-embed that left {state_folder(target).name}; {remedy}")
    named = parts or part_outputs(output)
    if not named:
        expected = Path(Shard(1, 2).output(os.fspath(output))).name
        remedy = "name them, or run mtslvr-embed --shard i/n"
        raise ConfigError(f"{output}: no parts such as {expected} beside it; {remedy}")
    found = sorted(map(_read_part, named), key=lambda part: part.shard.index)
    missing = _check_parts(found)
    unfinished = [part for part in found if not part.table.settings.get("complete")]
    if (missing or unfinished) and not allow_missing:
        remedy = "run mtslvr-embed again with the same --shard, or leave out what is missing with --allow-missing"
        if unfinished:
            raise ConfigError(f"{unfinished[0].path}: its run was interrupted; {remedy}")
        listed = ", ".join(map(str, missing[:10])) + (" ..." if len(missing) > 10 else "")
        raise ConfigError(f"shard {listed} of {found[0].shard.count}: missing beside {found[0].path}; {remedy}")
    files = _join(found)
    if not files:
        raise ConfigError(f"{output}: not written, for none of the parts has a row; see their {ERRORS[1:]}")
    settings = {key: value for key, value in found[0].table.settings.items() if key != "shard"}
    settings |= {"format": chosen.value, "complete": not missing and not unfinished}
    count = sum(len(rows) for _, rows in files.values())
    width = max(part.table.embeddings.shape[1] for part in found)  # text without rows does not say how wide they were
    with guarded(output), locked(target) as folder:
        delete_state(folder)  # of a run that wrote what is replaced now
        export(target, chosen, _rows(files), (count, width), settings)
        failed = _join_errors(target, found)
    return Merged(len(found), len(files), count, failed, missing)


def _is_part(path: Path) -> bool:
    try:
        return "shard" in read_table(path).settings
    except ConfigError:  # whatever else it is
        return False


def _read_part(path: str | os.PathLike[str]) -> _Part:
    table = read_table(path)
    described = table.settings.get("shard")
    if not isinstance(described, dict):
        beside = "" if table.settings else f" ({Path(path).name}.meta.json is not beside it)"
        raise ConfigError(f"{path}: not the output of a shard{beside}; write parts with mtslvr-embed --shard i/n")
    try:
        shard = Shard(described["index"], described["count"])
        missing, first = set(described["missing"]), 0
        files: list[tuple[int | None, str, range]] = []
        places = (place for place in shard.take(range(described["files"])) if place not in missing)
        for name, same in itertools.groupby(table.paths):
            rows = range(first, first + len(list(same)))
            files.append((next(places, None), name, rows))
            first = rows.stop
        if next(places, None) is not None:
            raise ValueError
        listed = described["files"], described["names_sha256"]
        return _Part(Path(path), table, shard, listed, files)
    except (KeyError, TypeError, ValueError):
        remedy = "embed that shard again with --overwrite"
        raise ConfigError(f"{path}: its rows are not those that its settings speak of; {remedy}") from None


def _check_parts(parts: Sequence[_Part]) -> list[int]:
    """See that parts belong together; gives the shards that are missing."""
    first = parts[0]
    for one, part in itertools.pairwise(parts):
        theirs, ours = (f"shard {p.shard} of {p.listed[0]} files" for p in (part, first))
        if part.shard.count != first.shard.count or part.listed != first.listed:
            said = f"{part.path}: {theirs}, and {first.path} is {ours}, of another number of parts or list of files"
            raise ConfigError(f"{said}; name the parts of one run; after a change of the files run every shard again")
        if different := differences(first.table.settings, part.table.settings, "here"):
            raise ConfigError(f"{part.path}: not made as {first.path}, with {'; '.join(different)}; merge them apart")
        if one.shard == part.shard:
            raise ConfigError(f"{part.path}: shard {part.shard}, which {one.path} is already; name it once")
    wanted = range(1, min(first.shard.count, first.listed[0]) + 1)
    return sorted({*wanted} - {part.shard.index for part in parts})


def _join(parts: Sequence[_Part]) -> dict[str, tuple[EmbeddingTable, range]]:
    """The rows of each file, in the order of the files."""
    files = [(*file, part.table) for part in parts for file in part.files]
    # Those without a place are no inputs any more; a file may have moved to another shard since.
    files.sort(key=lambda file: (file[0] is None, file[0] or 0))
    ordered: dict[str, tuple[EmbeddingTable, range]] = {}
    for _, name, rows, table in files:
        ordered.setdefault(name, (table, rows))
    return ordered


def _rows(files: Mapping[str, tuple[EmbeddingTable, range]]) -> Iterator[Row]:
    for name, (table, rows) in files.items():
        for i in rows:
            yield name, table.start[i], table.end[i], table.embeddings[i].tobytes()


def _join_errors(target: Path, parts: Sequence[_Part]) -> int:
    """One error log of those of all parts; none where nothing failed. Gives how many inputs failed."""
    beside = [sidecar(part.path, ERRORS) for part in parts]
    lines = [line for log in beside if log.exists() for line in log.read_bytes().splitlines(keepends=True)]
    if lines:
        with atomic(sidecar(target, ERRORS)) as file:
            file.writelines(lines)
    else:
        sidecar(target, ERRORS).unlink(missing_ok=True)
    return sum(json.loads(line).get("stage") != "warning" for line in lines)
