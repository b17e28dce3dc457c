"""A folder of labelled audio to paths and labels; next module: `command`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..audio import AUDIO_SUFFIXES, find_audio
from ..errors import ConfigError
from .episodes import IntArray


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
