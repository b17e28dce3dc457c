"""The ten datasets of the paper: name, layout, split and lengths to a `LabelledSet`; next module: `command`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import ConfigError
from ..dataset import LabelledSet
from . import layouts, splits


@dataclass(frozen=True)
class PublishedDataset:
    """How a dataset of the paper is read.

    Attributes:
        title: as the paper names it.
        source: where it is published.
        read: its folder to (file, class) pairs.
        classes: in the paper.
        clips: in the paper.
        split: class lists where they are known; None where a split file is needed for the published ones.
        all_test: the paper tests on all classes.
        window_seconds: length of a piece.
        pieces: lengths vary, see `LabelledSet`.
    """

    title: str
    source: str
    read: Callable[[Path], layouts.Clips]
    classes: int
    clips: int
    split: splits.Split | None = None
    all_test: bool = False
    window_seconds: float = 5.0
    pieces: bool = True


DATASETS = {
    "esc50": PublishedDataset(
        "ESC-50", "https://github.com/karolpiczak/ESC-50", layouts.esc50, 50, 2_000, splits.ESC50, pieces=False
    ),
    "nsynth": PublishedDataset(
        "NSynth",
        "https://magenta.tensorflow.org/datasets/nsynth",
        layouts.nsynth,
        1_006,
        305_978,
        window_seconds=4.0,
        pieces=False,
    ),
    "fsdkaggle18": PublishedDataset(
        "FSDKaggle18", "https://zenodo.org/record/2552860", layouts.fsdkaggle18, 41, 11_073
    ),
    "watkins": PublishedDataset(
        "Watkins Marine Mammal Sounds",
        "https://whoicf2.whoi.edu/science/B/whalesounds",
        layouts.watkins,
        32,
        1_698,
        all_test=True,
    ),
    "birdclef2020": PublishedDataset(
        "BirdCLEF 2020, pruned",
        "https://www.aicrowd.com/challenges/lifeclef-2020-bird-monophone",
        layouts.birdclef2020,
        715,
        63_364,
    ),
    "voxceleb1": PublishedDataset(
        "VoxCeleb1",
        "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox1.html",
        layouts.voxceleb1,
        1_251,
        153_516,
    ),
    "speechcommands": PublishedDataset(
        "Speech Commands v2",
        "https://download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
        layouts.speechcommands,
        35,
        105_829,
        all_test=True,
        window_seconds=1.0,
        pieces=False,
    ),
    "cremad": PublishedDataset(
        "CREMA-D", "https://github.com/CheyneyComputerScience/CREMA-D", layouts.cremad, 6, 7_442, all_test=True
    ),
    "saa": PublishedDataset(
        "Speech Accent Archive",
        "https://www.kaggle.com/datasets/rtatman/speech-accent-archive",
        layouts.saa,
        122,
        2_060,
        all_test=True,
    ),
    "commonvoice": PublishedDataset(
        "Common Voice v12 delta",
        "https://commonvoice.mozilla.org/datasets",
        layouts.commonvoice,
        88,
        256_243,
        all_test=True,
    ),
}


def prepare(
    name: str,
    root: str | os.PathLike[str],
    split: str = "test",
    split_file: str | os.PathLike[str] | None = None,
) -> LabelledSet:
    """Read a dataset of the paper from the folder that its archive unpacks to; nothing is copied or converted.

    Args:
        name: of `DATASETS`.
        root: the folder.
        split: "train", "val", "test" or "all" classes. Datasets that the paper only tests on have all classes in
            "test".
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
    clips = sorted(dataset.read(folder), key=lambda clip: (clip[1], clip[0].as_posix()))
    available = sorted({label for _, label in clips})
    if (len(available), len(clips)) != (dataset.classes, dataset.clips):
        warnings.warn(
            f"{folder}: {len(available):,} classes and {len(clips):,} clips; {dataset.title} has {dataset.classes:,} "
            f"and {dataset.clips:,} in the paper",
            stacklevel=2,
        )
    wanted, note = _classes(dataset, split, split_file, available)
    chosen = [(path, label) for path, label in clips if label in wanted]
    return LabelledSet(
        name,
        [path for path, _ in chosen],
        np.array([label for _, label in chosen]),
        dataset.window_seconds,
        dataset.pieces,
        f"{dataset.title}, {split} classes {note}, windows of {dataset.window_seconds:g} s",
    )


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
    warnings.warn(
        f"{dataset.title}: no split file given, so classes are split 7:1:2 by a fixed draw of our own; figures do not "
        "compare with published ones. MetaAudio's repository has the published .npy: pass it with --split-file",
        stacklevel=3,
    )
    return set(splits.by_rule(available)[split]), "by our own draw 7:1:2"
