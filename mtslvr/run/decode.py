"""Files and arrays come in, their windows go out in order, the next inputs decoding meanwhile; next: `extract`."""

from __future__ import annotations

import itertools
import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from ..audio.load import WHOLE, AudioInput, Excerpt, audio_label, iter_blocks
from ..audio.recordings import Notes, hold
from ..audio.windows import Float32, iter_windows, moments, standardize
from ..config import Normalization
from ..errors import AudioError
from ..nn.encoder import Encoder

_CHUNK = 4  # windows handed over at once by a decoder
_CHUNKS_AHEAD = 4  # chunks that a decoder may be ahead
Window: TypeAlias = tuple[Float32, float, float]


@dataclass(frozen=True, eq=False)
class Source:
    """One input."""

    audio: AudioInput
    sample_rate: int | None = None  # of an array
    label: str | None = None  # what errors call it
    skip: int = 0  # windows at its beginning that are decoded and left out, being embedded already
    whole: bool = False  # it is an error where audio is missing that its header claims
    notes: Notes = field(default_factory=Notes)  # complete with the last window


def _windows(source: Source, encoder: Encoder, seconds: tuple[float, float], excerpt: Excerpt) -> Iterator[Window]:
    """The windows of one input, with start and end in seconds of the recording."""
    if encoder.config.normalization is not Normalization.FILE:
        yield from itertools.islice(_cut(source, encoder.sample_rate, seconds, excerpt), source.skip, None)
        return
    source = replace(source, audio=hold(source.audio, source.label or audio_label(source.audio)))
    mean, std = moments(window for window, _, _ in _cut(source, encoder.sample_rate, seconds, excerpt))
    for window, start, end in itertools.islice(_cut(source, encoder.sample_rate, seconds, excerpt), source.skip, None):
        yield standardize(window, mean, std), start, end


def _cut(source: Source, rate: int, seconds: tuple[float, float], excerpt: Excerpt) -> Iterator[Window]:
    audio, label, notes, begin = source.audio, source.label, source.notes, excerpt.start or 0.0
    blocks = iter_blocks(audio, rate, sample_rate=source.sample_rate, label=label, notes=notes, excerpt=excerpt)
    for window, start, end in iter_windows(blocks, *seconds, rate):
        yield window, begin + start, begin + end
    if source.whole and notes.incomplete:
        label = label or audio_label(audio)
        raise AudioError(f"{label}: {notes.incomplete}; repair it, or have what is there embedded")


class _Decoder(threading.Thread):
    """Decodes one source into a bounded queue."""

    def __init__(self, source: Source, windows: Iterator[Window]) -> None:
        super().__init__(daemon=True, name=f"decode {source.label or audio_label(source.audio)}")
        self.source, self._windows = source, windows
        self._queue: queue.Queue[list[Window] | BaseException | None] = queue.Queue(_CHUNKS_AHEAD)
        self._stopped = threading.Event()

    def run(self) -> None:
        try:
            chunk: list[Window] = []
            for window in self._windows:
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

    def _put(self, item: list[Window] | BaseException | None) -> None:
        while not self._stopped.is_set():
            try:
                return self._queue.put(item, timeout=0.2)
            except queue.Full:
                continue

    def stop(self) -> None:
        self._stopped.set()

    def windows(self) -> Iterator[Window]:
        while True:
            item = self._queue.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield from item


def decode_ahead(
    sources: Iterable[Source],
    encoder: Encoder,
    seconds: tuple[float, float],
    threads: int,
    excerpt: Excerpt = WHOLE,
) -> Iterator[Iterator[Window]]:
    """Decode as many inputs as there are threads side by side, a bounded number of windows ahead.

    Args:
        sources: read lazily.
        encoder: says rate and normalisation.
        seconds: length of a window, and from one to the next.
        threads: inputs at once.
        excerpt: what is read of each.
    Yields:
        For each source, in order, its windows with start and end in seconds.
    Raises:
        AudioError: while the windows of a broken source are iterated.
    """
    running: deque[_Decoder] = deque()
    waiting = iter(sources)
    held: list[Source] = []  # at most one, whose file is still being read for an input before it

    def start_next() -> None:
        while len(running) < threads:
            source = held.pop() if held else next(waiting, None)
            if source is None:
                return
            if _is_read(source, running):
                held.append(source)
                return
            decoder = _Decoder(source, _windows(source, encoder, seconds, excerpt))
            decoder.start()
            running.append(decoder)

    try:
        start_next()
        while running:
            yield running[0].windows()
            running.popleft()
            start_next()
    finally:
        for decoder in running:
            decoder.stop()


def _is_read(source: Source, running: Iterable[_Decoder]) -> bool:
    """Whether it is an open file that is given twice, which has but one position."""
    return hasattr(source.audio, "read") and any(decoder.source.audio is source.audio for decoder in running)
