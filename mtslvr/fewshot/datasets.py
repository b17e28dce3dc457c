"""The ten datasets of the paper, each read as it was published, to a `LabelledSet`; next module: `command`."""

from __future__ import annotations

import csv
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from ..audio.find import AUDIO_SUFFIXES
from ..errors import ConfigError
from . import splits
from .dataset import LabelledSet

Clips = list[tuple[Path, str]]
_FOLDER = r"/([^/_.][^/]*)/[^/]*$"  # the class is the folder of a file
_LONGEST_SECONDS, _FEWEST = 180, 50  # MetaAudio prunes BirdCLEF so


def _audio(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file())


def _by_path(pattern: str) -> Callable[[Path], Clips]:
    """Read audio whose path in the folder has the pattern; its group is the class."""

    def read(root: Path) -> Clips:
        found = ((path, re.search(pattern, f"/{path.relative_to(root).as_posix()}")) for path in _audio(root))
        return [(path, match[1]) for path, match in found if match]

    return read


def _by_table(file: str, label: str, tables: Mapping[str, str]) -> Callable[[Path], Clips]:
    """Read audio by tables with these columns, each for the folder beside it; rows without audio are skipped."""

    def read(root: Path) -> Clips:
        clips: Clips = []
        for name, folder in tables.items():
            there = sorted([*root.glob(name), *root.glob(f"*/{name}")])  # or in a folder, as archives unpack
            if not there:
                raise ConfigError(f"{root}: no {name} in it; give the folder that the published archive unpacks to")
            found = {path.stem: path for path in _audio(there[0].parents[name.count("/")] / folder)}
            with open(there[0], encoding="utf-8-sig", newline="") as lines:
                rows = list(csv.DictReader(lines))
            if rows and not {file, label} <= set(rows[0]):
                raise ConfigError(
                    f"{there[0]}: no columns {file} and {label} in {[*rows[0]]}; is it the published one?"
                )
            clips += [(found[Path(r[file]).stem], r[label]) for r in rows if Path(r[file]).stem in found]
        return clips

    return read


def _birdclef(root: Path) -> Clips:
    """No recording above 180 s, then no species below 50 recordings."""
    clips = [(path, species) for path, species in _by_path(_FOLDER)(root) if _seconds(path) <= _LONGEST_SECONDS]
    counts = Counter(species for _, species in clips)
    return [(path, species) for path, species in clips if counts[species] >= _FEWEST]


def _seconds(path: Path) -> float:
    try:
        return float(soundfile.info(path).duration)
    except (OSError, RuntimeError) as error:
        warnings.warn(f"{path}: left out, its length cannot be read ({error})", stacklevel=3)
        return float("inf")


@dataclass(frozen=True)
class PublishedDataset:
    """How a dataset of the paper is read; docs/fewshot.md has the layouts."""

    title: str  # as the paper names it
    source: str  # where it is published
    read: Callable[[Path], Clips]  # its folder to (file, class) pairs
    classes: int  # in the paper
    clips: int
    split: splits.Split | None = None  # class lists; None where a split file is needed for the published ones
    all_test: bool = False  # the paper tests on all classes
    window_seconds: float = 5.0  # of a piece
    pieces: bool = True  # lengths vary, see `LabelledSet`


_FSD = "FSDKaggle2018."
_FSD_TABLES = {
    f"{_FSD}meta/train_post_competition.csv": f"{_FSD}audio_train",
    f"{_FSD}meta/test_post_competition_scoring_clips.csv": f"{_FSD}audio_test",
}
DATASETS = {
    "esc50": PublishedDataset(
        "ESC-50", "https://github.com/karolpiczak/ESC-50",
        _by_table("filename", "category", {"meta/esc50.csv": "audio"}), 50, 2_000, splits.ESC50, pieces=False,
    ),
    "nsynth": PublishedDataset(
        "NSynth", "https://magenta.tensorflow.org/datasets/nsynth",
        _by_path("/nsynth-(?:train|valid|test)/audio/([^/-]+)-[^/]*$"), 1_006, 305_978, window_seconds=4, pieces=False,
    ),
    "fsdkaggle18": PublishedDataset(
        "FSDKaggle18", "https://zenodo.org/record/2552860", _by_table("fname", "label", _FSD_TABLES), 41, 11_073
    ),
    "watkins": PublishedDataset(
        "Watkins Marine Mammal Sounds", "https://whoicf2.whoi.edu/science/B/whalesounds", _by_path(_FOLDER),
        32, 1_698, all_test=True,
    ),
    "birdclef2020": PublishedDataset(
        "BirdCLEF 2020, pruned", "https://www.aicrowd.com/challenges/lifeclef-2020-bird-monophone", _birdclef,
        715, 63_364,
    ),
    "voxceleb1": PublishedDataset(
        "VoxCeleb1", "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox1.html", _by_path(r"/(id\d{5})/"),
        1_251, 153_516,
    ),
    "speechcommands": PublishedDataset(
        "Speech Commands v2", "https://download.tensorflow.org/data/speech_commands_v0.02.tar.gz", _by_path(_FOLDER),
        35, 105_829, all_test=True, window_seconds=1, pieces=False,
    ),
    "cremad": PublishedDataset(
        "CREMA-D", "https://github.com/CheyneyComputerScience/CREMA-D",
        _by_path("/AudioWAV/[^/_]+_[^/_]+_(ANG|DIS|FEA|HAP|NEU|SAD)_[^/_]+$"), 6, 7_442, all_test=True,
    ),
    "saa": PublishedDataset(
        "Speech Accent Archive", "https://www.kaggle.com/datasets/rtatman/speech-accent-archive",
        _by_table("filename", "native_language", {"speakers_all.csv": "."}), 122, 2_060, all_test=True,
    ),
    "commonvoice": PublishedDataset(
        "Common Voice v12 delta", "https://commonvoice.mozilla.org/datasets", _by_path("/([^/]+)/clips/[^/]*$"),
        88, 256_243, all_test=True,
    ),
}  # fmt: skip


def prepare(
    name: str, root: str | os.PathLike[str], split: str = "test", split_file: str | os.PathLike[str] | None = None
) -> LabelledSet:
    """Read a dataset of the paper from the folder that its archive unpacks to; nothing is copied or converted.

    Args:
        name: of `DATASETS`.
        root: the folder.
        split: "train", "val", "test" or "all" classes. Datasets that the paper only tests on have all in "test".
        split_file: class lists to use instead, see `splits.read_split`.
    Raises:
        ConfigError: unknown name or split, a folder of another layout, a split file that does not fit.
    Source:
        Classes and lengths: MetaAudio (Heggan et al. 2022) and MT-SLVR (Heggan et al. 2023).
    """
    if name not in DATASETS:
        raise ConfigError(f"dataset={name!r}: unknown; use one of {', '.join(DATASETS)}")
    if split not in splits.SPLITS:
        raise ConfigError(f"split={split!r}: unknown; use one of {', '.join(splits.SPLITS)}")
    folder, dataset = Path(root), DATASETS[name]
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; give the one that {dataset.title} unpacks to ({dataset.source})")
    found = dataset.read(folder)
    if not found:
        raise ConfigError(f"{folder}: no audio of {dataset.title} found; docs/fewshot.md has the layout that is read")
    clips = sorted(found, key=lambda clip: (clip[1], clip[0].as_posix()))
    available = sorted({label for _, label in clips})
    if (len(available), len(clips)) != (dataset.classes, dataset.clips):
        warnings.warn(
            f"{folder}: {len(available):,} classes and {len(clips):,} clips; {dataset.title} has {dataset.classes:,} "
            f"and {dataset.clips:,} in the paper",
            stacklevel=2,
        )
    wanted, note = _classes(dataset, split, split_file, available)
    chosen = [(path, label) for path, label in clips if label in wanted]
    paths, labels = [path for path, _ in chosen], np.array([label for _, label in chosen])
    note = f"{dataset.title}, {split} classes {note}, windows of {dataset.window_seconds:g} s"
    return LabelledSet(name, paths, labels, dataset.window_seconds, dataset.pieces, note)


def _classes(
    dataset: PublishedDataset, split: str, split_file: str | os.PathLike[str] | None, available: list[str]
) -> tuple[set[str], str]:
    """The classes of a split and how they came about."""
    if split == "all":
        return set(available), "(all there are)"
    if split_file is not None:
        path = Path(split_file)
        return set(splits.classes_of(splits.read_split(path), split, available, str(path))), f"of {path.name}"
    if dataset.all_test:
        if split != "test":
            raise ConfigError(
                f"{dataset.title}: no split {split!r}, the paper only tests on it; use 'test' or a split file"
            )
        return set(available), "(all, as published)"
    if dataset.split is not None:
        chosen = {key: list(names) for key, names in dataset.split.items()}
        chosen["train"] = [name for name in available if name not in chosen["test"] + chosen["val"]]
        return set(splits.classes_of(chosen, split, available, dataset.title)), "as published"
    raise ConfigError(
        f"{dataset.title}: its split is in no list here; pass the .npy of MetaAudio's repository, or your own list, "
        "with --split-file, or take --split all"
    )
