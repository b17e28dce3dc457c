"""Time and memory against the length of one file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from model_card import table

from . import command
from .plan import Plan
from .sounds import BLOCK_SECONDS, blocks

TITLE = "Length of a file"
SECONDS = (10, 60, 600, 3600, 10800)
RATE = 44100


def measure(plan: Plan) -> dict[str, Any]:
    """Each file in a process of its own."""
    plan.work.mkdir(parents=True, exist_ok=True)
    found = {
        str(seconds): plan.call(time_file, plan.most, folder=str(plan.work), seconds=seconds, seed=plan.seed)
        for seconds in plan.pick(SECONDS, (10, 30))
    }
    return {"threads": plan.most, "files": found}


def time_file(folder: str, seconds: int, seed: int) -> dict[str, Any]:
    """Make a file, embed it, remove it."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        path = Path(temporary) / f"{seconds}s.wav"
        make(path, seconds, seed)
        return command.embed(str(path), str(path.with_suffix(".npz")), [])


def make(path: Path, seconds: int, seed: int) -> None:
    """The same 10 s over and over, each time at another level; 16 bits, mono."""
    [sound] = blocks(BLOCK_SECONDS, RATE, 1, [seed])
    levels = np.random.default_rng(seed)
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        left = seconds * RATE
        while left > 0:
            file.write(levels.uniform(0.2, 1.0) * sound[: min(left, len(sound))])
            left -= len(sound)


def render(data: dict[str, Any]) -> str:
    """A row a file."""
    base = min(run["peak"] for run in data["files"].values())
    rows = [["length", "embedding, s", "ms a second of audio", "peak memory, MiB", "above the least, MiB"]]
    for seconds, run in data["files"].items():
        cost = 1000 * run["seconds"] / int(seconds)
        cells = [f"{run['seconds']:.2f}", f"{cost:.2f}", f"{run['peak']:.0f}", f"{run['peak'] - base:.0f}"]
        rows.append([told(int(seconds)), *cells])
    return (
        f"One wav of {RATE / 1000:g} kHz mono through `mtslvr-embed`, default options, {data['threads']} threads, each "
        f"in a fresh process. Short files pay for first calls.\n\n{table(rows)}"
    )


def told(seconds: int) -> str:
    """In the largest unit that is whole."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
