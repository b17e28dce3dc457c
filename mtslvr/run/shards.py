"""A part of the inputs, one of n: which files it has and where they go; the command line and `merge` use it.

File k of the sorted list belongs to part k mod n, so that the parts are disjoint, together everything, and about
equally long.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..errors import ConfigError

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
    try:
        if "SLURM_ARRAY_TASK_ID" in os.environ:
            task, first, count = (int(os.environ[f"SLURM_ARRAY_TASK_{name}"]) for name in ("ID", "MIN", "COUNT"))
            index, rest = divmod(task - first, int(os.environ.get("SLURM_ARRAY_TASK_STEP", 1)))
        else:
            index, rest, count = int(os.environ["SLURM_PROCID"]), 0, int(os.environ["SLURM_NTASKS"])
    except (KeyError, ValueError, ZeroDivisionError) as error:
        remedy = "start it with sbatch --array or srun, or give i/n"
        said = f"neither SLURM_ARRAY_TASK_ID nor SLURM_PROCID is set with what belongs to it ({error!r})"
        raise ConfigError(f"shard 'slurm': {said}; {remedy}") from None
    if rest or not 0 <= index < count:
        remedy = f"use one without them, such as --array=1-{count}"
        raise ConfigError(f"shard 'slurm': task {index + 1} of {count}: the array has holes; {remedy}")
    if count == 1 and "SLURM_ARRAY_TASK_ID" in os.environ:  # of an earlier array, run again
        said = "an array of one task would take every file; name the part"
        raise ConfigError(f"shard 'slurm': {said}, such as --shard {task}/8")
    return Shard(index + 1, count)
