"""What the measuring commands share: lists in options, progress, warnings as lines, files of results."""

from __future__ import annotations

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


def split_list(values: Sequence[str]) -> tuple[str, ...]:
    """Options that may be repeated, or hold several parted by commas; each once."""
    return tuple(dict.fromkeys(part.strip() for value in values for part in value.split(",") if part.strip()))


def integers(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers parted by commas.

    Raises:
        ConfigError: something else.
    """
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise ConfigError(f"{option}={text!r}: must be whole numbers parted by commas, like 1,5,10") from None


def progress_bar(quiet: bool) -> Callable[[Iterable[Any], int, str], Iterable[Any]] | None:
    """Progress on a terminal, nothing elsewhere."""
    if quiet or not sys.stderr.isatty():
        return None
    from tqdm import tqdm

    return lambda items, total, description: tqdm(items, total=total, desc=description, file=sys.stderr, leave=False)


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


def check_outputs(outputs: Iterable[Path], plot: Path | None) -> None:
    """Find out before the work starts that results and a picture of them can be written; see `check_text_file`."""
    for path in outputs:
        check_text_file(path, (".json", ".csv", ".md", ".txt"))
    if plot is not None:
        from ..analysis.pictures import check_picture

        check_picture(plot)


def check_text_file(path: Path, suffixes: Sequence[str]) -> None:
    """Find out before the work starts that a file can be written.

    Raises:
        ConfigError: unknown suffix, a missing folder, no permission.
    """
    if path.suffix.lower() not in suffixes:
        raise ConfigError(f"{path}: unknown format {path.suffix!r}; end the name in {', '.join(suffixes)}")
    resolve(path, writable=True)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        ConfigError: it cannot be written.
    """
    with guarded(path), atomic(resolve(path)) as file:
        file.write(text.encode())
    click.echo(f"wrote {path}", err=True)
