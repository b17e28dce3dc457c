"""A single window on a machine that is idle, and on one with a busy process a core."""

from __future__ import annotations

import functools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from model_card import table

import mtslvr

from . import candidates, timing
from .plan import Plan
from .sounds import clips

TITLE = "Beside busy processes"
ROUNDS, CALLS = 10, 5  # calls in a row, of which the median counts
EMBEDDED, CALLED = "embed", "encoder(waveform), torch's own threads"


def measure(plan: Plan) -> dict[str, Any]:
    """With all threads, in a process of its own."""
    rounds = plan.pick(ROUNDS, 1)
    return plan.call(time_window, plan.most, rounds=rounds, seed=plan.seed) | {"threads": plan.most}


def time_window(rounds: int, seed: int) -> dict[str, Any]:
    """Seconds of one window, idle and busy by turns."""
    waveform = clips(1, seed=seed)
    encoder = mtslvr.load(device="cpu")
    found: dict[str, dict[str, list[float]]] = {EMBEDDED: {}, CALLED: {}}
    calls = {EMBEDDED: candidates.embedder(encoder), CALLED: lambda x: encoder.embedding(x, "concat")}
    with torch.inference_mode():
        for embed in calls.values():
            embed(waveform)
        for _ in range(rounds):
            for load, processes in (("idle", 0), ("busy", os.cpu_count() or 1)):
                with busy_processes(processes):
                    for name, embed in calls.items():
                        found[name].setdefault(load, []).append(median(functools.partial(embed, waveform)))
    return {"seconds": found}


def median(call: Any) -> float:
    """Seconds of a call, by `CALLS` in a row."""
    seconds = []
    for _ in range(CALLS):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Processes that count, while in here."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    time.sleep(0.2 if running else 0)
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def times(data: dict[str, Any], name: str = EMBEDDED) -> list[float]:
    """How many times the idle time a window takes, round by round."""
    return timing.ratios(data["seconds"][name]["busy"], data["seconds"][name]["idle"])


def render(data: dict[str, Any]) -> str:
    """A row a way."""
    rows = [["one window of 5 s", "idle, ms", "busy, ms", "times as long"]]
    for name, found in data["seconds"].items():
        cells = [timing.spread([1000 * value for value in found[load]], 0) for load in ("idle", "busy")]
        rows.append([name, *cells, timing.spread(times(data, name))])
    return (
        f"One window on {data['threads']} threads, alone and beside a process a core that only counts, by turns: "
        f"`embed` computes it on one thread, which waits for no other.\n\n{table(rows)}"
    )
