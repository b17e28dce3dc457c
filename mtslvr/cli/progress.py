"""How far a run is: files, audio-seconds a second, time left; a bar on a terminal, else a line now and then."""

from __future__ import annotations

import functools
import os
import sys
import time
from typing import Any

from .common import counted, echo, printable

_EVERY = 10.0  # seconds between lines where stderr is no terminal


class Progress:
    """Tells on stderr how far a run over `files` files is; the time left is estimated by their `size` in bytes."""

    def __init__(self, files: int, size: int, quiet: bool = False) -> None:
        self._total, self._size, self._quiet = counted(files, "file"), size, quiet
        self._files, self._seconds = 0, 0.0
        self._bytes, self._within = 0, 0.0  # of finished files; seconds of the file that goes on
        self._started = time.monotonic()
        self._due = self._started + _EVERY
        self._bar = None if quiet or not sys.stderr.isatty() else _bar(files)
        self._said = ""

    def advance(self, path: str, size: int, seconds: float, finished: bool) -> None:
        """Count `seconds` of audio of a file of `size` bytes, the one that goes on or else the next."""
        self._seconds += seconds
        self._within += seconds
        if finished:
            self._bytes += max(size, 0)
            self._files, self._within = self._files + 1, 0.0
            done: float = self._bytes
        else:
            done = self._bytes + size * min(self._within / max(length(path), 1e-6), 1.0)
        elapsed = max(time.monotonic() - self._started, 1e-6)
        left = f", {clock(elapsed * max(self._size - done, 0) / done)} left" if done > 0 else ""
        self._said = f"{self._seconds / elapsed:.1f} s of audio a second{left}"
        if self._bar is not None:
            self._bar.set_postfix_str(self._said, refresh=False)
            self._bar.update(finished)
        elif (finished and self._files == 1) or time.monotonic() >= self._due:
            self._line()

    def say(self, text: str) -> None:
        """A line of its own."""
        if self._bar is not None:
            self._bar.write(printable(text), file=sys.stderr)
        else:
            echo(text, err=True)

    def close(self) -> None:
        """The last word."""
        if self._bar is not None:
            self._bar.close()
        elif self._said:
            self._line()

    def _line(self) -> None:
        self._due = time.monotonic() + _EVERY
        if not self._quiet:
            echo(f"embedding: {self._files}/{self._total}, {self._said}", err=True)


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


@functools.lru_cache(maxsize=1)
def length(path: str) -> float:
    """Seconds of audio by the head of a file, for an estimate; endless where it does not tell."""
    import soundfile

    try:
        # soundfile encodes text strictly, and a name on Linux may be any bytes.
        return float(soundfile.info(os.fsencode(path) if os.name == "posix" else path).duration)
    except (OSError, RuntimeError):
        return float("inf")


def _bar(files: int) -> Any:
    from tqdm import tqdm

    form = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/" + counted(files, "file") + "{postfix}"
    return tqdm(total=files, desc="embedding", file=sys.stderr, bar_format=form, dynamic_ncols=True)
