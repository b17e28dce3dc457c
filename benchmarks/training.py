r"""Clips a second of training, stage by stage, and of torch-audiomentations on the same batch.

    python benchmarks/training.py --out benchmarks/TRAINING.md

Noise of one level stands for audio: no stage's cost depends on what is heard. Each row is the median of `--repeats`
rounds in which all rows take turns, so that a slower minute of the machine slows all alike.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtslvr.training import transforms
from mtslvr.training.augment import augment, draw_parameters, draw_selection
from mtslvr.training.config import TrainConfig
from mtslvr.training.data import PackedClips
from mtslvr.training.loop import compute, make_objective, make_optimizer, optimise
from mtslvr.training.memory import keep_freed_memory
from mtslvr.training.run import environment
from mtslvr.training.views import StepBatches

RATE = 16000
WHOLE = "whole step"


def packed_noise(clips: int, seconds: float) -> PackedClips:
    """Clips in memory, as `PackedClips.open` gives them."""
    length = round(seconds * RATE)
    samples = (3000 * np.random.default_rng(0).standard_normal(clips * length)).astype(np.int16)
    return PackedClips(samples, np.arange(clips + 1) * length, [str(i) for i in range(clips)], RATE, Path("noise"))


def stages(config: TrainConfig, device: torch.device) -> dict[str, Callable[[], Any]]:
    """What is timed: each call handles one batch."""
    batches: StepBatches = StepBatches(packed_noise(2 * config.batch_size, 10.0), config)
    if device.type == "cuda":
        batches = batches.on(device)
    objective = make_objective(config).to(device)
    objective.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(objective, config)
    batch = batches[0].to(device)

    def forward_backward(predicted_views: int) -> None:
        objective.predicted_views = predicted_views
        compute(objective, batch, config).joint.backward()
        objective.zero_grad(set_to_none=True)

    def step(predicted_views: int) -> None:
        objective.predicted_views = predicted_views
        optimise(objective, optimizer, batches[1].to(device), 1e-4, config)

    return {
        "crops and augmentation": lambda: batches[1],
        "front end, forward and backward": lambda: forward_backward(2),
        WHOLE: lambda: step(2),
        "front end, forward and backward, one view predicted": lambda: forward_backward(1),
        f"{WHOLE}, one view predicted": lambda: step(1),
    }


def single_transformations(config: TrainConfig, device: torch.device) -> dict[str, Callable[[], Any]]:
    """Three of ours on every clip of a batch, and torch-audiomentations' where it loads."""
    x = 0.3 * torch.randn(config.batch_size, config.crop_length, device=device)
    generator = torch.Generator().manual_seed(0)
    drawn = draw_parameters(generator, len(x), x.shape[1], config.augment)
    published = draw_parameters(generator, len(x), x.shape[1], dataclasses.replace(config.augment))
    rows: dict[str, Callable[[], Any]] = {
        "pitch shift, ours": lambda: transforms.pitch_shift_semitones(x, drawn.pitch_semitones),
        "pitch shift, ours, published STFT": lambda: transforms.pitch_shift(x, published.pitch_index),
        "time stretch, ours": lambda: transforms.time_stretch(x, drawn.stretch_rate),
        "coloured noise, ours": lambda: transforms.colored_noise(
            x, transforms.gaussian_noise(drawn.noise_seed.to(device), RATE), drawn.mixed_f_decay, drawn.mixed_snr_db
        ),
        "all seven, as drawn, ours": lambda: augment(
            x, draw_selection(torch.Generator().manual_seed(1), len(x), config.augment), drawn, config.augment
        ),
    }
    try:
        theirs = importlib.import_module("torch_audiomentations")
    except Exception as error:  # it is optional, and imports torchaudio, which may fail in its own ways
        print(f"torch-audiomentations does not load ({type(error).__name__}: {error}); left out", file=sys.stderr)
        return rows
    pitch = theirs.PitchShift(-4, 4, p=1.0, sample_rate=RATE, output_type="tensor")
    noise = theirs.AddColoredNoise(3.0, 30.0, -2.0, 2.0, p=1.0, sample_rate=RATE, output_type="tensor")
    rows["pitch shift, torch-audiomentations"] = lambda: pitch(x[:, None])
    rows["coloured noise, torch-audiomentations"] = lambda: noise(x[:, None])
    return rows


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


def report(config: TrainConfig, seconds: dict[str, list[float]], device: torch.device, threads: int) -> str:
    """Markdown: settings, then a row a stage."""
    env = environment()
    where = env["cuda"] if device.type == "cuda" else f"{env['cpu']}, {threads} of {env['cores']} cores"
    lines = [
        f"## {where}, {config.dtype}, 2 views a clip",
        "",
        f"Batch of {config.batch_size} clips, crops of {config.crop_seconds:g} s, adapter "
        f"{config.encoder.adapter.value}; single transformations on {config.batch_size} waveforms. mtslvr "
        f"{env['mtslvr']}, torch {env['torch']}, Python {env['python']}, commit {env['git_revision'][:12]}.",
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
    parser.add_argument("--out", type=Path, help="file to write; printed without it")
    parser.add_argument("--batch-size", type=int, default=TrainConfig().batch_size)
    parser.add_argument("--crop-seconds", type=float, default=2.5)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as `mtslvr train` does
    device = torch.device(arguments.device)
    parts = ["# Training speed", "", "Written by `python benchmarks/training.py`.", ""]
    for dtype in arguments.dtypes:
        config = TrainConfig(
            batch_size=arguments.batch_size,
            crop_seconds=arguments.crop_seconds,
            dtype=dtype,
            crops=1,
        )
        torch.manual_seed(0)
        rows = stages(config, device)
        if dtype == arguments.dtypes[0]:
            rows.update(single_transformations(config, device))
        parts += [report(config, measure(rows, arguments.repeats, device), device, arguments.threads), ""]
    text = "\n".join(parts)
    if arguments.out is None:
        print(text)
    else:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
