"""Suspension: Ctrl-Z on a live screen. The terminal is given back first, then the process stops.

    SIGTSTP --Suspension--> requested: the screen is left --stop--> stopped
    SIGCONT --Suspension--> continued: the screen is drawn again

Python's handlers only take note: what they interrupt may be half a frame.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any


class Suspension:
    """Notes of SIGTSTP and SIGCONT while it is entered; elsewhere both do what they always do.

    Nothing changes where they are handled already, or outside the main thread.
    """

    def __init__(self) -> None:
        self.requested = False
        """Whether this process was asked to stop, and has not yet."""
        self._continued = False
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Suspension:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTSTP, signal.SIGCONT):
                if signal.getsignal(number) is signal.SIG_DFL:
                    self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former.clear()

    def stop(self) -> None:
        """Stop this process, as SIGTSTP would have; returns when it is continued."""
        self.requested = False
        handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, handler)

    def continued(self) -> bool:
        """Whether this process was continued since the last call."""
        found, self._continued = self._continued, False
        return found

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTSTP:
            self.requested = True
        else:
            self._continued = True
