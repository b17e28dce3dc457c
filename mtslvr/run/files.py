"""Where an output goes and in which format, and files that are written whole or not at all; next: `export`."""

from __future__ import annotations

import enum
import errno
import importlib.util
import os
import re
import secrets
import shutil
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import ConfigError

STDOUT = "-"
STATE = "state.sqlite"  # in an output's folder of `state_folder`
INDEX, META, ERRORS = ".index.csv", ".meta.json", ".errors.jsonl"  # behind an output's name
_PART = re.compile(r"(.+)\.[0-9a-f]+\.part", re.DOTALL)  # see `atomic`


class Format(str, enum.Enum):
    """What an output is; the suffix of its name unless told otherwise."""

    NPZ = "npz"
    NPY = "npy"
    PARQUET = "parquet"
    CSV = "csv"
    JSONL = "jsonl"


def parse_format(path: str | os.PathLike[str], given: str | None = None) -> Format:
    """The format of an output by the suffix of its name, or as given; a ConfigError where it cannot be written."""
    stdout = os.fspath(path) == STDOUT
    name = given or (Format.JSONL.value if stdout else Path(path).suffix.lower().removeprefix("."))
    known = [member.value for member in Format]
    if name not in known:
        raise wrong_suffix(path, [f".{value}" for value in known], ", or give --format")
    chosen = Format(name)
    if stdout and chosen not in (Format.CSV, Format.JSONL):
        raise ConfigError(f"stdout cannot take {chosen.value}; use --format csv or jsonl, or a file")
    if chosen is Format.PARQUET and importlib.util.find_spec("pyarrow") is None:
        raise ConfigError(f"{path}: parquet needs pyarrow; pip install 'mtslvr[parquet]'")
    return chosen


def wrong_suffix(path: str | os.PathLike[str], suffixes: Sequence[str], else_: str = "") -> ConfigError:
    """The error for a name that does not say what to write."""
    suffix = Path(path).suffix
    fault = f"unknown format {suffix!r}" if suffix else "the name of a file is expected, with a suffix"
    return ConfigError(f"{os.fspath(path)}: {fault}; end the name in one of {', '.join(suffixes)}{else_}")


def resolve(path: str | os.PathLike[str], *, writable: bool = False) -> Path:
    """The file behind `path`: a link stays a link, and what it points to is replaced."""
    target = Path(os.path.realpath(path))
    try:
        os.lstat(_part(sidecar(target, ERRORS)) if writable else target)  # the longest name of those beside it
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            said = "the name is too long, or those of the files beside it would be"
            raise ConfigError(f"{path}: {said}; choose a shorter one") from None
    if not os.path.isdir(target.parent):
        raise ConfigError(f"{path}: folder {str(Path(path).parent)!r} does not exist; make it with mkdir -p")
    if target.exists() and not target.is_file():
        raise ConfigError(f"{path}: exists and is not a file; choose another name")
    if writable and not all(os.access(x, os.W_OK) for x in (target.parent, target) if x.exists()):
        raise ConfigError(f"{path}: cannot be written (Permission denied); choose a place with write permission")
    return target


def sidecar(target: Path, suffix: str) -> Path:
    """The file beside an output that belongs to it: its name with a suffix more."""
    return target.with_name(target.name + suffix)


def _part(target: Path) -> Path:
    """Where a file is written until it is whole; a new name each time, which no killed run has left."""
    return sidecar(target, f".{secrets.token_hex(8)}.part")


def state_folder(target: Path) -> Path:
    """Where the lock of an output lies, and what its runs have finished; see `state`."""
    return sidecar(target, ".journal")


@contextmanager
def locked(target: Path) -> Iterator[Path]:
    """Be the only process that writes an output; the parts that killed ones left are deleted.

    Gives the folder of `state_folder`, which is deleted at the end where it holds nothing but the lock.
    """
    import filelock

    folder = state_folder(target)
    folder.mkdir(exist_ok=True)
    lock = filelock.FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise ConfigError(f"{target}: another run is writing it; wait for it, or choose another -o") from None
    try:
        remove_parts([target, *(sidecar(target, suffix) for suffix in (INDEX, META, ERRORS))])
        yield folder
    finally:
        if set(os.listdir(folder)) <= {"lock"}:
            shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def remove_parts(targets: Collection[Path]) -> None:
    """Delete what killed runs have left of files that no other process is writing now."""
    for folder in {target.parent for target in targets if target.parent.is_dir()}:
        for path in folder.iterdir():
            if (part := _PART.fullmatch(path.name)) and folder / part[1] in targets:
                path.unlink()


@contextmanager
def guarded(path: str | os.PathLike[str], kept: str = "") -> Iterator[None]:
    """Turn errors of the file system into one that names the output, says what is `kept`, and the remedy."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        remedy = kept or "choose a folder with space and write permission"
        said = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be written ({said}); {remedy}") from error


def write_file(path: str | os.PathLike[str], data: bytes, *, parents: bool = False) -> None:
    """Write a file whole or not at all; with `parents` its folder is made."""
    with guarded(path):
        if parents:
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        with atomic(resolve(path)) as file:
            file.write(data)


@contextmanager
def atomic(target: Path, beside: Sequence[Path] = ()) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `target` once it is complete and on disk.

    Files `beside` it describe the old one and are deleted just before, so that none describes the new one wrongly.
    """
    part = _part(target)
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
