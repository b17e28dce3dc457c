"""One clip (N,) → one changed clip (N,) by torchaudio's own operators: what `transforms` is tested against.

The published fade, time stretch and pitch shift as the official code ran them, one clip at a time; training
never calls them.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import TrainingError


def load_torchaudio() -> Any:
    """Import torchaudio.

    Raises:
        TrainingError: it is missing, or it does not load beside this torch.
    """
    try:
        torchaudio = importlib.import_module("torchaudio")
        importlib.import_module("torchaudio.functional")
        importlib.import_module("torchaudio.transforms")
    except (ImportError, OSError, RuntimeError) as error:
        raise TrainingError(
            f"torchaudio does not load beside torch {torch.__version__} ({error}); install it with "
            "`pip install 'mtslvr[train]'`; torchaudio 2.11 needs a CUDA build of torch < 2.15"
        ) from error
    return torchaudio


def fade(x: Tensor, shape: str, fade_in: int, fade_out: int) -> Tensor:
    """Fade (N,) with torchaudio.transforms.Fade; see `transforms.fade`.

    Raises:
        TrainingError: torchaudio does not load.
    """
    faded: Tensor = load_torchaudio().transforms.Fade(fade_in, fade_out, shape)(x)
    return faded


def time_stretch(x: Tensor, rate: float, n_fft: int = 2048, hop_length: int = 512) -> Tensor:
    """Stretch (N,) with torchaudio's phase vocoder; see `transforms.time_stretch`.

    Raises:
        TrainingError: torchaudio does not load.
    """
    y = _vocode(x, rate, n_fft, hop_length)
    return y.repeat(-(-len(x) // len(y)))[: len(x)]


def pitch_shift(x: Tensor, num: int, den: int, n_fft: int = 250, hop_length: int = 7) -> Tensor:
    """Shift (N,) by the ratio num / den with torchaudio's operators; see `transforms.pitch_shift`.

    Raises:
        TrainingError: torchaudio does not load.
    """
    stretched = _vocode(x, den / num, n_fft, hop_length)
    y = load_torchaudio().functional.resample(stretched, num, den)[: len(x)]
    return F.pad(y, (0, len(x) - len(y)))


def _vocode(x: Tensor, rate: float, n_fft: int, hop_length: int) -> Tensor:
    window = torch.ones(n_fft, dtype=x.dtype, device=x.device)
    spectrum = torch.stft(x, n_fft, hop_length, window=window, return_complex=True)
    stretch = load_torchaudio().transforms.TimeStretch(hop_length, n_fft // 2 + 1).to(x.device, x.dtype)
    return torch.istft(stretch(spectrum, rate), n_fft, hop_length, window=window)
