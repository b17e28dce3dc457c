"""What libsndfile decodes, read straight on to where the bytes end; next: `recordings`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from ..errors import AudioError
from .layout import Stream

_UNKNOWN_FRAMES = 1 << 35
_LAST_STEP = 64  # divides the lengths of FLAC's frames, but for the last one


class _SequentialFile(soundfile.SoundFile):  # type: ignore[misc, unused-ignore]
    """Reads straight on: no seek after each block, no frame count trusted, as soundfile does otherwise."""

    def seekable(self) -> bool:
        return False


class SndfileStream:
    """A stream being decoded: `rate` in Hz, `frames` read so far, `broken_off` where more had to come.

    Raises:
        AudioError: it is not audio that libsndfile knows.
    """

    def __init__(self, stream: Stream, label: str) -> None:
        self._stream, self._label = stream, label
        try:
            self._file = self._open()
            self._check_read()
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            self._check_read()
            reason = _reason(error)
            raise AudioError(f"{label}: not an audio file ({reason}); convert it to WAV or FLAC") from None
        self.rate: int = self._file.samplerate
        self.frames, self.broken_off = 0, False
        self._claimed: int = stream.samples or (self._file.frames if self._file.frames < _UNKNOWN_FRAMES else 0)

    def _open(self) -> Any:
        self._stream.file.seek(0)
        return _SequentialFile(self._stream.file, closefd=False)

    def __enter__(self) -> SndfileStream:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def missing(self) -> float:
        """Seconds that the header claims beyond those that were read."""
        claimed = max(self._claimed, self.frames * self._stream.factor)
        return max(self._stream.missing, (claimed - self.frames) / self.rate)

    def blocks(self, step: int) -> Iterator[npt.NDArray[np.float32]]:
        """Read (m, channels) samples at a time, m = `step` but for the last ones.

        Raises:
            AudioError: the file is damaged before its end.
        """
        while True:
            try:
                block = self._file.read(step, dtype="float32", always_2d=True)
            except (OSError, RuntimeError) as error:
                self._check_read()
                yield from self._last_blocks(step)
                self._judge(error)
                return
            if len(block) == 0:
                self._check_read()
                return
            self.frames += len(block)
            yield block

    def _check_read(self) -> None:
        try:
            self._stream.file.check()
        except OSError as error:
            raise AudioError(f"{self._label}: cannot be read ({error}); copy it anew") from None

    def _last_blocks(self, step: int) -> Iterator[npt.NDArray[np.float32]]:
        """Decode anew up to the failure, in small steps at last, for a read that fails gives nothing."""
        self._file.close()
        with contextlib.suppress(OSError, RuntimeError):
            self._file = self._open()
            for start in range(0, self.frames, step):
                self._file.read(min(step, self.frames - start), dtype="float32")
            while len(block := self._file.read(self._last_step(), dtype="float32", always_2d=True)):
                self.frames += len(block)
                yield block
        self._check_read()

    def _last_step(self) -> int:
        return min(_LAST_STEP, self._claimed - self.frames) if self._claimed > self.frames else _LAST_STEP

    def _judge(self, error: Exception) -> None:
        """Behind all the samples of the header other bytes may follow; before the end of the file none may."""
        if 0 < self._claimed <= self.frames:
            return
        self.broken_off = self._stream.file.is_read
        if not self.broken_off:
            at = f"decoding fails after {self.frames / self.rate:.3f} s ({_reason(error)})"
            raise AudioError(f"{self._label}: {at}; encode it again or cut it there")


def _reason(error: Exception) -> str:
    text = getattr(error, "error_string", None)
    return str(error) if text is None else f"libsndfile: {str(text).removeprefix('Error : ').rstrip('.')}"
