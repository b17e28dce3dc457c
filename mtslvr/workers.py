"""The process's threads that compute with torch on a CPU, each with one torch thread; next: `extract`.

Parts of a batch on threads of their own are done sooner than the whole batch on torch's threads: no operator waits at a
barrier for the slowest thread, which beside other busy processes is most of the time.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

R = TypeVar("R")
_starting = threading.Lock()
_before_fork = 0  # threads that torch had in the process that this one was forked from


class Workers(ThreadPoolExecutor):
    """`count` threads, started together, each of which lets torch have one thread."""

    def __init__(self, count: int) -> None:
        self.count = count
        ready = threading.Barrier(count + 1)

        def begin() -> None:
            torch.get_num_threads()  # the first call of a thread gives it torch's number, whatever it has set before
            torch.set_num_threads(1)
            ready.wait()

        super().__init__(count, "mtslvr worker", initializer=begin)
        for _ in range(count):
            self.submit(int)  # starts a thread, for none that began is idle yet
        ready.wait()


def workers(count: int | None = None) -> Workers:
    """The process's `count` workers, or as many as torch has threads in the caller's thread; started once, and kept.

    What a worker calls must not wait for other calls of workers.
    """
    with _starting:  # a thread's first call of torch must not come while workers start
        return _started(count or max(_before_fork, torch.get_num_threads()))


def on_one_thread(function: Callable[..., R], *args: Any) -> R:
    """`function(*args)`, computed by a worker.

    There torch has one thread, no default device and no inference mode, and a forked process can compute there: what
    torch's own threads were before a fork, the child waits for without end.
    """
    return workers(1).submit(function, *args).result()


@functools.cache
def _started(count: int) -> Workers:
    # `set_num_threads` sets the number of the thread that calls, and the one that later threads begin with. A new
    # thread, which has that one, knows and restores it.
    with ThreadPoolExecutor(1) as new:
        total = new.submit(torch.get_num_threads).result()
        started = Workers(count)
        new.submit(torch.set_num_threads, total).result()
    return started


def _after_fork() -> None:
    """Forget the workers, which a forked process has not.

    Torch's own threads are gone there, too, and a call that is divided over them would wait for them without end.
    """
    global _starting, _before_fork
    _starting = threading.Lock()
    if _started.cache_info().currsize:
        _before_fork = max(_before_fork, torch.get_num_threads())
        torch.set_num_threads(1)
        _started.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
