"""INPUT arguments to audio files: files, folders, `@list.txt` and `-`, a list on standard input."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..audio import FoundAudio
    from ..shards import Shard


@dataclass
class Inputs:
    """What the arguments stand for.

    Attributes:
        files: audio files, each once.
        missing: what was given and is not there, folders within it that cannot be listed, and a message about each.
        repeated: how often a file was named again.
        given: paths, those of lists included.
        names: what all files go by in the output, where this is a part of them.
        left_out: a sentence on the files of audio formats that cannot be read here; "" where there are none.
    """

    files: list[FoundAudio] = field(default_factory=list)
    missing: list[tuple[str, str]] = field(default_factory=list)
    repeated: int = 0
    given: int = 0
    names: list[str] = field(default_factory=list)
    left_out: str = ""

    def part(self, shard: Shard) -> Inputs:
        """The share of one shard in the files and in what is missing."""
        names = [file.name for file in self.files]
        return Inputs(shard.take(self.files), shard.take(self.missing), self.repeated, self.given, names, self.left_out)


def gather(arguments: Sequence[str]) -> Inputs:
    """Find the audio files of all arguments; a folder that cannot be listed is among what is missing.

    Raises:
        ConfigError: a list that cannot be read.
    """
    from ..errors import AudioError
    from ..find import search

    inputs, usable, listed = Inputs(), [], 0
    for path, origin in expand(arguments):
        inputs.given += 1
        try:
            listed += len(search([path]).files)
            usable.append(path)
        except AudioError as error:
            inputs.missing.append((path, f"{origin}{error}"))
    found = search(usable)
    inputs.files, inputs.left_out = found.files, found.left_out_text
    inputs.missing += found.unlisted
    inputs.repeated = listed - len(inputs.files)
    return inputs


def expand(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Paths, lists replaced by their lines, and where in a list each one stands.

    Raises:
        ConfigError: see `gather`.
    """
    for argument in arguments:
        if argument == "-":
            yield from _lines(sys.stdin.buffer.read(), "standard input")
        elif argument.startswith("@"):
            try:
                with open(argument[1:], "rb") as file:
                    data = file.read()
            except OSError as error:
                remedy = "a file whose own name begins with @ is given as ./@name"
                raise ConfigError(f"{argument}: list cannot be read ({error.strerror}); {remedy}") from None
            yield from _lines(data, argument[1:])
        else:
            yield argument, ""


def _lines(data: bytes, name: str) -> Iterator[tuple[str, str]]:
    """One path a line, or parted by NUL as `find -print0` does it; names may be any bytes."""
    separator = b"\0" if b"\0" in data else b"\n"
    for number, line in enumerate(data.split(separator), 1):
        line = line.rstrip(b"\r") if separator == b"\n" else line
        if line:
            yield os.fsdecode(line), f"{name}, line {number}: "
