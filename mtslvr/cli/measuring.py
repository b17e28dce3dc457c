"""What the measuring commands share: lists in options, progress, warnings as lines, files of results."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from ..errors import ConfigError
from ..run.files import atomic, guarded, resolve, wrong_suffix
from .common import FC, PATH

OUTPUTS = (".json", ".csv", ".md", ".txt")  # of results


_OPTIONS = (
    click.option(
        "--model", "models", multiple=True, help="Bundled name, checkpoint folder or hub id; may be repeated."
    ),
    click.option(
        "-o", "--out", "outputs", multiple=True, type=PATH, metavar="OUT",
        help="Where to write the results, .json, .csv, .md or .txt; may be repeated.",
    ),
    click.option("--plot", type=PATH, help="A picture of them: png, svg or pdf."),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 ..."),
    click.option("--batch-size", default=16, show_default=True, help="Windows at once through the encoder."),
    click.option("-q", "--quiet", is_flag=True, help="No progress."),
)  # fmt: skip


def measuring_options(command: FC) -> FC:
    """The options of every command that measures models."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def split_list(values: Sequence[str]) -> tuple[str, ...]:
    """Options that may be repeated, or hold several parted by commas; each once."""
    return tuple(dict.fromkeys(part.strip() for value in values for part in value.split(",") if part.strip()))


def integers(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers parted by commas."""
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise ConfigError(f"{option} {text}: must be whole numbers parted by commas, like 1,5,10") from None


def progress_bar(quiet: bool) -> Callable[[Iterable[Any], int, str], Iterable[Any]]:
    """Progress on a terminal, nothing elsewhere."""

    def wrap(items: Iterable[Any], total: int, description: str) -> Iterable[Any]:
        from tqdm import tqdm

        off = True if quiet else None  # None is off where there is no terminal
        wrapped: Iterable[Any] = tqdm(items, description, total, file=sys.stderr, leave=False, disable=off)
        return wrapped

    return wrap


def check_outputs(outputs: Sequence[Path], plot: Path | None = None, suffixes: Sequence[str] = OUTPUTS) -> None:
    """Find out before the work starts that files of results and a picture can be written.

    Raises:
        ConfigError: unknown suffix, a missing folder, no permission, no library for pictures.
    """
    for path in outputs:
        if path.suffix.lower() not in suffixes:
            raise wrong_suffix(path, suffixes)
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
