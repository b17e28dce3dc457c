"""Parts of recordings as wav clips: windows to label, and what the report plays."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from ..audio.load import load_parts
from ..errors import AudioError
from ..run.files import write_file
from .examples import clip_name
from .labels import Label
from .output import Recording


def read_clip(recording: Recording, start: float, end: float) -> tuple[npt.NDArray[np.float32], int]:
    """A part of what was embedded of a recording, and its rate: its own where libsndfile can go to the place."""
    if not os.path.exists(recording.path):
        raise AudioError(f"{recording.path}: not there any more; say with --audio in which folder the recordings are")
    try:
        with soundfile.SoundFile(os.fsencode(recording.path) if os.name == "posix" else recording.path) as file:
            if file.seekable() and 0 < file.frames < 1 << 40:
                file.seek(min(round(start * file.samplerate), file.frames))
                samples = file.read(round((end - start) * file.samplerate), "float32", always_2d=True)
                samples = samples.mean(axis=1) if recording.channel == "mix" else samples[:, recording.channel]
                if samples.size:
                    return samples, file.samplerate
    except (OSError, RuntimeError, IndexError):  # the last for a channel that is not there any more
        pass
    [samples], _ = load_parts(recording.path, recording.sample_rate, [(start, end)], recording.channel)
    if samples.size == 0:
        raise AudioError(f"{recording.path}: ends before {start:g} s; embed it again")
    return samples, recording.sample_rate


def audio_bytes(samples: npt.NDArray[np.float32], rate: int, form: str) -> bytes:
    """A file of 16 bits in the format WAV or FLAC."""
    out = io.BytesIO()
    soundfile.write(out, np.clip(samples, -1, 1), rate, format=form, subtype="PCM_16")
    return out.getvalue()


def write_clips(places: Iterable[Label], recordings: Mapping[str, Recording], folder: Path) -> list[Path]:
    """Write each place as a clip named by its recording, time, class and probability; of equal names by a number.

    None is left where one fails or the user interrupts, so that the same call can be made again.
    """
    paths: list[Path] = []
    try:
        for place in places:
            start, end = place.start or 0.0, place.end or 0.0
            samples, rate = read_clip(recordings[place.file], start, end)
            path = folder / clip_name(os.path.splitext(place.file)[0], start, place.label, place.score)
            named = (path.with_stem(f"{path.stem}_{number}") for number in itertools.count(2))
            paths.append(next(x for x in itertools.chain([path], named) if x not in paths))
            write_file(paths[-1], audio_bytes(samples, rate, "WAV"), parents=True)
    except BaseException:
        for path in paths:
            path.unlink(missing_ok=True)
        raise
    return paths
