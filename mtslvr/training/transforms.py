"""Waveforms (B, N) and one parameter a sample → changed waveforms (B, N): fade, noise, mask, shift; beside: `vocoder`.

The transformations of MT-SLVR as pure batched functions. Parameters are CPU tensors (B,): lengths and groups are
decided from them without waiting for a GPU; what the arithmetic needs is moved to the waveform. Neighbours of a sample
in its batch never change its result beyond rounding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

FADE_SHAPES = ("linear", "logarithmic", "exponential")


def fade(x: Tensor, shape_index: Tensor, fade_in: Tensor, fade_out: Tensor) -> Tensor:
    """Fade in from the start and out to the end, by one of the `FADE_SHAPES`, in numbers of samples that may overlap.

    Source:
        torchaudio.transforms.Fade, as MT-SLVR uses it; every gain is clipped to 0..1.
    """
    n = torch.arange(x.shape[-1], device=x.device)
    gain = _fade_gain(n, shape_index, fade_in, x) * _fade_gain(n.flip(0), shape_index, fade_out, x)
    return x * gain


def _fade_gain(distance: Tensor, shape_index: Tensor, length: Tensor, x: Tensor) -> Tensor:
    # v runs over linspace(0, 1, length) from the edge inwards and stays 1; length 0 starts at 1. The published fade-out
    # curves of u are the fade-in curves of v = 1 - u.
    length, shape = (p.to(x.device)[:, None] for p in (length, shape_index))
    v = (distance + (length == 0)).to(x.dtype) / (length - 1).clamp_min(1)
    v = v.clamp_max_(1)
    logarithmic = (0.1 + v).log10_().add_(1).clamp_(0, 1)
    exponential = (v - 1).exp2_().mul_(v)
    return torch.where(shape == 0, v, torch.where(shape == 1, logarithmic, exponential))


def colored_noise(x: Tensor, white: Tensor, f_decay: Tensor, snr_db: Tensor) -> Tensor:
    """Add coloured noise at a signal-to-noise ratio in dB; silence stays silence.

    Args:
        x: (B, N) waveforms; N may be longer than the noise, which then repeats.
        white: (B, sample_rate) Gaussian draws: one second of noise.
        f_decay: (B,) exponent of the amplitude's decay; positive favours low frequencies.
        snr_db: (B,).
    Source:
        torch-audiomentations AddColoredNoise: the decay's axis runs linearly from 1 to sqrt(sample_rate / 2) over the
        bins, not in Hz, so f_decay=2 is steeper than a textbook 1/f^2.
    """
    f_decay, snr_db = (p.to(x)[:, None] for p in (f_decay, snr_db))
    bins = white.shape[-1] // 2 + 1
    log_axis = torch.linspace(1, math.sqrt(white.shape[-1] / 2), bins, dtype=x.dtype, device=x.device).log_()
    spectrum = torch.view_as_real(torch.fft.rfft(white)) * torch.exp(-f_decay * log_axis)[..., None]
    noise = torch.fft.irfft(torch.view_as_complex(spectrum), n=white.shape[-1])
    gain = _rms(x) * torch.pow(10, -snr_db / 20) / (_rms(noise) + 1e-8)
    repeats = -(-x.shape[-1] // noise.shape[-1])
    tiled: Tensor = (noise * gain).repeat(1, repeats)
    return x + tiled[:, : x.shape[-1]]


def gaussian_noise(seeds: Tensor, length: int) -> Tensor:
    """(B,) int64 seeds to (B, length) float32 Gaussian draws that depend on a row's seed alone; length is even.

    Source:
        Steele, Lea and Flood 2014, SplitMix64, read at positions 0, 1, ...; Box and Muller 1958.
    """
    position = torch.arange(length // 2, device=seeds.device)
    bits = _mix_bits(seeds)[:, None] + (position + 1) * -0x61C8864680B583EB
    bits = _mix_bits(bits)
    # Two numbers of 32 bits each; the first is never 0, for the logarithm.
    first, second = ((bits >> 32) & 0xFFFFFFFF).float().add_(1) / 2**32, (bits & 0xFFFFFFFF).float() / 2**32
    radius = first.log_().mul_(-2).clamp_min_(0).sqrt_()
    angle = second.mul_(2 * math.pi)
    return torch.cat((radius * angle.cos(), radius * angle.sin()), dim=1)


def _mix_bits(x: Tensor) -> Tensor:
    # The finaliser of SplitMix64 on int64, whose products wrap; `>>` keeps the sign, which the masks remove.
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def _rms(x: Tensor) -> Tensor:
    return x.square().mean(-1, keepdim=True).sqrt()


def time_mask(x: Tensor, u1: Tensor, u2: Tensor, fraction: float = 0.125) -> Tensor:
    """Zero one stretch of time, u1 * fraction * N wide, that begins at u2 of what is left; u1 and u2 (B,) in [0, 1).

    Source:
        torchaudio.functional.mask_along_axis: start and width are floored each on its own.
    """
    length = x.shape[-1]
    width = u1 * (fraction * length)
    start = (u2 * (length - width)).long()
    end = start + width.long()
    n = torch.arange(length, device=x.device)
    masked = (n >= start.to(x.device)[:, None]) & (n < end.to(x.device)[:, None])
    return x.masked_fill(masked, 0)


def time_shift(x: Tensor, shift: Tensor) -> Tensor:
    """Roll in a circle by (B,) samples, to later where positive.

    Source:
        torch-audiomentations Shift with rollover.
    """
    n = torch.arange(x.shape[-1], device=x.device)
    return x.gather(1, (n - shift.to(x.device)[:, None]) % x.shape[-1])
