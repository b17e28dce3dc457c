"""Audio to embeddings: decode in threads, batch windows of many files, encode; in order, in bounded memory.

The last stage: joins `audio`, `windows` and `encoder`; `api` and the command line only call it.
"""

from __future__ import annotations

import dataclasses
import itertools
import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from .audio import AudioInput, audio_label, iter_blocks
from .config import Features, Layer, Normalization
from .encoder import Encoder
from .errors import AudioError, ConfigError
from .windows import Float32, Float64, Pool, Pooling, iter_windows, moments, standardize

_CHUNK = 8  # windows handed over at once by a decoder
_CHUNKS_AHEAD = 4  # chunks that a decoder may be ahead
_INPUTS = 256  # without a window in a batch


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
        fixed_batches: fill a short batch with silence. A GPU picks its kernels, and so its rounding, by the size of a
            batch; this way a window has the same numbers whatever comes with it, at the cost of one batch a run.
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
    fixed_batches: bool = False

    def __post_init__(self) -> None:
        for name, most in (("batch_size", 65536), ("threads", 256)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
                raise ConfigError(f"{name}={value!r}: must be an integer from 1 to {most}")

    def on(self, device: torch.device) -> ExtractConfig:
        """The same for a device, with `fixed_batches` where it rounds by the size of a batch."""
        return dataclasses.replace(self, fixed_batches=device.type != "cpu")


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
    """One input.

    Attributes:
        audio: what to read.
        sample_rate: Hz, when it is an array.
        label: what errors call it.
        skip: windows at its beginning that are decoded and left out, being embedded already.
    """

    audio: AudioInput
    sample_rate: int | None = None
    label: str | None = None
    skip: int = 0


_Window = tuple[Float32, float, float]


@dataclass(frozen=True, eq=False)
class Part:
    """What one batch holds of one input.

    Attributes:
        index: place among the inputs.
        embeddings: (k, D) float32, of windows that follow those of earlier parts; k = 0 when failed.
        spans: (k, 2) float64, start and end in seconds.
        last: no windows follow.
        error: None, or why the input, earlier parts included, has no embeddings.
    """

    index: int
    embeddings: Float32
    spans: Float64
    last: bool
    error: AudioError | None = None


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
            yield FileEmbeddings(part.index, part.embeddings, part.spans, part.error)
            continue
        pooling.add(part.embeddings, part.spans)
        if part.last:
            yield FileEmbeddings(part.index, *pooling.result())
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
    seconds = _window_seconds(encoder, config)
    batch = _Batch(encoder, config)
    for index, windows in enumerate(_decode_ahead(sources, encoder, seconds, config.threads)):
        batch.begin(index)
        try:
            for window in windows:
                batch.add(*window)
                if batch.full:
                    yield batch.encode()
            batch.end()
        except AudioError as error:
            batch.end(error)
        if batch.full:
            yield batch.encode()
    if batch:
        yield batch.encode()


class _Batch:
    """Windows on their way to the encoder, and the inputs they belong to."""

    def __init__(self, encoder: Encoder, config: ExtractConfig) -> None:
        self._encoder, self._config = encoder, config
        self._windows: list[Float32] = []
        self._inputs: list[_Input] = []

    def begin(self, index: int) -> None:
        self._inputs.append(_Input(index))

    def add(self, window: Float32, start: float, end: float) -> None:
        self._windows.append(window)
        self._inputs[-1].spans.append((start, end))

    def end(self, error: AudioError | None = None) -> None:
        self._inputs[-1].last, self._inputs[-1].error = True, error

    def __bool__(self) -> bool:
        return bool(self._inputs)

    @property
    def full(self) -> bool:
        # Inputs without a window, such as broken ones, must not pile up unreported.
        return len(self._windows) >= self._config.batch_size or len(self._inputs) >= _INPUTS + self._config.batch_size

    def encode(self) -> list[Part]:
        """The parts of this batch, which is empty afterwards but for an input that goes on."""
        width = self._encoder.embedding_dim(self._config.features, self._config.layer)
        rows = np.empty((0, width), np.float32)
        if self._windows:
            rows = _encode(self._encoder, self._stacked(), self._config)
        parts, row = [], 0
        for entry in self._inputs:
            end = row + len(entry.spans)
            kept = slice(row, row if entry.error else end)
            spans = np.array(entry.spans, np.float64).reshape(-1, 2)[: kept.stop - kept.start]
            parts.append(Part(entry.index, rows[kept], spans, entry.last, entry.error))
            row = end
        self._windows = []
        self._inputs = [_Input(entry.index) for entry in self._inputs if not entry.last]
        return parts

    def _stacked(self) -> Float32:
        windows = np.stack(self._windows)
        if not self._config.fixed_batches or len(windows) == self._config.batch_size:
            return windows
        return np.pad(windows, ((0, self._config.batch_size - len(windows)), (0, 0)))


@dataclass
class _Input:
    """An input's windows in the batch at hand."""

    index: int
    spans: list[tuple[float, float]] = field(default_factory=list)
    last: bool = False
    error: AudioError | None = None


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
    try:
        with torch.inference_mode():
            selected = forward(batch, layer=config.layer).select(config.features)
        encoded: Float32 = selected.float().cpu().numpy()
    except torch.cuda.OutOfMemoryError as error:
        said = str(error).splitlines()[0]
        remedy = "use a smaller batch or a shorter window"
        raise ConfigError(f"batch_size={len(windows)}: out of memory on {encoder.device} ({said}); {remedy}") from None
    return encoded


def _windows(source: Source, encoder: Encoder, seconds: tuple[float, float]) -> Iterator[_Window]:
    rate = encoder.sample_rate

    def fresh() -> Iterator[_Window]:
        blocks = iter_blocks(source.audio, rate, sample_rate=source.sample_rate, label=source.label)
        return iter_windows(blocks, *seconds, rate)

    if encoder.config.normalization is not Normalization.FILE:
        yield from itertools.islice(fresh(), source.skip, None)
        return
    mean, std = moments(window for window, _, _ in fresh())
    for window, start, end in itertools.islice(fresh(), source.skip, None):
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
