"""Speed and pitch of waveforms (B, N) by a phase vocoder, one parameter a sample; the others are in `transforms`.

A vocoder takes waveforms of N samples, more than n_fft // 2, or raises AudioError.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import AudioError

# All i/j within an octave either way whose i and j are products of prime factors of 16000 = 2^7 5^3 that the
# published search (torch-pitch-shift 1.2.5, `get_fast_shifts`) returns: its +-15 semitones are these 14.
PITCH_RATIOS = (
    (1, 2), (64, 125), (5, 8), (16, 25), (25, 32), (4, 5), (125, 128),
    (128, 125), (5, 4), (32, 25), (25, 16), (8, 5), (125, 64), (2, 1),
)  # fmt: skip

# Samples of frames held at once: on a CPU a few clips stay in cache, on a GPU memory is the bound.
_CPU_BUDGET, _GPU_BUDGET = 2**19, 2**28

# Added to a spectrum before its phase is read, so that the phase of 0 is 0; its square is a normal float32.
_QUIET = 1e-18


def time_stretch(x: Tensor, rate: Tensor, n_fft: int = 2048, hop_length: int = 512) -> Tensor:
    """Change the speed by (B,) rates, above 1 faster, and keep the pitch, with a rectangular window as published.

    Returns:
        (B, N): the first N samples, or the shorter result repeated from its start.
    Source:
        MT-SLVR's CustomTimeStretch on torchaudio.transforms.TimeStretch.
    """
    length = x.shape[-1]
    needed = -(-(length + n_fft // 2) // hop_length)  # later frames start after sample N
    frames = _stretched_frames(length, rate, hop_length)
    n = torch.arange(length, device=x.device)

    def stretch(part: Tensor, rows: Tensor) -> Tensor:
        count = int(frames[rows].clamp_max(needed).max())
        y = _vocode(part, rate[rows], frames[rows], count, n_fft, hop_length)
        period = (hop_length * (frames[rows] - 1)).clamp_min(1).to(x.device)[:, None]
        return y.gather(1, n % period)

    return _in_chunks(stretch, x, frames.clamp_max(needed), n_fft)


def pitch_shift(x: Tensor, ratio_index: Tensor, n_fft: int = 250, hop_length: int = 7) -> Tensor:
    """Shift the pitch by published ratios, (B,) places in `PITCH_RATIOS`.

    The STFT is the published one, or 512 and 128 samples about 14 times faster.

    Returns:
        (B, N), zeros at the end where the stretched waveform was short.
    Source:
        torch-pitch-shift 1.2.5: stretch by the ratio, then resample by it.
    """
    num, den = torch.tensor(PITCH_RATIOS)[ratio_index].unbind(1)
    rate = den.double() / num
    frames = _stretched_frames(x.shape[-1], rate, hop_length)

    def shift(part: Tensor, rows: Tensor) -> Tensor:
        y = _vocode(part, rate[rows], frames[rows], int(frames[rows].max()), n_fft, hop_length)
        out = torch.zeros_like(part)
        for index in sorted(set(ratio_index[rows].tolist())):
            same = (ratio_index[rows] == index).nonzero().flatten()
            stretched = y[same.to(x.device), : hop_length * (int(frames[rows][same[0]]) - 1)]
            resampled = resample(stretched, *PITCH_RATIOS[index])[:, : x.shape[-1]]
            out[same.to(x.device), : resampled.shape[-1]] = resampled
        return out

    return _in_chunks(shift, x, frames, n_fft)


def pitch_shift_semitones(x: Tensor, semitones: Tensor, n_fft: int = 512, hop_length: int = 128) -> Tensor:
    """Shift the pitch by any (B,) semitones, to higher where positive.

    The stretched spectrum loses what the shift would lift above the Nyquist frequency and is inverted at twice the
    rate, where a four-point cubic reads between the samples.

    Returns:
        (B, N), zeros at the end where the stretched waveform was short.
    Source:
        The range that MT-SLVR's paper documents; its code reaches only `PITCH_RATIOS`.
    """
    ratio = torch.exp2(semitones.double() / 12)
    frames = _stretched_frames(x.shape[-1], 1 / ratio, hop_length)
    keep = (0.99 / ratio).clamp_max(1) * (n_fft / 2)

    def shift(part: Tensor, rows: Tensor) -> Tensor:
        count = int(frames[rows].max())
        y = _vocode(part, 1 / ratio[rows], frames[rows], count, n_fft, hop_length, keep[rows])
        return _read_between(y, 2 * ratio[rows], 2 * hop_length * (frames[rows] - 1), x.shape[-1])

    return _in_chunks(shift, x, frames, 2 * n_fft)


def _stretched_frames(length: int, rate: Tensor, hop_length: int) -> Tensor:
    return torch.ceil((1 + length // hop_length) / rate.double()).long()


def _in_chunks(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, frames: Tensor, n_fft: int) -> Tensor:
    # Sorted by length, little of a chunk is padding.
    out = torch.empty_like(x)
    budget = _GPU_BUDGET if x.is_cuda else _CPU_BUDGET
    rows = frames.argsort(descending=True)
    for part in torch.split(rows, max(1, budget // (int(frames.max()) * n_fft))):
        on_device = part.to(x.device)
        out[on_device] = function(x[on_device], part)
    return out


def _vocode(
    x: Tensor, rate: Tensor, frames: Tensor, count: int, n_fft: int, hop_length: int, keep: Tensor | None = None
) -> Tensor:
    """Stretch waveforms: `count` frames computed, those of a sample from `frames` on silent.

    With `keep` (B,), bins from there on are dropped and the result has twice the sample rate.
    """
    if x.shape[-1] <= n_fft // 2:
        raise AudioError(
            f"{x.shape[-1]} samples: too short for an STFT of {n_fft}; "
            f"give more than {n_fft // 2} samples or lower n_fft"
        )
    padded = F.pad(x[:, None], (n_fft // 2, n_fft // 2), mode="reflect")[:, 0]
    spectrum = torch.fft.rfft(padded.unfold(1, n_fft, hop_length))
    valid = torch.arange(count) < frames[:, None]
    stretched = _stretch_spectrum(spectrum, rate, valid)
    scale = 1
    if keep is not None:
        scale = 2
        bins = torch.arange(spectrum.shape[-1], device=x.device)
        stretched = stretched * (2.0 * (bins < keep.to(x.device)[:, None]))[:, None]
    blocks = torch.fft.irfft(stretched, n=scale * n_fft)
    return _overlap_add(blocks, valid.to(x), scale * hop_length)[:, scale * n_fft // 2 :]


def _stretch_spectrum(spectrum: Tensor, rate: Tensor, valid: Tensor) -> Tensor:
    """(B, T, bins) complex → (B, count, bins): the phase vocoder, one rate a sample.

    The published phase of frame t is that of frame 0 plus the sum of angle(next) - angle(this) over the
    frames read so far; wrapping and adding the expected advance change it by multiples of 2 pi only. So its
    phasor is the product of next * conj(this), of modulus 1: no angle, no large float32 sum.
    """
    batch, last, _ = spectrum.shape
    count = valid.shape[1]
    block = math.isqrt(count - 1) + 1
    steps = torch.arange(-(-count // block) * block, dtype=torch.float64) * rate.double()[:, None]
    steps = steps.to(torch.float32 if spectrum.dtype is torch.complex64 else torch.float64)
    this = steps.long()
    weight = (steps - this)[:, :count]
    this = this.clamp_max_(last - 1)  # beyond a sample's own frames, where `valid` silences
    turn_rows = torch.cat((torch.full((batch, 1), last), this[:, :-1]), 1)  # row `last`: phase of frame 0

    spectrum = spectrum + _QUIET
    heard = spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag).sqrt_()
    unit = spectrum * heard.clamp_min(_QUIET / 10).reciprocal_()
    magnitude = F.pad(heard - _QUIET, (0, 0, 0, 1))
    # The frame after the last is 0, of angle 0.
    turns = torch.cat((unit[:, 1:] * unit[:, :-1].conj(), unit[:, -1:].conj(), unit[:, :1]), 1)

    phasor = _cumulative_product(_rows(turns, turn_rows), block)[:, :count]
    before = ((1 - weight) * valid).to(magnitude.device)[..., None]
    after = (weight * valid).to(magnitude.device)[..., None]
    this = this[:, :count]
    return phasor * (_rows(magnitude, this) * before).addcmul_(_rows(magnitude, this + 1), after)


def _rows(table: Tensor, index: Tensor) -> Tensor:
    # (B, R, bins) and (B, count) row numbers → (B, count, bins)
    flat = index + table.shape[1] * torch.arange(len(index))[:, None]
    return table.flatten(0, 1).index_select(0, flat.flatten().to(table.device)).view(*index.shape, -1)


def _cumulative_product(x: Tensor, block: int) -> Tensor:
    # Along dim 1 of (B, T, bins), T a multiple of block, in place: T / block + block steps rather than T, and
    # as many roundings.
    parts = x.view(len(x), -1, block, x.shape[2])
    for i in range(1, block):
        parts[:, :, i] *= parts[:, :, i - 1]
    for i in range(1, parts.shape[1]):
        parts[:, i] *= parts[:, i - 1, -1:]
    return x


def _overlap_add(blocks: Tensor, valid: Tensor, hop_length: int) -> Tensor:
    """(B, T, n_fft) blocks, (B, T) valid → (B, (T + overlap - 1) hop): their mean over the valid ones."""
    n_fft = blocks.shape[-1]
    count, overlap = blocks.shape[1], -(-n_fft // hop_length)
    out = blocks.new_zeros(len(blocks), count + overlap - 1, hop_length)
    for i in range(overlap):
        piece = blocks[..., i * hop_length : (i + 1) * hop_length]
        out[:, i : i + count, : piece.shape[-1]] += piece
    window = torch.ones(n_fft, dtype=blocks.dtype, device=blocks.device)
    window = F.pad(window, (0, overlap * hop_length - n_fft)).view(overlap, hop_length)
    covering = F.pad(valid, (overlap - 1, overlap - 1)).unfold(1, overlap, 1)
    return out.div_((covering @ window.flip(0)).clamp_min_(1)).flatten(1)


def resample(x: Tensor, orig: int, new: int) -> Tensor:
    """Resample (B, L) to (B, ceil(new L / orig)), a reduced ratio, with a windowed sinc.

    Source:
        torchaudio.functional.resample with its defaults: sinc_interp_hann, width 6, rolloff 0.99.
    """
    kernel, width = _resample_kernel(orig, new)
    kernel = kernel.to(x)
    windows = F.pad(x, (width, width + orig)).unfold(1, kernel.shape[0], orig)
    return (windows @ kernel).flatten(1)[:, : -(-new * x.shape[-1] // orig)]


@functools.lru_cache(maxsize=64)
def _resample_kernel(orig: int, new: int, zeros: int = 6, rolloff: float = 0.99) -> tuple[Tensor, int]:
    # (taps, new) float64 and the taps before the first input sample.
    base = min(orig, new) * rolloff
    width = math.ceil(zeros * orig / base)
    taps = torch.arange(-width, width + orig, dtype=torch.float64)[:, None] / orig
    t = ((taps - torch.arange(new, dtype=torch.float64) / new) * base).clamp(-zeros, zeros)
    return torch.sinc(t) * torch.cos(t * math.pi / zeros / 2) ** 2 * (base / orig), width


def _read_between(y: Tensor, step: Tensor, lengths: Tensor, count: int) -> Tensor:
    """Read y (B, L) at 0, step, 2 step, ... by Catmull-Rom cubics; 0 from `lengths` on."""
    position = torch.arange(count, dtype=torch.float64, device=y.device) * step.to(y.device)[:, None]
    left = position.long()
    t = (position - left).to(y.dtype)
    a, b, c, d = (y.gather(1, (left + i).clamp_(0, y.shape[-1] - 1)) for i in (-1, 0, 1, 2))
    slope_b, slope_c = (c - a) / 2, (d - b) / 2
    cubic = ((2 * (b - c) + slope_b + slope_c) * t + 3 * (c - b) - 2 * slope_b - slope_c) * t + slope_b
    return (cubic * t + b).masked_fill_(left >= lengths.to(y.device)[:, None], 0)
