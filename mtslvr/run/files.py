"""Where an output goes and in which format, and files that are written whole or not at all; next: `export`."""

from __future__ import annotations

import enum
import importlib.util
import os
import re
import secrets
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import ConfigError

STDOUT = "-"
STATE = "state.sqlite"  # in an output's folder of `state_folder`
_LONGEST = 500  # bytes of its path: SQLite has room for 512, with what it puts behind it
ERRORS = ".errors.jsonl"  # behind an output's name


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


def check_output(path: str | os.PathLike[str], given: str | None = None, *, dry_run: bool = False) -> Path:
    """Find out before the work starts that `path` can be written: but in a dry run by making and removing a file there.

    Returns:
        The file that would be written, links resolved.
    Raises:
        ConfigError: see `parse_format`; a folder, a missing folder, no permission, too long a path.
    """
    parse_format(path, given)
    target = resolve(path)
    if (more := len(os.fsencode(state_folder(target) / STATE)) - _LONGEST) > 0:
        raise ConfigError(
            f"{path}: {more} bytes too long for the database beside it; choose a folder with a shorter path"
        )
    if not dry_run:
        part = part_of(target)
        with guarded(path):
            part.touch(exist_ok=False)
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
    """Where a file grows until it is complete: a new name beside it each time, which no earlier run can have left."""
    return sidecar(target, f".{secrets.token_hex(8)}.part")


def state_folder(target: Path) -> Path:
    """Where the lock of an output lies, and what its runs have finished; see `store`."""
    return sidecar(target, ".journal")


@contextmanager
def locked(target: Path) -> Iterator[Path]:
    """Be the only process that writes an output; the parts that killed ones left are deleted.

    Yields:
        The folder of `state_folder`, which is deleted at the end where it holds nothing but the lock.
    Raises:
        ConfigError: another process is writing it.
        OSError: no lock can be made there.
    """
    import filelock

    folder = state_folder(target)
    if folder.is_file():
        told = "is a file, where a folder for what runs have finished goes; move it away, or choose another -o"
        raise ConfigError(f"{folder}: {told}")
    folder.mkdir(exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(filelock.FileLock(folder / "lock").acquire(timeout=0))
        except filelock.Timeout:
            told = "another run is writing it; wait for it, or choose another -o"
            raise ConfigError(f"{target}: {told}") from None
        try:
            part = re.compile(re.escape(target.name) + r"(\.index\.csv|\.meta\.json|\.errors\.jsonl)?\.[0-9a-f]+\.part")
            for path in target.parent.iterdir():
                if part.fullmatch(path.name):
                    path.unlink()
            yield folder
        finally:
            if set(os.listdir(folder)) <= {"lock"}:
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def guarded(path: str | os.PathLike[str], kept: str = "") -> Iterator[None]:
    """Turn errors of the file system into one that names the output, says what is `kept`, and the remedy."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        remedy = kept or "choose a folder with space and write permission"
        said = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be written ({said}); {remedy}") from error


@contextmanager
def atomic(target: Path, beside: Sequence[Path] = ()) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `target` once it is complete and on disk.

    Files `beside` it describe the old one and are deleted just before, so that none describes the new one wrongly.
    """
    part = part_of(target)
    try:
        with open(part, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        for path in beside:
            path.unlink(missing_ok=True)
        os.replace(part, target)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
