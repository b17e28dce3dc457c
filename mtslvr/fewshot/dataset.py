"""A folder of labelled audio to paths and labels; next modules: `features`, `command`."""

from __future__ import annotations

import csv
import filecmp
import hashlib
import os
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..audio.load import AUDIO_SUFFIXES, find_audio
from ..audio.windows import window_length
from ..config import FrontendConfig
from ..errors import ConfigError
from .episodes import IntArray

FILE_COLUMNS = ("file", "path", "filename", "file_name", "fname", "name")
LABEL_COLUMNS = ("label", "class", "category", "class_name", "target", "species")
_PROBE_BYTES = 1 << 16


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """Files and the class of each.

    Attributes:
        name: for tables.
        paths: n files.
        labels: (n,) class names.
        window_seconds: length of a window; None is the encoder's own.
        pieces: treat variable lengths as published: a support is one random window of its file, and a query takes the
            majority over its windows. Otherwise a file is the mean over its windows.
        note: what a reader of the results should know of it.
    """

    name: str
    paths: list[Path]
    labels: npt.NDArray[np.str_]
    window_seconds: float | None = None
    pieces: bool = False
    note: str = ""

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
    """Read a folder of labelled audio; a file that is there twice counts once.

    Args:
        folder: one folder a class; any layout with `label_field` or `table`.
        label_field: take the class from this field of the file names, see `labels_from_names`.
        table: take files and classes from a csv or tsv, see `labels_from_table`.
        name: for tables; by default that of the folder.
        window_seconds: length of the windows that files are cut into; None is the encoder's own.

    Raises:
        ConfigError: see the functions named; both `label_field` and `table`; a file that is there under two classes;
            a length of windows out of range.
    """
    if window_seconds is not None:
        window_length(window_seconds, FrontendConfig().sample_rate)  # raises
    if label_field is not None and table is not None:
        raise ConfigError(f"label_field={label_field} and a table of labels, {table}: use one of them")
    if table is not None:
        paths, labels, names = labels_from_table(folder, table)
    elif label_field is not None:
        paths = audio_files(folder)
        labels, names = labels_from_names(paths, label_field)
    else:
        paths, labels, names = labelled_files(folder)
    note = "" if window_seconds is None else f"windows of {window_seconds:g} s"
    title = name or Path(os.path.abspath(folder)).name
    return without_duplicates(LabelledSet(title, paths, np.array(names)[labels], window_seconds, note=note))


def without_duplicates(labelled: LabelledSet) -> LabelledSet:
    """Drop files with the bytes of an earlier one: a copy among the queries would be recognised for free.

    Raises:
        ConfigError: the two have different classes.
    """
    keep = np.ones(len(labelled.paths), dtype=bool)
    pairs = duplicate_files(labelled.paths)
    for first, second in pairs:
        one, other = labelled.labels[first], labelled.labels[second]
        if one != other:
            raise ConfigError(
                f"{labelled.paths[first]} ({one}) and {labelled.paths[second]} ({other}): the same audio in two "
                "classes; remove one of them"
            )
        keep[second] = False
    if pairs:
        first, second = pairs[0]
        warnings.warn(
            f"dropped {len(pairs)} files that are copies of others, the first {labelled.paths[second]} "
            f"(of {labelled.paths[first]})",
            stacklevel=3,
        )
    return labelled.keep(keep)


def duplicate_files(paths: Sequence[Path]) -> list[tuple[int, int]]:
    """Find files with the same bytes, as pairs of places: the first of its kind and a copy."""
    alike: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    pairs = []
    for place, path in enumerate(paths):
        probe = _probe(path)
        if probe is None:
            continue
        originals = alike[probe]
        match = next((i for i in originals if filecmp.cmp(paths[i], path, shallow=False)), None)
        if match is None:
            originals.append(place)
        else:
            pairs.append((match, place))
    return pairs


def _probe(path: Path) -> tuple[int, bytes] | None:
    """Size and the hash of a part from the middle, where files of one kind differ."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            file.seek(max(0, size // 2 - _PROBE_BYTES // 2))
            return size, hashlib.blake2b(file.read(_PROBE_BYTES), digest_size=16).digest()
    except OSError:  # it will be reported when it is read
        return None


def labelled_files(folder: str | os.PathLike[str]) -> tuple[list[Path], IntArray, list[str]]:
    """List the audio of a folder that holds one folder a class, sorted by class, then path.

    A class folder is searched at any depth. Hidden files and folders are skipped; a class folder without
    audio is dropped with a warning.

    Returns:
        n paths; (n,) labels, each an index into the last: the class names, ascending.

    Raises:
        ConfigError: not a folder, audio beside the class folders, or no class folder with audio.
    """
    root = _checked_folder(folder)
    entries = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    for entry in entries:
        if entry.is_file() and entry.suffix.lower() in AUDIO_SUFFIXES:
            raise ConfigError(
                f"{entry}: audio without a class; move it into a folder named after its class, or take the "
                "labels from the file names with label_field"
            )
    paths: list[Path] = []
    labels: list[int] = []
    names: list[str] = []
    for entry in entries:
        if not entry.is_dir():
            continue
        files = audio_files(entry)
        if not files:
            warnings.warn(f"{entry}: no audio files, class dropped", stacklevel=2)
            continue
        paths.extend(files)
        labels.extend([len(names)] * len(files))
        names.append(entry.name)
    if not names:
        raise ConfigError(f"{root}: no class folder with audio; expected FOLDER/CLASS/FILE.wav")
    return paths, np.array(labels, dtype=np.int64), names


def labels_from_names(paths: Sequence[Path], field: int, sep: str = "_") -> tuple[IntArray, list[str]]:
    """Take labels from one field of the file names, for sets named like digit_speaker_take.wav.

    Args:
        paths: n files.
        field: which part of the name without suffix, from 0; -1 is the last.
        sep: what parts the fields.

    Returns:
        (n,) labels, each an index into the last: the class names, ascending.

    Raises:
        ConfigError: no files, an empty separator, or a name without that field.
    """
    if not paths:
        raise ConfigError("no audio files to take labels from; name a folder that holds some")
    if not sep:
        raise ConfigError("sep='': must not be empty")
    values = []
    for path in paths:
        parts = Path(path).stem.split(sep)
        if not -len(parts) <= field < len(parts) or not parts[field]:
            raise ConfigError(
                f"{path}: no field {field} in {parts}, parted by {sep!r}; choose another field, from 0, "
                "or leave the file out"
            )
        values.append(parts[field])
    names, labels = np.unique(values, return_inverse=True)
    return labels.astype(np.int64), [str(name) for name in names]


def labels_from_table(
    folder: str | os.PathLike[str], table: str | os.PathLike[str]
) -> tuple[list[Path], IntArray, list[str]]:
    """Take files and classes from a table with a header.

    Args:
        folder: what the files are relative to.
        table: comma-separated, or tab-separated where the name ends in .tsv; a column of `FILE_COLUMNS` and one of
            `LABEL_COLUMNS`, others are ignored.

    Returns:
        n paths; (n,) labels, each an index into the last: the class names, ascending.

    Raises:
        ConfigError: no such table or columns, a row without a class, a file that does not exist, or one that has two
            classes. Audio of the folder that the table does not name is left out with a warning, and so is a row that
            is there twice.
    """
    root, source = _checked_folder(folder), Path(table)
    classes: dict[Path, str] = {}
    repeated = 0
    for place, name, label in _table_rows(source):
        path = root / name
        if not label:
            raise ConfigError(f"{place}: {name} has no class; fill it in or remove the row")
        if not path.is_file():
            raise ConfigError(f"{place}: {path}: no such file; names are relative to {root}")
        if classes.setdefault(path, label) != label:
            raise ConfigError(f"{place}: {name} is {classes[path]!r} before and {label!r} here; remove one row")
        repeated += 1
    repeated -= len(classes)
    if not classes:
        raise ConfigError(f"{source}: no rows; expected a file and its class in each")
    if repeated:
        warnings.warn(f"{source}: {repeated} rows are there twice, each file counts once", stacklevel=3)
    named = {os.path.abspath(path) for path in classes}
    unnamed = [path for path in audio_files(root) if os.path.abspath(path) not in named]
    if unnamed:
        warnings.warn(
            f"{source}: {len(unnamed)} audio files of {root} are not in it and left out, the first {unnamed[0]}",
            stacklevel=3,
        )
    paths = sorted(classes, key=lambda path: (classes[path], path.as_posix()))
    names, labels = np.unique([classes[path] for path in paths], return_inverse=True)
    return paths, labels.astype(np.int64), [str(name) for name in names]


def _table_rows(source: Path) -> list[tuple[str, str, str]]:
    """Where it stands, file and class of each row."""
    try:
        with open(source, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t" if source.suffix.lower() == ".tsv" else ","))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{source}: not a table of labels ({error}); give a csv with file and label") from None
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    file_at = next((header.index(name) for name in FILE_COLUMNS if name in header), None)
    label_at = next((header.index(name) for name in LABEL_COLUMNS if name in header), None)
    if file_at is None or label_at is None:
        raise ConfigError(
            f"{source}: columns {header}; expected one of {', '.join(FILE_COLUMNS)} and one of "
            f"{', '.join(LABEL_COLUMNS)}"
        )
    found = []
    for number, row in enumerate(rows[1:], 2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) <= max(file_at, label_at):
            raise ConfigError(f"{source}, line {number}: {len(row)} cells, the header has {len(header)}; fill them in")
        found.append((f"{source}, line {number}", row[file_at].strip(), row[label_at].strip()))
    return found


def audio_files(folder: str | os.PathLike[str]) -> list[Path]:
    """List the audio files of a folder at any depth, sorted; hidden files and folders are skipped.

    Raises:
        ConfigError: not a folder.
    """
    return [found.path for found in find_audio(_checked_folder(folder))]


def _checked_folder(folder: str | os.PathLike[str]) -> Path:
    root = Path(folder)
    if not root.is_dir():
        what = "not a folder" if root.exists() else "no such folder"
        raise ConfigError(f"{root}: {what}; give one that holds a folder a class")
    return root
