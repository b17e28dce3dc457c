"""Share of front end, trunk, branches and heads in the time of an embedding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from model_card import table
from torch import Tensor

from mtslvr.nn.encoder import Encoder
from mtslvr.workers import workers

from . import candidates, timing
from .plan import Plan
from .sounds import clips

TITLE = "Parts"
BATCHES = {1: 40, 32: 30}  # clips to rounds
FRONTEND, WHOLE = "normalisation and front end", "whole"


def measure(plan: Plan) -> dict[str, Any]:
    """With all threads, in a process of its own."""
    rounds = plan.pick(BATCHES, {1: 2, 2: 2})
    return plan.call(time_parts, plan.most, rounds=[*rounds.items()], seed=plan.seed) | {"threads": plan.most}


def time_parts(rounds: list[tuple[int, int]], seed: int) -> dict[str, Any]:
    """Seconds by engine, batch and part."""
    seconds: dict[str, dict[str, Any]] = {}
    absent: dict[str, str] = {}
    for name in candidates.ENGINES:
        try:
            encoder = candidates.load(name)
        except candidates.Absent as error:
            absent[name] = str(error)
            continue
        with torch.inference_mode():
            seconds[name] = {
                str(batch): timing.alternate(stages(encoder, clips(batch, seed=seed)), count) for batch, count in rounds
            }
    return {"seconds": seconds, "absent": absent}


def stages(encoder: Encoder, waveforms: Tensor) -> dict[str, Callable[[], Any]]:
    """What is timed; each stage on the output of the one before, divided over the threads as the whole is."""
    spectrogram = encoder.frontend(encoder.normalize(waveforms))
    tasks = range(encoder.config.tasks)
    stage: dict[str, Callable[[slice], Any]] = {
        FRONTEND: lambda rows: encoder.frontend(encoder.normalize(waveforms[rows]))
    }
    shared = encoder.trunk(spectrogram)
    pooled = [encoder.pooled(shared, spectrogram, task) for task in tasks]
    stage["trunk"] = lambda rows: encoder.trunk(spectrogram[rows])
    for task, name in zip(tasks, ("invariant branch", "variant branch"), strict=False):
        stage[name] = lambda rows, task=task: encoder.pooled(shared[rows], spectrogram[rows], task)
    stage["heads"] = lambda rows: [encoder.heads[index](read[rows]) for index, read in enumerate(pooled)]
    calls = {name: divided(function, len(waveforms)) for name, function in stage.items()}
    return calls | {WHOLE: divided(lambda rows: encoder.embedding(waveforms[rows], "concat"), len(waveforms))}


def divided(function: Callable[[slice], Any], count: int) -> Callable[[], Any]:
    """Calls `function` for equal parts of `count` rows side by side, one a thread."""
    threads = workers()
    size = -(-count // threads.count)

    def part(first: int) -> Any:
        with torch.inference_mode():
            return function(slice(first, first + size))

    return lambda: list(threads.map(part, range(0, count, size)))


def shares(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Percent of the whole of each part, by medians."""
    whole = timing.middle(seconds[WHOLE])
    return {name: timing.middle(values, 100) / whole for name, values in seconds.items() if name != WHOLE}


def render(data: dict[str, Any]) -> str:
    """A row for each engine and batch."""
    parts = [
        f"Median time of each part on the output of the one before, as a share of the median time of the whole, which "
        f"takes turns with them; {data['threads']} threads, over which each part is divided as the whole is. What "
        f"stays in the caches from one part to the next makes the sum differ from 100. The variant branch includes the "
        f"spectral statistics that its head reads."
    ]
    names: list[str] = []
    for by_batch in data["seconds"].values():
        for seconds in by_batch.values():
            names += [name for name in seconds if name not in (*names, WHOLE)]
    rows = [["engine", "batch", *(f"{name}, %" for name in names), "whole, ms a clip"]]
    for engine, by_batch in data["seconds"].items():
        for batch, seconds in by_batch.items():
            found = shares(seconds)
            cells = [f"{found[name]:.1f}" if name in found else "" for name in names]
            rows.append([engine, batch, *cells, f"{timing.middle(seconds[WHOLE], 1000) / int(batch):.2f}"])
    parts.append(table(rows))
    parts += [f"{name}: not measured ({reason})." for name, reason in data["absent"].items()]
    return "\n\n".join(parts)
