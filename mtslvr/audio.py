"""Any audio file or array comes in, a mono float32 waveform at one rate goes out; next module: `windows`.

Long files are decoded block by block (`iter_blocks`), so memory does not grow with their length.
"""

from __future__ import annotations

import io
import numbers
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePath
from typing import Any, BinaryIO, NamedTuple, TypeAlias, Union

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
from torch import Tensor

from .errors import AudioError

AudioInput: TypeAlias = Union[str, "os.PathLike[str]", BinaryIO, npt.NDArray[Any], Tensor]
Block: TypeAlias = npt.NDArray[np.float32]

AUDIO_SUFFIXES = frozenset((".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".caf", ".w64"))
MAX_RATE = 768_000
BLOCK_FRAMES = 1 << 14


class FoundAudio(NamedTuple):
    """A file to embed and the name it goes by in the output."""

    path: Path
    name: str


def load_audio(
    source: AudioInput, target_rate: int, *, sample_rate: int | None = None, label: str | None = None
) -> Block:
    """Read a whole file or array as one mono waveform.

    Args:
        source: a path, a seekable or plain binary file object (read from its beginning), or an array or
            tensor, (samples,) or (channels, samples). Integers are scaled by the range of their dtype.
        target_rate: Hz.
        sample_rate: Hz of an array, required for one; a file's own rate is used, whatever is given here.
        label: what errors call the source; see `audio_label`.

    Returns:
        (n,) float32, the mean over channels at `target_rate` Hz; n > 0 and every value finite.

    Raises:
        AudioError: missing, a folder, not audio, broken midway, zero samples, NaN or infinite samples,
            a wrong rank, dtype or rate.
    """
    return np.concatenate(list(iter_blocks(source, target_rate, sample_rate=sample_rate, label=label)))


def iter_blocks(
    source: AudioInput, target_rate: int, *, sample_rate: int | None = None, label: str | None = None
) -> Iterator[Block]:
    """Read the waveform of `load_audio` in consecutive blocks, decoded and resampled one at a time.

    Yields:
        (m,) float32 with m > 0, about `BLOCK_FRAMES` samples or fewer.

    Raises:
        AudioError: as `load_audio`, while iterating.
    """
    label = audio_label(source) if label is None else label
    target_rate = _check_rate(target_rate, "target_rate", label)
    if isinstance(source, (np.ndarray, Tensor)):
        if sample_rate is None:
            raise AudioError(f"{label}: array input needs sample_rate=... (Hz)")
        rate = _check_rate(sample_rate, "sample_rate", label)
        blocks = _array_blocks(_check_array(source, label), _step(rate, target_rate))
        yield from _convert(blocks, rate, target_rate, label)
        return
    with _open(source, label) as file:
        rate = _check_rate(file.samplerate, "sample_rate", label)
        blocks = _file_blocks(file, _step(rate, target_rate), label)
        yield from _convert(blocks, rate, target_rate, label)


def audio_label(source: object, index: int | None = None) -> str:
    """Name `source` in an error.

    Returns:
        The path as given, `<file object>` or `<array>`; the latter two with `index`, their place in a list.
    """
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source)
    kind = "file object" if hasattr(source, "read") else type(source).__name__
    kind = "array" if isinstance(source, (np.ndarray, Tensor)) else kind
    return f"<{kind}>" if index is None else f"<{kind} {index}>"


def find_audio(inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[FoundAudio]:
    """List files as given and the audio files of folders, searched recursively and sorted by name.

    A file is listed once, under the first input that holds it. Files and folders whose name starts with
    a dot are left out of a search; links to folders are followed, each folder being entered once.

    Args:
        inputs: one path or many, to files of any suffix or to folders.

    Returns:
        Paths with unique names: the posix path relative to the folder given, or the file's name for a
        file given. Inputs whose names clash have the folder's name, then its path as given, then its
        absolute path put in front.

    Raises:
        AudioError: an input or a folder within it that does not exist or cannot be listed.
    """
    if isinstance(inputs, (str, os.PathLike)):
        inputs = [inputs]
    seen: set[str] = set()
    groups: list[_Group] = []
    for given in inputs:
        group = _expand(os.fsdecode(given))
        places = {os.path.abspath(group.folder / relative): relative for relative in group.relative}
        groups.append(_Group(group.folder, [places[place] for place in places if place not in seen]))
        seen.update(places)
    names = _unique_names(groups)
    paths = [group.folder / relative for group in groups for relative in group.relative]
    return [FoundAudio(path, name) for path, name in zip(paths, names, strict=True)]


def _check_rate(value: object, name: str, label: str) -> int:
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not (whole and 0 < value <= MAX_RATE):  # type: ignore[operator]
        raise AudioError(f"{label}: {name}={value!r}: must be a whole number of Hz from 1 to {MAX_RATE}")
    return int(value)  # type: ignore[call-overload, no-any-return]


def _step(rate: int, target_rate: int) -> int:
    # A block may grow by target_rate / rate in resampling; neither side of it exceeds BLOCK_FRAMES.
    return max(1, min(BLOCK_FRAMES, BLOCK_FRAMES * rate // target_rate))


def _check_array(source: npt.NDArray[Any] | Tensor, label: str) -> npt.NDArray[Any]:
    array = _to_numpy(source, label) if isinstance(source, Tensor) else np.asarray(source)
    if array.dtype.kind not in "fiu":
        raise AudioError(f"{label}: dtype {array.dtype}: must be floating point or integer samples")
    if array.ndim not in (1, 2):
        raise AudioError(f"{label}: shape {array.shape}: must be (samples,) or (channels, samples)")
    if array.size == 0:
        raise AudioError(f"{label}: shape {array.shape}: zero samples; leave it out")
    if array.ndim == 2 and array.shape[0] > array.shape[1]:
        raise AudioError(
            f"{label}: shape {array.shape}: {array.shape[0]} channels of {array.shape[1]} samples; "
            "pass (channels, samples)"
        )
    return np.atleast_2d(array)


def _to_numpy(tensor: Tensor, label: str) -> npt.NDArray[Any]:
    try:
        tensor = tensor.detach().cpu()
        # NumPy has no bfloat16; float32 holds every floating type of 16 bits or fewer exactly.
        return (tensor.float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor).numpy()
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise AudioError(f"{label}: {tensor.dtype} tensor that NumPy cannot hold ({error})") from None


def _array_blocks(array: npt.NDArray[Any], step: int) -> Iterator[npt.NDArray[Any]]:
    for start in range(0, array.shape[1], step):
        yield _to_unit(array[:, start : start + step]).T


def _to_unit(block: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if block.dtype.kind == "f":
        return block
    half = 2.0 ** (8 * block.dtype.itemsize - 1)
    offset = half if block.dtype.kind == "u" else 0.0
    return (block.astype(np.float64) - offset) / half


class _SequentialFile(soundfile.SoundFile):  # type: ignore[misc, unused-ignore]
    """Reads straight on: no seek after each block, no frame count trusted, as soundfile does otherwise."""

    def seekable(self) -> bool:
        return False


class _UnknownLength:
    """An MP3 whose end lies far beyond its data.

    Without a Xing header libmpg123 estimates the frames from the length of the file, and libsndfile reads
    no further than the estimate, which a variable bit rate can put at a third of the truth. The last `TAG`
    bytes, where it looks for an ID3v1 tag, are zeros; so is what a cut last frame lacks, for a frame cut
    before the end of its file counts as an error.
    """

    END = 1 << 40
    TAG = 128

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._position = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self.END)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int) -> bytes:
        self._file.seek(self._position)
        in_tag = self._position >= self.END - self.TAG
        data = bytes(size) if in_tag else self._file.read(size)
        self._position += len(data)
        return data.ljust(size, b"\0") if data else data


@contextmanager
def _open(source: object, label: str) -> Iterator[Any]:
    with ExitStack() as stack:
        handle = _handle(source, label)
        file = stack.enter_context(_decoder(handle, label))
        if file.format == "MP3":
            file.close()
            binary = stack.enter_context(open(handle, "rb")) if isinstance(handle, str) else handle
            file = stack.enter_context(_decoder(_sized(binary), label))
        yield file


def _sized(mp3: BinaryIO) -> BinaryIO | _UnknownLength:
    mp3.seek(0)
    head = mp3.read(10)
    # An ID3v2 tag holds its size after its first ten bytes in four bytes of seven bits each.
    tag = 10 + sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=False))
    mp3.seek(tag if head[:3] == b"ID3" else 0)
    first_frame = mp3.read(4096)
    mp3.seek(0)
    return mp3 if any(name in first_frame for name in (b"Xing", b"Info", b"VBRI")) else _UnknownLength(mp3)


def _handle(source: object, label: str) -> Any:
    if isinstance(source, (str, os.PathLike)):
        return _check_path(os.fsdecode(source), label)
    if not hasattr(source, "read"):
        kind = type(source).__name__
        raise AudioError(f"{label}: type {kind}: pass a path, a binary file object, an array or a tensor")
    if isinstance(source, io.TextIOBase):
        raise AudioError(f"{label}: a text file object; open it in binary mode, open(path, 'rb')")
    return _rewound(source, label)


def _rewound(file: Any, label: str) -> BinaryIO:
    try:
        if not (hasattr(file, "seekable") and file.seekable()):
            return io.BytesIO(file.read())
        file.seek(0)
    except (OSError, ValueError, TypeError) as error:
        raise AudioError(f"{label}: cannot be read ({error}); pass an open binary file object") from None
    return file  # type: ignore[no-any-return]


def _check_path(path: str, label: str) -> str:
    if os.path.isdir(path):
        raise AudioError(f"{label} is a folder; use find_audio or mtslvr-embed")
    if not os.path.exists(path):
        raise AudioError(f"{label}: no such file; check the path")
    if not os.access(path, os.R_OK):
        raise AudioError(f"{label}: permission denied; make it readable")
    if os.path.isfile(path) and os.path.getsize(path) == 0:
        raise AudioError(f"{label}: an empty file (0 bytes), zero samples; leave it out")
    return path


def _decoder(handle: Any, label: str) -> Any:
    try:
        # soundfile encodes text strictly, and a name on Linux may be any bytes.
        as_bytes = isinstance(handle, str) and os.name == "posix"
        return _SequentialFile(os.fsencode(handle) if as_bytes else handle)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        reason = _reason(error)
        raise AudioError(f"{label}: not an audio file ({reason}); convert it to WAV or FLAC") from None


def _reason(error: Exception) -> str:
    text = getattr(error, "error_string", None)
    return str(error) if text is None else f"libsndfile: {str(text).removeprefix('Error : ').rstrip('.')}"


def _file_blocks(file: Any, step: int, label: str) -> Iterator[npt.NDArray[Any]]:
    frames = 0
    while True:
        try:
            block = file.read(step, dtype="float32", always_2d=True)
        except (OSError, RuntimeError) as error:
            at = f"decoding fails after {frames / file.samplerate:.3f} s ({_reason(error)})"
            raise AudioError(f"{label}: {at}; encode it again or cut it there") from None
        if len(block) == 0:
            return
        frames += len(block)
        yield block


def _convert(blocks: Iterator[npt.NDArray[Any]], rate: int, target_rate: int, label: str) -> Iterator[Block]:
    mono = _check_samples(map(_mix, blocks), rate, label)
    yield from mono if rate == target_rate else _resample(mono, rate, target_rate, label)


def _mix(block: npt.NDArray[Any]) -> Block:
    channels = block.shape[1]
    with np.errstate(over="ignore", invalid="ignore"):
        if channels == 1:
            return np.ascontiguousarray(block[:, 0], np.float32)
        # Column by column is several times as fast as `block.mean(axis=1)`.
        total = block[:, 0].astype(np.float64)
        for channel in range(1, channels):
            total += block[:, channel]
        mono: Block = (total / channels).astype(np.float32)
    return mono


def _check_samples(blocks: Iterator[Block], rate: int, label: str) -> Iterator[Block]:
    position = 0
    for block in blocks:
        finite = np.isfinite(block)
        if not finite.all():
            bad = np.flatnonzero(~finite)
            first = position + int(bad[0])
            count = bad.size + sum(int(np.count_nonzero(~np.isfinite(later))) for later in blocks)
            where = f"the first at index {first} ({first / rate:.3f} s)"
            raise AudioError(f"{label}: NaN or infinite samples: {count}, {where}; repair or remove them")
        position += block.size
        yield block
    if position == 0:
        raise AudioError(f"{label}: zero samples; leave it out")


def _resample(blocks: Iterable[Block], rate: int, target_rate: int, label: str) -> Iterator[Block]:
    stream = soxr.ResampleStream(rate, target_rate, 1, dtype="float32")
    made = 0
    for out in _resampled(stream, blocks):
        made += out.size
        if out.size:
            yield out
    if made == 0:
        raise AudioError(f"{label}: at {rate} Hz shorter than one sample at {target_rate} Hz; leave it out")


def _resampled(stream: soxr.ResampleStream, blocks: Iterable[Block]) -> Iterator[Block]:
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.empty(0, np.float32), last=True)


class _Group(NamedTuple):
    folder: Path
    relative: list[PurePath]


def _expand(given: str) -> _Group:
    path = Path(given)
    if given and os.path.isdir(path):
        return _Group(path, sorted(_walk(path), key=PurePath.as_posix))
    if not given or not os.path.lexists(path):
        raise AudioError(f"{given!r}: no such file or folder; check the path")
    return _Group(path.parent, [PurePath(path.name)])


def _walk(root: Path) -> Iterator[PurePath]:
    # Linked folders wait until the real ones are done, so that a folder met twice keeps its real name.
    pending, entered = [os.fspath(root)], set()
    while pending:
        for folder, subfolders, files in os.walk(pending.pop(0), onerror=_raise_unlisted):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in entered:
                subfolders.clear()
                continue
            entered.add((status.st_dev, status.st_ino))
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            links = (os.path.join(folder, name) for name in subfolders)
            pending += [link for link in links if os.path.islink(link)]
            below = PurePath(os.path.relpath(folder, root))
            yield from (below / name for name in files if _is_audio(folder, name))


def _is_audio(folder: str, name: str) -> bool:
    path = os.path.join(folder, name)
    audio = os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES and not name.startswith(".")
    # A broken link is listed, to be reported when it is read; a pipe would block and is not.
    return audio and (os.path.isfile(path) or not os.path.exists(path))


def _raise_unlisted(error: OSError) -> None:
    raise AudioError(f"{error.filename}: cannot be listed ({error.strerror}); make it readable")


def _unique_names(groups: list[_Group]) -> list[str]:
    levels = [0] * len(groups)
    while True:
        names = [_names(group, level) for group, level in zip(groups, levels, strict=True)]
        counts = Counter(name for listed in names for name in listed)
        clashing = [any(counts[name] > 1 for name in listed) for listed in names]
        raised = [min(3, level + clash) for level, clash in zip(levels, clashing, strict=True)]
        if raised == levels:
            return [name for listed in names for name in listed]
        levels = raised


def _names(group: _Group, level: int) -> list[str]:
    absolute = Path(os.path.abspath(group.folder))
    prefix = (PurePath(), PurePath(absolute.name), group.folder, absolute)[level]
    return [(prefix / relative).as_posix() for relative in group.relative]
