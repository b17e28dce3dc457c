"""How far a run is: files, audio-seconds a second, time left; a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from .common import echo, printable

_EVERY = 10.0  # seconds between lines where stderr is no terminal


class Progress:
    """Tells on stderr how far a run is.

    Args:
        total: files.
        size: of all files, in bytes, which the time left is estimated by.
        quiet: say nothing.
    """

    def __init__(self, total: int, size: int, quiet: bool = False) -> None:
        self._total, self._size = total, max(size, 1)
        self._files, self._bytes, self._seconds = 0, 0.0, 0.0
        self._done = 0.0  # bytes, with those of the file that goes on
        self._within = 0.0  # seconds of the file that goes on
        self._started = self._told = time.monotonic()
        self._first, self._bar = True, None
        self._quiet = quiet
        if not quiet and sys.stderr.isatty():
            self._bar = _bar(total)

    def advance(self, seconds: float, size: int, rest: Callable[[], float] | None = None) -> None:
        """Count audio of one file, in order.

        Args:
            seconds: of audio that are done.
            size: of the whole file, in bytes.
            rest: for a file that goes on, tells its length in seconds.
        """
        self._seconds += seconds
        self._within += seconds
        share = 0.0
        if rest is None:
            self._files += 1
            self._bytes += max(size, 0)
            self._within = 0.0
        else:
            share = size * min(self._within / max(rest(), 1e-6), 1.0)
        self._tell(self._bytes + share, finished=rest is None)

    def _tell(self, done: float, finished: bool) -> None:
        self._done = done
        if self._bar is not None:
            self._bar.set_postfix_str(self._speed(), refresh=False)
            self._bar.update(finished)
        elif not self._quiet and ((self._first and self._files) or time.monotonic() - self._told > _EVERY):
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
        elif not self._quiet and self._total:
            self._line()

    def _line(self) -> None:
        self._first, self._told = False, time.monotonic()
        echo(f"embedding: {self._files}/{self._total} files, {self._speed()}", err=True)

    def _speed(self) -> str:
        elapsed = max(time.monotonic() - self._started, 1e-6)
        speed = f"{self._seconds / elapsed:.1f} s of audio a second"
        if self._done <= 0:
            return speed
        left = elapsed * max(self._size - self._done, 0) / self._done
        return f"{speed}, {clock(left)} left"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _bar(total: int) -> Any:
    from tqdm import tqdm

    form = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} files{postfix}"
    return tqdm(total=total, desc="embedding", file=sys.stderr, bar_format=form, dynamic_ncols=True)
