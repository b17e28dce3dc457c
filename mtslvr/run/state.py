"""What is finished of an output, and whether a new run may go on from there; next: `store`."""

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
    """One input as it was when a run planned it.

    Attributes:
        path: absolute.
        name: what it goes by in the output.
        size: bytes.
        mtime_ns: of its last change.
    """

    path: str
    name: str
    size: int
    mtime_ns: int

    def unchanged(self, other: FileStat) -> bool:
        """Whether both are the same content, as far as size and time of change tell."""
        return (self.size, self.mtime_ns) == (other.size, other.mtime_ns)

    @property
    def base(self) -> dict[str, Any]:
        """The four fields, of a subclass as well."""
        return {"path": self.path, "name": self.name, "size": self.size, "mtime_ns": self.mtime_ns}


@dataclass(frozen=True)
class FileEntry(FileStat):
    """An input that was taken up: finished, or the one that is unfinished.

    Attributes:
        id: in the store; 0 where it has none.
        first: its first row in the output, once that is known.
        rows: how many; of an unfinished input, how many windows are stored.
        seconds: of audio.
        error: empty, or why there are no rows.
        note: empty, or what is to be known of the rows.
        digest: see `content_digest`; empty where it is not known.
    """

    id: int = 0
    first: int = 0
    rows: int = 0
    seconds: float = 0.0
    error: str = ""
    note: str = ""
    digest: bytes = b""

    def moved(self, found: FileStat) -> bool:
        """Whether this input now lies at another path: gone from the old one, and of the same content at the new."""
        same = self.digest and not self.error and self.unchanged(found) and not os.path.lexists(self.path)
        return bool(same) and self.digest == content_digest(found.path)


@dataclass
class State:
    """What earlier runs left.

    Attributes:
        settings: those of the output, its format among them.
        entries: finished inputs by path, in the order in which they finished.
        open: the unfinished input.
        total: rows of an npy, those of files that have others now included.
        complete: None, or the size of the output in bytes.
        last_id: of any input in the store.
    """

    settings: dict[str, Any]
    entries: dict[str, FileEntry] = field(default_factory=dict)
    open: FileEntry | None = None
    total: int = 0
    complete: int | None = None
    last_id: int = 0


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
    """What a run of mtslvr 0.2 left beside its output.

    Returns:
        None where there is no such thing.
    Raises:
        ConfigError: it did not come to its end.
    """
    path = folder / JOURNAL
    if not path.exists():
        return None
    try:
        head, *lines = map(json.loads, path.read_bytes().splitlines())
        entries = [FileEntry(**values) for line in lines for values in line.get("files", ())]
        (total,) = [line["commit"][1] for line in lines if "commit" in line]
        complete = int(lines[-1]["complete"])
        return State(head["settings"], {entry.path: entry for entry in entries}, None, total, complete)
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


def check_settings(output: str | os.PathLike[str], old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse to add rows to an output that was made otherwise.

    Raises:
        ConfigError: names each setting that differs with both values.
    """
    if different := differences(old, new):
        raise ConfigError(
            f"{output}: begun with {'; '.join(different)}. Go on with the same, choose another -o, or start anew "
            "with --overwrite"
        )


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
    if state is None:
        if target.exists():
            raise ConfigError(
                f"{target}: exists, and no journal beside it says how it was made; choose another -o, or replace it "
                "with --overwrite"
            )
        return
    if state.complete is None or target.exists():
        check_settings(target, state.settings, settings)
    if state.complete is not None and target.exists() and target.stat().st_size != state.complete:
        raise ConfigError(
            f"{target}: {target.stat().st_size} bytes, and {state.complete} when its run ended; choose another -o, or "
            "start anew with --overwrite"
        )
