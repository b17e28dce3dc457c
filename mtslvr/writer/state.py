"""What a run's journal says is finished, and whether a new run may go on from there; next: `journal`."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import EncoderConfig
from ..errors import ConfigError
from .files import sidecar

JOURNAL_VERSION = 1
# The same in all runs that add to one output.
FIXED = ("format", "features", "layer", "pool", "window_seconds", "hop_seconds", "dtype")
# Of settings that are stored only where they are others. Engines differ by rounding, so rows of both may go together.
DEFAULTS = {"dtype": "float32", "engine": "torch"}


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


@dataclass(frozen=True)
class FileEntry(FileStat):
    """A finished input.

    Attributes:
        first: its first row in the store.
        rows: how many.
        seconds: of audio.
        error: empty, or why there are no rows.
    """

    first: int = 0
    rows: int = 0
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class OpenFile(FileStat):
    """An input of which some windows are encoded.

    Attributes:
        windows: how many, from its beginning.
        tail: which of the two tails holds them.
    """

    windows: int = 0
    tail: int = 0


@dataclass
class Commit:
    """A batch that may not be on disk for sure: its line in the journal, and checksums to find out."""

    line: int
    rows: tuple[int, int]
    checksum: int
    open: dict[str, Any] | None


@dataclass
class State:
    """Everything that a journal says.

    Attributes:
        settings: those of the output, its format among them.
        entries: finished inputs by path, in the order in which they finished.
        open: the unfinished input.
        rows: in the store.
        complete: None, or the size of the output in bytes.
        unsynced: the last batches.
        length: bytes of the journal that count.
    """

    settings: dict[str, Any]
    entries: dict[str, FileEntry] = field(default_factory=dict)
    open: OpenFile | None = None
    rows: int = 0
    complete: int | None = None
    unsynced: list[Commit] = field(default_factory=list)
    length: int = 0


def journal_folder(target: Path) -> Path:
    """Where the journal of an output lies."""
    return sidecar(target, ".journal")


def read_state(target: Path, lines: int | None = None) -> State | None:
    """Read the journal of an output; a last line that was cut off does not count.

    Args:
        target: the output.
        lines: read so many only.
    Returns:
        None where there is no journal.
    Raises:
        ConfigError: not readable, or of a later version.
    """
    path = journal_folder(target) / "journal.jsonl"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); make it readable") from None
    state = None
    for number, line in enumerate(data.split(b"\n")[:-1][:lines]):
        try:
            record = json.loads(line)
            state = _apply(state, record, number, path)
        except JournalVersionError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError):
            break
        state.length += len(line) + 1
    return state


def _apply(state: State | None, record: dict[str, Any], number: int, path: Path) -> State:
    if state is None:
        if record["journal"] > JOURNAL_VERSION:
            raise JournalVersionError(f"{path}: version {record['journal']}, of a later mtslvr; upgrade mtslvr")
        return State(record["settings"])
    if "commit" in record:
        first, state.rows = record["commit"]
        for values in record["files"]:
            entry = FileEntry(**values)
            state.entries[entry.path] = entry
        opened = record["open"]
        if opened is not None:
            fields = [f.name for f in dataclasses.fields(OpenFile)]
            state.open = OpenFile(**{name: opened[name] for name in fields})
        else:
            state.open = None
        state.complete = None
        if "crc" in record:
            state.unsynced.append(Commit(number, (first, state.rows), record["crc"], opened))
    elif record.get("synced"):
        state.unsynced.clear()
    elif "complete" in record:
        state.complete = record["complete"]
    return state


class JournalVersionError(ConfigError):
    """A journal that this version cannot read."""


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
