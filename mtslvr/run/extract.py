"""Audio to embeddings: batches of windows of many files, encoded on all cores; in order, in bounded memory.

The last stage: joins `decode`, which gives the windows, and `encoder`; `api` and the command line only call it. The one
place where a batch is divided over threads.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional as F

from ..audio.load import WHOLE, Excerpt
from ..audio.recordings import Notes
from ..audio.windows import Float32, Float64, Pool, Pooling, iter_windows
from ..config import EncoderConfig, Features, Layer, Normalization
from ..errors import AudioError, ConfigError
from ..nn.encoder import Encoder
from ..workers import Lanes, on_one_thread
from .decode import Source as Source
from .decode import decode_ahead

_INPUTS = 256  # without a window in a batch
_RUNNING = 2  # batches, while the next one fills
_FEWEST = 2  # windows that torch convolves in the same way as more; a single small image in another one
_PIECE = 16  # windows that a thread encodes at once: fewer cost more each, for torch lays out weights at each call


@dataclass(frozen=True)
class ExtractConfig:
    """How files become embeddings.

    Attributes:
        features: which embedding.
        layer: where it is read.
        pool: mean over a file's windows, or every window.
        window_seconds: None is the encoder's own.
        hop_seconds: None is `window_seconds`.
        batch_size: windows at once through the encoder.
        threads: files decoded side by side.
        fixed_batches: a window has the same numbers whatever comes with it, to the last bit, at the cost of silence
            encoded with it. A GPU picks its kernels, and so its rounding, by the size of a batch, so a short one is
            filled; a CPU by whether there is one window or more, so one that is alone gets another.
        excerpt: what is read of each file.
    Raises:
        ConfigError: unknown name or a value outside its range.
    """

    features: Features = Features.CONCAT
    layer: Layer = Layer.HEAD
    pool: Pool = Pool.MEAN
    window_seconds: float | None = None
    hop_seconds: float | None = None
    batch_size: int = 32
    threads: int = 2
    fixed_batches: bool = False
    excerpt: Excerpt = WHOLE

    def __post_init__(self) -> None:
        for name, most in (("batch_size", 65536), ("threads", 256)):
            value = getattr(self, name)
            whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
            if not whole or not 1 <= value <= most:
                raise ConfigError(f"{name}={value!r}: must be an integer from 1 to {most}")
            object.__setattr__(self, name, int(value))

    def for_output(self) -> ExtractConfig:
        """The same with `fixed_batches`, as outputs are made that are gone on with and merged."""
        return dataclasses.replace(self, fixed_batches=True)


@dataclass(frozen=True, eq=False)
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

    @property
    def embedding(self) -> Float32 | None:
        """(D,) float32, the mean over `embeddings`; None when failed."""
        return None if self.error is not None else self.embeddings.mean(axis=0)


@dataclass(frozen=True, eq=False)
class Part:
    """What one batch holds of one input.

    Attributes:
        index: place among the inputs.
        embeddings: (k, D) float32, of windows that follow those of earlier parts; k = 0 when failed.
        spans: (k, 2) float64, start and end in seconds.
        last: no windows follow.
        error: None, or why the input, earlier parts included, has no embeddings.
        notes: of the last part, what was noticed while the input was read.
    """

    index: int
    embeddings: Float32
    spans: Float64
    last: bool
    error: AudioError | None = None
    notes: Notes = field(default_factory=Notes)


def extract(sources: Iterable[Source], encoder: Encoder, config: ExtractConfig) -> Iterator[FileEmbeddings]:
    """Embed inputs one after the other; a broken one gives its error and the rest go on.

    Args:
        sources: read lazily, no further ahead than `config.threads`.
        encoder: from `mtslvr.load`.
        config: see `ExtractConfig`.
    Yields:
        A result for each source, in order.
    Raises:
        ConfigError: window or hop outside its range.
    """
    pooling = Pooling(config.pool)
    for part in itertools.chain.from_iterable(encode_batches(sources, encoder, config)):
        if part.error is not None:
            pooling = Pooling(config.pool)
            yield FileEmbeddings(part.index, part.embeddings, part.spans, part.error, notes=part.notes)
            continue
        pooling.add(part.embeddings, part.spans)
        if part.last:
            yield FileEmbeddings(part.index, *pooling.result(), notes=part.notes)
            pooling = Pooling(config.pool)


def encode_batches(sources: Iterable[Source], encoder: Encoder, config: ExtractConfig) -> Iterator[list[Part]]:
    """Encode the windows of all inputs, `config.batch_size` at once, whatever file they come from.

    Only the last part of a batch can be without `last`, so whoever stores each batch as it comes holds one
    unfinished input at most. The windows of a batch depend on nothing but the windows that came before it.

    Args:
        sources: see `extract`, as the others.
        encoder: see `extract`.
        config: see `extract`; `config.pool` is not used here.
    Yields:
        The parts of a batch, in the order of the inputs; each input's last part has `last`, after which it is
        not heard of again.
    Raises:
        ConfigError: window or hop outside its range, or a batch that the device has no memory for.
    """
    reading: deque[Source] = deque()

    def remembered() -> Iterator[Source]:
        for source in sources:
            reading.append(source)
            yield source

    def with_notes(parts: list[Part]) -> list[Part]:
        return [dataclasses.replace(part, notes=reading.popleft().notes) if part.last else part for part in parts]

    with _Encoding(encoder, config) as encoding:
        for batch in _batches(remembered(), encoder, config):
            yield from map(with_notes, encoding.put(batch))
        yield from map(with_notes, encoding.rest())


def _batches(sources: Iterable[Source], encoder: Encoder, config: ExtractConfig) -> Iterator[_Batch]:
    seconds = check_windows(encoder.config, config)
    batch = _Batch()
    for index, windows in enumerate(decode_ahead(sources, encoder, seconds, config.threads, config.excerpt)):
        batch.begin(index)
        try:
            for window in windows:
                batch.add(*window)
                if batch.full(config.batch_size):
                    yield batch
                    batch = batch.next()
            batch.end()
        except AudioError as error:
            batch.end(error)
        if batch.full(config.batch_size):
            yield batch
            batch = batch.next()
    if batch.inputs:
        yield batch


@dataclass
class _Input:
    """An input's windows in a batch."""

    index: int
    spans: list[tuple[float, float]] = field(default_factory=list)
    last: bool = False
    error: AudioError | None = None


class _Batch:
    """Windows on their way to the encoder, and the inputs they belong to."""

    def __init__(self, inputs: list[_Input] | None = None) -> None:
        self.windows: list[Float32] = []
        self.inputs = inputs or []

    def begin(self, index: int) -> None:
        self.inputs.append(_Input(index))

    def add(self, window: Float32, start: float, end: float) -> None:
        self.windows.append(window)
        self.inputs[-1].spans.append((start, end))

    def end(self, error: AudioError | None = None) -> None:
        self.inputs[-1].last, self.inputs[-1].error = True, error

    def full(self, size: int) -> bool:
        # Inputs without a window, such as broken ones, must not pile up unreported.
        return len(self.windows) >= size or len(self.inputs) >= _INPUTS + size

    def next(self) -> _Batch:
        """An empty one, which goes on with the input that is not at its end."""
        return _Batch([_Input(entry.index) for entry in self.inputs if not entry.last])

    def parts(self, rows: Float32) -> list[Part]:
        """What the batch holds of each input, given the embeddings of its windows."""
        parts, row = [], 0
        for entry in self.inputs:
            end = row + len(entry.spans)
            kept = slice(row, row if entry.error else end)
            spans = np.array(entry.spans, np.float64).reshape(-1, 2)[: kept.stop - kept.start]
            parts.append(Part(entry.index, rows[kept], spans, entry.last, entry.error))
            row = end
        return parts


def for_inference(encoder: Encoder) -> Encoder:
    """The encoder itself, or a copy in evaluation mode where it computes otherwise in training mode and is in it."""
    if not any(module.training for module in encoder.modules()) or encoder.folded:
        return encoder
    copied: Encoder = on_one_thread(copy.deepcopy, encoder)
    return copied.eval()


class _Encoding:
    """Batches go in, their parts come out in the same order, a few batches later."""

    def __init__(self, encoder: Encoder, config: ExtractConfig) -> None:
        self._encoder, self._config = for_inference(encoder), config
        on_cpu = encoder.device.type == "cpu"
        self._lanes = Lanes(None if on_cpu else 1)  # a GPU shares out a batch itself
        self._most = min(_PIECE, config.batch_size) if on_cpu else config.batch_size
        self._filled = config.fixed_batches and not on_cpu
        self._running: deque[tuple[_Batch, list[Future[Float32]]]] = deque()

    def put(self, batch: _Batch) -> Iterator[list[Part]]:
        """Take a batch, which begins now."""
        pieces = [self._lanes.submit(self._encode, piece) for piece in self._split(batch.windows)]
        self._running.append((batch, pieces))
        while len(self._running) > _RUNNING:
            yield self._oldest()

    def rest(self) -> Iterator[list[Part]]:
        """No batch follows."""
        while self._running:
            yield self._oldest()

    def _split(self, windows: list[Float32]) -> list[list[Float32]]:
        size = self._size(len(windows))
        return [windows[start : start + size] for start in range(0, len(windows), size)]

    def _size(self, windows: int) -> int:
        """Of how many windows a piece of a batch is: nearly equal ones, as many for each thread."""
        whole = self._config.batch_size if self._filled else windows
        share = max(1, -(-whole // self._lanes.count))
        return -(-share // -(-share // self._most))

    def _stacked(self, windows: list[Float32]) -> Float32:
        missing = self._size(0) - len(windows) if self._filled else 0
        return np.pad(np.stack(windows), ((0, max(0, missing)), (0, 0)))

    def _oldest(self) -> list[Part]:
        batch, chunks = self._running.popleft()
        return batch.parts(self._joined(chunk.result() for chunk in chunks))

    def _joined(self, rows: Iterable[Float32]) -> Float32:
        width = self._encoder.embedding_dim(self._config.features, self._config.layer)
        return np.concatenate([np.empty((0, width), np.float32), *rows])

    def _encode(self, windows: list[Float32]) -> Float32:
        batch = self._stacked(windows)
        try:
            return _encode(self._encoder, batch, self._config)[: len(windows)]
        except torch.cuda.OutOfMemoryError as error:
            said = str(error).splitlines()[0]
        device = self._encoder.device
        if len(batch) == 1:
            remedy = "use a shorter window, or device='cpu'"
            raise ConfigError(f"one window of {batch.shape[1]} samples: out of memory on {device} ({said}); {remedy}")
        self._most = half = len(batch) // 2
        warnings.warn(
            f"batch_size={len(batch)}: out of memory on {device} ({said}); going on with {half}", stacklevel=2
        )
        torch.cuda.empty_cache()  # does nothing where CUDA is not in use
        return self._joined(self._encode(windows[start : start + half]) for start in range(0, len(windows), half))

    def __enter__(self) -> _Encoding:
        return self

    def __exit__(self, *_: object) -> None:
        self._lanes.close()


def check_windows(encoder: EncoderConfig, config: ExtractConfig) -> tuple[float, float]:
    """The length of a window, and from one to the next, in seconds.

    Raises:
        ConfigError: one is outside its range.
    """
    window = encoder.window_seconds if config.window_seconds is None else config.window_seconds
    hop = window if config.hop_seconds is None else config.hop_seconds
    frontend = encoder.frontend
    next(iter_windows([], window, hop, frontend.sample_rate), None)  # raises for values outside their range
    shortest = (frontend.n_fft // 2 + 1) / frontend.sample_rate
    if window < shortest:
        raise ConfigError(f"window_seconds={window!r}: shorter than half an STFT frame; use at least {shortest:.4g} s")
    return window, hop


def _encode(encoder: Encoder, windows: Float32, config: ExtractConfig) -> Float32:
    batch = torch.from_numpy(windows)
    if encoder.device.type == "cuda":
        batch = batch.pin_memory().to(encoder.device, non_blocking=True)
    # Windows of `Normalization.FILE` come normalised from their decoder, which has seen the whole file.
    normalized = encoder.config.normalization is Normalization.FILE
    with torch.inference_mode():
        fewest = _FEWEST if config.fixed_batches else 1
        filled = F.pad(batch.to(encoder.device), (0, 0, 0, max(0, fewest - len(windows))))
        pooled = encoder.embedding(filled, config.features, Layer.POOLED, normalized=normalized)
        rows = pooled
        if config.layer is Layer.HEAD:  # always of so many rows, for a matrix product of fewer may round otherwise
            rows = encoder.project(F.pad(pooled, (0, 0, 0, max(0, _PIECE - len(pooled)))), config.features)
        encoded: Float32 = rows[: len(windows)].float().cpu().numpy()
    return encoded
