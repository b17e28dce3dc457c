"""Embeddings, names and times come in, one npz file goes out, whole or not at all; `extract` calls it.

No pickles: strings are unicode arrays and the settings a JSON string.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from .errors import ConfigError

SUFFIXES = (".npz",)
KEYS = ("embeddings", "paths", "start", "end", "settings")


@dataclass(frozen=True, eq=False)
class EmbeddingTable:
    """What `read_npz` returns: one row a window, or one a file.

    Attributes:
        embeddings: (n, D) float32.
        paths: n names of the files the rows come from.
        start: (n,) float64, seconds.
        end: (n,) float64, seconds.
        settings: what the rows were made with.
    """

    embeddings: npt.NDArray[np.float32]
    paths: tuple[str, ...]
    start: npt.NDArray[np.float64]
    end: npt.NDArray[np.float64]
    settings: dict[str, Any]


def check_output(path: str | os.PathLike[str]) -> Path:
    """Find out before the work starts, by making and removing a file beside it, that `path` can be written.

    Returns:
        The file that `write_npz` would write, links resolved.

    Raises:
        ConfigError: another suffix than .npz, a folder, a missing folder, no permission.
    """
    target = _target(path)
    with _guarded(path):
        part = _part(target)
        open(part, "xb").close()
        part.unlink()
    return target


def write_npz(
    path: str | os.PathLike[str],
    *,
    embeddings: npt.NDArray[np.float32],
    paths: Sequence[str],
    start: npt.ArrayLike,
    end: npt.ArrayLike,
    settings: Mapping[str, Any],
) -> None:
    """Write a table; an older file at `path` stays as it was until the new one is complete.

    Args:
        path: ends in .npz.
        embeddings: (n, D), stored as float32.
        paths: n names.
        start: (n,) seconds, stored as float64.
        end: (n,) seconds, stored as float64.
        settings: anything that JSON can hold.

    Raises:
        ConfigError: see `check_output`; lengths that differ; settings that JSON cannot hold.
    """
    target = _target(path)
    arrays = _arrays(embeddings, paths, start, end, settings)
    with _guarded(path), _atomic(target) as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_npz(path: str | os.PathLike[str]) -> EmbeddingTable:
    """Read the table that `write_npz` wrote.

    Raises:
        ConfigError: missing, not such a file, or a key of it missing.
    """
    try:
        with open(path, "rb") as binary, np.load(binary, allow_pickle=False) as file:
            arrays = {key: file[key] for key in KEYS}
            settings = json.loads(str(arrays["settings"]))
    except (OSError, EOFError, KeyError, TypeError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        remedy = "write one with mtslvr-embed"
        raise ConfigError(f"{path}: not an npz of embeddings ({error}); {remedy}") from error
    return EmbeddingTable(
        embeddings=arrays["embeddings"],
        paths=tuple(arrays["paths"].tolist()),
        start=arrays["start"],
        end=arrays["end"],
        settings=settings,
    )


def _arrays(
    embeddings: npt.ArrayLike,
    paths: Sequence[str],
    start: npt.ArrayLike,
    end: npt.ArrayLike,
    settings: Mapping[str, Any],
) -> dict[str, npt.NDArray[Any]]:
    try:
        text = json.dumps(dict(settings), ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"settings: {error}; use plain strings, numbers, lists and dicts") from None
    arrays: dict[str, npt.NDArray[Any]] = {
        "embeddings": np.asarray(embeddings, np.float32),
        "paths": np.asarray(paths, np.str_),
        "start": np.asarray(start, np.float64),
        "end": np.asarray(end, np.float64),
    }
    shapes = {name: array.shape for name, array in arrays.items()}
    rows = {shape[:1] for shape in shapes.values()}
    if len(rows) > 1 or [len(shape) for shape in shapes.values()] != [2, 1, 1, 1]:
        raise ConfigError(f"{shapes}: must be (n, D), (n,), (n,) and (n,); pass one entry a row")
    return {**arrays, "settings": np.asarray(text)}


def _target(path: str | os.PathLike[str]) -> Path:
    # A link stays a link: what it points to is replaced.
    target = Path(os.path.realpath(path))
    if target.suffix.lower() not in SUFFIXES:
        known = " or ".join(SUFFIXES)
        raise ConfigError(f"{path}: unknown format {target.suffix!r}; end the name in {known}")
    if not os.path.isdir(target.parent):
        raise ConfigError(f"{path}: folder {str(Path(path).parent)!r} does not exist; make it with mkdir -p")
    if target.exists() and not target.is_file():
        raise ConfigError(f"{path}: exists and is not a file; choose another name")
    return target


def _part(target: Path) -> Path:
    return target.with_name(f"{target.name}.{os.getpid()}.part")


@contextmanager
def _guarded(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = "choose a folder with space and write permission"
        raise ConfigError(f"{path}: cannot be written ({error.strerror or error}); {remedy}") from error


@contextmanager
def _atomic(target: Path) -> Iterator[BinaryIO]:
    part = _part(target)
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
