"""Waveform to spectrogram, three channels as published: one FFT serves both windows; next: `resnet`."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .config import FrontendConfig, Phase
from .errors import AudioError

_MEL_BLOCK = 16  # filters a block; narrow blocks skip most of the filterbank's zeros
_CPU_ROWS = 4  # waveforms at once on a CPU, so that what passes from step to step stays in its caches


def mel_filterbank(config: FrontendConfig) -> Tensor:
    """Triangular mel filters on the HTK scale, without area normalisation.

    Returns:
        (1 + n_fft // 2, n_mels) float32.
    Source:
        Same definition as torchaudio.functional.melscale_fbanks(norm=None, mel_scale="htk").
    """

    def to_mel(hertz: float) -> float:
        return 2595.0 * math.log10(1.0 + hertz / 700.0)

    bins = torch.linspace(0, config.sample_rate // 2, 1 + config.n_fft // 2)
    mels = torch.linspace(to_mel(config.f_min), to_mel(config.f_max), config.n_mels + 2)
    corners = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    width = corners.diff()
    distance = corners[None, :] - bins[:, None]
    rising = -distance[:, :-2] / width[:-1]
    falling = distance[:, 2:] / width[1:]
    return torch.minimum(rising, falling).clamp_min(0.0)


def rectangular_stft(waveform: Tensor, config: FrontendConfig) -> Tensor:
    """Centred STFT with reflect padding and a rectangular window.

    Args:
        waveform: (B, T) float32 or float64.
    Returns:
        (B, 1 + T // hop_length, 1 + n_fft // 2) complex.
    Raises:
        AudioError: T is at most n_fft // 2, too short for reflect padding.
    """
    half = config.n_fft // 2
    if waveform.ndim != 2:
        raise AudioError(f"waveform of shape {tuple(waveform.shape)}: expected (batch, samples)")
    if waveform.shape[1] <= half:
        raise AudioError(
            f"waveform of {waveform.shape[1]} samples: shorter than half an STFT frame ({half} samples); "
            "give a longer window, or embed(), which repeats short audio"
        )
    # The same numbers as F.pad(mode="reflect"), which takes several times as long on a CPU.
    padded = torch.cat([waveform[:, 1 : half + 1].flip(1), waveform, waveform[:, -half - 1 : -1].flip(1)], dim=1)
    frames = padded.unfold(1, config.n_fft, config.hop_length)
    if len(frames) == 0:  # which the FFT of some libraries refuses
        return torch.complex(frames, frames)[..., : half + 1]
    spectrum: Tensor = torch.fft.rfft(frames)
    return spectrum


def hann_from_rectangular(spectrum: Tensor) -> Tensor:
    """The Hann-windowed spectrum of the same frames.

    A periodic Hann window is 1/2 - cos(2 pi n / N) / 2, so windowing is the circular 3-tap filter
    (-1/4, 1/2, -1/4) along frequency. The two taps beyond 0 and N/2 are conjugates of their mirror bins.

    Args:
        spectrum: (..., 1 + N // 2) complex, rectangular window.
    Returns:
        Same shape.
    """
    return torch.complex(*_hann_filter(_parts(spectrum)))


def _parts(spectrum: Tensor) -> Tensor:
    """(2, ...): real and imaginary part of a complex tensor."""
    return torch.view_as_real(spectrum).movedim(-1, 0).contiguous()


def _hann_filter(parts: Tensor) -> Tensor:
    """`hann_from_rectangular` of both parts, (2, ..., bins)."""
    filtered = 0.5 * parts
    filtered[..., 1:-1].sub_(parts[..., :-2] + parts[..., 2:], alpha=0.25)
    # What lies beyond either end has the real part of the neighbour on this side, and the opposite imaginary one.
    filtered[0, ..., 0].sub_(parts[0, ..., 1], alpha=0.5)
    filtered[0, ..., -1].sub_(parts[0, ..., -2], alpha=0.5)
    return filtered


class Frontend(nn.Module):
    """(B, T) z-normalised waveforms to (B, channels, n_mels, frames) spectrograms.

    Source:
        Heggan et al. 2023. Channels: log-mel power in dB; 10 log10 of the magnitude of the rectangular STFT
        whose real and imaginary parts are each projected on the mel filters; the phase of that pair in radians.
    """

    def __init__(self, config: FrontendConfig) -> None:
        super().__init__()
        self.config = config
        filters = mel_filterbank(config)
        self._bands: list[tuple[int, int]] = []
        for index, block in enumerate(torch.split(filters, _MEL_BLOCK, dim=1)):
            used = block.any(dim=1).nonzero()
            low, high = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
            self._bands.append((low, high))
            self.register_buffer(f"filters{index}", block[low:high].contiguous(), persistent=False)

    def project(self, spectrum: Tensor) -> Tensor:
        """(..., 1 + n_fft // 2) real to (..., n_mels): each block of filters reads only the bins it covers."""
        projected = spectrum.new_empty(*spectrum.shape[:-1], self.config.n_mels)
        first = 0
        for index, (low, high) in enumerate(self._bands):
            filters: Tensor = getattr(self, f"filters{index}")
            end = first + filters.shape[1]
            projected[..., first:end] = spectrum[..., low:high] @ filters.to(spectrum.dtype)
            first = end
        return projected

    def log_power(self, parts: Tensor) -> Tensor:
        """Channel 0, (B, frames, n_mels) in dB, from the parts of the rectangular STFT, (2, B, frames, bins)."""
        squares = _hann_filter(parts).square_()
        power = self.project(squares[0].add_(squares[1]))
        return power.add_(self.config.epsilon).log10_().mul_(10.0)

    def magnitude_and_phase(self, parts: Tensor) -> tuple[Tensor, Tensor]:
        """Channels 1 and 2, each (B, frames, n_mels): dB and radians."""
        real, imaginary = self.project(parts)
        magnitude = torch.hypot(real, imaginary)
        phase = torch.atan2(imaginary, real)
        level = magnitude + self.config.epsilon
        if self.config.phase is Phase.STABLE:
            # Frame 0 is reflected about its own centre: real in exact arithmetic, so its phase is the sign of
            # rounding noise. Below epsilon the phase is noise, too, and fades out.
            phase *= magnitude / level
            phase[:, 0] = 0.0
        return torch.log10(level).mul_(10.0), phase

    def forward(self, waveform: Tensor) -> Tensor:
        """Spectrogram of a batch.

        Args:
            waveform: (B, T) at `config.sample_rate` Hz; computed in float32 (float64 stays float64).
        Returns:
            (B, channels, n_mels, 1 + T // hop_length).
        Raises:
            AudioError: wrong rank, or shorter than half an STFT frame.
        """
        with torch.autocast(waveform.device.type, enabled=False):
            if waveform.dtype is not torch.float64:
                waveform = waveform.float()
            if waveform.device.type != "cpu" or waveform.ndim != 2 or len(waveform) <= _CPU_ROWS:
                spectrogram = self._frames(waveform)
            else:
                spectrogram = torch.cat([self._frames(rows) for rows in torch.split(waveform, _CPU_ROWS)])
            return spectrogram.transpose(2, 3)

    def _frames(self, waveform: Tensor) -> Tensor:
        """The spectrogram as (B, channels, frames, n_mels)."""
        parts = _parts(rectangular_stft(waveform, self.config))
        channels = [self.log_power(parts)]
        if self.config.channels == 3:
            channels.extend(self.magnitude_and_phase(parts))
        return torch.stack(channels, dim=1)


def log_mel(waveform: Tensor, config: FrontendConfig) -> Tensor:
    """Log-power mel spectrogram: channel 0 of the front end.

    Args:
        waveform: (B, T) mono audio at `config.sample_rate` Hz, z-normalised.
    Returns:
        (B, n_mels, 1 + T // hop_length) in dB.
    Raises:
        AudioError: wrong rank, or shorter than half an STFT frame.
    Source:
        Heggan et al. 2023; epsilon is float64 machine epsilon, as published.
    """
    frontend = Frontend(config).to(waveform.device)
    return frontend.log_power(_parts(rectangular_stft(waveform, config))).transpose(1, 2)
