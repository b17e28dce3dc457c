"""A folder of labelled audio to paths and labels; next modules: `features`, `command`."""

from __future__ import annotations

import hashlib
import itertools
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..audio.find import find_audio
from ..audio.windows import window_length
from ..classify.labels import by_name, read_labels
from ..config import FrontendConfig
from ..errors import ConfigError


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """Files and the class of each.

    With `pieces`, variable lengths are treated as published: a support is one random window of its file, and a query
    takes the majority over its windows. Otherwise a file is the mean over its windows.
    """

    name: str  # for tables
    paths: list[Path]
    labels: npt.NDArray[np.str_]  # (n,) class names
    window_seconds: float | None = None  # None is the encoder's own
    pieces: bool = False
    note: str = ""  # what a reader of the results should know of it

    def facts(self) -> dict[str, Any]:
        """What results tell of it."""
        kept = {"pieces": self.pieces, "window_seconds": self.window_seconds, "note": self.note}
        return {"classes": len(np.unique(self.labels)), "clips": len(self.paths), **kept}

    def keep(self, mask: Sequence[bool]) -> LabelledSet:
        """Give the set without the files where `mask` is false."""
        return replace(self, paths=list(itertools.compress(self.paths, mask)), labels=self.labels[np.array(mask)])


def read_set(
    folder: str | os.PathLike[str],
    *,
    label_field: int | None = None,
    table: str | os.PathLike[str] | None = None,
    name: str | None = None,
    window_seconds: float | None = None,
) -> LabelledSet:
    """Read a folder of labelled audio, sorted by class, then path; a file that is there twice counts once.

    Args:
        folder: one folder a class, searched at any depth, hidden files and folders skipped; any layout with
            `label_field` or `table`.
        label_field: take the class from this field of the file names without suffix, parted by "_": 0 is the first, -1
            the last.
        table: csv or tsv with a header, whose columns file and label are known by other usual names, too; files are
            relative to it or in the folder.
        name: for tables; by default that of the folder.
        window_seconds: length of the windows that files are cut into; None is the encoder's own.
    Raises:
        ConfigError: no audio, a file without a class or of two, a bad table, arguments that do not go together. Of
            files that a table leaves out and copies there is a warning.
    """
    if window_seconds is not None:
        window_length(window_seconds, FrontendConfig().sample_rate)  # raises
    if label_field is not None and table is not None:
        raise ConfigError(f"label_field={label_field} and a table of labels, {table}: use one of them")
    root = Path(folder)
    if not root.is_dir():
        what = "not a folder" if root.exists() else "no such folder"
        raise ConfigError(f"{root}: {what}; give one that holds a folder a class")
    if table is not None:
        classes = _by_table(root, Path(table))
    elif label_field is not None:
        classes = _by_name(root, label_field)
    else:
        classes = _by_folder(root)
    if not classes:
        raise ConfigError(f"{root}: no class folder with audio; expected FOLDER/CLASS/FILE.wav")
    paths = sorted(classes, key=lambda path: (classes[path], path.as_posix()))
    note = "" if window_seconds is None else f"windows of {window_seconds:g} s"
    labels = np.array([classes[path] for path in paths])
    title = name or Path(os.path.abspath(folder)).name
    return _without_copies(LabelledSet(title, paths, labels, window_seconds, note=note))


def _by_folder(root: Path) -> dict[Path, str]:
    classes: dict[Path, str] = {}
    for path, _ in find_audio(root):
        first, *below = path.relative_to(root).parts
        if not below:
            raise ConfigError(
                f"{path}: audio without a class; move it into a folder named after its class, or take the labels from "
                "the file names with label_field"
            )
        classes[path] = first
    return classes


def _by_name(root: Path, field: int) -> dict[Path, str]:
    classes: dict[Path, str] = {}
    for path, _ in find_audio(root):
        parts = path.stem.split("_")
        if not -len(parts) <= field < len(parts) or not parts[field]:
            raise ConfigError(
                f"{path}: no field {field} in {parts}, parted by '_'; choose another field, from 0, or leave it out"
            )
        classes[path] = parts[field]
    return classes


def _by_table(root: Path, table: Path) -> dict[Path, str]:
    found = {os.path.abspath(path): path for path, _ in find_audio(root)}
    classes: dict[Path, str] = {}
    for label in read_labels(table, by_name(found)):
        if label.start is not None or label.end is not None:
            raise ConfigError(f"{table}: {label.file} has times; whole files are compared: cut the parts out of it")
        path = found.pop(os.path.abspath(label.file), Path(label.file))
        if not path.is_file():
            raise ConfigError(f"{table}: {path}: no such file; names are relative to the table or in {root}")
        if classes.setdefault(path, label.label) != label.label:
            raise ConfigError(f"{table}: {path} is {classes[path]!r} and {label.label!r}; remove one row")
    if found:
        told = f"{len(found)} audio files of {root} are not in it and left out, the first {min(found)}"
        warnings.warn(f"{table}: {told}", stacklevel=4)
    return classes


def _without_copies(labelled: LabelledSet) -> LabelledSet:
    """Drop files with the bytes of an earlier one: a copy among the queries would be recognised for free."""
    sizes = [path.stat().st_size for path in labelled.paths]
    of_size = Counter(sizes)
    seen: dict[bytes, int] = {}
    copies: dict[int, int] = {}
    for i, path in enumerate(labelled.paths):
        if of_size[sizes[i]] > 1 and os.access(path, os.R_OK):
            first = seen.setdefault(hashlib.blake2b(path.read_bytes()).digest(), i)
            one, other = labelled.labels[first], labelled.labels[i]
            if one != other:
                told = f"{labelled.paths[first]} ({one}) and {path} ({other})"
                raise ConfigError(f"{told}: the same audio in two classes; remove one of them")
            if first != i:
                copies[i] = first
    if copies:
        i, first = next(iter(copies.items()))
        told = f"the first {labelled.paths[i]} (of {labelled.paths[first]})"
        warnings.warn(f"dropped {len(copies)} files that are copies of others, {told}", stacklevel=3)
    return labelled.keep([i not in copies for i in range(len(labelled.paths))])
