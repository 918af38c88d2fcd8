"""Signals of the supervisor: recorded when they arrive, handled when there is time.

    kernel --> Signals --receive--> Supervisor: the first one ends the run well, the second at once;
                                                a third ends this process immediately

Runs in the supervisor, over all attempts of a run, so that no signal between two is lost.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

from galamp.core.errors import StoppedBySignal
from galamp.workers.forkserver import SUPERVISED


class NativeHandler:
    """A signal's handler as the kernel has it; Python does not know handlers set by C code."""

    MAX_BYTES = 256
    """No C library's `struct sigaction` is larger."""

    def __init__(self, number: int) -> None:
        """Read the current handler of signal `number`."""
        self._number, self._action = number, ctypes.create_string_buffer(self.MAX_BYTES)
        ctypes.CDLL(None).sigaction(number, None, self._action)

    def restore(self) -> None:
        """Install that handler again."""
        ctypes.CDLL(None).sigaction(self._number, self._action, None)


class Signals:
    """Context manager that handles the supervised signals; ignored ones stay ignored."""

    def __init__(self, *, detach: bool) -> None:
        """With `detach`, SIGHUP is only reported: the run continues without its terminal."""
        self._detach = detach
        self._noted: list[int] = []
        self._is_asked = False
        """Whether a signal has been recorded, received by now or not."""
        self._hung_up = self._raises = False
        self._abandon: Callable[[], object] | None = None
        self._handlers: dict[int, Callable[..., object] | int] = {}
        self._native: dict[int, NativeHandler] = {}

    def __enter__(self) -> Self:
        for number in SUPERVISED:
            handler = signal.getsignal(number)
            if handler is not signal.SIG_IGN:
                self._native[number] = NativeHandler(number)
                self._handlers[number] = signal.SIG_DFL if handler is None else handler
                signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
            self._native[number].restore()

    @property
    def pending(self) -> bool:
        """Whether a recorded signal waits to be received."""
        return bool(self._noted)

    @property
    def waiting(self) -> int:
        """Number of recorded signals that wait to be received."""
        return len(self._noted)

    def receive(self) -> int | None:
        """Return and remove the oldest recorded signal; None if there is none."""
        return self._noted.pop(0) if self._noted else None

    def receive_hang_up(self) -> bool:
        """Return whether SIGHUP came since the last call, where it does not end the run."""
        hung_up, self._hung_up = self._hung_up, False
        return hung_up

    def ask_to_stop(self) -> None:
        """Record a SIGINT, as if it had come, unless a signal was recorded before.

        So a key that asks to save and stop is never the second signal, which ends a run unsaved.
        """
        if not self._is_asked:
            self._note(signal.SIGINT, None)

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Context in which a signal raises `StoppedBySignal`: there is nothing to save yet."""
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    def exit_on_next(self, abandon: Callable[[], object]) -> None:
        """Let the next signal end this process immediately, after calling `abandon`."""
        self._abandon = abandon

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP and self._detach:
            self._hung_up = True
            return
        if self._raises:
            raise StoppedBySignal(128 + number)
        self._is_asked = True
        self._noted.append(number)
        if self._abandon is not None:
            try:
                self._abandon()
            finally:
                os._exit(128 + number)
