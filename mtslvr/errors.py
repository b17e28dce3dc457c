"""Named errors of mtslvr; every message says what was wrong, the value, and the remedy."""

from __future__ import annotations


class MTSLVRError(Exception):
    """Base of every error that mtslvr raises for bad input."""


class AudioError(MTSLVRError, ValueError):
    """Audio that cannot be read or embedded: missing, not audio, empty, NaN, wrong rank or rate."""


class ConfigError(MTSLVRError, ValueError):
    """A setting outside its range, or a name that does not exist."""


class CheckpointError(MTSLVRError, ValueError):
    """A checkpoint with missing, extra or mis-shaped tensors, an unknown key, or no safe content."""


class HubError(MTSLVRError, OSError):
    """Weights that can be found neither bundled, nor in a folder, nor in the cache, nor on the hub."""


class TrainingError(MTSLVRError, RuntimeError):
    """A training run that cannot start, resume or go on."""


def one_line(text: object, most: int = 200) -> str:
    """Text from a file or a server for a message: on one line, without what a terminal obeys, cut at `most`."""
    line = "".join(c for c in " ".join(str(text).split()) if c.isprintable())
    return line if len(line) <= most else line[:most] + " ..."
