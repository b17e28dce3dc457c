"""Waveforms to the log-mel baseline, 256 numbers a clip that need no training; next module: `evaluate`."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..config import FrontendConfig
from ..nn.frontend import log_mel

# Float64 epsilon puts digital silence at -157 dB, where it rules mean and deviation. Of a unit-variance waveform,
# 1e-4 is a floor at -40 dB and makes the baseline stronger on esc50-val and fsdd-digit.
BASELINE = FrontendConfig(epsilon=1e-4)


def log_mel_statistics(waveform: Tensor, config: FrontendConfig = BASELINE) -> Tensor:
    """Take mean and population deviation over time of the log-mel spectrogram of whole clips.

    Args:
        waveform: (B, T) at `config.sample_rate` Hz, any level: each clip is brought to mean 0 and unbiased
            deviation 1 (a silent one to 0). Clips shorter than one STFT frame are repeated to fill it.
        config: of the spectrogram; the published one by default, but for a floor at -40 dB.

    Returns:
        (B, 2 * n_mels): means, then deviations, in dB.

    Raises:
        AudioError: wrong rank.
    """
    if waveform.ndim == 2 and 0 < waveform.shape[1] < config.n_fft:
        waveform = waveform.repeat(1, -(-config.n_fft // waveform.shape[1]))[:, : config.n_fft]
    centred = waveform - waveform.mean(dim=-1, keepdim=True)
    std = centred.std(dim=-1, keepdim=True)
    spectrogram = log_mel(centred / torch.where(std > 0, std, 1), config)
    return torch.cat([spectrogram.mean(dim=2), spectrogram.std(dim=2, correction=0)], dim=1)


def log_mel_features(waveforms: Iterable[Tensor], config: FrontendConfig = BASELINE) -> npt.NDArray[np.float32]:
    """Compute the baseline of many clips, one at a time: an iterator of files needs the memory of one.

    Args:
        waveforms: (T,) each, at `config.sample_rate` Hz.
        config: as in `log_mel_statistics`.

    Returns:
        (n, 2 * n_mels) float32.
    """
    with torch.inference_mode():
        rows = [log_mel_statistics(waveform[None].float(), config)[0].numpy() for waveform in waveforms]
    return np.stack(rows)
