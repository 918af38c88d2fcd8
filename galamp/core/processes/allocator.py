"""The C library's allocator: big blocks go back to the system as soon as they are free.

Runs in processes that take tens of megabytes for a moment, again and again, from several threads.
By default glibc would keep such blocks for the next time, in an arena for each thread.
"""

from __future__ import annotations

import contextlib
import ctypes

BIG_BLOCK_BYTES = 128 * 1024
_M_MMAP_THRESHOLD = -3


def keep_nothing_spare() -> None:
    """Have the allocator return big blocks immediately, so that memory held is memory in use."""
    with contextlib.suppress(AttributeError):  # another library's allocator
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, BIG_BLOCK_BYTES)
