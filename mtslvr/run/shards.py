"""A part of the inputs, one of n: which files it has and where they go; the command line and `merge` use it.

File k of the sorted list belongs to part k mod n, so that the parts are disjoint, together everything, and about
equally long.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..errors import ConfigError

Item = TypeVar("Item")
# Places of consecutive files of a part: the first, and how many follow it in steps of n; None is no input any more.
Runs = list[tuple[int | None, int]]

SLURM = "slurm"
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
        if text == SLURM:
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


def to_runs(places: Iterable[int | None], step: int) -> Runs:
    """Places in steps of `step`, put briefly: usually a single run."""
    runs: Runs = []
    for place in places:
        first, length = runs[-1] if runs else (None, 0)
        follows = place is None if first is None else place == first + length * step
        if runs and follows:
            runs[-1] = (first, length + 1)
        else:
            runs.append((place, 1))
    return runs


def from_runs(runs: Iterable[Sequence[Any]], step: int) -> list[int | None]:
    """The places that `to_runs` got."""
    return [None if first is None else first + i * step for first, length in runs for i in range(length)]


def part_outputs(path: str | os.PathLike[str]) -> list[Path]:
    """The outputs of parts that lie beside the output of all, sorted."""
    whole = Path(path)
    name = re.compile(rf"{re.escape(whole.stem)}-[0-9]{{5,}}-of-[0-9]{{5,}}{re.escape(whole.suffix)}")
    folder = whole.parent
    return sorted(found for found in folder.iterdir() if name.fullmatch(found.name)) if folder.is_dir() else []


def _from_slurm() -> Shard:
    if "SLURM_ARRAY_TASK_ID" in os.environ:
        return _from_array()
    if "SLURM_PROCID" in os.environ:
        return Shard(_number("SLURM_PROCID") + 1, _number("SLURM_NTASKS"))
    told = "neither SLURM_ARRAY_TASK_ID nor SLURM_PROCID is set"
    raise ConfigError(f"shard 'slurm': {told}; start it with sbatch --array or srun, or give i/n")


def _from_array() -> Shard:
    task, first, count = (_number(f"SLURM_ARRAY_TASK_{name}") for name in ("ID", "MIN", "COUNT"))
    step = _number("SLURM_ARRAY_TASK_STEP", 1)
    last = _number("SLURM_ARRAY_TASK_MAX", first + (count - 1) * step)
    index, rest = divmod(task - first, max(step, 1))
    if rest or not first <= task <= last or last != first + (count - 1) * step:
        told = f"task {task} of {count} from {first} to {last} in steps of {step}"
        raise ConfigError(f"shard 'slurm': {told} has holes; use an array without them, such as --array=1-{count}")
    if count == 1:
        warnings.warn(
            f"shard 'slurm': the array has one task, {task}, which takes every file as part 1 of 1; to run one task of "
            f"an earlier array of N again, name its part: --shard {task}/N where that array began at 1, --shard "
            f"{task + 1}/N where it began at 0",
            stacklevel=4,
        )
    return Shard(index + 1, count)


def _number(name: str, default: int | None = None) -> int:
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    if text is None or not re.fullmatch(r"-?[0-9]+", text):
        told = "is not set" if text is None else f"is {text!r}, no whole number"
        raise ConfigError(f"shard 'slurm': {name} {told}; start it with sbatch --array or srun, or give i/n")
    return int(text)
