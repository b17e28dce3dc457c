"""After training: heads that whiten what the network learned; a run directory in, a checkpoint folder out.

A few directions of large variance (level, background, bandwidth) dominate the pooled features and so every distance
between embeddings. The heads that training leaves are made for its losses. These are made for use: what differs between
two crops of the same clip is noise to most questions, so the directions in which crops of a clip differ most are shrunk
most; for the invariant head so is what a whisper, another microphone and a background change. No label is used.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import checkpoint
from ..config import EncoderConfig, Features, Layer, Rows
from ..encoder import Encoder
from ..errors import TrainingError
from .config import TrainConfig
from .run import CONFIG, EXPORT, open_clips
from .transforms import gaussian_noise
from .views import EQUALIZER_WAVES, StepBatches, equalize, mix, step_generator

POWER, RIDGE, CLIPS = 1.0, 0.1, 4096
CROP_SECONDS, SOURCE_BALANCE = 2.5, 0.5
EQUALIZER_DB, BACKGROUND_DB = 4.0, (3.0, 20.0)
VOCODER_SECONDS = 0.016  # of a window: too short to resolve the harmonics of most voices
_STREAM = 2  # of random numbers, beside those of epochs and batches


def whiten(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    power: float = POWER,
    ridge: float = RIDGE,
    variant_ridge: float | None = None,
    clips: int = CLIPS,
    crop_seconds: float = CROP_SECONDS,
    source_balance: float = SOURCE_BALANCE,
    variant_scale: float = 1.0,
    spectral_statistics: bool = False,
    invariant_rows: Rows | None = None,
    variant_rows: Rows | None = None,
    disturb: bool = True,
    average_with: str | os.PathLike[str] | None = None,
    share: float = 0.5,
) -> Path:
    """The exported checkpoint of a run with whitening heads.

    Args:
        run: directory of a training run; its checkpoint, config and packed clips are read.
        out: checkpoint folder to write.
        power: 0 only rotates, 1 makes crops of a clip differ alike in every direction.
        ridge: added to each variance within clips, as a share of their mean.
        variant_ridge: the same for the variant head; None is `ridge`.
        clips: how many clips to take two random crops of, without augmentation; more than a head reads numbers.
        crop_seconds: length of these crops.
        source_balance: how to draw the clips, see `TrainConfig`.
        variant_scale: root mean square length of the variant embeddings over that of the invariant ones: how much each
            counts in distances between concatenated embeddings.
        spectral_statistics: let the variant head read them, too, see `EncoderConfig`.
        invariant_rows, variant_rows: what the heads read in place of what they did, see `EncoderConfig`.
        disturb: compare the first crop of a clip, for the invariant head, also with the second one vocoded by noise,
            equalised, and with another clip as background.
        average_with: checkpoint folder of the same network, such as the one that the run started from, to average the
            weights with before; may be `out`.
        share: of the run's weights in that average, 0 to 1.
    Raises:
        ConfigError: rows that the network has not.
        TrainingError: no such run, too few clips, paths that share a head, or another network to average with.
        CheckpointError: no checkpoint in the run, or `out` cannot be written.
    """
    folder = Path(run)
    try:
        config = TrainConfig.from_dict(json.loads((folder / CONFIG).read_text()))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{folder / CONFIG}: no training run ({error}); give a run directory") from None
    encoder = checkpoint.load(folder / EXPORT)
    if average_with is not None:
        average(encoder, checkpoint.load(average_with), share)
    changes: dict[str, Any] = {"invariant_rows": invariant_rows, "variant_rows": variant_rows}
    changes["spectral_statistics"] = spectral_statistics or None
    encoder = reading(encoder, {name: value for name, value in changes.items() if value is not None})
    count = math.ceil(clips / config.batch_size)
    for blocks in encoder.config.pooled_blocks:
        _refuse_too_few(count * config.batch_size, sum(blocks))  # now, and not when all have been encoded
    drawing = dataclasses.replace(config, crop_seconds=crop_seconds, source_balance=source_balance)
    batches = StepBatches(open_clips(folder, config), drawing)
    pairs = (crops_of(batches, i, disturb) for i in range(count))
    whiten_heads(encoder, pairs, power, ridge, variant_scale, variant_ridge)
    return checkpoint.save(encoder, out)


def crops_of(batches: StepBatches, index: int, disturb: bool) -> Tensor:
    """(2, B, T): two crops of each clip of a batch, or (5, B, T) with those of `disturbed`."""
    config = batches.config
    generator, chosen = step_generator(config.seed, _STREAM, index), batches.clip_indices(index)
    crops = [batches.crops(chosen, generator) for _ in range(2)]
    if disturb:
        crops.extend(disturbed(crops[1], generator, config.encoder.frontend.sample_rate))
    return torch.stack(crops)


def disturbed(crops: Tensor, generator: torch.Generator, sample_rate: int) -> list[Tensor]:
    """The crops as whispered, as another microphone would take them, and with another of them as background.

    Args:
        crops: (B, T), two at least.
        generator: on the CPU.
        sample_rate: Hz.
    Returns:
        Three of (B, T), each row at the level of its crop.
    """
    seeds = torch.randint(2**62, (len(crops),), generator=generator)
    curves = EQUALIZER_DB * torch.randn(len(crops), EQUALIZER_WAVES, generator=generator)
    equalised = at_level_of(crops, equalize(crops, curves, sample_rate))
    background = mix(crops, generator, 1.0, BACKGROUND_DB)
    return [noise_vocode(crops, seeds, sample_rate), equalised, background]


def noise_vocode(views: Tensor, seeds: Tensor, sample_rate: int) -> Tensor:
    """Noise with the short-time magnitudes of each waveform, at its level: a whisper, where it is speech.

    Args:
        views: (N, T).
        seeds: (N,) int64, of each row's noise.
        sample_rate: Hz.
    Returns:
        (N, T).
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


def average(encoder: Encoder, other: Encoder, share: float) -> None:
    """Replace the weights of `encoder`, batch statistics among them, by their average with those of `other`.

    Args:
        encoder: changed in place.
        other: the same network; heads that differ in width stay those of `encoder`, since whitening replaces them.
        share: of `encoder`, 0 to 1.
    Raises:
        TrainingError: another network, or a share out of range.
    Source:
        Wortsman et al. 2022, robust fine-tuning of zero-shot models, https://arxiv.org/abs/2109.01903
    """
    if not 0 <= share <= 1:
        raise TrainingError(f"share={share}: must be from 0 to 1")
    if reading_of(encoder.config, other.config) != encoder.config:
        raise TrainingError("average of two different networks: give a checkpoint with the config of the run's encoder")
    theirs = other.state_dict()
    for name, tensor in encoder.state_dict().items():
        if tensor.is_floating_point() and tensor.shape == theirs[name].shape:
            tensor.lerp_(theirs[name], 1 - share)


def reading(encoder: Encoder, changes: Mapping[str, Any]) -> Encoder:
    """The same network with new heads where they read something else; `changes` are settings of `EncoderConfig`."""
    config = dataclasses.replace(encoder.config, **changes)
    if config == encoder.config:
        return encoder
    other = Encoder(config).eval()
    new = other.state_dict()
    kept = {key: value for key, value in encoder.state_dict().items() if value.shape == new[key].shape}
    other.load_state_dict(kept, strict=False)
    return other


def reading_of(one: EncoderConfig, other: EncoderConfig) -> EncoderConfig:
    """The config `other` with heads that read what those of `one` do."""
    names = ("spectral_statistics", "invariant_rows", "variant_rows")
    return dataclasses.replace(other, **{name: getattr(one, name) for name in names})


@torch.inference_mode()
def whiten_heads(
    encoder: Encoder,
    pairs: Iterable[Tensor],
    power: float,
    ridge: float,
    variant_scale: float = 1.0,
    variant_ridge: float | None = None,
) -> None:
    """Replace the heads of `encoder` in place.

    Args:
        encoder: with a head for each path, on any device.
        pairs: (2 or more, B, T) normalised waveforms each, two crops of B clips, and others that the first is compared
            with for the invariant head.
        power: see `whiten`.
        ridge: see `whiten`.
        variant_scale: see `whiten`.
        variant_ridge: see `whiten`.
    Raises:
        TrainingError: see `whiten`.
    """
    if encoder.config.heads != encoder.config.tasks:
        raise TrainingError(
            f"{encoder.config.heads} heads for {encoder.config.tasks} paths: whitening needs a head for each path"
        )
    ridges = ridge, ridge if variant_ridge is None else variant_ridge
    folded = encoder.fold()
    invariant, variant = [], []
    for crops in pairs:
        two = [folded.encode(crop.to(encoder.device), Layer.POOLED) for crop in crops[:2]]
        others = [
            folded.embedding(crop.to(encoder.device), Features.INVARIANT, Layer.POOLED, normalized=True)
            for crop in crops[2:]
        ]
        variant.append(torch.stack([p.variant for p in two]))
        invariant.append(torch.stack([*(p.invariant for p in two), *others]))
    for index, head in enumerate(encoder.heads):
        assert isinstance(head, torch.nn.Linear)
        features = torch.cat(variant if index else invariant, dim=1).double()
        first, second = features[:1].expand(len(features) - 1, -1, -1).flatten(0, 1), features[1:].flatten(0, 1)
        _refuse_too_few(*features.shape[1:])
        # Features of each stage and the spectral statistics, each of total variance 1: they are of different units.
        blocks = torch.split(torch.cat([first, second]).var(dim=0), list(encoder.config.pooled_blocks[index]))
        units = torch.cat([block.sum().rsqrt().expand_as(block) for block in blocks])
        weight, bias = whitening(first * units, second * units, head.out_features, power, ridges[index])
        scale = variant_scale if index else 1.0
        head.weight.copy_(weight * units * scale)
        head.bias.copy_(bias * scale)


def _refuse_too_few(clips: int, features: int) -> None:
    if clips <= features:
        raise TrainingError(f"{clips} clips for {features} features: too few; use more clips")


def whitening(first: Tensor, second: Tensor, components: int, power: float, ridge: float) -> tuple[Tensor, Tensor]:
    """Whiten by the covariance within clips, then rotate to principal components.

    Args:
        first, second: (N, D) float64, features of two crops of N clips.
        components: how many to keep, those of largest variance; more than D are 0 beyond D.
        power: see `whiten`.
        ridge: see `whiten`.
    Returns:
        Weight (components, D) and bias (components,); the mean squared length of an output is 1.
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
