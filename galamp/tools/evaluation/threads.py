"""One compute thread for a while, for work too small to be shared.

Runs wherever a trained agent acts. A pass of a small batch takes about half a millisecond on one
core. Shared between threads, each of its layers waits for the slowest of them, and on busy cores
one of them is always late: with as many threads as cores it has taken a hundred times as long.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_lock = threading.Lock()


def _renew_lock() -> None:
    """In a forked child, nobody is left to release the lock."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute with one thread, and give it back the number that it had.

    torch keeps the number once per thread of Python, and hands a thread that meets torch for the
    first time the one that was set last anywhere. So whoever comes here waits for whoever is here,
    lest it should take the 1 for its own number; a thread that begins with torch elsewhere in just
    this time keeps one thread until it sets another number.
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
