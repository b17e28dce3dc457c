"""Folders of audio to packed int16 clips; next: `views`."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from tqdm import tqdm

from ..audio import find
from ..audio.load import load_audio
from ..errors import AudioError, TrainingError
from ..run.files import atomic, remove_parts

_PROBES, _PROBE = 64, 1 << 12  # parts that a fingerprint is of, samples in each
_SAMPLES, _INDEX = "clips.i16", "clips.json"
Block: TypeAlias = tuple[list[str], list[int], np.ndarray]  # names and lengths of clips, and their samples


@dataclass(frozen=True)
class PackedClips:
    """Every clip as int16 in one memory-mapped file, so that workers share it."""

    samples: np.ndarray  # (total,) int16, all clips one after the other
    starts: np.ndarray  # (n + 1,) int64; clip i is samples[starts[i]:starts[i + 1]]
    names: list[str]  # n, relative to the folder that each clip came from
    sample_rate: int  # Hz
    folder: Path  # that they were opened from

    def __reduce__(self) -> tuple[object, ...]:
        # A worker that is not forked opens the file itself; pickling would copy every sample.
        return PackedClips.open, (self.folder,)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def sources(self) -> list[str]:
        """The first folder of each name, "" where there is none: what `source_balance` weighs."""
        return [name.split("/", 1)[0] if "/" in name else "" for name in self.names]

    def statistics(self) -> tuple[float, float]:
        """Mean and standard deviation of all samples, full scale being 1."""
        mean = float(self.samples.mean(dtype=np.float64))
        squares = float(np.einsum("i,i", self.samples, self.samples, dtype=np.float64))  # needs no copy of the samples
        return mean / 32768, math.sqrt(squares / len(self.samples) - mean**2) / 32768

    @property
    def hours(self) -> float:
        """Length of all clips together."""
        return float(self.starts[-1]) / self.sample_rate / 3600

    def fingerprint(self) -> str:
        """Of rate, names, lengths and a part of the samples: the same for a copy, another for other clips."""
        digest = hashlib.sha256(json.dumps([self.sample_rate, self.names, self.starts.tolist()]).encode())
        for start in range(0, len(self.samples), max(_PROBE, len(self.samples) // _PROBES)):
            digest.update(self.samples[start : start + _PROBE].tobytes())
        return digest.hexdigest()

    @classmethod
    def open(cls, folder: Path) -> PackedClips:
        """Clips that `pack` wrote; a TrainingError where there are none, or cut short."""
        try:
            index = json.loads((folder / _INDEX).read_text())
            samples = np.memmap(folder / _SAMPLES, dtype=np.int16, mode="c")
            starts = np.concatenate([[0], np.cumsum(np.asarray(index["lengths"], dtype=np.int64))])
            names, sample_rate = list(index["names"]), int(index["sample_rate"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise TrainingError(f"{folder}: no packed clips ({error!r}); pack them with mtslvr pack") from None
        if starts[-1] != len(samples):
            raise TrainingError(
                f"{folder / _SAMPLES}: {len(samples)} samples, the index says {starts[-1]}; delete the folder and "
                "pack again"
            )
        return cls(samples, starts, names, sample_rate, folder)


def cut(length: int, sample_rate: int, max_seconds: float | None) -> list[int]:
    """Lengths of the clips, in samples, that a file of `length` becomes; a rest below half a second joins the last."""
    if max_seconds is None:
        return [length]
    longest = round(max_seconds * sample_rate)
    whole, rest = divmod(length, longest)
    pieces = [longest] * whole
    if rest >= sample_rate // 2 or not pieces:
        return [*pieces, rest]
    return [*pieces[:-1], pieces[-1] + rest]


def is_packed(folder: Path) -> bool:
    """Whether `pack` finished there."""
    return (folder / _INDEX).exists()


def pack(
    folders: Iterable[str | os.PathLike[str]],
    out: Path,
    sample_rate: int,
    threads: int = 2,
    max_seconds: float | None = None,
) -> list[str]:
    """Decode, mix down and resample every clip below `folders` into one packed file.

    Args:
        folders: searched recursively for audio; of one that `pack` wrote, its clips as they are.
        out: folder for the packed file; written completely or not at all.
        sample_rate: Hz of the packed clips.
        threads: decoders side by side.
        max_seconds: cut longer files into clips of this length, so that every part of a long recording is drawn.
    Returns:
        The messages of the files and folders that could not be read and are left out. Files of other formats are, too;
        stderr tells how many.
    Raises:
        TrainingError: not one readable clip, packed clips of another rate, or no space.
    """
    sources = [Path(folder) for folder in folders]
    packed = [PackedClips.open(folder) for folder in sources if is_packed(folder)]
    for clips in packed:
        if clips.sample_rate != sample_rate:
            raise TrainingError(f"{clips.folder}: packed at {clips.sample_rate} Hz, wanted {sample_rate}; pack it anew")
    search = find.search([folder for folder in sources if not is_packed(folder)])
    failed = [message for _, message in search.unlisted]
    if search.left_out:
        tqdm.write(search.left_out_text, file=sys.stderr)

    def blocks() -> Iterator[Block]:
        for clips in packed:
            yield clips.names, np.diff(clips.starts).tolist(), clips.samples
        with ThreadPoolExecutor(threads) as pool:
            decoded = pool.map(lambda found: _decoded(found.path, sample_rate), search.files)
            bar = tqdm(decoded, "packing", len(search.files), unit="clip")
            for (_, name), clip in zip(search.files, bar, strict=True):
                if isinstance(clip, AudioError):
                    failed.append(str(clip))
                    continue
                lengths = cut(len(clip), sample_rate, max_seconds)
                yield [name] if len(lengths) == 1 else [f"{name}#{i}" for i in range(len(lengths))], lengths, clip
        if not packed and len(failed) == len(search.unlisted) + len(search.files):
            told = f" ({len(failed)} unreadable, the first: {failed[0]})" if failed else ""
            searched = ", ".join(map(str, sources))
            raise TrainingError(f"no readable audio in {searched}{told}; give folders of audio files")

    write(out, sample_rate, blocks())
    return failed


def _decoded(path: Path, sample_rate: int) -> np.ndarray | AudioError:
    try:
        waveform = load_audio(path, sample_rate)
    except AudioError as error:
        return error
    return np.round(waveform.clip(-1, 1) * 32767).astype(np.int16)


def write(out: Path, sample_rate: int, blocks: Iterable[Block]) -> None:
    """Write packed clips that `PackedClips.open` reads, completely or not at all."""
    names, lengths = list[str](), list[int]()
    try:
        out.mkdir(parents=True, exist_ok=True)
        remove_parts([out / _SAMPLES])
        with atomic(out / _SAMPLES, beside=[out / _INDEX]) as file:
            for more_names, more_lengths, samples in blocks:
                names += more_names
                lengths += more_lengths
                file.write(samples.data)
        with atomic(out / _INDEX) as file:
            file.write(json.dumps({"sample_rate": sample_rate, "names": names, "lengths": lengths}).encode())
    except OSError as error:
        raise TrainingError(f"{out}: cannot write the packed clips ({error}); free space or choose another") from None
