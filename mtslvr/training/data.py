"""Folders of audio to packed int16 clips, and packed clips to the batch of any step; next: `loop`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from ..audio import find_audio, load_audio
from ..encoder import standardize
from ..errors import AudioError, TrainingError
from .augment import augment, draw_parameters, draw_selection, labels_from_order
from .config import TrainConfig

_SAMPLES, _INDEX = "clips.i16", "clips.json"


@dataclass(frozen=True)
class PackedClips:
    """Every clip as int16 in one memory-mapped file, so that workers share it.

    Attributes:
        samples: (total,) int16, all clips one after the other.
        starts: (n + 1,) int64; clip i is samples[starts[i]:starts[i + 1]].
        names: n names, relative to the folder each clip came from.
        sample_rate: Hz.
        folder: that they were opened from.
    """

    samples: np.ndarray
    starts: np.ndarray
    names: list[str]
    sample_rate: int
    folder: Path

    def __reduce__(self) -> tuple[object, ...]:
        # A worker that is not forked opens the file itself; pickling would copy every sample.
        return PackedClips.open, (self.folder,)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def hours(self) -> float:
        """Length of all clips together."""
        return float(self.starts[-1]) / self.sample_rate / 3600

    @classmethod
    def open(cls, folder: Path) -> PackedClips:
        """Clips that `pack` wrote.

        Raises:
            TrainingError: no packed clips there, or cut short.
        """
        try:
            index = json.loads((folder / _INDEX).read_text())
            samples = np.memmap(folder / _SAMPLES, dtype=np.int16, mode="r")
        except (OSError, ValueError) as error:
            raise TrainingError(f"{folder}: no packed clips ({error}); run mtslvr train with --data") from None
        starts = np.concatenate([[0], np.cumsum(np.asarray(index["lengths"], dtype=np.int64))])
        if starts[-1] != len(samples):
            raise TrainingError(
                f"{folder / _SAMPLES}: {len(samples)} samples, the index says {starts[-1]}; delete the folder and "
                "pack again"
            )
        return cls(samples, starts, index["names"], index["sample_rate"], folder)


def pack(folders: Iterable[str | os.PathLike[str]], out: Path, sample_rate: int, threads: int = 2) -> list[str]:
    """Decode, mix down and resample every clip below `folders` into one packed file.

    Args:
        folders: searched recursively.
        out: folder for the packed file; written completely or not at all.
        sample_rate: Hz of the packed clips.
        threads: decoders side by side.
    Returns:
        The messages of the clips that could not be read; they are skipped.
    Raises:
        TrainingError: not one readable clip.
    """
    found = find_audio(folders)
    failed: list[str] = []

    def decode(path: os.PathLike[str]) -> np.ndarray | AudioError:
        try:
            waveform = load_audio(path, sample_rate)
        except AudioError as error:
            return error
        return np.round(waveform.clip(-1, 1) * 32767).astype(np.int16)

    out.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    lengths: list[int] = []
    part = out / (_SAMPLES + ".part")
    with open(part, "wb") as file, ThreadPoolExecutor(threads) as pool:
        decoded = pool.map(decode, (path for path, _ in found))
        for (_, name), clip in zip(found, tqdm(decoded, "packing", len(found), unit="clip"), strict=True):
            if isinstance(clip, AudioError):
                failed.append(str(clip))
                continue
            file.write(clip.tobytes())
            names.append(name)
            lengths.append(len(clip))
    if not names:
        part.unlink()
        raise TrainingError(
            f"no readable audio in {', '.join(map(str, folders))} ({len(failed)} unreadable files); "
            "--data takes folders of audio files"
        )
    os.replace(part, out / _SAMPLES)
    index = {"sample_rate": sample_rate, "names": names, "lengths": lengths}
    (out / (_INDEX + ".part")).write_text(json.dumps(index))
    os.replace(out / (_INDEX + ".part"), out / _INDEX)
    return failed


@dataclass(frozen=True)
class Batch:
    """One step's input.

    Attributes:
        view1, view2: (B, crop_length) float32.
        augmentation_labels: (B, K) float32.
    """

    view1: Tensor
    view2: Tensor
    augmentation_labels: Tensor

    def to(self, device: torch.device) -> Batch:
        """On another device."""
        return Batch(*(t.to(device, non_blocking=True) for t in (self.view1, self.view2, self.augmentation_labels)))


class StepBatches(Dataset[Batch]):
    """Item k is the batch of step k: a pure function of the clips, the config and k.

    Workers, their number and a restart therefore change nothing.
    """

    def __init__(self, clips: PackedClips, config: TrainConfig) -> None:
        if len(clips) < config.batch_size:
            raise TrainingError(
                f"{len(clips)} clips are fewer than a batch of {config.batch_size}; lower --batch-size or add audio"
            )
        self.clips, self.config = clips, config

    def __len__(self) -> int:
        return self.config.steps

    def __getitem__(self, step: int) -> Batch:
        generator = step_generator(self.config.seed, 1, step)
        crops = self.crops(step, generator)
        config = self.config.augment
        order = draw_selection(generator, len(crops), config)
        parameters = draw_parameters(generator, 2 * len(crops), crops.shape[1], config)
        view1, view2 = augment(crops.repeat(2, 1), order.repeat(2, 1), parameters, config).chunk(2)
        return Batch(view1, view2, labels_from_order(order))

    def crops(self, step: int, generator: torch.Generator) -> Tensor:
        """(B, crop_length) float32: random crops, each with mean 0 and standard deviation 1; silence stays 0."""
        length = self.config.crop_length
        rows = np.empty((self.config.batch_size, length), dtype=np.int16)
        offsets = torch.rand(len(rows), generator=generator, dtype=torch.float64).numpy()
        for row, clip, u in zip(rows, self.clip_indices(step), offsets, strict=True):
            start, end = self.clips.starts[clip], self.clips.starts[clip + 1]
            room = end - start - length
            if room >= 0:
                first = start + int(u * (room + 1))
                row[:] = self.clips.samples[first : first + length]
            else:
                row[:] = np.resize(self.clips.samples[start:end], length)
        return standardize(torch.from_numpy(rows).float() / 32768)

    def clip_indices(self, step: int) -> np.ndarray:
        """(B,) clips of a step: consecutive slices of one shuffled order an epoch."""
        n, batch = len(self.clips), self.config.batch_size
        positions = np.arange(step * batch, (step + 1) * batch)
        indices = np.empty(batch, dtype=np.int64)
        for epoch in np.unique(positions // n):
            order = torch.randperm(n, generator=step_generator(self.config.seed, 0, int(epoch))).numpy()
            here = positions // n == epoch
            indices[here] = order[positions[here] % n]
        return indices


def step_generator(seed: int, stream: int, index: int) -> torch.Generator:
    """An independent generator for each (seed, stream, index)."""
    state = np.random.SeedSequence((seed, stream, index)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
