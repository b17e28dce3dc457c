"""Whether fused operators with Winograd's algorithm pay: beside the folded network in plain torch, divided.

*plain, divided* is the folded network by `F.conv2d`, channels last, in pieces of a batch on threads that torch has one
thread on each. By instructions (a process each, since they are chosen at the first convolution), dtype and threads.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import mtslvr
from mtslvr.adapters import FoldedConv, _read_by
from mtslvr.encoder import Encoder

from . import candidates, timing
from .baseline import Baseline
from .sounds import clips

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
PIECES = (4, 8, 16)


class PlainConv(FoldedConv):
    """`FoldedConv` in plain torch."""

    def forward(
        self, x: Tensor, task: int, add: Tensor | None = None, relu: bool = False, rows: tuple[int, int] | None = None
    ) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H', W')."""
        padding = self.padding
        if rows is not None:
            x, padding = _read_by(x, *rows), (0, padding[1])
        y = F.conv2d(x, self.weights[task], self.biases[task], self.stride, padding)
        y = y if add is None else y.add_(add)
        return F.relu_(y) if relu else y


class PlainEncoder(Encoder):
    """`Encoder` that divides nothing."""

    def shared(self, spectrogram: Tensor) -> Tensor:
        """The trunk's output."""
        dtype = next(self.trunk.parameters()).dtype
        shared: Tensor = self.trunk(spectrogram.to(dtype).to(memory_format=torch.channels_last))
        return shared

    def _divisible(self, waveforms: Tensor) -> bool:
        return False


def plain(dtype: str) -> Encoder:
    """The folded network of bundled weights in plain torch."""
    encoder = mtslvr.load(device="cpu", dtype=dtype)
    encoder.__class__ = PlainEncoder
    for module in encoder.modules():
        if isinstance(module, FoldedConv):
            module.__class__ = PlainConv
    return encoder


class Both:
    """Calls, and keeps the CPU seconds of all threads beside the wall clock's."""

    def __init__(self, call: Callable[[], Tensor]) -> None:
        self.call, self.cpu = call, []

    def __call__(self) -> None:
        """Once."""
        began = timing.cpu_seconds()
        self.call()
        self.cpu.append(timing.cpu_seconds() - began)


def time_rows(threads: int, dtype: str, batch: int, rounds: int) -> dict[str, Any]:
    """Seconds of each candidate, all taking turns in each round."""
    torch.set_num_threads(threads)
    waveforms = clips(batch, seed=0)
    fused, bare = mtslvr.load(device="cpu", dtype=dtype), plain(dtype)
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    wait = threading.Barrier(threads)
    list(pool.map(lambda _: wait.wait(), range(threads)))
    torch.set_num_threads(threads)

    def embed(encoder: Encoder, part: Tensor) -> Tensor:
        with torch.inference_mode():
            return encoder.embedding(part, "concat")

    baseline = Baseline(mtslvr.load(device="cpu", fold=False), apart=True)
    calls: dict[str, Callable[[], Tensor]] = {
        "baseline": lambda: baseline(waveforms),
        "fused, Winograd": lambda: candidates.embedder(fused)(waveforms),
    }
    for piece in PIECES:
        parts = list(waveforms.split(piece))
        for name, encoder in (("plain", bare), ("fused", fused)):
            calls[f"{name}, divided, {piece} a piece"] = lambda parts=parts, encoder=encoder: torch.cat(
                [*pool.map(functools.partial(embed, encoder), parts)]
            )
    with torch.inference_mode():
        found = {name: call() for name, call in calls.items()}
        errors = {name: ((y - found["baseline"]).norm() / found["baseline"].norm()).item() for name, y in found.items()}
        wall = {name: Both(call) for name, call in calls.items()}
        seconds = timing.alternate(wall, rounds)
        return {"errors": errors, "seconds": seconds, "cpu": {name: both.cpu[-rounds:] for name, both in wall.items()}}


def main() -> None:
    """A line for each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--row", nargs=2, metavar=("THREADS", "DTYPE"))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    if options.row:
        print(json.dumps(time_rows(int(options.row[0]), options.row[1], options.batch, options.rounds)))
        return
    for instructions, dtype in (("AVX2", "float32"), ("default", "bfloat16"), ("default", "float32")):
        for threads in (2, 1):
            env = {**os.environ, **(AVX2 if instructions == "AVX2" else {}), "OMP_NUM_THREADS": str(threads)}
            command = [sys.executable, "-m", "speed.plain", "--row", str(threads), dtype]
            command += ["--batch", str(options.batch), "--rounds", str(options.rounds)]
            found = json.loads(subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout)
            seconds = found["seconds"]
            print(f"{dtype}, {instructions}, {threads} threads, batch {options.batch}", flush=True)
            for name, values in seconds.items():
                to_base = timing.spread(timing.ratios(seconds["baseline"], values))
                clips_a_second = options.batch / statistics.median(values)
                line = f"  {name:26} {clips_a_second:7.1f} clips/s; times the baseline {to_base}"
                if name.startswith("fused, divided"):
                    same = seconds[name.replace("fused", "plain")]
                    line += f"; times the plain one {timing.spread(timing.ratios(same, values))}"
                    cpu = found["cpu"]
                    line += (
                        f", by CPU time {timing.spread(timing.ratios(cpu[name.replace('fused', 'plain')], cpu[name]))}"
                    )
                print(f"{line}; error {found['errors'][name]:.1e}", flush=True)


if __name__ == "__main__":
    main()
