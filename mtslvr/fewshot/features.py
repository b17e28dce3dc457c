"""Files to feature matrices, each once through the encoder or the log-mel baseline, and kept; next: `command`."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..audio.load import load_audio
from ..audio.windows import Pool, iter_windows
from ..config import Features, FrontendConfig, Layer
from ..errors import AudioError, ConfigError
from ..nn.encoder import Encoder
from ..nn.frontend import log_mel
from ..run.extract import ExtractConfig, Source, extract
from .cache import FeatureCache, default_cache
from .classifiers import FloatArray

LOG_MEL = "log-mel"
FEATURES = ("invariant", "variant", "concat", "pooled", LOG_MEL)
# Float64 epsilon puts digital silence at -157 dB, where it rules mean and deviation. Of a unit-variance waveform,
# 1e-4 is a floor at -40 dB and makes the baseline stronger on esc50-val and fsdd-digit.
BASELINE = FrontendConfig(epsilon=1e-4)
_FORMAT = 1  # of the cached rows; raised when the same weights give other rows

FileRows = list[FloatArray | AudioError]  # of n files the rows (k, D) of each, or why there are none


def extract_features(
    paths: Sequence[Path],
    encoder: Encoder,
    *,
    names: Sequence[str] = ("invariant", "variant", "concat", LOG_MEL),
    batch_size: int | None = None,
    cache: str | os.PathLike[str] | bool = False,
) -> dict[str, FloatArray]:
    """Take each file once through the encoder and the baseline.

    Args:
        paths: n files.
        encoder: as `mtslvr.load` gives it.
        names: which of `FEATURES`.
        batch_size: windows at once through the encoder; its own choice by default.
        cache: a folder to keep rows in, True for the default one, see `default_cache`.
    Returns:
        Name to (n, D), the mean over the windows of each file. An encoder with one output has only concat and pooled.
    Raises:
        AudioError: a file that cannot be read.
        ConfigError: unknown name.
    """
    wanted = check_names(names)
    found: dict[str, FloatArray] = {}
    for source in [encoder] * (wanted != [LOG_MEL]) + [None] * (LOG_MEL in wanted):
        rows = without_errors(file_rows(paths, source, batch_size=batch_size, cache=cache))
        found |= by_name(means(rows), source)
    return {name: found[name] for name in wanted if name in found}


def check_names(names: Sequence[str]) -> list[str]:
    """Give the names in the order of `FEATURES`, each once."""
    for name in names:
        if name not in FEATURES:
            raise ConfigError(f"features={name!r}: unknown; use some of {', '.join(FEATURES)}")
    if not names:
        raise ConfigError(f"features: none given; use some of {', '.join(FEATURES)}")
    return [name for name in FEATURES if name in names]


def without_errors(rows: FileRows) -> list[FloatArray]:
    """Give the rows of all files, or raise the first of the errors with the number of the others."""
    errors = [found for found in rows if isinstance(found, AudioError)]
    if errors:
        more = f" ({len(errors) - 1} more files failed)" if len(errors) > 1 else ""
        raise AudioError(f"{errors[0]}{more}; what was computed is kept, to leave such files out use --on-error skip")
    return [found for found in rows if not isinstance(found, AudioError)]


def means(rows: Sequence[FloatArray]) -> FloatArray:
    """Take the mean of the rows of each file: (n, D)."""
    return np.stack([(found.astype(np.float64).sum(axis=0) / len(found)).astype(np.float32) for found in rows])


def by_name(rows: FloatArray, encoder: Encoder | None) -> dict[str, FloatArray]:
    """Give the features that rows (n, D) of `file_rows` hold.

    The heads are linear, so the mean over windows may come before them.
    """
    if encoder is None:
        return {LOG_MEL: rows}
    with torch.inference_mode():
        concat = encoder.project(torch.from_numpy(rows).to(encoder.device)).float().cpu().numpy()
    if encoder.config.outputs == 1:
        return {"concat": concat, "pooled": rows}
    invariant, variant = np.split(concat, 2, axis=1)
    return {"invariant": invariant, "variant": variant, "concat": concat, "pooled": rows}


def file_rows(
    paths: Sequence[Path],
    encoder: Encoder | None,
    *,
    window_seconds: float | None = None,
    batch_size: int | None = None,
    cache: str | os.PathLike[str] | bool = False,
    progress: bool = False,
) -> FileRows:
    """Take every window of each file through the encoder, up to the pooled features before the heads: (k, D) float32.

    Without an encoder it is the baseline: a row a file, or one a window of `window_seconds` where that is given. With
    `progress` there is a bar where standard error is a terminal. The rest is as of `extract_features`.
    """
    how: dict[str, Any] = {"format": _FORMAT}
    compute: Callable[[Iterable[Path]], Iterator[FloatArray | AudioError]]
    if encoder is None:
        config = {key: getattr(value, "value", value) for key, value in dataclasses.asdict(BASELINE).items()}
        how |= {"rows": LOG_MEL, "config": config, "window_seconds": window_seconds}
        compute = functools.partial(_baseline_rows, window_seconds=window_seconds)
    else:
        seconds = encoder.config.window_seconds if window_seconds is None else window_seconds
        how |= {"rows": "pooled", "encoder": fingerprint(encoder), "window_seconds": seconds}
        compute = functools.partial(_pooled_rows, encoder=encoder, window_seconds=seconds, batch_size=batch_size)
    folder = default_cache() if cache is True else cache or None
    store = None if folder is None else FeatureCache(Path(folder), how)
    known = [None if store is None else store.get(path) for path in paths]
    missing = [path for path, found in zip(paths, known, strict=True) if found is None]
    bar = tqdm(compute(missing), str(how["rows"]), len(missing), leave=False, disable=None if progress else True)
    computed, rows = iter(bar), []
    for path, found in zip(paths, known, strict=True):
        rows.append(next(computed) if found is None else found)
        if found is None and store is not None and not isinstance(rows[-1], AudioError):
            store.add(path, rows[-1])
    bar.close()
    if store is not None:
        store.close()
    return rows


def _pooled_rows(
    paths: Iterable[Path], encoder: Encoder, window_seconds: float, batch_size: int | None
) -> Iterator[FloatArray | AudioError]:
    settings: dict[str, Any] = {} if batch_size is None else {"batch_size": batch_size}
    config = ExtractConfig(Features.CONCAT, Layer.POOLED, Pool.NONE, window_seconds, **settings)
    for result in extract(map(Source, paths), encoder, config):
        yield result.embeddings if result.error is None else result.error


def _baseline_rows(paths: Iterable[Path], window_seconds: float | None) -> Iterator[FloatArray | AudioError]:
    for path in paths:
        try:
            wave = load_audio(path, BASELINE.sample_rate)
        except AudioError as error:
            yield error
            continue
        pieces = wave[None]
        if window_seconds is not None:
            cut = iter_windows([wave], window_seconds, window_seconds, BASELINE.sample_rate)
            pieces = np.stack([window for window, _, _ in cut])
        with torch.inference_mode():
            yield log_mel_statistics(torch.from_numpy(pieces)).numpy()


def log_mel_statistics(waveform: Tensor) -> Tensor:
    """Take mean and population deviation over time of the log-mel spectrogram of whole clips, in dB: (B, 2 * n_mels).

    Args:
        waveform: (B, T) at 16 kHz, any level: each clip is brought to mean 0 and unbiased deviation 1 (a silent one to
            0). Clips shorter than one STFT frame are repeated to fill it.
    """
    if waveform.ndim == 2 and 0 < waveform.shape[1] < BASELINE.n_fft:
        waveform = waveform.repeat(1, -(-BASELINE.n_fft // waveform.shape[1]))[:, : BASELINE.n_fft]
    centred = waveform - waveform.mean(dim=-1, keepdim=True)
    std = centred.std(dim=-1, keepdim=True)
    spectrogram = log_mel(centred / torch.where(std > 0, std, 1), BASELINE)
    return torch.cat([spectrogram.mean(dim=2), spectrogram.std(dim=2, correction=0)], dim=1)


def fingerprint(encoder: Encoder) -> str:
    """Hash what an encoder computes: its configuration and every stored number."""
    digest = hashlib.sha256(json.dumps(encoder.config.to_dict(), sort_keys=True).encode())
    for name, tensor in encoder.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
