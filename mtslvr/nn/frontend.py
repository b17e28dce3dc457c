"""Waveform to spectrogram, three channels as published: one FFT serves both windows; next: `resnet`."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from ..config import FrontendConfig, Phase
from ..errors import AudioError

_BANDS = 16  # mel bands that are projected together, by the few bins that they cover
_WINDOWS = 2  # that are computed together on a CPU, whose caches hold what lies between


def standardize(waveforms: Tensor) -> Tensor:
    """Each row of (B, T) with mean 0 and unbiased standard deviation 1, by statistics in float64; zeros if constant."""
    rows = waveforms.to(torch.float64, copy=True)
    mean = rows.mean(dim=1, keepdim=True)
    centred = rows.sub_(mean)  # a second pass over the samples is several times as fast as torch.std_mean's single one
    std = torch.linalg.vector_norm(centred, dim=1, keepdim=True) / math.sqrt(max(rows.shape[1] - 1, 0))
    silent = ~(std > mean.abs() * 2.0**-24)
    scaled: Tensor = centred * std.masked_fill(silent, torch.inf).reciprocal()
    return scaled.to(waveforms.dtype)


def mel_filterbank(config: FrontendConfig) -> Tensor:
    """Triangular mel filters on the HTK scale, without area normalisation, (1 + n_fft // 2, n_mels) float32.

    Source:
        Same definition as torchaudio.functional.melscale_fbanks(norm=None, mel_scale="htk").
    """

    def to_mel(hertz: float) -> float:
        return 2595.0 * math.log10(1.0 + hertz / 700.0)

    def linspace(start: float, end: float, steps: int) -> Tensor:
        return torch.linspace(start, end, steps, dtype=torch.float32, device="cpu")  # whatever torch's defaults are

    bins = linspace(0, config.sample_rate // 2, 1 + config.n_fft // 2)
    mels = linspace(to_mel(config.f_min), to_mel(config.f_max), config.n_mels + 2)
    corners = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    width = corners.diff()
    distance = corners[None, :] - bins[:, None]
    rising = -distance[:, :-2] / width[:-1]
    falling = distance[:, 2:] / width[1:]
    return torch.minimum(rising, falling).clamp_min(0.0)


class Frontend(nn.Module):
    """(B, T) z-normalised waveforms to (B, channels, n_mels, frames) spectrograms.

    Source:
        Heggan et al. 2023. Channels: log-mel power in dB; 10 log10 of the magnitude of the rectangular STFT
        whose real and imaginary parts are each projected on the mel filters; the phase of that pair in radians.
    """

    _filters: Tensor

    def __init__(self, config: FrontendConfig) -> None:
        super().__init__()
        self.config = config
        filters = mel_filterbank(config).T.contiguous()
        self.register_buffer("_filters", filters, persistent=False)
        covered = [bands.any(dim=0).nonzero().flatten().tolist() for bands in torch.split(filters, _BANDS)]
        self._covered = [slice(bins[0], bins[-1] + 1) if bins else slice(0, 1) for bins in covered]

    def forward(self, waveform: Tensor) -> Tensor:
        """(B, T) at `config.sample_rate` Hz to (B, channels, n_mels, 1 + T // hop_length), in float32 or float64."""
        if waveform.ndim != 2:
            raise AudioError(f"waveform of shape {tuple(waveform.shape)}: expected (batch, samples)")
        if waveform.shape[1] <= (half := self.config.n_fft // 2):
            raise AudioError(
                f"waveform of {waveform.shape[1]} samples: shorter than half an STFT frame ({half} samples); "
                "give a longer window, or embed(), which repeats short audio"
            )
        with torch.autocast(waveform.device.type, enabled=False):
            if waveform.dtype is not torch.float64:
                waveform = waveform.float()
            if waveform.shape[0] == 0:  # which the FFT of some libraries refuses
                return self._spectrogram(waveform.new_zeros(1, waveform.shape[1]))[:0]
            if waveform.device.type != "cpu" or torch.compiler.is_compiling():  # a graph takes batches of any size
                return self._spectrogram(waveform)
            return torch.cat([self._spectrogram(windows) for windows in torch.split(waveform, _WINDOWS)])

    def _spectrogram(self, waveform: Tensor) -> Tensor:
        bins = self._bins(waveform)
        channels = [self._log_power(bins)]
        if self.config.channels == 3:
            channels.extend(self._magnitude_and_phase(bins))
        # (n_mels, B * frames) each
        by_row = [channel.view(len(channel), waveform.shape[0], -1).transpose(0, 1) for channel in channels]
        spectrogram = torch.stack(by_row, dim=1)
        if self.config.channels == 3 and self.config.phase is Phase.STABLE:
            # Frame 0 is reflected about its own centre: real in exact arithmetic, so its phase is the sign of
            # rounding noise.
            spectrogram[:, 2, :, 0] = 0.0
        return spectrogram

    def _bins(self, waveform: Tensor) -> Tensor:
        """The centred STFT with a rectangular window, bin by bin: (3 + n_fft // 2, 2 n) for n frames in all.

        Real and imaginary parts of a frame are side by side. The frames are real, so the bins beyond both ends, which a
        Hann window needs, are the conjugates of those within.
        """
        half = self.config.n_fft // 2
        # The same numbers as F.pad(mode="reflect"), which takes several times as long on a CPU.
        padded = torch.cat([waveform[:, 1 : half + 1].flip(1), waveform, waveform[:, -half - 1 : -1].flip(1)], dim=1)
        spectrum = torch.fft.rfft(padded.unfold(1, self.config.n_fft, self.config.hop_length))
        bins = spectrum.flatten(0, -2).T
        return torch.view_as_real(torch.cat([bins[1:2].conj(), bins, bins[-2:-1].conj()])).flatten(1)

    def _log_power(self, bins: Tensor) -> Tensor:
        """Channel 0, (n_mels, n) in dB.

        A periodic Hann window is 1/2 - cos(2 pi n / N) / 2, so windowing is the circular 3-tap filter
        (-1/4, 1/2, -1/4) along frequency; here it is twice that.
        """
        hann = torch.sub(bins[1:-1], bins[:-2] + bins[2:], alpha=0.5)
        real, imaginary = _parts(self.project(hann.square_()))
        power: Tensor = real + imaginary
        return power.mul_(0.25).add_(self.config.epsilon).log10_().mul_(10.0)

    def _magnitude_and_phase(self, bins: Tensor) -> tuple[Tensor, Tensor]:
        """Channels 1 and 2, each (n_mels, n): dB and radians."""
        real, imaginary = _parts(self.project(bins[1:-1])).contiguous()
        magnitude = torch.hypot(real, imaginary)
        phase = torch.atan2(imaginary, real)
        level = magnitude + self.config.epsilon
        if self.config.phase is Phase.STABLE:
            phase *= magnitude / level  # below epsilon the phase is noise, and fades out
        return torch.log10(level).mul_(10.0), phase

    def project(self, bins: Tensor) -> Tensor:
        """(1 + n_fft // 2, n) real to (n_mels, n)."""
        groups = zip(torch.split(self._filters.to(bins.dtype), _BANDS), self._covered, strict=True)
        return torch.cat([filters[:, covered] @ bins[covered] for filters, covered in groups])


def _parts(projected: Tensor) -> Tensor:
    """(n_mels, 2 n) to real and imaginary part, (2, n_mels, n)."""
    return projected.view(len(projected), -1, 2).movedim(2, 0)


def log_mel(waveform: Tensor, config: FrontendConfig) -> Tensor:
    """Log-power mel spectrogram, channel 0 of the front end: (B, T) z-normalised to (B, n_mels, frames) in dB."""
    frontend = Frontend(dataclasses.replace(config, channels=1)).to(waveform.device)
    spectrogram: Tensor = frontend(waveform)
    return spectrogram[:, 0]


def spectral_statistics(spectrogram: Tensor) -> Tensor:
    """What global pooling loses: how loud each mel band is, how much that varies and how fast.

    (B, channels, n_mels, frames) to (B, 3 n_mels): mean, population deviation and mean absolute difference between
    frames, each over time, in units of 32 dB, which brings them to the spread of pooled features.
    """
    bands = spectrogram[:, 0].contiguous() / 32  # as the front end lays them out; sums round by it
    mean = bands.mean(dim=2)
    deviation = (bands - mean[:, :, None]).square().mean(dim=2).sqrt()  # torch.std takes several times as long on a CPU
    change = bands.diff(dim=2).abs().sum(dim=2) / max(1, bands.shape[2] - 1)
    return torch.cat([mean, deviation, change], dim=1)
