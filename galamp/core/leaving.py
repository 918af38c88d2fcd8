"""Signals that end a command the way an exception does, so that nothing half-done stays.

    with leaving_on_signals(): SIGTERM, SIGHUP --> SystemExit(128 + number), `finally` blocks run
    with interrupted_by(SIGTERM): SIGTERM --> KeyboardInterrupt, as Ctrl-C

For commands that write for a long time, and for those that look on. Training has more to do at its
end: supervision/signals.py.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

ENDING = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def leaving_on_signals() -> Iterator[None]:
    """Context in which a signal that would end the process at once raises SystemExit instead.

    Those that are ignored, or that a program handles itself, stay as they are; so do all of them
    outside the main thread, which alone takes signals.
    """
    before = []
    if threading.current_thread() is threading.main_thread():
        before = [number for number in ENDING if signal.getsignal(number) is signal.SIG_DFL]
    for number in before:
        signal.signal(number, _leave)
    try:
        yield
    finally:
        for number in before:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def interrupted_by(*numbers: signal.Signals) -> Iterator[None]:
    """Context in which signals raise KeyboardInterrupt, so that a screen is put back.

    Those that are ignored, or that a library handles which is not Python's, stay as they are.
    """
    taken = [n for n in numbers if signal.getsignal(n) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, signal.default_int_handler) for number in taken}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)
