"""What the other engines are compared with: the unfolded network, one full pass a task, behind a plain front end.

As the authors' code works it out: normalisation by the plain formula, two STFTs (Hann and rectangular), dense mel
products, the spectrogram once, then trunk, branch and head for each task, so the trunk twice; contiguous memory.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtslvr.config import Normalization, Phase
from mtslvr.nn.encoder import Encoder
from mtslvr.nn.frontend import mel_filterbank
from mtslvr.nn.resnet import AdaptedConv, ParallelAdapter


class Baseline(nn.Module):
    """(B, T) waveforms to the (B, D) embedding of both tasks side by side.

    Args:
        encoder: from `mtslvr.load(fold=False)`.
        apart: 1x1 convolutions of parallel adapters as operations of their own, as in the authors' code; the package
            adds them to the 3x3 kernel first.
    """

    def __init__(self, encoder: Encoder, *, apart: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        config = encoder.config.frontend
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)
        self.register_buffer("filters", mel_filterbank(config), persistent=False)
        if apart:
            set_apart(encoder)

    def forward(self, waveforms: Tensor) -> Tensor:
        """What `encoder.embedding(waveforms, "concat")` gives."""
        spectrogram = self.spectrogram(self.normalize(waveforms))
        passes = [self.task(spectrogram, task) for task in range(self.encoder.config.outputs)]
        return torch.cat(passes, dim=1)

    def normalize(self, waveforms: Tensor) -> Tensor:
        """Each row to mean 0 and deviation 1, or as the config says."""
        config = self.encoder.config
        if config.normalization is Normalization.NONE:
            return waveforms
        if config.normalization is Normalization.GLOBAL:
            return (waveforms - config.global_mean) / config.global_std
        return (waveforms - waveforms.mean(dim=1, keepdim=True)) / waveforms.std(dim=1, keepdim=True)

    def spectrogram(self, waveforms: Tensor) -> Tensor:
        """(B, channels, n_mels, frames)."""
        config = self.encoder.config.frontend
        power = self.stft(waveforms, self.window).abs().square() @ self.filters
        channels = [10 * torch.log10(power + config.epsilon)]
        if config.channels == 3:
            plain = self.stft(waveforms, torch.ones_like(self.window))
            real, imaginary = plain.real @ self.filters, plain.imag @ self.filters
            magnitude, phase = torch.hypot(real, imaginary), torch.atan2(imaginary, real)
            if config.phase is Phase.STABLE:
                phase = phase * magnitude / (magnitude + config.epsilon)
                phase[:, 0] = 0
            channels += [10 * torch.log10(magnitude + config.epsilon), phase]
        return torch.stack(channels, dim=1).transpose(2, 3).contiguous()

    def stft(self, waveforms: Tensor, window: Tensor) -> Tensor:
        """(B, frames, bins) complex."""
        config = self.encoder.config.frontend
        spectrum = torch.stft(
            waveforms, config.n_fft, config.hop_length, window=window, center=True, pad_mode="reflect",
            return_complex=True,
        )  # fmt: skip
        return spectrum.transpose(1, 2)

    def task(self, spectrogram: Tensor, task: int) -> Tensor:
        """One full pass: trunk, branch and head; the trunk's own forward would change the order in memory."""
        trunk = self.encoder.trunk
        x = F.max_pool2d(trunk.stem(spectrogram, 0, relu=True), 3, 2, 1)
        for block in trunk.layer1:
            x = block(x, 0)
        pooled = self.encoder.pooled(x, spectrogram, task)
        head: Tensor = self.encoder.heads[min(task, self.encoder.config.heads - 1)](pooled)
        return head


class ApartAdapter(nn.Module):
    """A parallel adapter as two convolutions and a sum."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, conv: nn.Conv2d) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H', W')."""
        shared: Tensor = conv(x)
        return shared + F.conv2d(x, self.conv.weight, None, conv.stride)


def set_apart(encoder: Encoder) -> None:
    """Every parallel adapter of an unfolded encoder."""
    for module in encoder.modules():
        if isinstance(module, AdaptedConv):
            kept = [ApartAdapter(a.conv) if isinstance(a, ParallelAdapter) else a for a in module.adapters]
            module.adapters = nn.ModuleList(kept)
