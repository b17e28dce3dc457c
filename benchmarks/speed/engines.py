"""Clips of 5 s a second, waveform to both embeddings, by engine, dtype, batch and threads."""

from __future__ import annotations

import functools
import time
from typing import Any

import torch
from model_card import table

from . import candidates, timing
from .candidates import BASELINE, COMPILED, ENGINES, SUMMED
from .plan import Plan
from .sounds import clips

TITLE = "Engines"
BATCHES = {1: 30, 8: 15, 32: 10}  # clips to rounds
COMPILED_BATCH = 32  # compiling takes longer than everything else here


def measure(plan: Plan) -> dict[str, Any]:
    """For each number of threads, in a process of its own."""
    rounds = plan.pick(BATCHES, {1: 2, 2: 2})
    return {
        str(threads): plan.call(
            time_engines, threads, rounds=[*rounds.items()], seed=plan.seed, with_compile=not plan.quick
        )
        for threads in plan.threads
    }


def time_engines(rounds: list[tuple[int, int]], seed: int, with_compile: bool) -> dict[str, Any]:
    """Seconds by batch and candidate."""
    found, absent = candidates.available(list(ENGINES))
    found = {**candidates.baselines(), **found, candidates.UNDIVIDED: candidates.undivided()}
    compile_seconds = None
    if not with_compile:
        absent[COMPILED] = "left out of a quick run"
    seconds = {}
    with torch.inference_mode():
        for batch, count in rounds:
            waveforms = clips(batch, seed=seed)
            calls = dict(found)
            if with_compile and batch == COMPILED_BATCH:
                try:
                    calls[COMPILED], compile_seconds = first_call(waveforms)
                except Exception as error:  # a compiler that is missing, or fails in its own ways
                    absent[COMPILED] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            seconds[str(batch)] = timing.alternate(
                {name: functools.partial(embed, waveforms) for name, embed in calls.items()}, count
            )
    return {"seconds": seconds, "absent": absent, "compile_seconds": compile_seconds}


def first_call(waveforms: torch.Tensor) -> tuple[candidates.Embed, float]:
    """The compiled candidate, and the seconds of its first call, without anything from an earlier process."""
    import torch._inductor.config as inductor

    inductor.force_disable_caches = True
    embed = candidates.compiled()
    began = time.perf_counter()
    embed(waveforms)
    return embed, time.perf_counter() - began


def render(data: dict[str, Any]) -> str:
    """A table for each number of threads."""
    parts = [
        f"Waveform to the 1000 numbers of both embeddings: normalisation, front end, network, heads. All candidates "
        f"take turns in each round; median, and lowest to highest of the rounds. *{BASELINE}* is the double pass: the "
        f"unfolded network run once a task, trunk included, with each adapter a 1x1 convolution of its own, as the "
        f"authors' code does, behind a plain front end (two STFTs, dense mel products) whose spectrogram both passes "
        f"read, in contiguous memory, float32. *{SUMMED}* is the same, but for adding each adapter's kernel to the 3x3 "
        f"one before the convolution, as `load(fold=False)` does. *{candidates.UNDIVIDED}* is "
        f"`encoder.embedding(waveforms)`, divided by torch's own threads; the others are `embed_windows` on a "
        f"recording of as many windows, a part a thread. Ratios are to both, in the same round."
    ]
    for threads, found in data.items():
        parts.append(f"### {threads} thread{'s' if threads != '1' else ''}")
        parts += [batch_table(int(batch), seconds) for batch, seconds in found["seconds"].items()]
        if found["compile_seconds"] is not None:
            seconds = f"{found['compile_seconds']:.0f} s"
            parts.append(f"{COMPILED} (weights frozen): its first call takes {seconds}.")
        parts += [f"{name}: not measured ({reason})." for name, reason in found["absent"].items()]
    return "\n\n".join(parts)


def batch_table(batch: int, seconds: dict[str, list[float]]) -> str:
    """Clips a second, and ratios."""
    bases = [seconds[name] for name in (BASELINE, SUMMED)]
    rows = [[f"batch {batch}", "clips/s", f"times the {BASELINE}", f"times the {SUMMED}"]]
    for name, values in seconds.items():
        ratios = [timing.spread(timing.ratios(base, values)) for base in bases]
        rows.append([name, timing.rate(values, batch), *ratios])
    return table(rows)
