"""Formats that libsndfile does not know, decoded by the ffmpeg command where there is one; next: `recordings`."""

from __future__ import annotations

import shutil
import struct
import subprocess
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from ..errors import AudioError, one_line

SUFFIXES = frozenset({
    ".m4a", ".m4b", ".mp4", ".m4v", ".mov", ".aac", ".3gp", ".3g2", ".wma", ".wmv", ".asf", ".webm", ".mkv", ".mka",
    ".amr", ".ac3", ".eac3", ".ape", ".wv", ".tta", ".mpc", ".spx", ".avi", ".flv", ".dsf", ".shn", ".ra", ".rm",
})  # fmt: skip
# Playlists, which name other files, are not among them.
_DEMUXERS = "mov,matroska,webm,aac,asf,asf_o,amr,ac3,eac3,ape,wv,tta,mpc,mpc8,ogg,avi,flv,dsf,shn,rm,wav"
_HEADER = ">6I"  # of an AU stream: magic, where samples begin, their bytes, encoding, rate, channels


def available() -> bool:
    """Whether the command is on the path."""
    return shutil.which("ffmpeg") is not None


class FfmpegStream:
    """The first audio stream of a file: `rate` in Hz, 0 where there is none, and `frames` read so far."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None and process.stderr is not None
        self._output, self.frames = process.stdout, 0
        self._lines: deque[bytes] = deque(maxlen=1)
        self._listener = threading.Thread(target=self._lines.extend, args=(process.stderr,), daemon=True)
        self._listener.start()
        size = struct.calcsize(_HEADER)
        header = self._output.read(size).ljust(size, b"\0")
        _, start, _, _, self.rate, self._channels = struct.unpack(_HEADER, header)
        self._output.read(max(0, start - size))

    @property
    def complaint(self) -> str | None:
        """The last line that ffmpeg wrote to standard error, after the last block; None where there is none."""
        self._listener.join()
        return one_line(self._lines[0].decode(errors="replace")) if self._lines else None

    def blocks(self, step: int) -> Iterator[npt.NDArray[np.float32]]:
        """Read (m, channels) samples at a time, m = `step` but for the last."""
        frame = 4 * self._channels
        while data := self._output.read(step * frame):
            block = np.frombuffer(data[: len(data) // frame * frame], ">f4").astype(np.float32)
            self.frames += len(block) // self._channels
            yield block.reshape(-1, self._channels)


@contextmanager
def open_with_ffmpeg(path: str, label: str) -> Iterator[FfmpegStream]:
    """Start to decode a file; ffmpeg is ended with the context."""
    command = ["ffmpeg", "-nostdin", "-v", "error", "-threads", "1", "-protocol_whitelist", "file,pipe"]
    command += ["-format_whitelist", _DEMUXERS, "-i", f"file:{path}", "-map", "0:a:0", "-c:a", "pcm_f32be"]
    command += ["-f", "au", "pipe:1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        try:
            stream = FfmpegStream(process)
            if stream.rate == 0:
                raise AudioError(f"{label}: no audio that ffmpeg reads ({stream.complaint}); convert it to WAV or FLAC")
            yield stream
        finally:
            process.kill()
