"""The programs `mtslvr` and `mtslvr-embed`: standard streams, signals and exit codes; next: `main` and `embed`.

Nothing beyond Python's own start is imported before signals are taken care of.
"""

from __future__ import annotations

import _thread
import contextlib
import importlib
import io
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn


def mtslvr() -> NoReturn:
    """Entry point of `mtslvr`."""
    run(lambda: importlib.import_module(".main", __package__).main.main())


def embed() -> NoReturn:
    """Entry point of `mtslvr-embed`."""
    run(lambda: importlib.import_module(".embed", __package__).embed_command.main())


def run(command: Callable[[], Any]) -> NoReturn:
    """Call a command, which reads the arguments of this process, and end the process.

    The first SIGINT or SIGTERM raises KeyboardInterrupt, so that a command can store what is finished; the second one
    ends the process at once. The exit code is then 130 or 143. Once the command is done, neither changes its result.
    """
    _open_streams()
    received: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        if frame is not None and frame.f_code is ignored.__code__:  # what is raised there is dropped, too
            _thread.start_new_thread(_interrupt_later, (number,))
            return
        received.append(number)
        if len(received) > 1 or _importing(frame):
            _leave(128 + number, b"\nError: interrupted\n")
        raise KeyboardInterrupt

    def ignored(exception: sys.UnraisableHookArgs) -> None:
        """Python drops what is raised in a destructor or a callback of a weak reference: interrupt again after it."""
        if not received or exception.exc_type is not KeyboardInterrupt:
            sys.__unraisablehook__(exception)
            return
        _thread.start_new_thread(_interrupt_later, (received.pop(),))

    sys.unraisablehook = ignored
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as a shell sets it for what runs in the background
            signal.signal(number, interrupt)
    if hasattr(os, "register_at_fork"):  # processes that prepare batches are ended by the signals as always
        os.register_at_fork(after_in_child=lambda: [signal.signal(number, before[number]) for number in before])
    try:
        try:
            code = command()
        except SystemExit as end:
            code = end.code
        for number in before:
            signal.signal(number, signal.SIG_IGN)
    except BaseException:
        if not received:
            raise
        _leave(128 + received[0], b"\nError: interrupted\n")
    if received and code:
        # Not through the interpreter's own end, which waits for threads and aborts where one of them still runs.
        _leave(128 + received[0])
    sys.exit(code)


def _interrupt_later(number: int) -> None:
    time.sleep(0.01)
    _thread.interrupt_main(signal.Signals(number))


def _importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported: compiled ones abort, or swallow an exception, that is raised meanwhile."""
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def _leave(code: int, said: bytes = b"") -> NoReturn:
    """End the process at once; what it wrote is stored, or as if it had been killed."""
    with contextlib.suppress(OSError):
        os.write(2, said)
    os._exit(code)


def _open_streams() -> None:
    """Put something in place of closed streams, and have output and error fail as a user expects.

    Otherwise the first file that is opened gets the number of a closed stream, and with it what libraries print.
    """
    for number, mode in enumerate((os.O_RDONLY, os.O_WRONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # gets the lowest number that is free
    sys.stdin = sys.stdin or io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)))
    if os.name == "posix" and sys.stderr is sys.__stderr__:
        sys.stderr = _text(2, "backslashreplace")
    if os.name == "posix" and sys.stdout is sys.__stdout__:
        sys.stdout = sys.stdout and _text(1, "surrogateescape")  # None where it is closed: see `check_stdout`


def _text(number: int, errors: str) -> io.TextIOWrapper:
    raw = _Stream(number, "w", closefd=False)
    lines = number == 2 or raw.isatty()
    return io.TextIOWrapper(io.BufferedWriter(raw), sys.getfilesystemencoding(), errors, line_buffering=lines)


class _Stream(io.FileIO):
    """Standard output or error: what error does not take is lost, output that fails ends the command."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if self.fileno() == 2:
                return len(data)
            if isinstance(error, BrokenPipeError):
                raise  # click ends the command in silence, as is usual before `head`
            from .common import EXIT_USAGE, Failure

            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())  # takes the rest, which is flushed at the end
            said = f"standard output cannot be written ({error.strerror}); write where there is space"
            raise Failure(said, EXIT_USAGE) from None
