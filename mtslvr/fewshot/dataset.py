"""A folder of labelled audio to paths and labels; next modules: `features`, `command`."""

from __future__ import annotations

import csv
import filecmp
import hashlib
import os
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..audio.load import AUDIO_SUFFIXES, find_audio
from ..audio.windows import window_length
from ..config import FrontendConfig
from ..errors import ConfigError

FILE_COLUMNS = ("file", "path", "filename", "file_name", "fname", "name")
LABEL_COLUMNS = ("label", "class", "category", "class_name", "target", "species")
_PROBE_BYTES = 1 << 16


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

    def keep(self, mask: npt.NDArray[np.bool_]) -> LabelledSet:
        """Give the set without the files where `mask` (n,) is false."""
        paths = [path for path, kept in zip(self.paths, mask, strict=True) if kept]
        return replace(self, paths=paths, labels=self.labels[mask])


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
        table: csv with a header, or tsv, with files relative to the folder in a column of `FILE_COLUMNS`, and classes
            in one of `LABEL_COLUMNS`.
        name: for tables; by default that of the folder.
        window_seconds: length of the windows that files are cut into; None is the encoder's own.

    Raises:
        ConfigError: no audio, a file without a class or of two, a bad table, arguments that do not go together. Of
            empty class folders, files that a table leaves out and copies there is a warning.
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
    paths = sorted(classes, key=lambda path: (classes[path], path.as_posix()))
    note = "" if window_seconds is None else f"windows of {window_seconds:g} s"
    labels = np.array([classes[path] for path in paths])
    title = name or Path(os.path.abspath(folder)).name
    return _without_copies(LabelledSet(title, paths, labels, window_seconds, note=note))


def _by_folder(root: Path) -> dict[Path, str]:
    classes: dict[Path, str] = {}
    for entry in sorted(entry for entry in root.iterdir() if not entry.name.startswith(".")):
        if entry.is_file() and entry.suffix.lower() in AUDIO_SUFFIXES:
            raise ConfigError(
                f"{entry}: audio without a class; move it into a folder named after its class, or take the labels from "
                "the file names with label_field"
            )
        if not entry.is_dir():
            continue
        files = [found.path for found in find_audio(entry)]
        if not files:
            warnings.warn(f"{entry}: no audio files, class dropped", stacklevel=4)
        classes.update(dict.fromkeys(files, entry.name))
    if not classes:
        raise ConfigError(f"{root}: no class folder with audio; expected FOLDER/CLASS/FILE.wav")
    return classes


def _by_name(root: Path, field: int) -> dict[Path, str]:
    classes: dict[Path, str] = {}
    for path in (found.path for found in find_audio(root)):
        parts = path.stem.split("_")
        if not -len(parts) <= field < len(parts) or not parts[field]:
            raise ConfigError(
                f"{path}: no field {field} in {parts}, parted by '_'; choose another field, from 0, or leave it out"
            )
        classes[path] = parts[field]
    if not classes:
        raise ConfigError(f"{root}: no audio files to take labels from; name a folder that holds some")
    return classes


def _by_table(root: Path, table: Path) -> dict[Path, str]:
    classes: dict[Path, str] = {}
    rows = list(_table_rows(table))
    for place, name, label in rows:
        path = root / name
        if not label:
            raise ConfigError(f"{place}: {name} has no class; fill it in or remove the row")
        if not path.is_file():
            raise ConfigError(f"{place}: {path}: no such file; names are relative to {root}")
        if classes.setdefault(path, label) != label:
            raise ConfigError(f"{place}: {name} is {classes[path]!r} before and {label!r} here; remove one row")
    if not classes:
        raise ConfigError(f"{table}: no rows; expected a file and its class in each")
    if len(rows) > len(classes):
        twice = len(rows) - len(classes)
        warnings.warn(f"{table}: {twice} rows are there twice, each file counts once", stacklevel=4)
    named = {os.path.abspath(path) for path in classes}
    unnamed = [found.path for found in find_audio(root) if os.path.abspath(found.path) not in named]
    if unnamed:
        told = f"{table}: {len(unnamed)} audio files of {root} are not in it and left out, the first {unnamed[0]}"
        warnings.warn(told, stacklevel=4)
    return classes


def _table_rows(table: Path) -> Iterator[tuple[str, str, str]]:
    """Where it stands, file and class of each row."""
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            header, *rows = list(csv.reader(file, delimiter="\t" if table.suffix.lower() == ".tsv" else ",")) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{table}: not a table of labels ({error}); give a csv with file and label") from None
    columns = [cell.strip().lower() for cell in header]
    usual = FILE_COLUMNS, LABEL_COLUMNS
    found = [next((name for name in names if name in columns), None) for names in usual]
    if None in found:
        expected = " and ".join(f"one of {', '.join(names)}" for names in usual)
        raise ConfigError(f"{table}: columns {columns}; expected {expected}")
    file_at, label_at = (columns.index(str(name)) for name in found)
    for number, row in enumerate(rows, 2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) <= max(file_at, label_at):
            raise ConfigError(f"{table}, line {number}: {len(row)} cells, the header has {len(header)}; fill them in")
        yield f"{table}, line {number}", row[file_at].strip(), row[label_at].strip()


def _without_copies(labelled: LabelledSet) -> LabelledSet:
    """Drop files with the bytes of an earlier one: a copy among the queries would be recognised for free."""
    alike: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    keep = np.ones(len(labelled.paths), dtype=bool)
    told = ""
    for place, path in enumerate(labelled.paths):
        try:
            places = alike[_probe(path)]
        except OSError:  # it will be reported when it is read
            continue
        first = next((i for i in places if filecmp.cmp(labelled.paths[i], path, shallow=False)), None)
        if first is None:
            places.append(place)
            continue
        one, other = labelled.labels[first], labelled.labels[place]
        if one != other:
            raise ConfigError(
                f"{labelled.paths[first]} ({one}) and {path} ({other}): the same audio in two classes; remove one of "
                "them"
            )
        keep[place] = False
        told = told or f"the first {path} (of {labelled.paths[first]})"
    if told:
        warnings.warn(f"dropped {(~keep).sum()} files that are copies of others, {told}", stacklevel=3)
    return labelled.keep(keep)


def _probe(path: Path) -> tuple[int, bytes]:
    """Size and the hash of a part from the middle, where files of one kind differ."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, size // 2 - _PROBE_BYTES // 2))
        return size, hashlib.blake2b(file.read(_PROBE_BYTES), digest_size=16).digest()
