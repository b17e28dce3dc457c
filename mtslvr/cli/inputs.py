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

_HEAD = 4096  # bytes, by which standard input is told to be audio, a list, or neither
# What files begin with: WAV, AIFF, W64, FLAC, Ogg, MP3 with and without a tag, AAC, AU, CAF; MP4, Matroska, WMA; VOC,
# NIST, and the zeros before some MP3s.
_AUDIO = re.compile(
    rb"(RIFF|RIFX|RF64)....WAVE|FORM....AIF[FC]|riff\x2e\x91\xcf\x11|fLaC[\x00\x80]|OggS\x00|ID3[\x02-\x04]"
    rb"|\xff[\xe2-\xe5\xf0-\xf5\xf8-\xfd]|\.snd\x00|dns\.|caff\x00|....ftyp|\x1a\x45\xdf\xa3|\x30\x26\xb2\x75"
    rb"|Creative Voice File\x1a|NIST_1A\n|\x00{4}",
    re.DOTALL,
)
# Control characters that no name of a file has, or a mark of UTF-16, whose letters NULs would part.
_BINARY = re.compile(rb"[\x01-\x06\x0e-\x1a\x1c-\x1f]|\A(\xff\xfe|\xfe\xff)")


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
        report.skip(path, "find", message)
    if found.left_out:
        report.inform(found.left_out_text)
    if not files:
        suffixes = "no file with a known suffix (wav, flac, ogg, opus, mp3, aiff ...)"
        raise Failure(f"{', '.join(arguments)}: no audio found: {suffixes}", EXIT_NO_AUDIO)
    if found.repeated:
        report.inform(f"named more than once: {counted(found.repeated, 'file')}; each is embedded once")
    return found, [file.name for file in files]


def gather(arguments: Sequence[str], stdin: str = "auto") -> Search:
    """Find the audio files of all arguments; what is not there is among what cannot be listed.

    Args:
        arguments: files, folders, lists.
        stdin: what "-" is: "audio", a "list", or "auto", told by its first bytes.
    Raises:
        ConfigError: a list that cannot be read, or is none.
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
            _check_list(data[:_HEAD], argument, "an audio file is given without the @")
            yield from _lines(data, argument[1:])
        else:
            yield argument, ""


def _standard_input(stream: BinaryIO, kind: str) -> Iterator[tuple[str, str]]:
    head = stream.read(_HEAD)
    if kind == "audio" or (kind == "auto" and _AUDIO.match(head)):
        _make_seekable(head, stream)
        yield "/dev/stdin", ""
    else:
        if kind == "auto":
            _check_list(head, "standard input", "say what it is with --stdin audio or --stdin list")
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


def _check_list(head: bytes, name: str, remedy: str) -> None:
    if _AUDIO.match(head) or _BINARY.search(head):
        kind = "audio" if _AUDIO.match(head) else "neither audio nor text"
        raise ConfigError(f"{name}: not a list of paths but {kind}; {remedy}")


def _lines(data: bytes, name: str) -> Iterator[tuple[str, str]]:
    """One path a line, or parted by NUL as `find -print0` does it; names may be any bytes.

    Lines that begin with # are comments; a file whose own name does is given as ./#name.
    """
    separator = b"\0" if b"\0" in data else b"\n"
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(separator), 1):
        line = line.rstrip(b"\r") if separator == b"\n" else line
        if line and not (separator == b"\n" and line.startswith(b"#")):
            yield os.fsdecode(line), f"{name}, line {number}: "
