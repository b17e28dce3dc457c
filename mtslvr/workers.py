"""The process's threads that compute with torch on a CPU, each with one torch thread; next: `extract`.

Parts of a batch on threads of their own are done sooner than the whole batch on torch's threads: no operator waits at a
barrier for the slowest thread, which beside other busy processes is most of the time.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import torch

R = TypeVar("R")
_NAME = "mtslvr worker"


class _Process:
    """The pools of this process, by the number of their threads."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Have no pools, as in a forked process, which has none of the threads.

        Torch's own threads are gone there, too, and a call that is divided over them would wait for them without end.
        """
        self.threads = 0  # that torch had before a fork
        if getattr(self, "pools", None):
            self.threads = torch.get_num_threads()
            torch.set_num_threads(1)
        self.starting = threading.Lock()
        self.pools: dict[int, ThreadPoolExecutor] = {}

    def __reduce__(self) -> tuple[type[_Process], tuple[()]]:
        return _Process, ()  # dill takes a function with the globals that it refers to, and another process has none


_here = _Process()


class Lanes:
    """Calls functions on the process's threads, in the order they came and no more than `count` at once."""

    def __init__(self, count: int | None = None) -> None:  # as many as torch has threads in the caller's thread
        self.count, self._pool = _pool_of(count)
        self._process = os.getpid()
        self._unfinished: set[Future[Any]] = set()

    def submit(self, function: Callable[..., R], *args: Any) -> Future[R]:
        """Call `function(*args)` soon; at once where a worker calls, which must not wait for the others."""
        if not threading.current_thread().name.startswith(_NAME):
            future = self._pool.submit(function, *args)
            self._unfinished.add(future)
            future.add_done_callback(self._unfinished.discard)
            return future
        future = Future()
        try:
            future.set_result(function(*args))
        except BaseException as error:  # raised where the result is asked for
            future.set_exception(error)
        return future

    def map(self, function: Callable[[Any], R], parts: Iterable[Any]) -> list[R]:
        """Call `function` on each part and wait for all."""
        return [future.result() for future in [self.submit(function, part) for part in parts]]

    def close(self) -> None:
        """Drop what has not begun, and wait for what has; not in a forked process, where nobody is at work on it."""
        if os.getpid() == self._process:
            wait([future for future in list(self._unfinished) if not future.cancel()])


def on_one_thread(function: Callable[..., R], *args: Any) -> R:
    """`function(*args)`, computed by one of the process's threads.

    There torch has one thread, no default device and no inference mode, and a forked process can compute there: what
    torch's own threads were before a fork, the child waits for without end.
    """
    return Lanes(1).submit(function, *args).result()


def _pool_of(count: int | None) -> tuple[int, ThreadPoolExecutor]:
    with _here.starting:  # a thread's first call of torch must not come while a pool starts
        count = count or max(_here.threads, torch.get_num_threads())
        if count not in _here.pools:
            starter = threading.Thread(target=_start, args=(count,))
            starter.start()
            starter.join()
        return count, _here.pools[count]


def _start(count: int) -> None:
    """Start a pool, each of whose threads lets torch have one thread.

    `torch.set_num_threads` sets the number of the thread that calls, and the one that a thread begins with at its first
    call of torch. So a thread that is new itself notes that one, and sets it again at the end.
    """
    total = torch.get_num_threads()
    begun, set_up = threading.Barrier(count), threading.Barrier(count + 1)

    def begin() -> None:
        torch.get_num_threads()
        begun.wait()
        torch.set_num_threads(1)
        set_up.wait()

    pool = ThreadPoolExecutor(count, _NAME, initializer=begin)
    for _ in range(count):
        pool.submit(int)  # starts a thread, for none that began is idle yet
    set_up.wait()
    torch.set_num_threads(total)
    _here.pools[count] = pool


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_here.forget)
