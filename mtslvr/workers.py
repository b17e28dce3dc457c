"""Threads that each run torch with their share of its threads: the parts of a batch side by side.

`encoder` divides a batch that is given to it, `extract` keeps workers busy from batch to batch.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
R = TypeVar("R")


_MOST_ROWS = 16  # at once: with more, what one layer leaves for the next no longer stays in a cache
_here = threading.local()


class Workers:
    """A pool for torch on a CPU: started when first used, ended by `close`.

    Parts of a batch on threads of their own are done sooner than the whole batch on all threads: no operator waits
    for the slowest thread, which on a busy machine is most of the time.

    Args:
        count: threads; each lets torch use 1 / count of the threads that it has in the thread that starts them.
        name: what the threads' names begin with.
    """

    def __init__(self, count: int, name: str = "torch") -> None:
        self.count, self._name = count, name
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
            torch.set_num_threads(self._settle(total))
            started.wait()

        pool = ThreadPoolExecutor(self.count, self._name, initializer=begin)
        for _ in range(self.count):
            pool.submit(int)  # starts a thread, for none that began is idle yet
        started.wait()
        torch.set_num_threads(total)  # each thread has its own number, but later threads take the last one set
        return pool

    def _settle(self, total: int) -> int:
        """Say what the thread that calls is, and how many of `total` threads torch has there."""
        _here.workers = self.count
        return max(1, total // self.count)

    def close(self) -> None:
        """End the threads; what has not begun is dropped."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


class _Sparing(Workers):
    """One thread, on which torch has one thread."""

    def _settle(self, total: int) -> int:
        _here.spared = total
        return 1


def workers_here() -> int:
    """How many workers run side by side, the caller being one of them; 0 where it is none."""
    count: int = getattr(_here, "workers", 0)
    return count


def threads_here() -> int:
    """How many threads there are for an engine: torch's, or those that `sparing` leaves."""
    spared: int = getattr(_here, "spared", 0)
    return spared or torch.get_num_threads()


def parts_of(rows: int, threads: int) -> int:
    """Into how many parts a batch is divided: a power of two, so that few pools and networks serve all batches."""
    return 1 << max(0, min(threads, rows).bit_length() - 1)


def side_by_side(function: Callable[[Tensor], R], rows: Tensor) -> list[R]:
    """Call `function` on parts of `rows`, each on a thread of its own, and wait for all.

    Args:
        function: what it makes of a row must not depend on the others.
        rows: (B, ...) on the CPU.
    Returns:
        What it made of the parts, in order, each of few rows; they take turns on the caller's thread where they would
        not come out nearly equal, torch has one thread, or a worker calls.
    """
    threads = 1 if workers_here() else torch.get_num_threads()
    count = parts_of(len(rows), threads)
    size = -(-len(rows) // count)
    if size * count > 1.2 * len(rows):
        count, size = 1, len(rows)
    size = -(-size // max(1, -(-size // _MOST_ROWS)))  # equal parts, none of more than _MOST_ROWS
    return _call(function, torch.split(rows, size), count, threads)


def in_parts(function: Callable[[Tensor], R], rows: Tensor, size: int) -> list[R]:
    """Call `function` on parts of `size` rows, whatever the number of threads; as many at once as torch has threads.

    Args:
        function: what it makes of a part must not depend on the others.
        rows: (B, ...) on the CPU.
        size: the last part may have fewer.
    Returns:
        What it made of the parts, in order.
    """
    threads = 1 if workers_here() else torch.get_num_threads()
    parts = torch.split(rows, size)
    return _call(function, parts, parts_of(len(parts), threads), threads)


def sparing(function: Callable[[Tensor], R], rows: Tensor) -> R:
    """Call `function` where torch has one thread, and an engine, which asks `threads_here`, those of the caller.

    Threads of torch that have done their share wait for the next operator by spinning: a millisecond of them costs an
    engine that computes on the same cores several.
    """
    threads = torch.get_num_threads()
    if workers_here() or threads == 1:
        return function(rows)
    return _on(_spare(threads), function, [rows])[0]


def _call(function: Callable[[Tensor], R], parts: Sequence[Tensor], count: int, threads: int) -> list[R]:
    if count == 1:
        return [function(part) for part in parts]
    return _on(_shared(count, threads), function, parts)


def _on(workers: Workers, function: Callable[[Tensor], R], parts: Sequence[Tensor]) -> list[R]:
    inference = torch.is_inference_mode_enabled()

    def call(part: Tensor) -> R:
        with torch.inference_mode(inference), torch.no_grad():  # both are a matter of each thread
            return function(part)

    return [future.result() for future in workers.submit(call, parts)]


@functools.cache
def _shared(count: int, threads: int) -> Workers:
    """Workers that stay, for `threads` threads of torch's."""
    return Workers(count)


@functools.cache
def _spare(threads: int) -> Workers:
    """One that stays, for a caller with `threads` threads of torch's."""
    return _Sparing(1)


if hasattr(os, "register_at_fork"):  # a forked process has none of the threads
    os.register_at_fork(after_in_child=_shared.cache_clear)
    os.register_at_fork(after_in_child=_spare.cache_clear)
