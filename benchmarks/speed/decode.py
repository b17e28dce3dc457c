"""Seconds of audio decoded and resampled in a second of one core, by format."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from model_card import table

from mtslvr.audio.load import iter_blocks

from . import timing
from .plan import Plan
from .sounds import write

TITLE = "Decoding and resampling"
TARGET = 16000
# Suffix, Hz, channels. Opus has no 44.1 kHz.
FORMATS = (
    ("wav", 44100, 2),
    ("flac", 44100, 2),
    ("mp3", 44100, 2),
    ("ogg", 44100, 2),
    ("opus", 48000, 2),
    ("wav", 16000, 1),
)


def measure(plan: Plan) -> dict[str, Any]:
    """On one thread, in a process of its own."""
    seconds, rounds = plan.pick((120.0, 7), (2.0, 2))
    folder = str(plan.work / "decode")
    return plan.call(time_formats, 1, folder=folder, seconds=seconds, rounds=rounds, seed=plan.seed)


def time_formats(folder: str, seconds: float, rounds: int, seed: int) -> dict[str, Any]:
    """CPU seconds of each format, as it is and resampled."""
    calls = {}
    names = []
    for suffix, rate, channels in FORMATS:
        path = Path(folder) / f"{seconds:g}s-{rate}-{channels}-seed{seed}.{suffix}"
        write(path, seconds, rate, channels, [seed])
        names.append(f"{suffix}, {rate / 1000:g} kHz, {'stereo' if channels == 2 else 'mono'}")
        calls[f"{names[-1]}: decoded"] = functools.partial(read, path, rate)
        calls[f"{names[-1]}: to 16 kHz"] = functools.partial(read, path, TARGET)
    found = timing.alternate(calls, rounds, warm_up=1, clock=timing.cpu_seconds)
    return {"seconds": seconds, "formats": names, "cpu": found}


def read(path: Path, rate: int) -> int:
    """Samples of a whole file at `rate`."""
    return sum(len(block) for block in iter_blocks(path, rate))


def render(data: dict[str, Any]) -> str:
    """A row a format."""
    rows = [["format", "decoded to mono, audio s / CPU s", "resampled to 16 kHz, too"]]
    for name in data["formats"]:
        cells = [timing.rate(data["cpu"][f"{name}: {what}"], data["seconds"], 0) for what in ("decoded", "to 16 kHz")]
        rows.append([name, *cells])
    return (
        f"`mtslvr.audio.load.iter_blocks` over a file of {data['seconds']:g} s of made sounds, CPU seconds of one "
        f"thread: seconds of audio in one of them.\n\n{table(rows)}"
    )
