"""`embed` and `embed_windows`: any audio in, embeddings out; what most users call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .audio import AudioInput, audio_label
from .config import Features, Layer, parse_enum
from .encoder import Encoder
from .errors import AudioError
from .extract import ExtractConfig, Source, embed_sources
from .hub import default_encoder
from .windows import Pool

Array = npt.NDArray[Any]


def embed(
    audio: AudioInput | Sequence[AudioInput],
    sample_rate: int | Sequence[int] | None = None,
    *,
    features: Features | str = Features.CONCAT,
    layer: Layer | str = Layer.HEAD,
    encoder: Encoder | None = None,
    window_seconds: float | None = None,
    hop_seconds: float | None = None,
    batch_size: int = 32,
    threads: int = 2,
) -> Any:
    """One embedding for each input: the mean over its windows.

    Args:
        audio: a path, a binary file object, an array or tensor (samples,) or (channels, samples), or a list of
            them, lengths and rates mixed. Mixed down to mono and resampled as needed; a 2-D array is one input.
        sample_rate: Hz of arrays and tensors; a list gives one for each input. Files know their own.
        features: "invariant" (contrastive), "variant" (augmentation prediction) or "concat".
        layer: "head" (what the paper evaluates) or "pooled" (what it reads: 512-d as published, and as wide as
            `Encoder.embedding_dim` says where the checkpoint's `EncoderConfig` names rows or spectral statistics).
        encoder: from `mtslvr.load`; None is the bundled default, loaded once.
        window_seconds: length of the slices given to the encoder; None is what it was made for (5 s). Shorter
            input is repeated to fill one.
        hop_seconds: from one slice to the next; None is `window_seconds`.
        batch_size: slices at once through the encoder.
        threads: files decoded side by side.
    Returns:
        (D,) float32 for one input, (n, D) for a list of n; NumPy, or a tensor on the encoder's device where all
        inputs are tensors.
    Raises:
        AudioError: input that is missing, no audio, empty, not finite, of the wrong rank, or without a rate.
        ConfigError: unknown features or layer, window or hop outside its range.
    """
    config = ExtractConfig(
        parse_enum(Features, features, "features"),
        parse_enum(Layer, layer, "layer"),
        Pool.MEAN,
        window_seconds,
        hop_seconds,
        batch_size,
        threads,
    )
    encoder = encoder or default_encoder()
    single = not isinstance(audio, (list, tuple))
    inputs: Sequence[AudioInput] = [audio] if single else audio  # type: ignore[assignment,list-item]
    results = embed_sources(_sources(inputs, sample_rate, single), encoder, config)
    width = encoder.embedding_dim(config.features, config.layer)
    rows = np.concatenate([e for e, _ in results]) if results else np.empty((0, width), np.float32)
    return _like(rows[0] if single else rows, inputs, encoder)


def embed_windows(
    audio: AudioInput,
    sample_rate: int | None = None,
    *,
    features: Features | str = Features.CONCAT,
    layer: Layer | str = Layer.HEAD,
    encoder: Encoder | None = None,
    window_seconds: float | None = None,
    hop_seconds: float | None = None,
    batch_size: int = 32,
) -> tuple[Any, npt.NDArray[np.float64]]:
    """An embedding for each window of one input.

    Args:
        audio: see `embed`; one input.
        sample_rate: Hz of an array or tensor.
        features: see `embed`.
        layer: see `embed`.
        encoder: see `embed`.
        window_seconds: see `embed`.
        hop_seconds: window i starts at round(i * hop_seconds * sample_rate) samples.
        batch_size: see `embed`.
    Returns:
        Embeddings (k, D) float32 and their start and end (k, 2) in seconds; the last window is repeated to full
        length where the audio ends inside it.
    Raises:
        AudioError, ConfigError: see `embed`.
    """
    config = ExtractConfig(
        parse_enum(Features, features, "features"),
        parse_enum(Layer, layer, "layer"),
        Pool.NONE,
        window_seconds,
        hop_seconds,
        batch_size,
    )
    encoder = encoder or default_encoder()
    [(embeddings, spans)] = embed_sources(_sources([audio], sample_rate, True), encoder, config)
    return _like(embeddings, [audio], encoder), spans


def _sources(inputs: Sequence[AudioInput], sample_rate: int | Sequence[int] | None, single: bool) -> list[Source]:
    if isinstance(sample_rate, Encoder):  # would be passed over beside a path, and another encoder used
        raise AudioError("sample_rate is an encoder; give it by name, encoder=...")
    many = isinstance(sample_rate, Sequence) and not isinstance(sample_rate, str)
    rates: list[int | None] = list(sample_rate) if many else [sample_rate] * len(inputs)  # type: ignore[arg-type,list-item]
    if len(rates) != len(inputs):
        raise AudioError(f"{len(rates)} sample rates for {len(inputs)} inputs; give one, or one for each")
    return [
        Source(audio, rate, audio_label(audio, None if single else i))
        for i, (audio, rate) in enumerate(zip(inputs, rates, strict=True))
    ]


def _like(rows: npt.NDArray[np.float32], inputs: Sequence[AudioInput], encoder: Encoder) -> Any:
    if inputs and all(isinstance(audio, Tensor) for audio in inputs):
        return torch.from_numpy(rows).to(encoder.device)
    return rows
