"""`embed`, `embed_windows`, `embed_files`: any audio in, embeddings out; what most users call."""

from __future__ import annotations

import dataclasses
import functools
import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, Union, overload

import numpy as np
import torch
from torch import Tensor

from .audio.load import Excerpt, audio_label
from .audio.recordings import hold
from .audio.windows import Float32, Float64, Pool
from .config import Features, Layer
from .errors import AudioError, ConfigError
from .models import hub
from .models.checkpoint import CONFIG_NAME, WEIGHTS_NAME
from .nn.encoder import Encoder
from .run.extract import ExtractConfig, FileEmbeddings, Source, extract
from .run.sources import Input, Rates, as_list, as_pair, is_single, list_excerpts, list_rates, make_source

if TYPE_CHECKING:
    from typing_extensions import Unpack

Model: TypeAlias = Union[Encoder, str, "os.PathLike[str]"]
TensorInput: TypeAlias = Tensor | tuple[Tensor, float]


class _Options(TypedDict, total=False):
    """What `embed` and `embed_windows` take by name, for their overloads."""

    features: Features | str
    layer: Layer | str
    encoder: Model | None
    window_seconds: float | None
    hop_seconds: float | None
    channels: int | str
    start: float | None
    end: float | None
    batch_size: int


class _ListOptions(_Options, total=False):
    threads: int


@overload
def embed(  # type: ignore[overload-overlap]  # tensors are inputs, too, and give a tensor where there is nothing else
    audio: TensorInput | Sequence[TensorInput], sample_rate: Rates = None, **options: Unpack[_ListOptions]
) -> Tensor: ...
@overload
def embed(audio: Input | Sequence[Input], sample_rate: Rates = None, **options: Unpack[_ListOptions]) -> Float32: ...
def embed(
    audio: Input | Sequence[Input],
    sample_rate: Rates = None,
    *,
    features: Features | str = Features.CONCAT,
    layer: Layer | str = Layer.HEAD,
    encoder: Model | None = None,
    window_seconds: float | None = None,
    hop_seconds: float | None = None,
    channels: int | str = "mix",
    start: float | None = None,
    end: float | None = None,
    batch_size: int = 32,
    threads: int = 2,
) -> Float32 | Tensor:
    """One embedding for each input: the mean over its windows.

    Args:
        audio: a path, a binary file object, an array or tensor (samples,) or (channels, samples), or a list of
            them, lengths and rates mixed. Mixed down to mono and resampled as needed; a 2-D array is one input.
            Also a pair (array, rate), and what an Audio column of Hugging Face `datasets` holds:
            {"array", "sampling_rate"}, {"path", "bytes"}, or a decoder of torchcodec.
        sample_rate: Hz of arrays and tensors; a list gives one for each input. Files know their own.
        features: "invariant" (contrastive), "variant" (augmentation prediction) or "concat".
        layer: "head" (what the paper evaluates) or "pooled" (what it reads, as wide as `Encoder.embedding_dim` says).
        encoder: from `mtslvr.load`, or a name, folder or hub id that `load` takes, which is loaded once, and again
            when the files in its folder have changed; None is the bundled default.
        window_seconds: length of a slice; None is what the encoder was made for (5 s). Shorter input is repeated.
        hop_seconds: from one slice to the next; None is `window_seconds`.
        channels: "mix", the mean over channels; a number, that one alone, counted from 0; "each", every one.
        start: seconds into each input where to begin; None is its beginning.
        end: seconds into each input where to end; None is its end.
        batch_size: slices at once through the encoder.
        threads: files decoded side by side.
    Returns:
        (D,) float32 for one input, (n, D) for a list of n, and with "each" (C, D) and (n, C, D) for inputs of C
        channels; NumPy, or a tensor on the encoder's device where all inputs are tensors.
    Raises:
        AudioError: input that is missing, no audio, empty, not finite, of the wrong rank, without a rate, or without
            the channel or the time asked for. A list ends at its first such input; `embed_files` goes on with the
            others.
        ConfigError: unknown features or layer, window or hop outside its range, an end that is not after the start.
        HubError, CheckpointError: see `mtslvr.load`.
    """
    config = ExtractConfig.parse(features, layer, Pool.MEAN, window_seconds, hop_seconds, batch_size, threads)
    single = is_single(audio)
    inputs: Sequence[Any] = [audio] if single else as_list(audio)
    found = _by_channel(inputs, single, sample_rate, encoder, config, (channels, start, end))
    encoder = get_encoder(encoder)
    none = np.empty((0, encoder.embedding_dim(config.features, config.layer)), np.float32)
    columns = [np.concatenate([none, *(result.embeddings for result in results)]) for results in found]
    embeddings = np.stack(columns, axis=1) if channels == "each" else columns[0]
    return _as_given(embeddings[0] if single else embeddings, inputs, encoder)


@overload
def embed_windows(  # type: ignore[overload-overlap]
    audio: TensorInput, sample_rate: float | None = None, **options: Unpack[_Options]
) -> tuple[Tensor, Float64]: ...
@overload
def embed_windows(
    audio: Input, sample_rate: float | None = None, **options: Unpack[_Options]
) -> tuple[Float32, Float64]: ...
def embed_windows(
    audio: Input,
    sample_rate: float | None = None,
    *,
    features: Features | str = Features.CONCAT,
    layer: Layer | str = Layer.HEAD,
    encoder: Model | None = None,
    window_seconds: float | None = None,
    hop_seconds: float | None = None,
    channels: int | str = "mix",
    start: float | None = None,
    end: float | None = None,
    batch_size: int = 32,
) -> tuple[Float32 | Tensor, Float64]:
    """An embedding for each window of one input.

    Args:
        audio: see `embed`, as those that are not named here; one input.
        hop_seconds: window i starts round(i * hop_seconds * sample_rate) samples after `start`.
    Returns:
        Embeddings (k, D) float32, with `channels` of "each" (C, k, D), and their start and end (k, 2) in seconds of
        the input; the last window is repeated to full length where the audio ends inside it.
    Raises:
        AudioError, ConfigError, HubError, CheckpointError: see `embed`.
    """
    config = ExtractConfig.parse(features, layer, Pool.NONE, window_seconds, hop_seconds, batch_size)
    if not is_single(audio):
        said = "pass one input, or all of them to mtslvr.embed_files with pool='none'"
        raise AudioError(f"type {type(audio).__name__}: {said}")
    found = _by_channel([audio], True, sample_rate, encoder, config, (channels, start, end))
    rows = np.stack([result.embeddings for [result] in found])
    return _as_given(rows if channels == "each" else rows[0], [audio], get_encoder(encoder)), found[0][0].spans


def embed_files(
    paths: Iterable[Input],
    sample_rate: float | None = None,
    *,
    features: Features | str = Features.CONCAT,
    layer: Layer | str = Layer.HEAD,
    encoder: Model | None = None,
    window_seconds: float | None = None,
    hop_seconds: float | None = None,
    channels: int | str = "mix",
    start: float | None = None,
    end: float | None = None,
    pool: Pool | str = Pool.MEAN,
    batch_size: int = 32,
    threads: int = 2,
    on_error: str = "skip",
    progress: bool = False,
) -> Iterator[FileEmbeddings]:
    """Embed any number of inputs, one result after the other; a broken input has its error, and the rest go on.

        for result in mtslvr.embed_files(paths, progress=True):
            print(result.path, result.embedding if result.error is None else result.error)
    Args:
        paths: any iterable of what `embed` takes as one input. It is read a few batches ahead of the results that
            are asked for, so it may be of any length, and memory does not grow with it.
        sample_rate: Hz of arrays and tensors that come without one; see `embed` for what is not named here.
        channels: see `embed`; "mix" or a number.
        pool: "mean", one embedding an input, or "none", one a window.
        on_error: "skip" gives the error of a broken input in its result, "raise" raises it.
        progress: show a bar on standard error.
    Returns:
        An iterator over results, one for each input, in order: see `FileEmbeddings`.
    Raises:
        AudioError: a single input in place of an iterable; with "raise", the first broken input.
        ConfigError: see `embed`; unknown pool or `on_error`; results read on in a forked process.
        HubError, CheckpointError: see `mtslvr.load`.
    """
    config = ExtractConfig.parse(features, layer, pool, window_seconds, hop_seconds, batch_size, threads)
    if on_error not in ("skip", "raise"):
        raise ConfigError(f"on_error={on_error!r}: unknown; use 'skip' or 'raise'")
    if is_single(paths):
        said = "pass a list or another iterable of inputs, such as pathlib.Path(folder).rglob('*.wav')"
        raise AudioError(f"type {type(paths).__name__}: {said}; for one input there is mtslvr.embed")
    config = dataclasses.replace(config, excerpt=Excerpt(channels, start, end))
    results = _results(paths, sample_rate, get_encoder(encoder), config, stop=on_error == "raise")
    if not progress:
        return results
    from tqdm.auto import tqdm

    return iter(tqdm(results, total=len(paths) if isinstance(paths, Sized) else None, unit="file"))


def _by_channel(
    inputs: Sequence[Any], single: bool, rate: Rates, model: Model | None, config: ExtractConfig, part: tuple[Any, ...]
) -> list[list[FileEmbeddings]]:
    """A result for each input, for each channel that is asked for; the first that fails is raised."""
    (channels, start, end), rates = part, list_rates(rate, len(inputs))
    indices: Sequence[int | None] = [None] if single else range(len(inputs))
    if channels == "each":  # each input is read for each of its channels
        inputs = [hold(given, audio_label(given, index)) for given, index in zip(inputs, indices, strict=True)]
    found: list[list[FileEmbeddings]] = []
    for excerpt in list_excerpts(channels, start, end, map(_source, inputs, rates, indices)):
        sources = map(_source, inputs, rates, indices)
        results = []
        for result in extract(sources, get_encoder(model), dataclasses.replace(config, excerpt=excerpt)):
            if result.error is not None:
                said = f"{result.error} (input {result.index} of {len(inputs)}, counted from 0"
                raise result.error if single else AudioError(f"{said}; mtslvr.embed_files goes on with the others)")
            if result.notes.incomplete and not found:
                label = audio_label(inputs[result.index], indices[result.index])
                warnings.warn(f"{label}: {result.notes.incomplete}; what is there is embedded", stacklevel=3)
            results.append(result)
        found.append(results)
    return found


def _source(audio: Any, sample_rate: Any, index: int | None) -> Source:
    """One input, with the error of whatever library it comes from where it is none."""
    try:
        return make_source(audio, sample_rate, index)
    except Exception as error:
        return Source("", label=audio_label(audio, index), error=error)


def _results(
    inputs: Iterable[Input], sample_rate: float | None, encoder: Encoder, config: ExtractConfig, *, stop: bool
) -> Iterator[FileEmbeddings]:
    names: deque[str | os.PathLike[str]] = deque()  # of inputs that were read and have no result yet

    def sources() -> Iterator[Source]:
        for index, audio in enumerate(inputs):
            source = _source(audio, sample_rate, index)
            names.append(audio if isinstance(audio, (str, os.PathLike)) else source.name)
            yield source

    process = os.getpid()
    for result in extract(sources(), encoder, config):
        if stop and result.error is not None:
            raise result.error
        yield dataclasses.replace(result, path=names.popleft())
        if os.getpid() != process:
            said = "a forked process has none of the threads at work on results that another one began to read"
            raise ConfigError(f"{said}; call embed_files in the process that reads them")


def list_models() -> list[str]:
    """Names of the bundled models, which `load` takes; it also takes folders and hub ids."""
    return list(hub.bundled())


def get_encoder(model: Model | None, device: str = "auto") -> Encoder:
    """An encoder as it is, or what `mtslvr.load` makes of a name or folder, kept until the folder's files change."""
    if isinstance(model, Encoder):
        return model
    if model is not None and not isinstance(model, (str, os.PathLike)):
        said = "pass what mtslvr.load gives, or what it takes: a name, a folder or a hub id"
        if isinstance(model, torch.nn.Module):
            said += "; encoder.compile() compiles an encoder and leaves it one"
        raise ConfigError(f"encoder of type {type(model).__name__}: {said}")
    return _load(model, device, _files_state(model))  # type: ignore[arg-type]  # paths can be hashed


@functools.lru_cache(maxsize=3)
def _load(model: Any, device: str, state: tuple[int, ...] | None) -> Encoder:
    return hub.load(model, device=device)


def _files_state(folder: str | os.PathLike[str] | None) -> tuple[int, ...] | None:
    """Numbers that change whenever the files of a checkpoint folder do; None for anything else."""
    try:
        found = [os.stat(Path(folder).expanduser() / name) for name in (CONFIG_NAME, WEIGHTS_NAME)]  # type: ignore[arg-type]
    except (OSError, TypeError, ValueError, RuntimeError):
        return None
    # Size and time of change do not suffice: weights of one shape have one size, and a copy may keep its time.
    return tuple(n for f in found for n in (f.st_dev, f.st_ino, f.st_size, f.st_mtime_ns, f.st_ctime_ns))


def _as_given(rows: Float32, inputs: Sequence[Any], encoder: Encoder) -> Float32 | Tensor:
    """A tensor where all inputs are tensors."""
    waveforms = [(as_pair(audio) or (audio,))[0] for audio in inputs]
    if inputs and all(isinstance(waveform, Tensor) for waveform in waveforms):
        return torch.from_numpy(rows).to(encoder.device)
    return rows
