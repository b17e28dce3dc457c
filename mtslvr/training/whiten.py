"""At the end of training: heads that whiten what the network learned; a run in, a checkpoint folder out.

A few directions of large variance (level, background, bandwidth) dominate the pooled features and so every distance
between embeddings. The heads that training leaves are made for its losses. These are made for use: what differs between
two crops of the same clip is noise to most questions, so the directions in which crops of a clip differ most are shrunk
most; for the invariant head so is what a whisper, another microphone and a background change. No label is used.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from ..config import EncoderConfig, Features, Layer
from ..errors import TrainingError
from ..models import checkpoint
from ..nn.encoder import Encoder
from . import run as run_directory
from .config import HeadsConfig, TrainConfig
from .data import PackedClips
from .transforms import gaussian_noise
from .views import EQUALIZER_WAVES, StepBatches, equalize, mix, step_generator

EQUALIZER_DB, BACKGROUND_DB = 4.0, (3.0, 20.0)
VOCODER_SECONDS = 0.016  # of a window: too short to resolve the harmonics of most voices
_STREAM = 2  # of random numbers, beside those of epochs and batches


def finish(folder: Path, config: TrainConfig, device: torch.device) -> None:
    """Give the exported encoder of a run the heads of its config, once."""
    facts = run_directory.recorded(folder)
    if config.heads is not None and not facts.get("heads_made"):
        whiten(folder, folder / run_directory.EXPORT, config.heads, device)
        run_directory.write_json(folder / run_directory.ENVIRONMENT, {**facts, "heads_made": True})


def whiten(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    heads: HeadsConfig | None = None,
    device: torch.device | str = "cpu",
) -> Path:
    """The exported checkpoint of a run with whitening heads.

    Args:
        run: directory of a training run; its checkpoint, config and packed clips are read.
        out: checkpoint folder to write.
        heads: how they are made; None is as the run's config says.
        device: that encodes the clips.
    Raises:
        ConfigError: rows that the network has not, paths that share a head, or too few clips.
        TrainingError: no such run.
        CheckpointError: no checkpoint in the run, or `out` cannot be written.
    """
    folder = Path(run)
    config = run_directory.read_config(folder)
    heads = heads or config.heads or HeadsConfig()
    encoder = checkpoint.load(folder / run_directory.EXPORT)
    encoder = reading(encoder, heads.encoder(config.encoder)).to(device)
    drawing = dataclasses.replace(config, crop_seconds=heads.crop_seconds, source_balance=heads.source_balance)
    clips = run_directory.open_clips(folder, run_directory.recorded(folder), config)
    check_crops(clips, heads)
    batches = StepBatches(clips, drawing)
    steps = tqdm(range(math.ceil(heads.clips / config.batch_size)), "heads", unit="batch", mininterval=2.0)
    whiten_heads(encoder, (crops_of(batches, i, heads.disturb) for i in steps), heads)
    return checkpoint.save(encoder, out)


def check_crops(clips: PackedClips, heads: HeadsConfig) -> None:
    """See that two crops of a clip can differ: that one is longer than a crop."""
    longest = np.diff(clips.starts).max() / clips.sample_rate
    if longest <= heads.crop_seconds:
        raise TrainingError(
            f"{clips.folder}: clips have at most {longest:.2f} s; heads compare crops of {heads.crop_seconds:g} s, "
            "all the same; lower heads.crop_seconds, or set heads to null"
        )


def crops_of(batches: StepBatches, index: int, disturb: bool) -> Tensor:
    """(2, B, T): two crops of each clip of a batch, or (5, B, T) with those of `disturbed`."""
    config = batches.config
    generator, chosen = step_generator(config.seed, _STREAM, index), batches.clip_indices(index)
    crops = [batches.crops(chosen, generator) for _ in range(2)]
    if disturb:
        crops.extend(disturbed(crops[1], generator, config.encoder.frontend.sample_rate))
    return torch.stack(crops)


def disturbed(crops: Tensor, generator: torch.Generator, sample_rate: int) -> list[Tensor]:
    """Crops (B, T) at their levels: whispered, by another microphone, and with another of them as background."""
    seeds = torch.randint(2**62, (len(crops),), generator=generator)
    curves = EQUALIZER_DB * torch.randn(len(crops), EQUALIZER_WAVES, generator=generator)
    equalised = at_level_of(crops, equalize(crops, curves, sample_rate))
    background = mix(crops, generator, 1.0, BACKGROUND_DB)
    return [noise_vocode(crops, seeds, sample_rate), equalised, background]


def noise_vocode(views: Tensor, seeds: Tensor, sample_rate: int) -> Tensor:
    """Noise with the short-time magnitudes of each waveform (N, T), at its level: a whisper, where it is speech.

    Source:
        Shannon et al. 1995, speech recognition with primarily temporal cues, doi 10.1126/science.270.5234.303; here in
        the bins of a short-time Fourier transform.
    """
    n_fft = 2 * max(1, round(VOCODER_SECONDS * sample_rate / 2))
    length = views.shape[1] + 2 * n_fft + views.shape[1] % 2  # whole windows over every sample
    padded = F.pad(views, (n_fft // 2, length - views.shape[1] - n_fft // 2))
    carrier = gaussian_noise(seeds.to(views.device), length)
    window = torch.hann_window(n_fft, device=views.device)
    spectrum, noise = (
        torch.stft(x, n_fft, n_fft // 4, window=window, center=False, return_complex=True) for x in (padded, carrier)
    )
    shaped = torch.istft(torch.polar(spectrum.abs(), noise.angle()), n_fft, n_fft // 4, window=window)
    return at_level_of(views, shaped[:, : views.shape[1]])


def at_level_of(model: Tensor, waveforms: Tensor) -> Tensor:
    """The waveforms (N, T), each with the root mean square of the same row of `model`; silence stays silence."""
    wanted, found = (x.square().mean(dim=1, keepdim=True).sqrt() for x in (model, waveforms))
    return waveforms * wanted / found.clamp_min(1e-12)


def reading(encoder: Encoder, config: EncoderConfig) -> Encoder:
    """The same network with new heads where `config` lets them read something else."""
    if config == encoder.config:
        return encoder
    other = Encoder(config).eval()
    new = other.state_dict()
    other.load_state_dict({k: v for k, v in encoder.state_dict().items() if v.shape == new[k].shape}, strict=False)
    return other


@torch.inference_mode()
def whiten_heads(encoder: Encoder, pairs: Iterable[Tensor], how: HeadsConfig) -> None:
    """Replace the heads of `encoder`, one for each path, in place.

    Of `pairs` each is (2 or more, B, T) normalised waveforms: two crops of B clips, and others that the first is
    compared with for the invariant head; more clips in all than a head reads numbers.
    """
    folded = encoder.fold()
    invariant, variant = [], []
    for crops in pairs:
        two = [folded.encode(crop, Layer.POOLED) for crop in crops[:2].to(encoder.device)]
        others = crops[2:].to(encoder.device)
        read = [folded.embedding(crop, Features.INVARIANT, Layer.POOLED, normalized=True) for crop in others]
        variant.append(torch.stack([p.variant for p in two]))
        invariant.append(torch.stack([*(p.invariant for p in two), *read]))
    for index, head in enumerate(encoder.heads):
        assert isinstance(head, torch.nn.Linear)
        features = torch.cat(variant if index else invariant, dim=1).double()
        first, second = features[:1].expand(len(features) - 1, -1, -1).flatten(0, 1), features[1:].flatten(0, 1)
        # Features of each stage and the spectral statistics, each of total variance 1: they are of different units.
        blocks = torch.split(torch.cat([first, second]).var(dim=0), list(encoder.config.pooled_blocks[index]))
        units = torch.cat([block.sum().rsqrt().expand_as(block) for block in blocks])
        ridge, scale = (how.variant_ridge, how.variant_scale) if index else (how.ridge, 1.0)
        weight, bias = whitening(first * units, second * units, head.out_features, how.power, ridge)
        head.weight.copy_(weight * units * scale)
        head.bias.copy_(bias * scale)


def whitening(first: Tensor, second: Tensor, components: int, power: float, ridge: float) -> tuple[Tensor, Tensor]:
    """Whiten by the covariance within clips, then rotate to the principal components of largest variance.

    The features (N, D) float64 of two crops of N clips become a weight (components, D) and a bias (components,), which
    are 0 beyond D; the mean squared length of an output is 1.

    Source:
        Hatch, Kajarekar and Stolcke 2006, within-class covariance normalisation, with clips as classes.
    """
    within, axes = torch.linalg.eigh((first - second).T.cov() / 2)
    within = within.clamp_min(0)
    whitener = axes * (within + ridge * within.mean()) ** (-power / 2)
    both = torch.cat([first, second])
    mean = both.mean(dim=0)
    variances, directions = torch.linalg.eigh(((both - mean) @ whitener).T.cov())
    variances, directions = variances.flip(0)[:components], directions.flip(1)[:, :components]
    # eigh leaves the sign of a direction open: its largest entry is made positive.
    largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
    weight = (whitener @ (directions * largest.sign())).T / variances.sum().sqrt()
    weight = F.pad(weight, (0, 0, 0, components - len(weight)))
    return weight, -weight @ mean
