"""What the measuring commands share: lists in options, progress, warnings as lines, files of results."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from ..errors import ConfigError
from ..run.files import atomic, guarded, resolve
from .common import echo

OUTPUTS = (".json", ".csv", ".md", ".txt")  # of results


def split_list(values: Sequence[str]) -> tuple[str, ...]:
    """Options that may be repeated, or hold several parted by commas; each once."""
    return tuple(dict.fromkeys(part.strip() for value in values for part in value.split(",") if part.strip()))


def integers(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers parted by commas."""
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise ConfigError(f"{option}={text!r}: must be whole numbers parted by commas, like 1,5,10") from None


def progress_bar(quiet: bool) -> Callable[[Iterable[Any], int, str], Iterable[Any]] | None:
    """Progress on a terminal, nothing elsewhere."""
    if quiet or not sys.stderr.isatty():
        return None

    def wrap(items: Iterable[Any], total: int, description: str) -> Iterable[Any]:
        from tqdm import tqdm

        wrapped: Iterable[Any] = tqdm(items, total=total, desc=description, file=sys.stderr, leave=False)
        return wrapped

    return wrap


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Each warning once, as a line on stderr without its place in the code."""
    seen: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        text = str(message)
        if text not in seen:
            seen.add(text)
            echo(f"warning: {text}", err=True)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show  # catch_warnings restores it
        yield


def check_outputs(outputs: Sequence[Path], plot: Path | None = None, suffixes: Sequence[str] = OUTPUTS) -> None:
    """Find out before the work starts that files of results and a picture can be written.

    Raises:
        ConfigError: unknown suffix, a missing folder, no permission, no library for pictures.
    """
    for path in outputs:
        if path.suffix.lower() not in suffixes:
            raise ConfigError(f"{path}: unknown format {path.suffix!r}; end the name in {', '.join(suffixes)}")
        target = resolve(path)
        if not os.access(target if target.exists() else target.parent, os.W_OK):
            raise ConfigError(f"{path}: cannot be written; choose another place")
    if plot is not None:
        from ..analysis.pictures import check_picture

        check_picture(plot)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with guarded(path), atomic(resolve(path)) as file:
        file.write(text.encode())
    click.echo(f"wrote {path}", err=True)
