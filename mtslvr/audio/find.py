"""Files and folders come in, the audio files among them go out, with the names they have in an output."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import NamedTuple

from ..errors import AudioError
from . import ffmpeg

# What libsndfile reads and finds out by itself.
AUDIO_SUFFIXES = frozenset({
    ".wav", ".wave", ".bwf", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".mp1", ".mpga",
    ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf", ".voc", ".sph", ".nist",
})  # fmt: skip
_UNREADABLE = frozenset((".m4p", ".aa", ".aax", ".mid", ".midi", ".dss", ".ds2"))


class FoundAudio(NamedTuple):
    """A file to embed and the name it goes by in the output."""

    path: Path
    name: str


@dataclass
class Search:
    """What files and folders hold."""

    files: list[FoundAudio] = field(default_factory=list)  # each file once
    repeated: int = 0  # how often a file was named again
    unlisted: list[tuple[str, str]] = field(default_factory=list)  # folders that cannot be, and a message about each
    left_out: Counter[str] = field(default_factory=Counter)  # files of other audio formats, by suffix

    @property
    def left_out_text(self) -> str:
        """What is left out, as `12 files left out: 10 .m4a, 2 .wma; install ffmpeg to read them`; "" for nothing."""
        if not self.left_out:
            return ""
        counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(self.left_out.items()))
        by_ffmpeg = ffmpeg.SUFFIXES & self.left_out.keys()
        remedy = "install ffmpeg to read them" if by_ffmpeg else "convert them to WAV or FLAC"
        files = "1 file" if self.left_out.total() == 1 else f"{self.left_out.total()} files"
        return f"{files} left out: {counts}; {remedy}"


def find_audio(inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[FoundAudio]:
    """List files as given and the audio files of folders; see `search`."""
    found = search(inputs)
    for _, message in found.unlisted:
        raise AudioError(message)
    return found.files


def search(inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> Search:
    """List files as given and the audio files of folders, searched recursively and sorted by name.

    A file is listed once, under the first input that holds it. Names that start with a dot are left out of folders;
    links to folders are followed, each folder being entered once. Audio is known by its suffix: what libsndfile reads,
    and what ffmpeg reads where there is one. Names are unique: the posix path relative to the folder given, or the
    file's name for a file given. Where names clash, all have the name of their folder put in front, or else
    its path as given.
    """
    found = Search()
    seen: set[str] = set()
    groups: list[tuple[tuple[PurePath, PurePath, Path], list[PurePath]]] = []  # see below; paths relative to a folder
    for given in [inputs] if isinstance(inputs, (str, os.PathLike)) else inputs:
        folder, relative = _expand(os.fsdecode(given), found)
        places = {os.path.abspath(folder / path): path for path in relative}
        found.repeated += sum(place in seen for place in places)
        before = PurePath(), PurePath(PurePath(os.path.abspath(folder)).name), folder  # what a name may begin with
        groups.append((before, [path for place, path in places.items() if place not in seen]))
        seen.update(places)
    for level in range(3):
        each = ((before, path) for before, paths in groups for path in paths)
        found.files = [FoundAudio(before[-1] / path, (before[level] / path).as_posix()) for before, path in each]
        if len({file.name for file in found.files}) == len(found.files):
            break
    return found


def missing(path: str) -> str:
    """What is said of an input that is not there."""
    return f"{path!r}: no such file or folder; check the path"


def _expand(given: str, found: Search) -> tuple[Path, list[PurePath]]:
    """A folder and the paths in it that an input stands for."""
    path = Path(given)
    if given and os.path.isdir(path):
        return path, sorted(_walk(path, found), key=PurePath.as_posix)
    if not given or not os.path.lexists(path):
        raise AudioError(missing(given))
    return path.parent, [PurePath(path.name)]


def _walk(root: Path, found: Search) -> Iterator[PurePath]:
    def note(error: OSError) -> None:
        message = f"{error.filename}: cannot be listed ({error.strerror}); make it readable"
        found.unlisted.append((os.fsdecode(error.filename), message))

    suffixes = AUDIO_SUFFIXES | (ffmpeg.SUFFIXES if ffmpeg.available() else frozenset())
    others = (ffmpeg.SUFFIXES | _UNREADABLE) - suffixes
    # Linked folders wait until the real ones are done, so that a folder met twice keeps its real name.
    pending, entered = [os.fspath(root)], set()
    while pending:
        for folder, subfolders, files in os.walk(pending.pop(0), onerror=note):
            place = os.path.realpath(folder)
            if place in entered:
                subfolders.clear()
                continue
            entered.add(place)
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            links = (os.path.join(folder, name) for name in subfolders)
            pending += [link for link in links if os.path.islink(link)]
            below = PurePath(os.path.relpath(folder, root))
            for name in files:
                suffix = os.path.splitext(name)[1].lower()
                if suffix in suffixes and _is_readable(folder, name):
                    yield below / name
                elif suffix in others and _is_readable(folder, name):
                    found.left_out[suffix] += 1


def _is_readable(folder: str, name: str) -> bool:
    path = os.path.join(folder, name)
    # A broken link is listed, to be reported when it is read; a pipe would block and is not.
    return not name.startswith(".") and (os.path.isfile(path) or not os.path.exists(path))
