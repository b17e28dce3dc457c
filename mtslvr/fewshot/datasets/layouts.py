"""A dataset's folder as it was published to (file, class) pairs, one function a dataset; next: `registry`."""

from __future__ import annotations

import csv
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import soundfile

from ...audio.load import AUDIO_SUFFIXES
from ...errors import ConfigError

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
    clips = [(path, path.stem.split("-")[0]) for part in parts if part.is_dir() for path in _audio(part)]
    return _some(clips, root, "nsynth-train/audio, nsynth-valid/audio, nsynth-test/audio")


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
    return _some(list(_by_folder(root)), root, "a folder a species")


def birdclef2020(root: Path) -> Clips:
    """Read SPECIES/*, pruned as MetaAudio does: no recording above 180 s, then no species below 50 recordings.

    Recordings may lie at any depth; the class is the folder that holds them.
    """
    clips = [(path, path.parent.name) for path in _audio(root) if path.parent != root]
    _some(clips, root, "a folder a species")
    kept = [(path, species) for path, species in clips if _seconds(path) <= _BIRDCLEF_LONGEST_SECONDS]
    counts = Counter(species for _, species in kept)
    pruned = [(path, species) for path, species in kept if counts[species] >= _BIRDCLEF_FEWEST]
    rule = f"{_BIRDCLEF_FEWEST} recordings of at most {_BIRDCLEF_LONGEST_SECONDS} s a species"
    return _some(pruned, root, f"at least {rule}")


def voxceleb1(root: Path) -> Clips:
    """Read SPEAKER/VIDEO/*.wav, speakers named id10001 and so on, in one folder or in those of dev and test."""
    speaker = re.compile(r"id\d{5}")
    named = (
        (path, [part for part in path.relative_to(root).parts[:-1] if speaker.fullmatch(part)]) for path in _audio(root)
    )
    clips = [(path, parts[0]) for path, parts in named if parts]
    return _some(clips, root, "wav/id10001/VIDEO/00001.wav")


def speechcommands(root: Path) -> Clips:
    """Read WORD/*.wav; _background_noise_ is no word."""
    return _some(list(_by_folder(root)), root, "a folder a word")


def cremad(root: Path) -> Clips:
    """Read AudioWAV/ACTOR_SENTENCE_EMOTION_LEVEL.wav; the class is the emotion."""
    folder = _find(root, "AudioWAV")
    clips = []
    for path in _audio(folder):
        parts = path.stem.split("_")
        if len(parts) != 4 or parts[2] not in _CREMAD_EMOTIONS:
            raise ConfigError(f"{path}: not named ACTOR_SENTENCE_EMOTION_LEVEL.wav; remove it")
        clips.append((path, parts[2]))
    return _some(clips, root, "AudioWAV/1001_DFA_ANG_XX.wav")


def saa(root: Path) -> Clips:
    """Read recordings/*.mp3 by speakers_all.csv (filename, native_language); rows without a recording are skipped."""
    meta = _find(root, "speakers_all.csv")
    found = {path.stem: path for path in _audio(meta.parent)}
    rows = _rows(meta, ("filename", "native_language"))
    clips = [(found[row["filename"]], row["native_language"]) for row in rows if row["filename"] in found]
    return _some(clips, root, "recordings/afrikaans1.mp3 beside speakers_all.csv")


def commonvoice(root: Path) -> Clips:
    """Read LOCALE/clips/*.mp3 of a delta segment; the class is the locale."""
    clips = [(path, path.parent.parent.name) for path in _audio(root) if path.parent.name == "clips"]
    return _some(clips, root, "cv-corpus-12.0-delta-2022-12-07/LOCALE/clips")


def _find(root: Path, relative: str) -> Path:
    """The place in the folder, or in one folder within it, as archives unpack."""
    for place in (root / relative, *sorted(root.glob(f"*/{relative}"))):
        if place.exists():
            return place
    raise ConfigError(f"{root}: no {relative} in it; give the folder that the published archive unpacks to")


def _audio(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file())


def _by_folder(root: Path) -> Iterator[tuple[Path, str]]:
    """Audio of each folder, or of each folder of the only one; names that start with _ or . are no classes."""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] not in "_.")
    if len(folders) == 1 and any(path.is_dir() for path in folders[0].iterdir()):
        return _by_folder(folders[0])
    return ((path, folder.name) for folder in folders for path in _audio(folder))


def _rows(table: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    with open(table, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        missing = [column for column in columns if column not in (reader.fieldnames or ())]
        if missing:
            raise ConfigError(
                f"{table}: no column {', '.join(missing)} in {reader.fieldnames}; is it the published one?"
            )
        return list(reader)


def _some(clips: Clips, root: Path, expected: str) -> Clips:
    if not clips:
        raise ConfigError(f"{root}: no audio found; expected {expected}")
    return clips


def _seconds(path: Path) -> float:
    try:
        return float(soundfile.info(path).duration)
    except (OSError, RuntimeError) as error:
        warnings.warn(f"{path}: left out, its length cannot be read ({error})", stacklevel=3)
        return float("inf")
