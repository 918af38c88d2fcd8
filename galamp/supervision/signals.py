"""Signals, noted when they come and acted on when there is time.

    kernel --> Signals --take--> Supervisor: the first one ends the run well, the second at once
                                             a third ends everything on the spot

Runs in the supervisor, over all starts of a run, so that none is lost between two.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self

from galamp.core.errors import StoppedBySignal
from galamp.workers.forkserver import SUPERVISED


class NativeHandler:
    """How the kernel has a signal taken; Python does not know what a program in C has set up."""

    MOST_BYTES = 256
    """No C library's `struct sigaction` is larger."""

    def __init__(self, number: int) -> None:
        """Remember how signal `number` is taken now."""
        self._number, self._action = number, ctypes.create_string_buffer(self.MOST_BYTES)
        ctypes.CDLL(None).sigaction(number, None, self._action)

    def restore(self) -> None:
        """Have it taken so again."""
        ctypes.CDLL(None).sigaction(self._number, self._action, None)


class Signals:
    """Takes the supervised signals over for as long as it is entered; ignored ones stay so."""

    def __init__(self, *, detach: bool) -> None:
        """With `detach`, a hang-up is only told of: the run goes on without its terminal."""
        self._detach = detach
        self._noted: list[int] = []
        self._hung_up = self._raises = False
        self._abandon: Callable[[], object] | None = None
        self._resume_point: dict[int, Callable[..., object] | int] = {}
        self._native: dict[int, NativeHandler] = {}

    def __enter__(self) -> Self:
        for number in SUPERVISED:
            resume_point = signal.getsignal(number)
            if resume_point is not signal.SIG_IGN:
                self._native[number] = NativeHandler(number)
                self._resume_point[number] = (
                    signal.SIG_DFL if resume_point is None else resume_point
                )
                signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._resume_point.items():
            signal.signal(number, handler)
            self._native[number].restore()

    @property
    def pending(self) -> bool:
        """Whether a signal waits to be taken."""
        return bool(self._noted)

    @property
    def waiting(self) -> int:
        """How many signals wait to be taken."""
        return len(self._noted)

    def take(self) -> int | None:
        """Return the oldest signal that was not taken yet."""
        return self._noted.pop(0) if self._noted else None

    def take_hang_up(self) -> bool:
        """Whether the terminal was closed since the last call, where that ends nothing."""
        hung_up, self._hung_up = self._hung_up, False
        return hung_up

    @contextmanager
    def before_a_run(self) -> Iterator[None]:
        """Meanwhile a signal raises `StoppedBySignal`: there is nothing to save yet."""
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    def last_warning(self, abandon: Callable[[], object]) -> None:
        """Let the next signal end this process on the spot, after `abandon`."""
        self._abandon = abandon

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP and self._detach:
            self._hung_up = True
            return
        if self._raises:
            raise StoppedBySignal(128 + number)
        self._noted.append(number)
        if self._abandon is not None:
            try:
                self._abandon()
            finally:
                os._exit(128 + number)
