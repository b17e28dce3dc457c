"""The ten datasets of the paper, each read as it was published, to a `LabelledSet`; next module: `command`."""

from __future__ import annotations

import csv
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from ..audio.load import AUDIO_SUFFIXES
from ..errors import ConfigError
from . import splits
from .dataset import LabelledSet

Clips = list[tuple[Path, str]]

_BIRDCLEF_LONGEST_SECONDS = 180
_BIRDCLEF_FEWEST = 50
_CREMAD_EMOTIONS = ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")


def esc50(root: Path) -> Clips:
    """Read audio/*.wav and meta/esc50.csv (filename, category)."""
    meta = _find(root, "meta/esc50.csv")
    audio = meta.parent.parent / "audio"
    return [(audio / row["filename"], row["category"]) for row in _rows(meta, ("filename", "category"))]


def nsynth(root: Path) -> Clips:
    """Read nsynth-{train,valid,test}/audio/INSTRUMENT-PITCH-VELOCITY.wav; the class is the instrument."""
    parts = [root / f"nsynth-{part}" / "audio" for part in ("train", "valid", "test")]
    return [(path, path.stem.split("-")[0]) for part in parts if part.is_dir() for path in _audio(part)]


def fsdkaggle18(root: Path) -> Clips:
    """Read FSDKaggle2018.audio_{train,test} by the two post-competition tables of FSDKaggle2018.meta."""
    tables = {"audio_train": "train_post_competition.csv", "audio_test": "test_post_competition_scoring_clips.csv"}
    clips = []
    for folder, table in tables.items():
        meta = _find(root, f"FSDKaggle2018.meta/{table}")
        audio = meta.parent.parent / f"FSDKaggle2018.{folder}"
        clips += [(audio / row["fname"], row["label"]) for row in _rows(meta, ("fname", "label"))]
    return clips


def watkins(root: Path) -> Clips:
    """Read SPECIES/*.wav, the "best of" cuts, a folder a species."""
    return _by_folder(root)


def birdclef2020(root: Path) -> Clips:
    """Read SPECIES/*, pruned as MetaAudio does: no recording above 180 s, then no species below 50 recordings.

    Recordings may lie at any depth; the class is the folder that holds them.
    """
    clips = [(path, path.parent.name) for path in _audio(root) if path.parent != root]
    kept = [(path, species) for path, species in clips if _seconds(path) <= _BIRDCLEF_LONGEST_SECONDS]
    counts = Counter(species for _, species in kept)
    return [(path, species) for path, species in kept if counts[species] >= _BIRDCLEF_FEWEST]


def voxceleb1(root: Path) -> Clips:
    """Read SPEAKER/VIDEO/*.wav, speakers named id10001 and so on, in one folder or in those of dev and test."""
    speakers = ((path, re.search(r"/(id\d{5})/", f"/{path.relative_to(root).as_posix()}")) for path in _audio(root))
    return [(path, speaker[1]) for path, speaker in speakers if speaker]


def speechcommands(root: Path) -> Clips:
    """Read WORD/*.wav; _background_noise_ is no word."""
    return _by_folder(root)


def cremad(root: Path) -> Clips:
    """Read AudioWAV/ACTOR_SENTENCE_EMOTION_LEVEL.wav; the class is the emotion."""
    clips = []
    for path in _audio(_find(root, "AudioWAV")):
        parts = path.stem.split("_")
        if len(parts) != 4 or parts[2] not in _CREMAD_EMOTIONS:
            raise ConfigError(f"{path}: not named ACTOR_SENTENCE_EMOTION_LEVEL.wav; remove it")
        clips.append((path, parts[2]))
    return clips


def saa(root: Path) -> Clips:
    """Read recordings/*.mp3 by speakers_all.csv (filename, native_language); rows without a recording are skipped."""
    meta = _find(root, "speakers_all.csv")
    found = {path.stem: path for path in _audio(meta.parent)}
    rows = _rows(meta, ("filename", "native_language"))
    return [(found[row["filename"]], row["native_language"]) for row in rows if row["filename"] in found]


def commonvoice(root: Path) -> Clips:
    """Read LOCALE/clips/*.mp3 of a delta segment; the class is the locale."""
    return [(path, path.parent.parent.name) for path in _audio(root) if path.parent.name == "clips"]


def _find(root: Path, relative: str) -> Path:
    """The place in the folder, or in one folder within it, as archives unpack."""
    for place in (root / relative, *sorted(root.glob(f"*/{relative}"))):
        if place.exists():
            return place
    raise ConfigError(f"{root}: no {relative} in it; give the folder that the published archive unpacks to")


def _audio(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file())


def _by_folder(root: Path) -> Clips:
    """Audio of each folder, or of each folder of the only one; names that start with _ or . are no classes."""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] not in "_.")
    if len(folders) == 1 and any(path.is_dir() for path in folders[0].iterdir()):
        return _by_folder(folders[0])
    return [(path, folder.name) for folder in folders for path in _audio(folder)]


def _rows(table: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    with open(table, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        missing = [column for column in columns if column not in (reader.fieldnames or ())]
        if missing:
            told = f"no column {', '.join(missing)} in {reader.fieldnames}; is it the published one?"
            raise ConfigError(f"{table}: {told}")
        return list(reader)


def _seconds(path: Path) -> float:
    try:
        return float(soundfile.info(path).duration)
    except (OSError, RuntimeError) as error:
        warnings.warn(f"{path}: left out, its length cannot be read ({error})", stacklevel=3)
        return float("inf")


@dataclass(frozen=True)
class PublishedDataset:
    """How a dataset of the paper is read."""

    title: str  # as the paper names it
    source: str  # where it is published
    read: Callable[[Path], Clips]  # its folder to (file, class) pairs; its docstring says what layout is read
    classes: int  # in the paper
    clips: int
    split: splits.Split | None = None  # class lists; None where a split file is needed for the published ones
    all_test: bool = False  # the paper tests on all classes
    window_seconds: float = 5.0  # of a piece
    pieces: bool = True  # lengths vary, see `LabelledSet`


_ZENODO, _KAGGLE = "https://zenodo.org/record/2552860", "https://www.kaggle.com/datasets/rtatman/speech-accent-archive"
_SPEECH_COMMANDS = "https://download.tensorflow.org/data/speech_commands_v0.02.tar.gz"
DATASETS = {
    "esc50": PublishedDataset(
        "ESC-50", "https://github.com/karolpiczak/ESC-50", esc50, 50, 2_000, splits.ESC50, pieces=False
    ),
    "nsynth": PublishedDataset(
        "NSynth", "https://magenta.tensorflow.org/datasets/nsynth", nsynth, 1_006, 305_978,
        window_seconds=4.0, pieces=False,
    ),
    "fsdkaggle18": PublishedDataset("FSDKaggle18", _ZENODO, fsdkaggle18, 41, 11_073),
    "watkins": PublishedDataset(
        "Watkins Marine Mammal Sounds", "https://whoicf2.whoi.edu/science/B/whalesounds", watkins, 32, 1_698,
        all_test=True,
    ),
    "birdclef2020": PublishedDataset(
        "BirdCLEF 2020, pruned", "https://www.aicrowd.com/challenges/lifeclef-2020-bird-monophone", birdclef2020, 715,
        63_364,
    ),
    "voxceleb1": PublishedDataset(
        "VoxCeleb1", "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox1.html", voxceleb1, 1_251, 153_516
    ),
    "speechcommands": PublishedDataset(
        "Speech Commands v2", _SPEECH_COMMANDS, speechcommands, 35, 105_829,
        all_test=True, window_seconds=1.0, pieces=False,
    ),
    "cremad": PublishedDataset(
        "CREMA-D", "https://github.com/CheyneyComputerScience/CREMA-D", cremad, 6, 7_442, all_test=True
    ),
    "saa": PublishedDataset("Speech Accent Archive", _KAGGLE, saa, 122, 2_060, all_test=True),
    "commonvoice": PublishedDataset(
        "Common Voice v12 delta", "https://commonvoice.mozilla.org/datasets", commonvoice, 88, 256_243, all_test=True
    ),
}  # fmt: skip


def prepare(
    name: str, root: str | os.PathLike[str], split: str = "test", split_file: str | os.PathLike[str] | None = None
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
    found = dataset.read(folder)
    if not found:
        raise ConfigError(f"{folder}: no audio found; expected {str(dataset.read.__doc__).removeprefix('Read ')}")
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
