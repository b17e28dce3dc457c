"""INPUT arguments to audio files: files, folders, `@list.txt`, and `-` for audio or a list on standard input."""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from ..audio.find import Search, missing, search
from ..errors import ConfigError
from .common import EXIT_NO_AUDIO, EXIT_SOME_FAILED, Failure, counted
from .summary import Report

_HEAD = 4096  # bytes, by which audio and lists are told apart
_UTF16 = (b"\xff\xfe", b"\xfe\xff")  # what text in it begins with
# What a list of paths has not: control characters that no name of a file has, and the mark of UTF-16, whose letters
# NULs would part. Audio has them in its head; some MP3s begin with zeros.
_BINARY = re.compile(rb"[\x01-\x06\x0e-\x1a\x1c-\x1f]|\x00{4}|\A(\xff\xfe|\xfe\xff)")


def find_inputs(arguments: Sequence[str], stdin: str, report: Report) -> tuple[Search, list[str]]:
    """The audio files of all arguments, or the shard's part of them, and the names of all; what is amiss is told."""
    found = gather(arguments, stdin)
    files, absent = found.files, found.unlisted
    if absent and not files:
        others = f" (and {len(absent) - 1} more)" if absent[1:] else ""
        raise Failure(f"no audio found: {absent[0][1]}{others}", EXIT_NO_AUDIO)
    if report.shard is not None:
        found.files, found.unlisted = report.shard.take(files), report.shard.take(absent)
    for path, message in found.unlisted:
        if report.stop:
            raise Failure(f"{message}; nothing is embedded (--on-error stop)", EXIT_SOME_FAILED)
        report.fail(path, "find", message)
    if found.left_out:
        report.inform(found.left_out_text)
    if not files:
        suffixes = "no file with a known suffix (wav, flac, ogg, opus, mp3, aiff ...)"
        raise Failure(f"{', '.join(arguments)}: no audio found: {suffixes}", EXIT_NO_AUDIO)
    if found.repeated:
        report.inform(f"named more than once: {counted(found.repeated, 'file')}; each is embedded once")
    return found, [file.name for file in files]


def gather(arguments: Sequence[str], stdin: str = "auto") -> Search:
    """Find the audio files of files, folders and lists; what is not there is among what cannot be listed.

    `stdin` says what "-" is: "audio", a "list", or "auto", told by its first bytes.
    """
    there, absent = [], []
    for path, origin in expand(arguments, stdin):
        if os.path.lexists(path):
            there.append(path)
        else:
            absent.append((path, f"{origin}{missing(path)}"))
    found = search(there)
    found.unlisted = absent + found.unlisted
    return found


def expand(arguments: Sequence[str], stdin: str = "auto") -> Iterator[tuple[str, str]]:
    """Paths, lists replaced by their lines, and where in a list each one stands; see `gather`."""
    for argument in arguments:
        if argument == "-":
            yield from _standard_input(sys.stdin.buffer, stdin)
        elif argument.startswith("@"):
            try:
                with open(argument[1:], "rb") as file:
                    data = file.read()
            except OSError as error:
                remedy = "a file whose own name begins with @ is given as ./@name"
                raise ConfigError(f"{argument}: list cannot be read ({error.strerror}); {remedy}") from None
            if _BINARY.search(data[:_HEAD]):
                raise ConfigError(f"{argument}: not a list of paths, but binary; an audio file is given without the @")
            yield from _lines(data, argument[1:])
        else:
            yield argument, ""


def _standard_input(stream: BinaryIO, kind: str) -> Iterator[tuple[str, str]]:
    head = stream.read(_HEAD)
    if kind == "auto" and head.startswith(_UTF16):
        raise ConfigError("standard input: begins like text in UTF-16; give a list in UTF-8, or say --stdin audio")
    if kind == "audio" or (kind == "auto" and _BINARY.search(head)):
        _make_seekable(head, stream)
        yield "/dev/stdin", ""
    else:
        yield from _lines(head + stream.read(), "standard input")


def _make_seekable(head: bytes, stream: BinaryIO) -> None:
    """Have /dev/stdin be a file, which is opened more than once, at its beginning; `head` is what was read of it."""
    try:
        if not stat.S_ISREG(os.fstat(0).st_mode):
            with tempfile.TemporaryFile() as file:  # without a name: nothing is left of it, whatever ends the run
                file.write(head)
                shutil.copyfileobj(stream, file)
                file.flush()
                os.dup2(file.fileno(), 0)
        os.lseek(0, 0, os.SEEK_SET)
    except OSError as error:
        remedy = "make space, have TMPDIR name another folder, or give a file"
        raise ConfigError(f"standard input cannot be kept while it is read ({error.strerror}); {remedy}") from None


def _lines(data: bytes, name: str) -> Iterator[tuple[str, str]]:
    """One path a line, or parted by NUL as `find -print0` does it; names may be any bytes.

    Lines that begin with # are comments; a file whose own name does is given as ./#name.
    """
    separator = b"\0" if b"\0" in data else b"\n"
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(separator), 1):
        line = line.rstrip(b"\r") if separator == b"\n" else line
        if line and not (separator == b"\n" and line.startswith(b"#")):
            yield os.fsdecode(line), f"{name}, line {number}: "
