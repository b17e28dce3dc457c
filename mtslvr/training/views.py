"""Packed clips to the batch of any step: crops, mixed and augmented, with their targets; next: `objective`."""

from __future__ import annotations

import copy
import functools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..config import Normalization
from ..errors import TrainingError
from ..nn.frontend import standardize
from .augment import augment, draw_parameters, draw_selection, labels_from_order
from .config import TrainConfig
from .data import PackedClips

IntArray = npt.NDArray[np.int64]

EQUALIZER_WAVES = 4


@dataclass(frozen=True)
class Batch:
    """One step's input."""

    views: Tensor  # (2, B, crop_length) float32: two augmented views of each of B clips
    targets: Tensor  # (B, K) float32: which of the K transformations both views had

    def to(self, device: torch.device) -> Batch:
        """On another device."""
        return Batch(*(t.to(device, non_blocking=True) for t in (self.views, self.targets)))


class StepBatches(Dataset[Batch]):
    """Item k is the batch of step k: a pure function of the clips, the config and k.

    Workers, their number and a restart therefore change nothing. For `validation` clips are those held out, drawn by
    random numbers of their own. Fewer clips than a batch are a TrainingError.
    """

    def __init__(self, clips: PackedClips, config: TrainConfig, *, validation: bool = False) -> None:
        held_out, others = split(len(clips), config)
        self.members = held_out if validation else others
        if len(self.members) < config.batch_size:
            kind = "validation clips" if validation else "clips"
            raise TrainingError(
                f"{len(self.members)} {kind} are fewer than a batch of {config.batch_size}; lower --batch-size or add "
                "audio"
            )
        self.clips, self.config = clips, config
        self.samples: Tensor | None = None  # all of them, on the device that makes the batches; None is the file
        self.device = torch.device("cpu")
        self.streams = (10, 11, 12) if validation else (0, 1, 3)  # of random numbers: order, batch, draw by source

    def on(self, device: torch.device) -> StepBatches:
        """The same batches, made on `device`, which keeps all clips in its memory as int16."""
        there = copy.copy(self)
        there.device = device
        there.samples = torch.from_numpy(np.asarray(self.clips.samples)).to(device)
        return there

    def __getitem__(self, step: int) -> Batch:
        generator = step_generator(self.config.seed, self.streams[1], step)
        clips = self.clip_indices(step)
        crops = [self.crops(clips, generator) for _ in range(self.config.crops)]
        return self.augmented(torch.stack([crops[0], crops[-1]]), generator)

    def augmented(self, crops: Tensor, generator: torch.Generator) -> Batch:
        """Two views of each clip from its crops (2, B, N), which may be the same.

        Nothing but the clip and the kinds of its transformations is common to both views: whatever else they shared
        would tell them from all others.
        """
        config, count, length = self.config.augment, crops.shape[1], crops.shape[2]
        if self.config.mix_probability:
            how = self.config.mix_probability, self.config.mix_snr_db
            crops = torch.stack([mix(crop, generator, *how) for crop in crops])
        order = draw_selection(generator, count, config).repeat(2, 1)
        parameters = draw_parameters(generator, 2 * count, length, config)
        curves = self.config.equalizer_db * torch.randn(2 * count, EQUALIZER_WAVES, generator=generator)
        views = augment(crops.flatten(0, 1), order, parameters, config)
        if self.config.equalizer_db:
            views = equalize(views, curves, config.sample_rate)
        if self.config.encoder.normalization in (Normalization.WINDOW, Normalization.FILE):
            views = standardize(views)  # as at use: a level would betray noise and fades
        return Batch(views.view(2, count, length), labels_from_order(order[:count]).to(self.device))

    def crops(self, clips: IntArray, generator: torch.Generator) -> Tensor:
        """(B, crop_length) float32: a random crop of each clip, normalised; a short clip repeats."""
        length = self.config.crop_length
        offsets = torch.rand(len(clips), generator=generator, dtype=torch.float64).numpy()
        starts, ends = self.clips.starts[clips], self.clips.starts[clips + 1]
        first = (offsets * np.maximum(ends - starts - length + 1, 1)).astype(np.int64)
        begin, room, place = (torch.from_numpy(v).to(self.device)[:, None] for v in (starts, ends - starts, first))
        samples = torch.from_numpy(np.asarray(self.clips.samples)) if self.samples is None else self.samples
        rows = samples[begin + (place + torch.arange(length, device=self.device)) % room]
        crops, encoder = rows.float() / 32768, self.config.encoder
        if encoder.normalization is Normalization.GLOBAL:
            return (crops - encoder.global_mean) / encoder.global_std
        return standardize(crops)

    def clip_indices(self, step: int) -> IntArray:
        """(B,) distinct clips of a step: consecutive slices of one shuffled order an epoch, or drawn by source."""
        n, batch = len(self.members), self.config.batch_size
        if self.config.source_balance:
            generator = step_generator(self.config.seed, self.streams[2], step)
            drawn = torch.multinomial(self.weights, batch, replacement=False, generator=generator).numpy()
        else:
            positions = np.arange(step * batch, (step + 1) * batch)
            drawn = np.empty(batch, dtype=np.int64)
            for epoch in np.unique(positions // n):
                order = torch.randperm(n, generator=step_generator(self.config.seed, self.streams[0], int(epoch)))
                here = positions // n == epoch
                drawn[here] = order.numpy()[positions[here] % n]
        chosen: IntArray = self.members[drawn]
        return chosen

    @functools.cached_property
    def weights(self) -> Tensor:
        """Of `members`, float64: the clips of a source of m clips weigh m ** -source_balance each."""
        sources = np.asarray(self.clips.sources)[self.members]
        _, source, count = np.unique(sources, return_inverse=True, return_counts=True)
        return torch.from_numpy(count[source].astype(np.float64) ** -self.config.source_balance)


def split(clips: int, config: TrainConfig) -> tuple[IntArray, IntArray]:
    """Indices of the clips held out for validation, and of the others; a function of their number and the seed."""
    order = torch.randperm(clips, generator=step_generator(config.seed, 4, 0)).numpy()
    held_out = round(clips * config.validation_fraction)
    return np.sort(order[:held_out]), np.sort(order[held_out:])


def equalize(views: Tensor, curves: Tensor, sample_rate: int) -> Tensor:
    """Filter each waveform (N, T) by a smooth frequency response, as another microphone or room would.

    `curves` are (N, W) amplitudes in dB of W cosines along the logarithm of frequency; deviations of 1 give the
    response one of 1 dB.
    """
    spectrum = torch.fft.rfft(views)
    frequency = torch.linspace(0, sample_rate / 2, spectrum.shape[1], device=views.device)
    lowest = sample_rate / 320  # 50 Hz at 16 kHz
    place = torch.log2(frequency.clamp_min(lowest) / lowest) / math.log2(sample_rate / 2 / lowest)
    waves = torch.cos(math.pi * torch.arange(1, curves.shape[1] + 1, device=views.device)[:, None] * place)
    level = curves.to(views.device) @ waves * math.sqrt(2 / curves.shape[1])
    filtered: Tensor = torch.fft.irfft(spectrum * torch.pow(10, level / 20), n=views.shape[1])
    return filtered


def mix(crops: Tensor, generator: torch.Generator, probability: float, snr_db: tuple[float, float]) -> Tensor:
    """Add to some crops (B, N) another clip of the batch as background, and bring the sum to the crop's level.

    Source:
        Niizumi et al. 2021, BYOL-A's mixup, https://arxiv.org/abs/2103.06695; here on waveforms.
    """
    batch = len(crops)
    chosen = torch.rand(batch, generator=generator) < probability
    low, high = snr_db
    gain = torch.pow(10, -(low + (high - low) * torch.rand(batch, generator=generator)) / 20) * chosen
    gain = gain.to(crops.device)
    other = crops.roll(int(torch.randint(1, batch, (), generator=generator)), 0)
    return (crops + gain[:, None] * other) / (1 + gain.square()).sqrt()[:, None]


def step_generator(seed: int, stream: int, index: int) -> torch.Generator:
    """An independent generator for each (seed, stream, index)."""
    state = np.random.SeedSequence((seed, stream, index)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
