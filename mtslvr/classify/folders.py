"""Where examples are: a folder with a folder a class, or tables of labels; next: `examples`."""

from __future__ import annotations

import os
import statistics
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..audio.find import AUDIO_SUFFIXES, search
from ..audio.recordings import header
from ..errors import ConfigError, MTSLVRError
from .labels import Label, by_name, is_track_or_selections, read_labels

_TABLES = (".csv", ".tsv", ".txt")
_LIKE_RECORDINGS = 60  # seconds of examples, from which they may be recordings
_EXPECTED = (
    "examples are a folder with a folder a class, as calls/owl/1.wav, calls/fox/1.wav and calls/background/1.wav, or a "
    "table of labels; they come first, then the recordings"
)


def find_examples(examples: str | os.PathLike[str], recordings: Iterable[str] = ()) -> list[Label]:
    """List the examples of a folder with a folder a class, of a table that `read_labels` reads, or of a folder of such.

    Beside folders of audio, what is no such table is passed over with a warning. Tables may name `recordings`, given as
    paths, without their folder.
    """
    path, elsewhere = Path(examples), by_name(recordings)
    if path.suffix.lower() in AUDIO_SUFFIXES and not path.is_dir():
        raise ConfigError(f"{path}: is one sound, and {_EXPECTED}")
    if not path.is_dir():
        return read_labels(path, elsewhere)
    children = sorted(child for child in path.iterdir() if not child.name.startswith("."))
    found, tables, marked, told = _in_folders(child for child in children if child.is_dir())
    in_folders, whole = bool(found), set(found)
    tables += [file for file in (children if found or tables else sorted(path.rglob("*"))) if _is_table(file)]
    faults: list[MTSLVRError] = []
    for table in tables:
        try:
            found += read_labels(table, elsewhere, empty=True)
        except ConfigError as error:
            faults.append(error)
    if not in_folders:
        raise_all(faults)
    told += map(str, faults)
    labelled = {label.file for label in found if label not in whole}
    recordings_in = {Path(file).parent for file in labelled}
    for folder in sorted({Path(label.file).parent for label in whole} & recordings_in):
        told.append(f"{folder}: has recordings that a table names, so it is not the folder of a class")
        found = [label for label in found if label not in whole or Path(label.file).parent != folder]
    left = [file for file in marked if file not in labelled]
    labelled |= {label.file for label in found}
    beside = [str(x) for x in children if x.suffix.lower() in AUDIO_SUFFIXES and str(x) not in labelled]
    for where, files in (("folders with tables but in no table", left), ("no class's folder", beside)):
        if files:
            told.append(f"audio in {where}, {files[0]}" + (f" and {len(files) - 1} more" if files[1:] else ""))
    if not found:
        raise ConfigError(f"{path}: no examples ({'; '.join(told) or 'an empty folder'}): {_EXPECTED}")
    if in_folders:
        for line in told:
            warnings.warn(f"passed over: {line}", stacklevel=2)
    return found


def raise_all(faults: Sequence[MTSLVRError]) -> None:
    """Raise what is wrong with examples, several faults together with a line each."""
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise ConfigError("\n".join([f"{len(faults)} faults of examples:", *map(str, faults)]))


def _in_folders(folders: Iterable[Path]) -> tuple[list[Label], list[Path], list[str], list[str]]:
    """Examples that are whole files, the class being their folder; tables, audio beside them; and what is neither."""
    found, tables, marked, told = [], [], [], []
    for folder in folders:
        inside = search(folder)
        beside = [file for file in sorted(folder.rglob("*")) if _is_table(file) and is_track_or_selections(file)]
        tables += beside
        if beside:
            marked += [str(file.path) for file in inside.files]
        else:
            found += [Label(str(file.path), None, None, folder.name) for file in inside.files]
            if inside.left_out or not inside.files:
                told.append(f"{folder}: {inside.left_out_text or 'no audio in it'}")
    return found, tables, marked, told


def _is_table(file: Path) -> bool:
    return file.suffix.lower() in _TABLES


def check_order(examples: Sequence[Label], recordings: Sequence[str]) -> None:
    """Refuse what looks like recordings in place of examples, and the other way round, before they are read."""
    theirs, ours = _median_seconds([x.file for x in examples if x.start is x.end is None]), _median_seconds(recordings)
    if theirs > _LIKE_RECORDINGS and 0 < ours < theirs / 4:
        told = f"examples of {theirs:.0f} s and recordings of {ours:.0f} s (median)"
        raise ConfigError(f"{told}: {_EXPECTED}; cut long examples, or mark their parts in a table")


def _median_seconds(files: Sequence[str]) -> float:
    """By their heads, over twenty of the files; 0 where these do not tell."""
    found = [seconds for file in files[:: len(files) // 20 + 1] if (seconds := header(file)[0])]
    return statistics.median(found) if found else 0.0
