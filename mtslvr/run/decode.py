"""Files and arrays come in, their windows go out in order, the next inputs decoding meanwhile; next: `extract`."""

from __future__ import annotations

import itertools
import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from ..audio.load import AudioInput, Excerpt, audio_label, iter_blocks
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
    error: Exception | None = None  # why it cannot be read at all

    @property
    def name(self) -> str:
        """What errors call it."""
        return self.label or audio_label(self.audio)


def _windows(source: Source, encoder: Encoder, seconds: tuple[float, float], excerpt: Excerpt) -> Iterator[Window]:
    """The windows of one input, with start and end in seconds of the recording."""
    if source.error is not None:
        raise source.error
    by_file = encoder.config.normalization is Normalization.FILE
    if by_file:
        source = replace(source, audio=hold(source.audio, source.name))
        mean, std = moments(window for window, _, _ in _cut(source, encoder.sample_rate, seconds, excerpt))
    for window, start, end in itertools.islice(_cut(source, encoder.sample_rate, seconds, excerpt), source.skip, None):
        yield standardize(window, mean, std) if by_file else window, start, end


def _cut(source: Source, rate: int, seconds: tuple[float, float], excerpt: Excerpt) -> Iterator[Window]:
    label, notes, begin = source.name, source.notes, excerpt.start or 0.0
    blocks = iter_blocks(source.audio, rate, sample_rate=source.sample_rate, label=label, notes=notes, excerpt=excerpt)
    for window, start, end in iter_windows(blocks, *seconds, rate):
        yield window, begin + start, begin + end
    if source.whole and notes.incomplete:
        raise AudioError(f"{label}: {notes.incomplete}; repair it, or have what is there embedded")


class _Decoder(threading.Thread):
    """Decodes one source, a bounded number of windows ahead."""

    def __init__(self, source: Source, windows: Iterator[Window]) -> None:
        super().__init__(daemon=True, name=f"decode {source.name}")
        self.source, self._windows = source, windows
        self._decoded: queue.SimpleQueue[list[Window] | BaseException] = queue.SimpleQueue()
        self._room = threading.Semaphore(_CHUNKS_AHEAD)
        self._stopped = False

    def run(self) -> None:
        try:
            chunk: list[Window] | None = None
            while chunk != [] and self._room.acquire() and not self._stopped:
                chunk = list(itertools.islice(self._windows, _CHUNK))
                self._decoded.put(chunk)  # an empty one is the end
        except BaseException as error:  # handed to the reader, which raises it
            self._decoded.put(error)

    def stop(self) -> None:
        self._stopped = True
        self._room.release()

    def windows(self) -> Iterator[Window]:
        while chunk := self._decoded.get():
            if isinstance(chunk, BaseException):
                raise chunk
            self._room.release()
            yield from chunk


def decode_ahead(
    sources: Iterable[Source], encoder: Encoder, seconds: tuple[float, float], threads: int, excerpt: Excerpt
) -> Iterator[tuple[Source, Iterator[Window]]]:
    """Each source and its windows, in order, as many sources as there are threads being decoded side by side.

    Sources are read lazily; `seconds` are the length of a window, and from one to the next. What is wrong with a source
    is raised while its windows are iterated.
    """
    running: deque[_Decoder] = deque()
    waiting = iter(sources)
    held: list[Source] = []  # at most one, whose file is still being read for an input before it

    def start_next() -> None:
        while len(running) < threads:
            source = held.pop() if held else next(waiting, None)
            if source is None:
                return
            # An open file that is given twice has but one position.
            if hasattr(source.audio, "read") and any(decoder.source.audio is source.audio for decoder in running):
                held.append(source)
                return
            decoder = _Decoder(source, _windows(source, encoder, seconds, excerpt))
            decoder.start()
            running.append(decoder)

    try:
        start_next()
        while running:
            yield running[0].source, running[0].windows()
            running.popleft()
            start_next()
    finally:
        for decoder in running:
            decoder.stop()
