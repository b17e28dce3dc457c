"""The HEAR common API: `load_model`, `get_scene_embeddings`, `get_timestamp_embeddings`; called by its tools.

Source:
    Turian et al. 2022, "HEAR: Holistic Evaluation of Audio Representations", arXiv 2203.03022; hearbenchmark.com.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from .api import embed
from .config import Normalization
from .errors import AudioError
from .models.hub import load
from .nn.encoder import Encoder
from .nn.frontend import standardize

HOP_SECONDS = 0.05
# The last feature map of the encoder has one column in 32 STFT frames, 1.02 s: too coarse for timestamps, so each
# gets a window of about one column.
WINDOW_SECONDS = 1.0
_BATCH = 32  # windows at once


class HearModel(nn.Module):
    """An encoder with the attributes that HEAR asks for: Hz of the audio, widths of both kinds of embeddings."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.sample_rate: int = encoder.sample_rate
        self.scene_embedding_size: int = encoder.embedding_dim()
        self.timestamp_embedding_size: int = encoder.embedding_dim()


def load_model(model_file_path: str | os.PathLike[str] = "") -> HearModel:
    """An encoder for HEAR, in evaluation mode, on the CPU until it is moved.

    Args:
        model_file_path: what `mtslvr.load` takes, or the model.safetensors in a checkpoint folder; empty is the
            bundled default.
    Raises:
        HubError, CheckpointError: see `mtslvr.load`.
    """
    name: str | os.PathLike[str] | None = model_file_path or None
    if name is not None and os.path.isfile(name):
        name = Path(name).parent
    return HearModel(load(name, device="cpu")).eval()


def get_scene_embeddings(audio: Tensor, model: HearModel) -> Tensor:
    """One embedding a clip: the mean over its windows, concatenated features.

    Args:
        audio: (n, samples) at `model.sample_rate` Hz, -1 to 1.
        model: from `load_model`.
    Returns:
        (n, scene_embedding_size) float32, on the model's device.
    Raises:
        AudioError: another rank, no samples, NaN.
    """
    _check(audio)
    rows = torch.as_tensor(embed(list(audio), model.sample_rate, encoder=model.encoder))
    return rows.to(model.encoder.device)  # NumPy gives those of no clips


def get_timestamp_embeddings(audio: Tensor, model: HearModel) -> tuple[Tensor, Tensor]:
    """An embedding each 50 ms: of the second of audio around it, mirrored at the ends of the clip.

    It takes 20 windows of 1 s a second of audio, 20 times the work of a scene embedding.

    Args:
        audio: (n, samples) at `model.sample_rate` Hz, -1 to 1.
        model: from `load_model`.
    Returns:
        Embeddings (n, t, timestamp_embedding_size) float32 and their centres (n, t) in milliseconds, both on the
        model's device.
    Raises:
        AudioError: see `get_scene_embeddings`.
    """
    _check(audio)
    encoder = model.encoder
    audio = audio.to(encoder.device, torch.float32)
    encode = encoder
    if encoder.config.normalization is Normalization.FILE:
        audio, encode = standardize(audio), encoder.encode  # type: ignore[assignment]
    centres = timestamps(audio.shape[1] / model.sample_rate)
    places = window_indices(audio.shape[1], centres, model.sample_rate).to(audio.device)
    with torch.no_grad():
        rows = [
            encode(audio[i, part]).concat.float()
            for i in range(len(audio))
            for part in torch.split(places, _BATCH)
        ]  # fmt: skip
    empty = audio.new_empty(0, model.timestamp_embedding_size)
    embeddings = torch.cat([empty, *rows]).reshape(len(audio), len(centres), empty.shape[1])
    return embeddings, (1000 * centres).to(audio.device, torch.float32).expand(len(audio), -1).contiguous()


def timestamps(seconds: float) -> Tensor:
    """Centres (t,) in seconds, float64: at half a hop, then every hop, all within a clip of that length."""
    count = max(1, int(seconds / HOP_SECONDS + 0.5))
    centres = (torch.arange(count, dtype=torch.float64) + 0.5) * HOP_SECONDS
    return centres.clamp(max=seconds)


def window_indices(length: int, centres: Tensor, sample_rate: int) -> Tensor:
    """Samples (t, L) of the window around each centre, mirrored where it reaches beyond 0 or `length`."""
    size = round(WINDOW_SECONDS * sample_rate)
    # Each start is rounded by itself, so that nothing accumulates.
    starts = torch.round(centres * sample_rate).long() - size // 2
    places = (starts[:, None] + torch.arange(size)) % (2 * length)
    return torch.minimum(places, 2 * length - 1 - places)


def _check(audio: Tensor) -> None:
    if audio.ndim != 2 or audio.shape[1] == 0:
        raise AudioError(f"audio of shape {tuple(audio.shape)}: expected (clips, samples)")
    if not torch.isfinite(audio).all():
        raise AudioError("audio with NaN or infinite samples; repair or remove them")
