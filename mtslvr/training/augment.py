"""Clips (B, N) → augmented views (B, N) and their labels (B, K); uses `transforms` and `vocoder`, next: `views`.

Each sample gets its own transformations in its own order; a view draws its own parameters. Everything random
comes from one CPU generator, so a batch is a function of a seed, and all drawn tensors stay on the CPU.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..config import parse_enum
from ..errors import AudioError, ConfigError
from ..workers import workers
from . import transforms, vocoder

# The columns of the published label vector, in the order of the official code (not of its yaml file).
TRANSFORMATIONS = ("pitch_shift", "fade", "white_noise", "mixed_noise", "time_stretch", "time_masking", "time_shift")

_CPU_ROWS = 64  # waveforms a thread takes at once; fixed, so that a batch is the same with any number of threads


class Pitch(str, enum.Enum):
    """PUBLISHED_RATIOS: the 14 that the official code reaches. SEMITONES: any in the documented range."""

    PUBLISHED_RATIOS = "published ratios"
    SEMITONES = "semitones"


@dataclass(frozen=True)
class AugmentConfig:
    """Ranges of the seven transformations; the defaults are the published ones."""

    sample_rate: int = 16000  # Hz; also the length in samples of the noise, which repeats
    pitch: Pitch = Pitch.PUBLISHED_RATIOS
    pitch_n_fft: int = 250  # of the STFT, in samples
    pitch_hop_length: int = 7
    pitch_semitones: float = 15.0  # largest shift either way with `Pitch.SEMITONES`
    fade_fraction: float = 0.5  # longest fade over the clip
    snr_db: tuple[float, float] = (3.0, 30.0)  # signal over noise of both noises
    white_f_decay: tuple[float, float] = (-1.0, 0.0)  # exponents of the noises' spectra
    mixed_f_decay: tuple[float, float] = (-2.0, 2.0)
    stretch_rate: tuple[float, float] = (0.5, 1.5)  # speed, drawn to two decimals
    stretch_n_fft: int = 2048
    stretch_hop_length: int = 512
    mask_fraction: float = 0.125  # widest mask over the clip
    shift_fraction: float = 0.5  # farthest roll either way over the clip
    excluded: tuple[str, ...] = ()  # of `TRANSFORMATIONS`; the label vector shrinks with them

    def __post_init__(self) -> None:
        object.__setattr__(self, "pitch", parse_enum(Pitch, self.pitch, "augment.pitch"))
        ranges: dict[str, tuple[float, float]] = {
            "sample_rate": (1000, 384000),
            "pitch_semitones": (0, 24),
            "snr_db": (-60, 120),
            "stretch_rate": (0.1, 10),
            **dict.fromkeys(("pitch_n_fft", "stretch_n_fft"), (16, 16384)),
            **dict.fromkeys(("white_f_decay", "mixed_f_decay"), (-4, 4)),
            **dict.fromkeys(("fade_fraction", "mask_fraction", "shift_fraction"), (0, 1)),
        }
        check_ranges(self, "config: augment.", ranges)
        hops = {f"{stage}_hop_length": (1, getattr(self, f"{stage}_n_fft") // 2) for stage in ("pitch", "stretch")}
        check_ranges(self, "config: augment.", hops)
        names = self.excluded
        known = isinstance(names, (tuple, list)) and set(names) < set(TRANSFORMATIONS)
        if not known or len(set(names)) < len(names):
            raise ConfigError(
                f"config: augment.excluded={names!r}: must be distinct names, fewer than all seven, from "
                f"{', '.join(TRANSFORMATIONS)}"
            )
        object.__setattr__(self, "excluded", tuple(names))

    @classmethod
    def fast(cls, **changes: Any) -> AugmentConfig:
        """The published ranges with a coarser STFT in the pitch shift, about 14 times faster there, and `changes`."""
        return cls(**{"pitch_n_fft": 512, "pitch_hop_length": 128, **changes})

    @property
    def transformations(self) -> tuple[str, ...]:
        """The K names in use, in label order."""
        return tuple(name for name in TRANSFORMATIONS if name not in self.excluded)


def check_ranges(config: Any, prefix: str, ranges: Mapping[str, tuple[float, float]]) -> None:
    """See that fields of a dataclass are numbers within bounds, integers where they are declared so.

    A field of two numbers must rise; it may be the list that JSON gives, and becomes a tuple.
    """
    types = {field.name: str(field.type) for field in dataclasses.fields(config)}
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        kinds = (int,) if types[name] == "int" else (int, float)
        pair = types[name].startswith("tuple")
        values = value if pair and isinstance(value, (tuple, list)) else (value,)
        numbers = all(isinstance(v, kinds) and not isinstance(v, bool) and low <= v <= high for v in values)
        if not numbers or len(values) != 1 + pair or sorted(values) != list(values):
            what = "two numbers, lowest first," if pair else "an integer" if kinds == (int,) else "a number"
            raise ConfigError(f"{prefix}{name}={value!r}: must be {what} from {low} to {high}")
        if pair:
            object.__setattr__(config, name, tuple(values))


@dataclass(frozen=True)
class AugmentParameters:
    """One view's parameters of every transformation for every sample: CPU tensors (B,)."""

    pitch_index: Tensor  # into `vocoder.PITCH_RATIOS`, read with `Pitch.PUBLISHED_RATIOS`
    pitch_semitones: Tensor  # read with `Pitch.SEMITONES`
    fade_shape: Tensor  # into `transforms.FADE_SHAPES`
    fade_in: Tensor  # samples
    fade_out: Tensor
    white_f_decay: Tensor
    white_snr_db: Tensor
    mixed_f_decay: Tensor
    mixed_snr_db: Tensor
    stretch_rate: Tensor  # speed, float64 of two decimals
    mask_u1: Tensor  # width
    mask_u2: Tensor  # start, see `transforms.time_mask`
    shift: Tensor  # samples, positive is later
    noise_seed: Tensor  # int64, of `transforms.gaussian_noise`

    def rows(self, index: Tensor) -> AugmentParameters:
        """Those of the samples that `index` (n,) names."""
        return AugmentParameters(**{name: values[index] for name, values in vars(self).items()})


def draw_selection(generator: torch.Generator, batch: int, config: AugmentConfig) -> Tensor:
    """Which transformations each sample gets in which order: (B, K) indices into `config.transformations`, then -1.

    Source:
        MT-SLVR's Compose: a number uniform on 1..K, then as many distinct ones in random order.
    """
    total = len(config.transformations)
    number = torch.randint(1, total + 1, (batch, 1), generator=generator)
    order = torch.rand(batch, total, generator=generator, dtype=torch.float64).argsort(1)
    return order.masked_fill_(torch.arange(total) >= number, -1)


def labels_from_order(order: Tensor) -> Tensor:
    """(B, K) float32: 1 where a transformation occurs in `order` (B, K), whatever its place."""
    labels = torch.zeros(len(order), order.shape[1] + 1)
    return labels.scatter_(1, order.cpu() + 1, 1.0)[:, 1:]  # column 0 takes the -1


def draw_parameters(generator: torch.Generator, batch: int, length: int, config: AugmentConfig) -> AugmentParameters:
    """Parameters for `batch` views of `length` samples, of all transformations whether a view has them or not."""

    def uniform(low: float, high: float, dtype: torch.dtype = torch.float32) -> Tensor:
        return low + (high - low) * torch.rand(batch, generator=generator, dtype=dtype)

    def integers(low: int, high: int) -> Tensor:
        return torch.randint(low, high + 1, (batch,), generator=generator)

    longest_fade = int(config.fade_fraction * length)
    farthest = round(config.shift_fraction * length)
    return AugmentParameters(
        pitch_index=integers(0, len(vocoder.PITCH_RATIOS) - 1),
        pitch_semitones=uniform(-config.pitch_semitones, config.pitch_semitones),
        fade_shape=integers(0, len(transforms.FADE_SHAPES) - 1),
        fade_in=integers(0, longest_fade),
        fade_out=integers(0, longest_fade),
        white_f_decay=uniform(*config.white_f_decay),
        white_snr_db=uniform(*config.snr_db),
        mixed_f_decay=uniform(*config.mixed_f_decay),
        mixed_snr_db=uniform(*config.snr_db),
        stretch_rate=uniform(*config.stretch_rate, torch.float64).round(decimals=2),
        mask_u1=uniform(0, 1),
        mask_u2=uniform(0, 1),
        shift=integers(-farthest, farthest),
        noise_seed=torch.randint(2**62, (batch,), generator=generator),
    )


def augment(x: Tensor, order: Tensor, parameters: AugmentParameters, config: AugmentConfig) -> Tensor:
    """Apply to each sample its transformations in its order.

    Args:
        x: (B, N) float32 waveforms at `config.sample_rate` Hz, on any device; left as they are.
        order: (B, K) from `draw_selection`.
        parameters: from `draw_parameters`.
        config: of both.
    Raises:
        AudioError: x is not (B, N), or N is too short for an STFT in use.
    """
    if x.ndim != 2:
        raise AudioError(f"waveforms of shape {tuple(x.shape)}: expected (B, N); take the mean over channels")
    order = order.cpu()
    if x.device.type != "cpu":
        return _augment(x.clone(), order, parameters, config)
    parts = torch.split(torch.arange(len(x)), _CPU_ROWS)
    done = workers().map(lambda rows: _augment(x[rows], order[rows], parameters.rows(rows), config), parts)
    return torch.cat(list(done))


def _augment(out: Tensor, order: Tensor, parameters: AugmentParameters, config: AugmentConfig) -> Tensor:
    for chosen in order.unbind(1):
        for number, name in enumerate(config.transformations):
            rows = (chosen == number).nonzero().flatten()
            if len(rows):
                on_device = rows.to(out.device)
                out[on_device] = _apply(name, out[on_device], parameters.rows(rows), config)
    return out


def _apply(name: str, x: Tensor, p: AugmentParameters, config: AugmentConfig) -> Tensor:
    if name == "pitch_shift":
        stft = config.pitch_n_fft, config.pitch_hop_length
        if config.pitch is Pitch.SEMITONES:
            return vocoder.pitch_shift_semitones(x, p.pitch_semitones, *stft)
        return vocoder.pitch_shift(x, p.pitch_index, *stft)
    if name == "fade":
        return transforms.fade(x, p.fade_shape, p.fade_in, p.fade_out)
    if name in ("white_noise", "mixed_noise"):
        white = transforms.gaussian_noise(p.noise_seed.to(x.device), 2 * (config.sample_rate // 2)).to(x.dtype)
        decay, snr = (p.white_f_decay, p.white_snr_db) if name == "white_noise" else (p.mixed_f_decay, p.mixed_snr_db)
        return transforms.colored_noise(x, white, decay, snr)
    if name == "time_stretch":
        return vocoder.time_stretch(x, p.stretch_rate, config.stretch_n_fft, config.stretch_hop_length)
    if name == "time_masking":
        return transforms.time_mask(x, p.mask_u1, p.mask_u2, config.mask_fraction)
    assert name == "time_shift"
    return transforms.time_shift(x, p.shift)
