"""Audio to embeddings: batches of windows of many files, encoded on all cores; in order, in bounded memory.

Joins `decode`, which gives the windows, and the encoder; `api`, `job` and the command line call it. The one place where
a batch is divided over threads.
"""

from __future__ import annotations

import copy
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..audio.load import WHOLE, Excerpt
from ..audio.recordings import Notes
from ..audio.windows import Float32, Float64, Pool, Pooling, iter_windows
from ..config import EncoderConfig, Features, Layer, Normalization, parse_enum
from ..errors import AudioError, ConfigError, MTSLVRError
from ..nn.encoder import Encoder
from ..workers import on_one_thread, workers
from .decode import Source as Source
from .decode import decode_ahead

_INPUTS = 256  # without a window in a batch
_RUNNING = 2  # batches, while the next one fills
_FEWEST = 2  # windows that torch convolves in the same way as more; a single small image in another one
_PIECE = 16  # windows that a thread encodes at once: fewer cost more each, for torch lays out weights at each call


@dataclass(frozen=True)
class ExtractConfig:
    """How files become embeddings.

    With `fixed_batches`, as outputs are made that are gone on with and merged, a window has the same numbers whatever
    comes with it, to the last bit. A GPU picks its kernels, and so its rounding, by the size of a batch, so a short one
    is filled; a CPU by whether there is one window or more.
    """

    features: Features = Features.CONCAT
    layer: Layer = Layer.HEAD
    pool: Pool = Pool.MEAN
    window_seconds: float | None = None  # the encoder's own
    hop_seconds: float | None = None  # as long as a window
    batch_size: int = 32  # windows at once through the encoder
    threads: int = 2  # files decoded side by side
    fixed_batches: bool = False
    excerpt: Excerpt = WHOLE  # what is read of each file

    def __post_init__(self) -> None:
        for name, most in (("batch_size", 65536), ("threads", 256)):
            value = getattr(self, name)
            whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
            if not whole or not 1 <= value <= most:
                raise ConfigError(f"{name}={value!r}: must be an integer from 1 to {most}")
            object.__setattr__(self, name, int(value))

    @classmethod
    def parse(
        cls, features: Features | str, layer: Layer | str, pool: Pool | str, *rest: Any, **more: Any
    ) -> ExtractConfig:
        """With names as users give them."""
        names = parse_enum(Features, features, "features"), parse_enum(Layer, layer, "layer")
        return cls(*names, parse_enum(Pool, pool, "pool"), *rest, **more)


@dataclass(frozen=True, eq=False, repr=False)
class FileEmbeddings:
    """One input's result: embeddings, or the error that it met.

    Attributes:
        index: place among the inputs.
        embeddings: (k, D) float32; k = 1 when pooled, 0 when failed.
        spans: (k, 2) float64, start and end in seconds.
        error: None, or why there are no embeddings.
        path: the input's path as given; for another input what errors call it.
        notes: what was noticed while it was read.
    """

    index: int
    embeddings: Float32
    spans: Float64
    error: AudioError | None = None
    path: str | os.PathLike[str] = ""
    notes: Notes = field(default_factory=Notes)

    def __repr__(self) -> str:
        held = f"embeddings of shape {self.embeddings.shape}" if self.error is None else f"error={self.error!r}"
        return f"FileEmbeddings(index={self.index}, path={self.path!r}, {held})"

    @property
    def embedding(self) -> Float32 | None:
        """(D,) float32, the mean over `embeddings`; None when failed."""
        return None if self.error is not None else self.embeddings.mean(axis=0)


@dataclass(eq=False)
class Part:
    """What one batch holds of one input: the windows that follow those of earlier parts."""

    index: int  # among the inputs
    source: Source  # whose notes are complete with the last part
    times: list[tuple[float, float]] = field(default_factory=list)  # start and end of each window in seconds
    last: bool = False  # no windows follow
    error: AudioError | None = None  # why the input, earlier parts included, has no embeddings
    embeddings: Float32 = field(default_factory=lambda: np.empty((0, 0), np.float32))  # (k, D), once encoded

    @property
    def spans(self) -> Float64:
        """(k, 2) float64, start and end in seconds."""
        return np.array(self.times, np.float64).reshape(-1, 2)


def extract(sources: Iterable[Source], encoder: Encoder, config: ExtractConfig) -> Iterator[FileEmbeddings]:
    """Embed inputs, read lazily, in their order; a broken one gives its error and the rest go on."""
    pooling = Pooling(config.pool)
    for parts in encode_batches(sources, encoder, config):
        for part in parts:
            pooling.add(part.embeddings, part.spans)
            if part.last:
                rows = (part.embeddings, part.spans) if part.error is not None else pooling.result()
                yield FileEmbeddings(part.index, *rows, part.error, notes=part.source.notes)
                pooling = Pooling(config.pool)


def encode_batches(sources: Iterable[Source], encoder: Encoder, config: ExtractConfig) -> Iterator[list[Part]]:
    """The windows of all inputs, `config.batch_size` encoded at once, whatever file they come from; see `extract`.

    Only the last part of a batch can be without `last`, so whoever stores each batch as it comes holds one
    unfinished input at most.
    """
    running: deque[tuple[list[Part], list[Future[Float32]]]] = deque()
    encoding = _Encoding(encoder, config)
    try:
        for windows, parts in _batches(sources, encoder, config):
            running.append((parts, encoding.begin(windows)))
            if len(running) > _RUNNING:
                yield encoding.finish(*running.popleft())
        while running:
            yield encoding.finish(*running.popleft())
    finally:
        for piece in (piece for _, pieces in running for piece in pieces):
            piece.cancel()


def _batches(
    sources: Iterable[Source], encoder: Encoder, config: ExtractConfig
) -> Iterator[tuple[list[Float32], list[Part]]]:
    """The windows of each batch, and the parts that they belong to."""
    seconds = check_windows(encoder.config, config)
    windows: list[Float32] = []
    parts: list[Part] = []
    decoding = decode_ahead(sources, encoder, seconds, config.threads, config.excerpt)
    for index, (source, decoded) in enumerate(decoding):
        parts.append(Part(index, source))
        try:
            for window, start, end in decoded:
                windows.append(window)
                parts[-1].times.append((start, end))
                if len(windows) == config.batch_size:
                    yield windows, parts
                    windows, parts = [], [Part(index, source)]
        except AudioError as error:
            parts[-1].error = error
        except (MTSLVRError, MemoryError):
            raise
        except Exception as error:
            parts[-1].error = source.unreadable(error)
        parts[-1].last = True
        if len(parts) >= _INPUTS + config.batch_size:  # such as broken ones, which must not pile up unreported
            yield windows, parts
            windows, parts = [], []
    if parts:
        yield windows, parts


def for_inference(encoder: Encoder) -> Encoder:
    """The encoder itself, or a copy in evaluation mode where it computes otherwise in training mode and is in it."""
    if not any(module.training for module in encoder.modules()) or encoder.folded:
        return encoder
    copied: Encoder = on_one_thread(copy.deepcopy, encoder)
    return copied.eval()


class _Encoding:
    """Divides batches over threads, and brings their rows together."""

    def __init__(self, encoder: Encoder, config: ExtractConfig) -> None:
        self._encoder, self._config = for_inference(encoder), config
        on_cpu = encoder.device.type == "cpu"
        self._workers = workers(None if on_cpu else 1)  # a GPU shares out a batch itself
        self._most = min(_PIECE, config.batch_size) if on_cpu else config.batch_size
        self._filled = config.fixed_batches and not on_cpu

    def begin(self, windows: list[Float32]) -> list[Future[Float32]]:
        """Have the windows of a batch encoded, in pieces."""
        size = self._size(len(windows))
        pieces = (windows[start : start + size] for start in range(0, len(windows), size))
        return [self._workers.submit(self._encode, piece) for piece in pieces]

    def finish(self, parts: list[Part], pieces: list[Future[Float32]]) -> list[Part]:
        """The parts of a batch whose pieces were begun, with their embeddings."""
        width, first = self._encoder.embedding_dim(self._config.features, self._config.layer), 0
        rows = np.concatenate([np.empty((0, width), np.float32), *(piece.result() for piece in pieces)])
        for part in parts:
            end = first + len(part.times)
            if part.error is not None:
                part.times = []
            part.embeddings = rows[first : first + len(part.times)]
            first = end
        return parts

    def _size(self, windows: int) -> int:
        """Of how many windows a piece of a batch is: nearly equal ones, as many for each thread."""
        whole = self._config.batch_size if self._filled else windows
        share = max(1, -(-whole // self._workers.count))
        return -(-share // -(-share // self._most))

    def _encode(self, windows: list[Float32]) -> Float32:
        batch = _filled(torch.from_numpy(np.stack(windows)), self._size(0) if self._filled else 1)
        try:
            return self._encode_batch(batch)[: len(windows)]
        except torch.cuda.OutOfMemoryError as error:
            said = f"out of memory on {self._encoder.device} ({str(error).splitlines()[0]})"
            remedy = "use a smaller batch_size (--batch-size), a shorter window, or device='cpu'"
            raise ConfigError(f"{len(batch)} windows of {batch.shape[1]} samples: {said}; {remedy}") from None

    @torch.inference_mode()
    def _encode_batch(self, batch: Tensor) -> Float32:
        encoder, config = self._encoder, self._config
        if encoder.device.type == "cuda":
            batch = batch.pin_memory().to(encoder.device, non_blocking=True)
        windows = _filled(batch.to(encoder.device), _FEWEST if config.fixed_batches else 1)
        # Windows of `Normalization.FILE` come normalised from their decoder, which has seen the whole file.
        normalized = encoder.config.normalization is Normalization.FILE
        rows = encoder.embedding(windows, config.features, Layer.POOLED, normalized=normalized)
        if config.layer is Layer.HEAD:  # always of so many rows, for a matrix product of fewer may round otherwise
            rows = encoder.project(_filled(rows, _PIECE), config.features)
        encoded: Float32 = rows[: len(batch)].float().cpu().numpy()
        return encoded


def _filled(rows: Tensor, count: int) -> Tensor:
    """Rows with zeros behind them, so that there are `count` at least."""
    return F.pad(rows, (0, 0, 0, count - len(rows))) if len(rows) < count else rows


def check_windows(encoder: EncoderConfig, config: ExtractConfig) -> tuple[float, float]:
    """The length of a window, and from one to the next, in seconds; a ConfigError where one is outside its range."""
    window = encoder.window_seconds if config.window_seconds is None else config.window_seconds
    hop = window if config.hop_seconds is None else config.hop_seconds
    frontend = encoder.frontend
    next(iter_windows([], window, hop, frontend.sample_rate), None)  # raises for values outside their range
    shortest = (frontend.n_fft // 2 + 1) / frontend.sample_rate
    if window < shortest:
        raise ConfigError(f"window_seconds={window!r}: shorter than half an STFT frame; use at least {shortest:.4g} s")
    return window, hop
