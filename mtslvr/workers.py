"""Threads that each run torch with their share of its threads; `extract` encodes the parts of a batch on them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


class Workers:
    """A pool for torch on a CPU: started when first used, ended by `close`.

    Parts of a batch on threads of their own are done sooner than the whole batch on all threads: no operator waits
    for the slowest thread, which on a busy machine is most of the time.

    Args:
        count: threads; each lets torch use 1 / count of the threads that it has in the thread that starts them.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ThreadPoolExecutor | None = None

    def submit(self, function: Callable[[T], R], parts: Iterable[T]) -> list[Future[R]]:
        """Call `function` on each part, soon."""
        pool = self._pool = self._pool or self._start()
        return [pool.submit(function, part) for part in parts]

    def _start(self) -> ThreadPoolExecutor:
        total = torch.get_num_threads()
        started = threading.Barrier(self.count + 1)

        def begin() -> None:
            torch.get_num_threads()  # a thread's first call sets its number to the last one that any thread set
            torch.set_num_threads(max(1, total // self.count))
            started.wait()

        pool = ThreadPoolExecutor(self.count, "encode", initializer=begin)
        for _ in range(self.count):
            pool.submit(int)  # starts a thread, for none that began is idle yet
        started.wait()
        torch.set_num_threads(total)  # each thread has its own number, but later threads take the last one set
        return pool

    def close(self) -> None:
        """End the threads; what has not begun is dropped."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
