"""Where an output goes and in which format, and files that are written whole or not at all; next: `export`."""

from __future__ import annotations

import enum
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import ConfigError

STDOUT = "-"


class Format(str, enum.Enum):
    """What an output is; the suffix of its name unless told otherwise."""

    NPZ = "npz"
    NPY = "npy"
    PARQUET = "parquet"
    CSV = "csv"
    JSONL = "jsonl"


def parse_format(path: str | os.PathLike[str], given: str | None = None) -> Format:
    """The format of an output by the suffix of its name, or as given.

    Raises:
        ConfigError: an unknown suffix or name, a format that stdout or this installation cannot take.
    """
    stdout = os.fspath(path) == STDOUT
    name = given or (Format.JSONL.value if stdout else Path(path).suffix.lower().removeprefix("."))
    known = [member.value for member in Format]
    if name not in known:
        suffixes = ", ".join(f".{value}" for value in known)
        found = f"format {given!r}" if given else f"format {Path(path).suffix!r}"
        raise ConfigError(f"{path}: unknown {found}; end the name in one of {suffixes}, or give --format")
    chosen = Format(name)
    if stdout and chosen not in (Format.CSV, Format.JSONL):
        raise ConfigError(f"stdout cannot take {chosen.value}; use --format csv or jsonl, or a file")
    if chosen is Format.PARQUET and importlib.util.find_spec("pyarrow") is None:
        raise ConfigError(f"{path}: parquet needs pyarrow; pip install 'mtslvr[parquet]'")
    return chosen


def check_output(path: str | os.PathLike[str], given: str | None = None) -> Path:
    """Find out before the work starts, by making and removing a file beside it, that `path` can be written.

    Args:
        path: the output.
        given: its format; None is that of the suffix.
    Returns:
        The file that would be written, links resolved.
    Raises:
        ConfigError: see `parse_format`; a folder, a missing folder, no permission.
    """
    parse_format(path, given)
    target = resolve(path)
    with guarded(path):
        part = part_of(target)
        open(part, "xb").close()
        part.unlink()
    return target


def resolve(path: str | os.PathLike[str]) -> Path:
    """The file behind `path`: a link stays a link, and what it points to is replaced.

    Raises:
        ConfigError: a folder, or in a missing folder.
    """
    target = Path(os.path.realpath(path))
    if not os.path.isdir(target.parent):
        raise ConfigError(f"{path}: folder {str(Path(path).parent)!r} does not exist; make it with mkdir -p")
    if target.exists() and not target.is_file():
        raise ConfigError(f"{path}: exists and is not a file; choose another name")
    return target


def sidecar(target: Path, suffix: str) -> Path:
    """The file beside an output that belongs to it: its name with a suffix more."""
    return target.with_name(target.name + suffix)


def part_of(target: Path) -> Path:
    """Where a file grows until it is complete."""
    return sidecar(target, f".{os.getpid()}.part")


@contextmanager
def guarded(path: str | os.PathLike[str], kept: str = "") -> Iterator[None]:
    """Turn errors of the file system into one that names the output, says what is `kept`, and the remedy."""
    try:
        yield
    except OSError as error:
        remedy = kept or "choose a folder with space and write permission"
        raise ConfigError(f"{path}: cannot be written ({error.strerror or error}); {remedy}") from error


@contextmanager
def atomic(target: Path) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `target` once it is complete and on disk."""
    part = part_of(target)
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
