"""Where examples are: a folder with a folder a class, or tables of labels; next: `examples`."""

from __future__ import annotations

import os
import statistics
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..audio.find import AUDIO_SUFFIXES, FoundAudio, search
from ..audio.recordings import header
from ..errors import ConfigError, MTSLVRError
from .labels import Label, by_name, is_track_or_selections, read_labels

_TABLES = (".csv", ".tsv", ".txt")
_LIKE_RECORDINGS = 60  # seconds of examples, from which they may be recordings
_EXPECTED = (
    "examples are a folder with a folder a class, as calls/owl/1.wav, calls/fox/1.wav and calls/background/1.wav, or a "
    "table of labels; they come first, then the recordings"
)


def find_examples(examples: str | os.PathLike[str], recordings: Iterable[FoundAudio] = ()) -> list[Label]:
    """List the examples of a folder with a folder a class, of a table that `read_labels` reads, or of a folder of such.

    A folder with recordings that a table labels is no class. Beside folders of classes, what is neither is passed over
    with a warning. Tables may name `recordings` without their folder.
    """
    path, elsewhere = Path(examples), by_name(recordings)
    if path.suffix.lower() in AUDIO_SUFFIXES and not path.is_dir():
        raise ConfigError(f"{path}: is one sound, and {_EXPECTED}")
    children = sorted(x for x in path.iterdir() if not x.name.startswith(".")) if path.is_dir() else []
    folders = [child for child in children if child.is_dir()]
    tables = [child for child in children if _is_table(child)] if path.is_dir() else [path]
    for folder in folders:
        tables += [file for file in sorted(folder.rglob("*")) if _is_table(file) and is_track_or_selections(file)]
    found: list[Label] = []
    faults: list[MTSLVRError] = []
    for table in tables:
        try:
            found += read_labels(table, elsewhere)
        except ConfigError as error:
            faults.append(error)
    labelled = {label.file for label in found}
    whole: list[Label] = []
    left = [str(x) for x in children if x.suffix.lower() in AUDIO_SUFFIXES]
    told = []
    for folder in folders:
        inside = search(folder)
        files = [str(file.path) for file in inside.files]
        if labelled.intersection(files) or any(folder in table.parents for table in tables):
            left += files
        else:
            whole += [Label(file, None, None, folder.name) for file in files]
            if inside.left_out or not files:
                told.append(f"{folder}: {inside.left_out_text or 'no audio in it'}")
    if not whole:
        raise_all(faults)
    if left := [file for file in left if file not in labelled]:
        others = f" and {len(left) - 1} more" if left[1:] else ""
        told.append(f"audio in no class's folder and no table, {left[0]}{others}")
    if not found and not whole:
        raise ConfigError(f"{path}: no examples ({'; '.join(told) or 'nothing in it'}): {_EXPECTED}")
    if whole:
        for line in [*map(str, faults), *told]:
            warnings.warn(f"passed over: {line}", stacklevel=2)
    return whole + found


def raise_all(faults: Sequence[MTSLVRError]) -> None:
    """Raise what is wrong with examples; of several faults each is told in a warning."""
    if len(faults) == 1:
        raise faults[0]
    for fault in faults:
        warnings.warn(str(fault), stacklevel=2)
    if faults:
        raise ConfigError(f"{len(faults)} faults of examples, told above; nothing is labelled")


def _is_table(file: Path) -> bool:
    return file.suffix.lower() in _TABLES and file.is_file()


def check_order(examples: Sequence[Label], recordings: Iterable[FoundAudio]) -> None:
    """Refuse what looks like recordings in place of examples, and the other way round, before they are read."""
    theirs = _median_seconds([x.file for x in examples if x.start is x.end is None])
    ours = _median_seconds([str(x.path) for x in recordings])
    if theirs > _LIKE_RECORDINGS and 0 < ours < theirs / 4:
        told = f"examples of {theirs:.0f} s and recordings of {ours:.0f} s (median)"
        raise ConfigError(f"{told}: {_EXPECTED}; cut long examples, or mark their parts in a table")


def _median_seconds(files: Sequence[str]) -> float:
    """By their heads, over twenty of the files; 0 where these do not tell."""
    found = [seconds for file in files[:: len(files) // 20 + 1] if (seconds := header(file)[0])]
    return statistics.median(found) if found else 0.0
