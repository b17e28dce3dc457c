"""Time and memory against the number of files, all short."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from model_card import table

from . import command
from .plan import Plan
from .sounds import write

TITLE = "Number of files"
COUNTS = (100, 1000, 10000)
SECONDS, RATE = 0.5, 16000
WINDOW = 0.5


def measure(plan: Plan) -> dict[str, Any]:
    """Each folder in a process of its own."""
    found = {}
    for count in plan.pick(COUNTS, (20, 50)):
        folder = plan.work / f"count-{count}-seed{plan.seed}"
        try:
            make(folder, count, plan.seed)
            found[str(count)] = plan.call(time_folder, plan.most, folder=str(folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return {"threads": plan.most, "folders": found}


def make(folder: Path, count: int, seed: int) -> None:
    """Files in subfolders of 1000."""
    for number in range(count):
        write(folder / f"{number // 1000:03}" / f"{number:05}.wav", SECONDS, RATE, 1, [seed, number])


def time_folder(folder: str) -> dict[str, Any]:
    """One run of the command, output included."""
    return command.embed(folder, str(Path(folder) / "out.npz"), ["--window", str(WINDOW)])


def render(data: dict[str, Any]) -> str:
    """A row a folder."""
    base = min(run["peak"] for run in data["folders"].values())
    rows = [["files", "whole command, s", "ms a file", "peak memory, MiB", "above the least, MiB"]]
    for count, run in data["folders"].items():
        cost = 1000 * run["wall"] / int(count)
        cells = [f"{run['wall']:.2f}", f"{cost:.2f}", f"{run['peak']:.0f}", f"{run['peak'] - base:.0f}"]
        rows.append([f"{int(count):,}", *cells])
    return (
        f"Folders of wavs of {SECONDS:g} s at {RATE / 1000:g} kHz mono through `mtslvr-embed --window {WINDOW:g}` to "
        f"npz, {data['threads']} threads, each in a fresh process: a window costs a tenth of one of 5 s, so that what "
        f"each file costs besides shows. Loading the model and writing included.\n\n{table(rows)}"
    )
