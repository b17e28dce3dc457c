"""What users pass as audio comes in, one `Source` for each input goes out; `api`, `sklearn` and `ray` call it."""

from __future__ import annotations

import io
import numbers
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..audio.load import AudioInput, Excerpt, audio_label, count_channels
from ..errors import AudioError
from ..nn.encoder import Encoder
from .decode import Source

Waveform: TypeAlias = npt.NDArray[Any] | Tensor
Input: TypeAlias = AudioInput | tuple[Waveform, float] | Mapping[str, Any]
Rates: TypeAlias = float | Sequence[float | None] | npt.NDArray[Any] | None


def make_source(audio: Any, sample_rate: Any = None, index: int | None = None) -> Source:
    """One input of `mtslvr.embed`, number `index` of a list; what is no audio is refused when it is decoded."""
    name: object = None
    if (pair := as_pair(audio)) is not None:
        audio, sample_rate = pair
    elif hasattr(audio, "get_all_samples"):  # torchcodec's decoder
        samples = audio.get_all_samples()
        audio, sample_rate = samples.data, samples.sample_rate
    elif isinstance(audio, Mapping) and "array" in audio:
        name, sample_rate = audio.get("path"), audio.get("sampling_rate", sample_rate)
        audio = audio["array"] if isinstance(audio["array"], Tensor) else np.asarray(audio["array"])
    elif isinstance(audio, Mapping) and ("path" in audio or "bytes" in audio):
        name, data = audio.get("path"), audio.get("bytes")
        audio = name if data is None else io.BytesIO(data)
    return Source(audio, _whole(sample_rate), audio_label(name or audio, index))


def is_single(audio: object) -> bool:
    """Whether `audio` is one input, of a right type or a wrong one, and no collection of inputs."""
    if hasattr(audio, "dtype"):  # an array, a tensor, a Series: a collection where it holds paths
        return not (getattr(audio, "ndim", 0) == 1 and getattr(audio.dtype, "kind", "") in ("O", "U", "T"))
    one = isinstance(audio, (str, bytes, bytearray, os.PathLike, Mapping)) or hasattr(audio, "read")
    return one or as_pair(audio) is not None or not isinstance(audio, Iterable)


def as_list(audio: Any) -> Sequence[Any]:
    """The inputs of a collection; an AudioError for one without order or length, such as a generator or a set."""
    if isinstance(audio, Sequence):
        return audio
    if hasattr(audio, "dtype"):
        return list(audio)
    raise AudioError(f"type {type(audio).__name__}: pass a list, list(...), or give it to mtslvr.embed_files")


def as_pair(audio: object) -> tuple[Waveform, Any] | None:
    """Waveform and rate of (waveform, rate), which most libraries read files to, or of SciPy's (rate, waveform)."""
    if isinstance(audio, tuple) and len(audio) == 2:
        for waveform, rate in (audio, audio[::-1]):
            if isinstance(waveform, (np.ndarray, Tensor)) and isinstance(_whole(rate), numbers.Real):
                return waveform, rate
    return None


def list_rates(sample_rate: Any, count: int) -> list[Any]:
    """A rate for each of `count` inputs; an AudioError for another number of rates, or an encoder in their place."""
    if isinstance(sample_rate, Encoder):  # would be passed over beside a path, and another encoder used
        raise AudioError("sample_rate is an encoder; give it by name, encoder=...")
    rates = list(sample_rate) if np.ndim(sample_rate) == 1 else [sample_rate] * count
    if len(rates) != count:
        raise AudioError(f"{len(rates)} sample rates for {count} inputs; give one, or one for each")
    return rates


def list_excerpts(channels: Any, start: Any, end: Any, sources: Iterable[Source]) -> list[Excerpt]:
    """What to read of each input: one excerpt, or with `channels` of "each" one for each of their channels."""
    if channels != "each":
        return [Excerpt(channels, start, end)]
    counts: dict[int, str] = {}
    for source in sources:
        if source.error is not None:
            raise source.unreadable(source.error)
        counts.setdefault(count_channels(source.audio, source.label), source.label or "")
    if len(counts) > 1:
        said = ", ".join(f"{label} has {count}" for count, label in counts.items())
        raise AudioError(f"channels='each': inputs with other numbers of channels ({said}); embed these by themselves")
    return [Excerpt(channel, start, end) for channel in range(max(counts, default=1))]


def _whole(rate: Any) -> Any:
    """An int for 44100.0, NumPy's numbers and tensors of one number; anything else as it is."""
    rate = rate.item() if getattr(rate, "ndim", None) == 0 else rate
    return int(rate) if isinstance(rate, float) and rate.is_integer() else rate
