"""What earlier runs left of an output, and whether a new one may go on from there; next: `store`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import EncoderConfig
from ..errors import ConfigError

# The same in all runs that add to one output.
FIXED = ("format", "features", "layer", "pool", "window_seconds", "hop_seconds", "dtype", "channel")
DEFAULTS = {"dtype": "float32", "channel": "mix"}  # of settings that are stored only where they are others
JOURNAL = "journal.jsonl"  # of mtslvr 0.2
_WHOLE = 64 << 20  # bytes of a file up to which all of its content is compared
_PIECES, _PIECE = 4096, 2048  # of the content of a larger one, and bytes of each


@dataclass(frozen=True)
class FileStat:
    """One input as it was when a run planned it."""

    path: str  # absolute
    name: str  # what it goes by in the output
    size: int
    mtime_ns: int
    ctime_ns: int = 0
    inode: int = 0


@dataclass(frozen=True)
class FileEntry(FileStat):
    """An input that was taken up: finished, or the one that is unfinished."""

    id: int = 0  # in the store
    rows: int = 0  # of an unfinished input, windows that are stored
    seconds: float = 0.0  # of audio
    error: str = ""  # why there are no rows
    note: str = ""  # what is to be known of the rows
    digest: bytes = b""  # see `content_digest`; empty where it is not known
    finished: bool = True

    @property
    def stat(self) -> FileStat:
        """The input as it was."""
        return FileStat(self.path, self.name, self.size, self.mtime_ns, self.ctime_ns, self.inode)

    def unchanged(self, found: FileStat) -> bool:
        """Whether the input has the same content now; where only the file system knows of a change, by its digest."""
        if (self.size, self.mtime_ns) != (found.size, found.mtime_ns):
            return False
        same_file = (self.ctime_ns, self.inode) == (found.ctime_ns, found.inode)
        return same_file or not self.digest or self.digest == content_digest(found.path)

    def moved(self, found: FileStat) -> bool:
        """Whether this input now lies at another path: gone from the old one, and of the same content at the new."""
        return bool(self.digest) and not os.path.lexists(self.path) and self.unchanged(found)


@dataclass
class State:
    """What earlier runs left."""

    settings: dict[str, Any]  # of the output, its format among them
    entries: dict[str, FileEntry] = field(default_factory=dict)  # finished inputs by path, as they finished
    open: FileEntry | None = None  # the unfinished input
    complete: int | None = None  # the size of the output in bytes once all is in it


def content_digest(path: str) -> bytes:
    """A digest of a file's content, beyond 64 MiB of pieces evenly spaced; empty where it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.blake2b(str(size).encode(), digest_size=16)
            if size <= _WHOLE:
                while block := file.read(1 << 20):
                    digest.update(block)
            else:
                for i in range(_PIECES):
                    file.seek((size - _PIECE) * i // (_PIECES - 1))
                    digest.update(file.read(_PIECE))
    except OSError:
        return b""
    return digest.digest()


def read_journal(folder: Path) -> State | None:
    """What a run of mtslvr 0.2 left beside its output; None where there is no such thing.

    Raises:
        ConfigError: it did not come to its end.
    """
    path = folder / JOURNAL
    if not path.exists():
        return None
    try:
        head, *lines = map(json.loads, path.read_bytes().splitlines())
        files = [values for line in lines for values in line.get("files", ())]
        entries = {values["path"]: FileEntry(**{k: v for k, v in values.items() if k != "first"}) for values in files}
        return State(head["settings"], entries, None, int(lines[-1]["complete"]))
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        remedy = "finish it with pip install mtslvr==0.2.0, or start anew with --overwrite"
        raise ConfigError(f"{path}: of a run of mtslvr 0.2 that was not finished; {remedy}") from None


def differences(old: Mapping[str, Any], new: Mapping[str, Any], word: str = "now") -> list[str]:
    """Settings that keep rows of two runs apart, each with both values; `word` comes before the second."""
    different = []
    for name in FIXED:
        before, now = (settings.get(name, DEFAULTS.get(name)) for settings in (old, new))
        if before != now:
            different.append(f"{name} {before!r}, {word} {now!r}")
    if (old.get("model_sha256"), _encoder(old)) != (new.get("model_sha256"), _encoder(new)):
        before, now = (f"{s.get('model')!r} (sha256 {str(s.get('model_sha256'))[:12]})" for s in (old, new))
        different.append(f"model {before}, {word} {now}")
    return different


def _encoder(settings: Mapping[str, Any]) -> Any:
    """The encoder's config, with defaults for what an earlier version did not know."""
    try:
        return EncoderConfig.from_dict(settings["encoder"])
    except (KeyError, ConfigError):
        return settings.get("encoder")


def check_earlier(target: Path, state: State | None, settings: Mapping[str, Any]) -> None:
    """Refuse an output that cannot be gone on with.

    Raises:
        ConfigError: not made by a run with these settings, or changed since.
    """
    size = target.stat().st_size if target.exists() else None
    if state is None:
        if size is not None:
            raise ConfigError(
                f"{target}: exists, and no journal beside it says how it was made; choose another -o, or replace it "
                "with --overwrite"
            )
        return
    if state.complete is not None and size is None:
        return
    if different := differences(state.settings, settings):
        raise ConfigError(
            f"{target}: begun with {'; '.join(different)}. Go on with the same, choose another -o, or start anew "
            "with --overwrite"
        )
    if state.complete not in (None, size):
        raise ConfigError(
            f"{target}: {size} bytes, and {state.complete} when its run ended; choose another -o, or start anew with "
            "--overwrite"
        )
