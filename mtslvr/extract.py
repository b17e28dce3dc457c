"""Audio to embeddings: decode in threads, batch windows of many files, encode; in order, in bounded memory.

The last stage: joins `audio`, `windows` and `encoder`; `api` and the command line only call it.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from .audio import AudioInput, audio_label, iter_blocks
from .config import Features, Layer, Normalization
from .encoder import Encoder
from .errors import AudioError, ConfigError
from .windows import Float32, Float64, Pool, iter_windows, moments, pool_windows, standardize

_CHUNK = 8  # windows handed over at once by a decoder
_CHUNKS_AHEAD = 4  # chunks that a decoder may be ahead


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
    Raises:
        ConfigError: unknown name or a value outside its range.
    """

    features: Features = Features.CONCAT
    layer: Layer = Layer.HEAD
    pool: Pool = Pool.MEAN
    window_seconds: float | None = None
    hop_seconds: float | None = None
    batch_size: int = 16
    threads: int = 2

    def __post_init__(self) -> None:
        for name, most in (("batch_size", 65536), ("threads", 256)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
                raise ConfigError(f"{name}={value!r}: must be an integer from 1 to {most}")


@dataclass(frozen=True, eq=False)
class FileEmbeddings:
    """One input's result: embeddings, or the error that it met.

    Attributes:
        index: place among the inputs.
        embeddings: (k, D) float32; k = 1 when pooled, 0 when failed.
        spans: (k, 2) float64, start and end in seconds.
        error: None, or why there are no embeddings.
    """

    index: int
    embeddings: Float32
    spans: Float64
    error: AudioError | None = None


@dataclass(frozen=True, eq=False)
class Source:
    """One input: what to read, its rate when it is an array, and what errors call it."""

    audio: AudioInput
    sample_rate: int | None = None
    label: str | None = None


_Window = tuple[Float32, float, float]


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
    seconds = _window_seconds(encoder, config)
    window_iterators = _decode_ahead(sources, encoder, seconds, config.threads)
    pending: deque[_Pending] = deque()
    batch: list[tuple[_Pending, int, Float32]] = []

    def flush() -> None:
        if not batch:
            return
        encoded = _encode(encoder, np.stack([window for _, _, window in batch]), config)
        for (file, row, _), embedding in zip(batch, encoded, strict=True):
            file.embeddings[row] = embedding
        batch.clear()

    for index, windows in enumerate(window_iterators):
        file = _Pending(index)
        pending.append(file)
        try:
            for window, start, end in windows:
                batch.append((file, len(file.spans), window))
                file.spans.append((start, end))
                file.embeddings.append(None)
                if len(batch) == config.batch_size:
                    flush()
        except AudioError as error:
            file.error = error
        file.complete = True
        while pending and pending[0].ready:
            yield pending.popleft().result(encoder, config)
    flush()
    while pending:
        yield pending.popleft().result(encoder, config)


class _Pending:
    """A file whose windows are in flight."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.embeddings: list[Float32 | None] = []
        self.spans: list[tuple[float, float]] = []
        self.error: AudioError | None = None
        self.complete = False

    @property
    def ready(self) -> bool:
        return self.complete and (self.error is not None or all(e is not None for e in self.embeddings))

    def result(self, encoder: Encoder, config: ExtractConfig) -> FileEmbeddings:
        if self.error is not None:
            width = encoder.embedding_dim(config.features, config.layer)
            return FileEmbeddings(self.index, np.empty((0, width), np.float32), np.empty((0, 2)), self.error)
        rows = np.stack([row for row in self.embeddings if row is not None])
        embeddings, spans = pool_windows(rows, np.array(self.spans), config.pool)
        return FileEmbeddings(self.index, embeddings, spans)


def _window_seconds(encoder: Encoder, config: ExtractConfig) -> tuple[float, float]:
    window = encoder.config.window_seconds if config.window_seconds is None else config.window_seconds
    hop = window if config.hop_seconds is None else config.hop_seconds
    frontend = encoder.config.frontend
    next(iter_windows([], window, hop, encoder.sample_rate), None)  # raises for values outside their range
    shortest = (frontend.n_fft // 2 + 1) / frontend.sample_rate
    if window < shortest:
        raise ConfigError(f"window_seconds={window!r}: shorter than half an STFT frame; use at least {shortest:.4g} s")
    return window, hop


def _encode(encoder: Encoder, windows: Float32, config: ExtractConfig) -> Float32:
    batch = torch.from_numpy(windows).to(encoder.device)
    # Windows of `Normalization.FILE` come normalised from their decoder, which has seen the whole file.
    forward = encoder.encode if encoder.config.normalization is Normalization.FILE else encoder
    with torch.inference_mode():
        selected = forward(batch, layer=config.layer).select(config.features)
    encoded: Float32 = selected.float().cpu().numpy()
    return encoded


def _windows(source: Source, encoder: Encoder, seconds: tuple[float, float]) -> Iterator[_Window]:
    rate = encoder.sample_rate

    def fresh() -> Iterator[_Window]:
        blocks = iter_blocks(source.audio, rate, sample_rate=source.sample_rate, label=source.label)
        return iter_windows(blocks, *seconds, rate)

    if encoder.config.normalization is not Normalization.FILE:
        yield from fresh()
        return
    mean, std = moments(window for window, _, _ in fresh())
    for window, start, end in fresh():
        yield standardize(window, mean, std), start, end


class _Decoder(threading.Thread):
    """Decodes one source into a bounded queue."""

    def __init__(self, source: Source, encoder: Encoder, seconds: tuple[float, float]) -> None:
        super().__init__(daemon=True, name=f"decode {source.label or audio_label(source.audio)}")
        self._arguments = source, encoder, seconds
        self._queue: queue.Queue[list[_Window] | BaseException | None] = queue.Queue(_CHUNKS_AHEAD)
        self._stopped = threading.Event()

    def run(self) -> None:
        try:
            chunk: list[_Window] = []
            for window in _windows(*self._arguments):
                chunk.append(window)
                if len(chunk) == _CHUNK:
                    self._put(chunk)
                    chunk = []
                if self._stopped.is_set():
                    return
            self._put(chunk)
            self._put(None)
        except BaseException as error:  # handed to the reader, which raises it
            self._put(error)

    def _put(self, item: list[_Window] | BaseException | None) -> None:
        while not self._stopped.is_set():
            try:
                return self._queue.put(item, timeout=0.2)
            except queue.Full:
                continue

    def stop(self) -> None:
        self._stopped.set()

    def windows(self) -> Iterator[_Window]:
        while True:
            item = self._queue.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield from item


def _decode_ahead(
    sources: Iterable[Source], encoder: Encoder, seconds: tuple[float, float], threads: int
) -> Iterator[Iterator[_Window]]:
    """The windows of each source in order, the next `threads` sources decoding meanwhile."""
    running: deque[_Decoder] = deque()
    waiting = iter(sources)

    def start_next() -> None:
        source = next(waiting, None)
        if source is not None:
            decoder = _Decoder(source, encoder, seconds)
            decoder.start()
            running.append(decoder)

    try:
        for _ in range(threads):
            start_next()
        while running:
            yield running[0].windows()
            running.popleft()
            start_next()
    finally:
        for decoder in running:
            decoder.stop()


def embed_sources(
    sources: Sequence[Source], encoder: Encoder, config: ExtractConfig
) -> list[tuple[Float32, npt.NDArray[np.float64]]]:
    """(embeddings, spans) of each source.

    Raises:
        AudioError: the first broken source.
    """
    results = []
    for result in extract(sources, encoder, config):
        if result.error is not None:
            raise result.error
        results.append((result.embeddings, result.spans))
    return results
