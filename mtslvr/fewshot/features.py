"""Files to feature matrices, each once through the encoder or the log-mel baseline, and kept; next: `command`."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..audio.load import load_audio
from ..audio.windows import Pool, iter_windows
from ..config import Features, FrontendConfig, Layer
from ..errors import AudioError, ConfigError
from ..nn.encoder import Encoder
from ..nn.frontend import log_mel
from ..run.extract import ExtractConfig, Source, extract
from .cache import FeatureCache, default_cache
from .classifiers import FloatArray
from .episodes import IntArray

LOG_MEL = "log-mel"
FEATURES = ("invariant", "variant", "concat", "pooled", LOG_MEL)
# Float64 epsilon puts digital silence at -157 dB, where it rules mean and deviation. Of a unit-variance waveform,
# 1e-4 is a floor at -40 dB and makes the baseline stronger on esc50-val and fsdd-digit.
BASELINE = FrontendConfig(epsilon=1e-4)
_FORMAT = 1  # of the cached rows; raised when the same weights give other rows

Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]


@dataclass(frozen=True, eq=False)
class FileRows:
    """Rows of n files, file by file."""

    rows: FloatArray  # (sum of `pieces`, D) float32
    pieces: IntArray  # (n,) rows of each file; 0 where it failed
    errors: dict[int, AudioError]  # place among the files to what was wrong

    def keep(self, mask: npt.NDArray[np.bool_]) -> FileRows:
        """Give the rows without the files where `mask` (n,) is false."""
        return FileRows(self.rows[np.repeat(mask, self.pieces)], self.pieces[mask], {})

    def mean(self) -> FloatArray:
        """Take the mean of the rows of each file that did not fail: (n - failed, D)."""
        counts = self.pieces[self.pieces > 0]
        starts = np.cumsum(counts) - counts
        sums = np.add.reduceat(self.rows.astype(np.float64), starts, axis=0) if len(counts) else self.rows
        return (sums / counts[:, None]).astype(np.float32)


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
    if wanted != [LOG_MEL]:
        pooled = pooled_rows(paths, encoder, batch_size=batch_size, cache=cache)
        raise_errors(pooled.errors)
        found.update(from_pooled(pooled.mean(), encoder))
    if LOG_MEL in wanted:
        baseline = log_mel_rows(paths, cache=cache)
        raise_errors(baseline.errors)
        found[LOG_MEL] = baseline.rows
    return {name: found[name] for name in wanted if name in found}


def check_names(names: Sequence[str]) -> list[str]:
    """Give the names in the order of `FEATURES`, each once."""
    for name in names:
        if name not in FEATURES:
            raise ConfigError(f"features={name!r}: unknown; use some of {', '.join(FEATURES)}")
    if not names:
        raise ConfigError(f"features: none given; use some of {', '.join(FEATURES)}")
    return [name for name in FEATURES if name in names]


def raise_errors(errors: dict[int, AudioError]) -> None:
    """Raise the first of the errors, with the number of the others."""
    if errors:
        first = next(iter(errors.values()))
        more = f" ({len(errors) - 1} more files failed)" if len(errors) > 1 else ""
        raise AudioError(f"{first}{more}; what was computed is kept, to leave such files out use --on-error skip")


def from_pooled(pooled: FloatArray, encoder: Encoder) -> dict[str, FloatArray]:
    """Apply the heads to pooled rows (n, D), by name; they are linear, so the mean over windows may come first."""
    with torch.inference_mode():
        concat = encoder.project(torch.from_numpy(pooled).to(encoder.device)).float().cpu().numpy()
    if encoder.config.outputs == 1:
        return {"concat": concat, "pooled": pooled}
    invariant, variant = np.split(concat, 2, axis=1)
    return {"invariant": invariant, "variant": variant, "concat": concat, "pooled": pooled}


def pooled_rows(
    paths: Sequence[Path],
    encoder: Encoder,
    *,
    window_seconds: float | None = None,
    batch_size: int | None = None,
    cache: str | os.PathLike[str] | bool = False,
    progress: Progress | None = None,
) -> FileRows:
    """Take every window of each file through the encoder, up to the pooled features before the heads.

    `progress` wraps the iterator of files: it is called with it, their number and a description. The rest is as of
    `extract_features`.
    """
    seconds = encoder.config.window_seconds if window_seconds is None else window_seconds
    settings: dict[str, Any] = {} if batch_size is None else {"batch_size": batch_size}
    config = ExtractConfig(Features.CONCAT, Layer.POOLED, Pool.NONE, seconds, **settings)

    def compute(missing: Sequence[Path]) -> Iterator[FloatArray | AudioError]:
        for result in extract((Source(path) for path in missing), encoder, config):
            yield result.embeddings if result.error is None else result.error

    how = {"rows": "pooled", "format": _FORMAT, "encoder": fingerprint(encoder), "window_seconds": seconds}
    return _cached(paths, compute, how, cache, progress, "embedding")


def log_mel_rows(
    paths: Sequence[Path],
    *,
    window_seconds: float | None = None,
    cache: str | os.PathLike[str] | bool = False,
    progress: Progress | None = None,
) -> FileRows:
    """Compute the baseline of whole files, or of each window of `window_seconds`; arguments as in `pooled_rows`."""

    def compute(missing: Sequence[Path]) -> Iterator[FloatArray | AudioError]:
        for path in missing:
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

    config = {k: getattr(v, "value", v) for k, v in dataclasses.asdict(BASELINE).items()}
    how = {"rows": LOG_MEL, "format": _FORMAT, "config": config, "window_seconds": window_seconds}
    return _cached(paths, compute, how, cache, progress, LOG_MEL)


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


def _cached(
    paths: Sequence[Path],
    compute: Callable[[Sequence[Path]], Iterator[FloatArray | AudioError]],
    how: dict[str, Any],
    cache: str | os.PathLike[str] | bool,
    progress: Progress | None,
    description: str,
) -> FileRows:
    store = FeatureCache(default_cache() if cache is True else cache or None, how)
    rows: list[FloatArray | None] = [store.get(path) for path in paths]
    missing = [i for i, known in enumerate(rows) if known is None]
    errors: dict[int, AudioError] = {}
    results: Iterable[FloatArray | AudioError] = compute([paths[i] for i in missing])
    if progress is not None and missing:
        results = progress(results, len(missing), description)
    with contextlib.closing(store):
        for i, result in zip(missing, results, strict=True):
            if isinstance(result, AudioError):
                errors[i] = result
            else:
                rows[i] = result
                store.add(paths[i], result)
    kept = [row for row in rows if row is not None]
    pieces = np.array([0 if row is None else len(row) for row in rows], dtype=np.int64)
    return FileRows(np.concatenate(kept) if kept else np.empty((0, 0), np.float32), pieces, errors)
