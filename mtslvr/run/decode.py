"""Files and arrays come in, their windows go out in order, the next inputs decoding meanwhile; next: `extract`."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from ..audio.load import AudioInput, Excerpt, audio_label, iter_blocks
from ..audio.recordings import Notes, hold
from ..audio.windows import Float32, iter_windows, moments, standardize
from ..config import Normalization
from ..errors import AudioError
from ..nn.encoder import Encoder

_AHEAD = 8  # windows of a source that are decoded before they are asked for
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

    def unreadable(self, error: Exception) -> AudioError:
        """An error of a file object, or of a library that the input comes from, with its name; one of ours as it is."""
        if isinstance(error, AudioError):
            return error
        return AudioError(f"{self.name}: cannot be read ({type(error).__name__}: {error}); repair or leave it out")


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


def decode_ahead(
    sources: Iterable[Source], encoder: Encoder, seconds: tuple[float, float], threads: int, excerpt: Excerpt
) -> Iterator[tuple[Source, Iterator[Window]]]:
    """Each source and its windows, in order, as many sources as there are threads being decoded side by side.

    Sources are read lazily; `seconds` are the length of a window, and from one to the next. What is wrong with a source
    is raised while its windows are iterated.
    """
    pool = ThreadPoolExecutor(threads, "decode")
    running: deque[tuple[Source, Iterator[Window], Future[list[Window]]]] = deque()
    waiting = iter(sources)
    held: Source | None = None  # its open file, which has but one position, is still being read for one before it
    try:
        while True:
            while len(running) < threads and (source := held or next(waiting, None)) is not None:
                same = hasattr(source.audio, "read") and any(other.audio is source.audio for other, *_ in running)
                held = source if same else None
                if same:
                    break
                windows = _windows(source, encoder, seconds, excerpt)
                running.append((source, windows, pool.submit(_next_windows, windows)))
            if not running:
                return
            yield running[0][0], _all_windows(pool, *running[0][1:])
            running.popleft()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _next_windows(windows: Iterator[Window]) -> list[Window]:
    return list(itertools.islice(windows, _AHEAD))


def _all_windows(
    pool: ThreadPoolExecutor, windows: Iterator[Window], decoding: Future[list[Window]]
) -> Iterator[Window]:
    """Windows, some of which are decoding, and then the next, while those before them are used."""
    while decoded := decoding.result():
        decoding = pool.submit(_next_windows, windows)
        yield from decoded
