r"""Clips a second of training, stage by stage.

    python benchmarks/training.py --out benchmarks/TRAINING.md

Takes a few minutes on two idle cores. Noise of one level stands for audio: no stage's cost depends on what is heard.
Each row is the median of `--repeats` rounds in which all rows take turns, so that a slower minute of the machine slows
all alike.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtslvr.models.hub import computes_bfloat16
from mtslvr.run.machine import environment
from mtslvr.training import transforms, vocoder
from mtslvr.training.augment import augment, draw_parameters, draw_selection
from mtslvr.training.config import TrainConfig
from mtslvr.training.data import PackedClips
from mtslvr.training.trainer import Trainer
from mtslvr.training.views import StepBatches

RATE = 16000
WHOLE = "whole step"


def packed_noise(clips: int, seconds: float) -> PackedClips:
    """Clips in memory, as `PackedClips.open` gives them."""
    length = round(seconds * RATE)
    samples = (3000 * np.random.default_rng(0).standard_normal(clips * length)).astype(np.int16)
    return PackedClips(samples, np.arange(clips + 1) * length, [str(i) for i in range(clips)], RATE, Path("noise"))


def stages(config: TrainConfig, device: torch.device) -> dict[str, Callable[[], Any]]:
    """What is timed: each call handles one batch, or one waveform a clip for single transformations."""
    batches = StepBatches(packed_noise(2 * config.batch_size, 10.0), config)
    if device.type == "cuda":
        batches = batches.on(device)
    trainer = Trainer(config, device)
    batch = batches[0].to(device)

    def forward_backward() -> None:
        trainer.losses(batch).joint.backward()
        trainer.optimizer.zero_grad(set_to_none=True)

    x = 0.3 * torch.randn(config.batch_size, config.crop_length, device=device)
    generator = torch.Generator().manual_seed(0)
    order = draw_selection(generator, len(x), config.augment)
    drawn = draw_parameters(generator, len(x), x.shape[1], config.augment)
    seeds = drawn.noise_seed.to(device)
    return {
        "crops and augmentation": lambda: batches[1],
        "front end, forward and backward": forward_backward,
        WHOLE: lambda: trainer.optimise(batches[1].to(device)),
        "pitch shift": lambda: vocoder.pitch_shift_semitones(x, drawn.pitch_semitones),
        "pitch shift, published STFT": lambda: vocoder.pitch_shift(x, drawn.pitch_index),
        "time stretch": lambda: vocoder.time_stretch(x, drawn.stretch_rate),
        "coloured noise": lambda: transforms.colored_noise(
            x, transforms.gaussian_noise(seeds, RATE), drawn.mixed_f_decay, drawn.mixed_snr_db
        ),
        "all seven, as drawn": lambda: augment(x, order, drawn, config.augment),
    }


def measure(rows: dict[str, Callable[[], Any]], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every round of every row, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for turn in range(repeats + 1):
        for name, call in rows.items():
            began = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def report(
    config: TrainConfig, seconds: dict[str, list[float]], device: torch.device, threads: int, load: float
) -> str:
    """Markdown: settings, then a row a stage."""
    env = environment()
    where = env["cuda"] if device.type == "cuda" else f"{env['cpu']}, {threads} of {env['cores']} cores"
    lines = [
        f"## {where}, {config.dtype}",
        "",
        f"Batch of {config.batch_size} clips, two crops of {config.crop_seconds:g} s each, adapter "
        f"{config.encoder.adapter.value}; single transformations on {config.batch_size} waveforms. mtslvr "
        f"{env['mtslvr']}, torch {env['torch']}, Python {env['python']}, commit {env['git_revision'][:12]}; load "
        f"{load:.1f} before.",
        "",
        "| stage | clips/s, median | lowest to highest | share of the whole step |",
        "|---|---|---|---|",
    ]
    whole = statistics.median(seconds[WHOLE])
    for name, values in seconds.items():
        rates = [config.batch_size / value for value in values]
        middle = statistics.median(values)
        share = f"{100 * middle / whole:.0f}%" if name in ("crops and augmentation", WHOLE) else ""
        lines.append(f"| {name} | {config.batch_size / middle:.1f} | {min(rates):.1f} to {max(rates):.1f} | {share} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file to write; printed either way")
    parser.add_argument("--batch-size", type=int, default=TrainConfig().batch_size)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    parts = ["# Training speed", "", "Written by `python benchmarks/training.py`.", ""]
    for dtype in ["bfloat16", "float32"] if computes_bfloat16(device) else ["float32"]:
        config = TrainConfig(batch_size=arguments.batch_size, dtype=dtype)
        torch.manual_seed(0)
        seconds = measure(stages(config, device), arguments.repeats, device)
        parts += [report(config, seconds, device, arguments.threads, load), ""]
    text = "\n".join(parts)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
