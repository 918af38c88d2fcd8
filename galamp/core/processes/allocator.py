"""The C library's allocator: what becomes of big blocks that are free.

Runs in processes that take tens of megabytes for a moment, again and again, from several threads.
By default glibc keeps such blocks for the next time, in an arena for each thread.
"""

from __future__ import annotations

import contextlib
import ctypes

BIG_BLOCK_BYTES = 128 * 1024
LARGEST_KEPT_BYTES = 32 * 2**20
"""Longest block that can be kept: glibc takes no higher threshold."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_NEVER = 2**31 - 1


def keep_nothing_spare() -> None:
    """Have the allocator return big blocks immediately, so that memory held is memory in use."""
    _set({_M_MMAP_THRESHOLD: BIG_BLOCK_BYTES})


def keep_until_returned() -> None:
    """Have the allocator keep free blocks of up to `LARGEST_KEPT_BYTES` for all threads together.

    For a process that takes blocks of a size at a steady pace: each one that comes from the system
    is cleared page by page, which costs more than a copy of it. `return_spare` is to be called now
    and then; until then the process holds what it once had in use.
    """
    _set(
        {
            _M_ARENA_MAX: 1,  # else what one thread has freed is spare to that thread alone
            _M_MMAP_THRESHOLD: LARGEST_KEPT_BYTES,
            _M_TRIM_THRESHOLD: _NEVER,
        }
    )


def return_spare() -> None:
    """Return all that is free to the system, wherever it lies; takes about a millisecond."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _set(parameters: dict[int, int]) -> None:
    with contextlib.suppress(AttributeError):  # another library's allocator
        for name, value in parameters.items():
            ctypes.CDLL(None).mallopt(name, value)
