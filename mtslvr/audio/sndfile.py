"""What libsndfile decodes, read straight on to where the bytes end; next: `recordings`."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from ..errors import AudioError
from .splice import Splice, whole

_UNKNOWN_FRAMES = 1 << 62
_LAST_STEP = 64  # divides the lengths of FLAC's frames


class _SequentialFile(soundfile.SoundFile):  # type: ignore[misc, unused-ignore]
    """Reads straight on: no seek after each block, no frame count trusted, as soundfile does otherwise."""

    def seekable(self) -> bool:
        return False


class SndfileStream:
    """A stream that libsndfile reads, from the beginning of a binary file object.

    Attributes:
        rate: Hz.
        frames: samples of a channel read so far.
        claimed: samples of a channel by the header; 0 where it is silent about them.
        broken_off: the file ended where more had to come.
    Raises:
        AudioError: it is not audio that libsndfile knows.
    """

    def __init__(self, file: Any, label: str) -> None:
        self._label = label
        file.seek(0)
        # By its number libsndfile reads a file without asking Python for each piece. To others it would seek anywhere.
        native = isinstance(file, io.FileIO) and os.name == "posix"
        self._handle = file if native or isinstance(file, Splice) else whole(file)
        self._source = file.fileno() if native else self._handle
        try:
            self._file = self._open()
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            reason = _reason(error)
            raise AudioError(f"{label}: not an audio file ({reason}); convert it to WAV or FLAC") from None
        self.rate: int = self._file.samplerate
        self.claimed: int = self._file.frames if self._file.frames < _UNKNOWN_FRAMES else 0
        self.frames, self.broken_off = 0, False

    def _open(self) -> Any:
        return _SequentialFile(self._source, closefd=False)

    def __enter__(self) -> SndfileStream:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def blocks(self, step: int) -> Iterator[npt.NDArray[np.float32]]:
        """Read (m, channels) samples at a time, m = `step` but for the last ones.

        Raises:
            AudioError: the file is damaged before its end.
        """
        while True:
            try:
                block = self._file.read(step, dtype="float32", always_2d=True)
            except (OSError, RuntimeError) as error:
                if self._is_at_end():
                    self.broken_off = True
                    yield from self._last_blocks(step)
                    return
                at = f"decoding fails after {self.frames / self.rate:.3f} s ({_reason(error)})"
                raise AudioError(f"{self._label}: {at}; encode it again or cut it there") from None
            if len(block) == 0:
                return
            self.frames += len(block)
            yield block

    def _is_at_end(self) -> bool:
        at: int = self._handle.tell()
        end: int = self._handle.seek(0, os.SEEK_END)
        return at >= end

    def _last_blocks(self, step: int) -> Iterator[npt.NDArray[np.float32]]:
        """Decode anew up to the failure, in small steps at last, for a read that fails gives nothing."""
        self._file.close()
        self._handle.seek(0)
        self._file = self._open()
        for start in range(0, self.frames, step):
            self._file.read(min(step, self.frames - start), dtype="float32")
        with contextlib.suppress(OSError, RuntimeError):
            while len(block := self._file.read(_LAST_STEP, dtype="float32", always_2d=True)):
                self.frames += len(block)
                yield block


def _reason(error: Exception) -> str:
    text = getattr(error, "error_string", None)
    return str(error) if text is None else f"libsndfile: {str(text).removeprefix('Error : ').rstrip('.')}"
