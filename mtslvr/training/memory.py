"""Freed memory stays with a training process; called by `mtslvr train`."""

from __future__ import annotations

import ctypes
import os
import sys

# glibc's mallopt(3): names of its parameters in malloc.h, and what they are set to.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_SETTINGS = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 * 2**20))


def keep_freed_memory() -> bool:
    """Let malloc keep what is freed instead of giving it back to the system, for the rest of the process.

    A training step frees what the next one allocates, activations of tens of MB each. glibc maps blocks of that size
    anew each time, and the system then zeroes them page by page at first touch, which takes a part of every step on a
    CPU. What a process holds at the most grows a little, since its free blocks are no longer given back.

    Returns:
        Whether it did: False where the C library is not glibc, or where a MALLOC_ variable of the environment says how
        malloc is to behave.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    library = ctypes.CDLL(None)
    if not (hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt")):
        return False
    return all([library.mallopt(name, value) for name, value in _SETTINGS])
