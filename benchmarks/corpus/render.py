"""Clips that are made rather than found: notes and phrases of soundfonts, numbers spoken by espeak-ng."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

TICKS = 480  # a beat, half a second at the MIDI file's default tempo


def midi(program: int, notes: list[tuple[float, float, int, int]]) -> bytes:
    """A MIDI file of one instrument.

    Args:
        program: 0 to 127.
        notes: start and length in beats, pitch, velocity.
    """
    events = [(0.0, bytes([0xC0, program]))]
    for start, length, pitch, velocity in notes:
        events.append((start, bytes([0x90, pitch, velocity])))
        events.append((start + length, bytes([0x80, pitch, 0])))
    track, now = b"", 0
    for beat, message in sorted(events, key=lambda event: event[0]):
        tick = round(beat * TICKS)
        track += _variable(tick - now) + message
        now = tick
    track += b"\0\xff\x2f\0"
    header = b"MThd" + (6).to_bytes(4, "big") + b"\0\0\0\1" + TICKS.to_bytes(2, "big")
    return header + b"MTrk" + len(track).to_bytes(4, "big") + track


def _variable(number: int) -> bytes:
    parts = [number & 127]
    while number := number >> 7:
        parts.append(number & 127 | 128)
    return bytes(reversed(parts))


def render_soundfont(source: dict[str, Any], font: Path, out: Path) -> None:
    """Play programs of a soundfont with fluidsynth: single notes of 3 s, phrases of 10 s.

    Args:
        source: `notes` and `phrases` say how many for each program, `programs` which [default: all 128].
        font: .sf2 file.
        out: folder of the clips; one folder a program.
    """
    from .collect import run

    rng = np.random.default_rng(0)
    for program in source.get("programs", range(128)):
        folder = out / f"{program:03d}"
        folder.mkdir(parents=True)
        low, high = (28, 55) if 32 <= program < 40 else (43, 84)
        score: list[tuple[float, float, int, int]] = []
        spans, now = [], 0
        for i in range(source.get("notes", 0)):
            score.append((now, 4, int(rng.integers(low, high)), int(rng.integers(50, 120))))
            spans.append((f"note-{i}", now, now + 6))
            now += 6
        for i in range(source.get("phrases", 0)):
            beat, end = float(now), now + 18
            while beat < end:
                length = min(float(rng.choice([0.25, 0.5, 0.5, 1, 1, 2])), end - beat)
                chord = set(rng.integers(low, high, int(rng.choice([1, 1, 1, 2, 3]))).tolist())
                score += [(beat, length, pitch, int(rng.integers(50, 120))) for pitch in sorted(chord)]
                beat += length
            spans.append((f"phrase-{i}", now, now + 20))
            now += 20
        (folder / "score.mid").write_bytes(midi(program, score))
        options = ["-n", "-i", "-q", "-r", "16000", "-g", "0.6", "-F", "score.wav"]
        run(["fluidsynth", *options, str(font), "score.mid"], folder)
        waveform, rate = soundfile.read(folder / "score.wav")
        (folder / "score.wav").unlink()
        for name, first, last in spans:
            soundfile.write(folder / f"{name}.wav", waveform[first * rate // 2 : last * rate // 2], rate)


def speak(source: dict[str, Any], out: Path) -> None:
    """Numbers, which every voice reads in its own language, by each voice of espeak-ng in several variants."""
    from .collect import SourceError, run

    out.mkdir()
    run(["espeak-ng", "--version"], out)
    rng = np.random.default_rng(0)
    listed = subprocess.run(["espeak-ng", "--voices"], capture_output=True, text=True, check=True).stdout
    voices = sorted({line.split()[4] for line in listed.splitlines()[1:]})
    variants = ["", *(f"+{kind}{i}" for kind, count in (("m", 7), ("f", 5)) for i in range(1, count + 1))]
    for voice in voices:
        for i in range(source["voices"]):
            text = " ".join(str(rng.integers(0, 10 ** int(rng.integers(1, 5)))) for _ in range(rng.integers(1, 6)))
            pitch, speed = str(rng.integers(20, 80)), str(rng.integers(120, 210))
            name = out / f"{voice.replace('/', '-')}-{i}.wav"
            variant = voice + str(rng.choice(variants))
            with suppress(SourceError):  # espeak-ng 1.51 crashes on a few numbers in a few languages
                run(["espeak-ng", "-v", variant, "-p", pitch, "-s", speed, "-w", str(name), text], out)
