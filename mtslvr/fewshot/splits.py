"""Which classes belong to which split: published lists and split files; next module: `datasets`."""

from __future__ import annotations

import csv
import json
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError

SPLITS = ("train", "val", "test", "all")
Split = Mapping[str, Sequence[str]]

# MetaAudio's split of ESC-50 (Heggan et al. 2022); the other 35 classes are for training.
ESC50: Split = {
    "test": (
        "vacuum_cleaner", "sneezing", "thunderstorm", "crow", "glass_breaking", "church_bells", "cow", "dog",
        "airplane", "engine",
    ),
    "val": ("crackling_fire", "clock_alarm", "coughing", "hen", "breathing"),
}  # fmt: skip

# What a pickled array of class names may call; anything else could run code.
_MODULES = re.compile(r"numpy(\.(core|_core)\.(multiarray|numeric))?")
_NAMES = ("ndarray", "dtype", "_reconstruct", "scalar", "_frombuffer")


def read_split(path: Path) -> dict[str, list[str]]:
    """Read a split file to class names by split; by "" from a .txt, which has those of the split asked for, one a line.

    A .npy is as MetaAudio publishes it (three lists of class names: train, val, test), a .json is {"train": [...],
    "val": [...], "test": [...]}, a .csv has the columns class and split. Anything else is a ConfigError.
    """
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".json", ".csv", ".txt"):
        raise ConfigError(f"{path}: unknown split file; use .npy, .json, .csv, .txt")
    found: dict[str, list[str]] = {}
    try:
        text = "" if suffix == ".npy" else path.read_text(encoding="utf-8-sig")
        if suffix == ".npy":
            found = dict(zip(SPLITS, _read_npy(path), strict=False))
        elif suffix == ".json":
            found = {name: classes for name, classes in json.loads(text).items() if name in SPLITS}
        elif suffix == ".txt":
            found = {"": [line.strip() for line in text.splitlines() if line.strip()]}
        else:
            for row in csv.DictReader(text.splitlines()):
                found.setdefault(row["split"].strip(), []).append(row["class"].strip())
        return {name: [str(c) for c in classes] for name, classes in found.items()}
    except ConfigError:
        raise
    except Exception as error:  # whatever a damaged file makes the readers raise
        raise ConfigError(f"{path}: not a split file ({type(error).__name__}: {error}); see docs/fewshot.md") from None


def classes_of(split: Split, which: str, available: Sequence[str], source: str) -> list[str]:
    """Match the class names of a split to those of a dataset; case and punctuation do not matter."""
    wanted = split.get(which, split.get(""))
    if wanted is None:
        raise ConfigError(f"{source}: no split {which!r}; it has {', '.join(split)}")
    known = {_plain(name): name for name in available}
    missing = [name for name in wanted if _plain(name) not in known]
    if missing:
        raise ConfigError(
            f"{source}: {len(missing)} of {len(wanted)} classes of split {which!r} are not in the dataset, the first "
            f"{missing[0]!r}; is the dataset complete, and the split its own?"
        )
    return [known[_plain(name)] for name in wanted]


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).casefold()


def _read_npy(path: Path) -> Any:
    with open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        _, _, dtype = header(file)
        return _Names(file).load() if dtype.hasobject else np.load(path, allow_pickle=False)


class _Names(pickle.Unpickler):
    """Loads arrays and lists of text, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = (_MODULES.fullmatch(module) and name in _NAMES) or (module, name) == ("_codecs", "encode")
        if not allowed:
            raise ConfigError(
                f"refused: the split file asks for {module}.{name}, which is no list of names; use a .json split"
            )
        # NumPy 2 has moved the module that older files name.
        known = module.replace("numpy.core", "numpy._core") if hasattr(np, "_core") else module
        return super().find_class(known, name)
