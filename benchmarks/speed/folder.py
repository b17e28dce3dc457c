"""Whole folders through `mtslvr-embed`, against what the summed cost of decoding and encoding allows."""

from __future__ import annotations

import functools
import itertools
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from model_card import table

from mtslvr.run.extract import ExtractConfig

from . import candidates, command, timing
from .decode import TARGET, read
from .plan import Plan
from .sounds import clips, write

TITLE = "Whole folders"
FORMATS = ("wav", "flac", "mp3", "ogg")
RATE, CHANNELS = 44100, 2
FILES = 90
LENGTHS = (2.0, 60.0)  # seconds, spread evenly in their logarithms
WINDOW = 5.0
BATCH = ExtractConfig.batch_size


def measure(plan: Plan) -> dict[str, Any]:
    """Costs on one thread, then runs with all."""
    files, rounds = plan.pick((FILES, 3), (3, 1))
    root = str(plan.work / f"folder-{files}-seed{plan.seed}")
    lengths = plan.call(make, plan.most, root=root, files=files, seed=plan.seed)
    costs = plan.call(time_costs, 1, root=root, seed=plan.seed, rounds=plan.pick(5, 1))
    runs = plan.call(time_runs, plan.most, root=root, rounds=rounds)
    return {"threads": plan.most, "lengths": lengths, "costs": costs, "runs": runs}


def make(root: str, files: int, seed: int) -> list[float]:
    """The same sounds in each format; the seconds of each file."""
    low, high = LENGTHS
    lengths = low * (high / low) ** np.random.default_rng(seed).permutation(np.linspace(0, 1, files))

    def write_one(suffix: str, number: int) -> None:
        path = Path(root) / suffix / f"{number:04}.{suffix}"
        write(path, float(lengths[number]), RATE, CHANNELS, [seed, number])

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(write_one, *zip(*itertools.product(FORMATS, range(files)), strict=True)))
    return [float(seconds) for seconds in lengths]


def time_costs(root: str, seed: int, rounds: int) -> dict[str, Any]:
    """CPU seconds: of decoding and resampling each folder, and of encoding a clip with each engine."""
    decode = {}
    for suffix in FORMATS:
        paths = sorted((Path(root) / suffix).iterdir())
        call = {suffix: lambda paths=paths: [read(path, TARGET) for path in paths]}
        decode.update(timing.alternate(call, min(rounds, 2), warm_up=0, clock=timing.cpu_seconds))
    found, absent = candidates.available(list(candidates.ENGINES))
    waveforms = clips(BATCH, seed=seed)
    with torch.inference_mode():
        calls = {name: functools.partial(embed, waveforms) for name, embed in found.items()}
        encode = timing.alternate(calls, rounds, clock=timing.cpu_seconds)
    return {
        "decode": {name: statistics.median(values) for name, values in decode.items()},
        "encode_clip": {name: statistics.median(values) / BATCH for name, values in encode.items()},
        "absent": absent,
    }


def time_runs(root: str, rounds: int, device: str = "cpu") -> dict[str, Any]:
    """Summaries of the command for each engine and format, all in turn in each round."""
    found: dict[str, Any] = {}
    absent: dict[str, str] = {}
    for name, arguments in candidates.ENGINES.items():
        options = [part for key, value in arguments.items() for part in (f"--{key}", value)]
        try:
            candidates.load(name, device)
        except candidates.Absent as error:
            absent[name] = str(error)
            continue
        found[name] = {"options": ["--device", device, *options], "runs": {suffix: [] for suffix in FORMATS}}
    for _ in range(rounds):
        for engine in found.values():
            for suffix, runs in engine["runs"].items():
                output = str(Path(root) / "embeddings.npz")
                runs.append(command.embed(str(Path(root) / suffix), output, engine["options"]))
    return {"engines": found, "absent": absent}


def ideal_seconds(data: dict[str, Any], engine: str, suffix: str) -> float:
    """Summed CPU cost of a folder over the cores."""
    windows = sum(np.ceil(np.array(data["lengths"]) / WINDOW))
    cost = data["costs"]["decode"][suffix] + windows * data["costs"]["encode_clip"][engine]
    return float(cost / data["threads"])


def reached(data: dict[str, Any], engine: str, suffix: str) -> list[float]:
    """Percent of the ideal speed, run by run."""
    runs = data["runs"]["engines"][engine]["runs"][suffix]
    return [100 * ideal_seconds(data, engine, suffix) / run["seconds"] for run in runs]


def render(data: dict[str, Any]) -> str:
    """A row for each engine and format."""
    total, files = sum(data["lengths"]), len(data["lengths"])
    parts = [
        f"`mtslvr-embed FOLDER -o embeddings.npz`, default options, {data['threads']} threads, on {files} files of "
        f"{LENGTHS[0]:g} to {LENGTHS[1]:g} s ({total:,.0f} s of made sounds, {RATE / 1000:g} kHz stereo, the same in "
        f"each format): seconds of audio a second of embedding (start, loading the model and the last step of writing "
        f"left out, as in the command's own summary), median and lowest to highest of the rounds. The ideal is the CPU "
        f"seconds of decoding and resampling plus those of encoding all windows of {WINDOW:g} s, each measured alone "
        f"on one thread, over {data['threads']} cores.",
        runs_table(data),
    ]
    parts += [f"{name}: not measured ({reason})." for name, reason in data["runs"]["absent"].items()]
    return "\n\n".join(parts)


def runs_table(data: dict[str, Any]) -> str:
    """Speeds and what was reached."""
    rows = [["engine", "format", "audio s / s", "ideal", "reached, %", "whole command, s"]]
    for engine, found in data["runs"]["engines"].items():
        for suffix, runs in found["runs"].items():
            audio = sum(data["lengths"])
            rows.append([
                engine,
                suffix,
                timing.rate([run["seconds"] for run in runs], audio, 0),
                f"{audio / ideal_seconds(data, engine, suffix):.0f}",
                timing.spread(reached(data, engine, suffix), 0),
                f"{timing.middle([run['wall'] for run in runs]):.1f}",
            ])  # fmt: skip
    return table(rows)
