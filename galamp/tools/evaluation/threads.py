"""One compute thread temporarily, for batches that are too small for several.

Runs wherever a trained agent acts. A forward pass of a small batch takes about half a millisecond
on one core. With several threads, each layer waits for the slowest of them, and on busy cores one
is always late: with as many threads as cores it has taken a hundred times as long.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_lock = threading.Lock()


def _renew_lock() -> None:
    """Replace the lock in a forked child, in which no thread can release it."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute with one thread, and restore its number of threads.

    torch keeps the number per Python thread, and a thread that first uses torch gets the number
    that was set last anywhere. So callers wait for one another: otherwise one could take the
    temporary 1 for its own number. A thread that first uses torch elsewhere during this time keeps
    one thread until it sets another number.
    """
    with _lock:
        threads = torch.get_num_threads()
        if threads > 1:
            torch.set_num_threads(1)
            try:
                yield
            finally:
                torch.set_num_threads(threads)
            return
    yield
