"""Keyboard: single keys from the terminal, without waiting; the terminal's modes are put back.

    terminal, in cbreak mode --Keyboard.read--> "m", "up", "?" ...

Runs beside the screen. Ctrl-C and Ctrl-Z stay signals. A process in the background of its shell
reads nothing and sets no mode: the terminal belongs to somebody else then.
"""

from __future__ import annotations

import contextlib
import os
import select
import termios
import tty
from typing import Any, TextIO

MAX_BYTES = 256
SEQUENCES = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1bOA": "up",
    "\x1bOB": "down",
    "\x1b[5~": "page up",
    "\x1b[6~": "page down",
    "\x1b": "escape",
}


def in_foreground(fd: int) -> bool:
    """Whether this process may use the terminal; yes for one that controls no processes."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return True


class Keyboard:
    """Keys of the terminal behind a stream, between `open` and `close`."""

    def __init__(self, stream: TextIO | None) -> None:
        """Read from `stream` if it is a terminal; else there are no keys."""
        self._fd: int | None = None
        self._modes: list[Any] | None = None
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if stream is not None and stream.isatty():
                self._fd = stream.fileno()

    @property
    def usable(self) -> bool:
        """Whether there is a terminal to read from."""
        return self._fd is not None

    @property
    def is_open(self) -> bool:
        """Whether keys come one by one now."""
        return self._modes is not None

    def open(self) -> None:
        """Let keys come one by one, and unseen."""
        if self._fd is None or self.is_open or not in_foreground(self._fd):
            return
        with contextlib.suppress(termios.error, OSError):
            modes = termios.tcgetattr(self._fd)
            tty.setcbreak(self._fd, termios.TCSANOW)
            self._modes = modes

    def renew(self) -> None:
        """Set the mode again: a shell may have changed it while this process was stopped."""
        if self._fd is not None and self.is_open and in_foreground(self._fd):
            with contextlib.suppress(termios.error, OSError):
                tty.setcbreak(self._fd, termios.TCSANOW)

    def close(self) -> None:
        """Put the modes back as they were."""
        if self._fd is None or self._modes is None:
            return
        modes, self._modes = self._modes, None
        if in_foreground(self._fd):
            with contextlib.suppress(termios.error, OSError):
                termios.tcsetattr(self._fd, termios.TCSANOW, modes)

    def read(self) -> list[str]:
        """Return the keys that were pressed since the last call."""
        if self._fd is None or not self.is_open or not in_foreground(self._fd):
            return []
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        try:
            if not any(what & select.POLLIN for _, what in poll.poll(0)):
                return []
            data = os.read(self._fd, MAX_BYTES)
        except OSError:
            data = b""
        if not data:  # the terminal is gone
            self._fd = self._modes = None
            return []
        return keys_in(data.decode(errors="replace"))


def keys_in(text: str) -> list[str]:
    """Return the keys of what a terminal sends; unknown sequences are left out."""
    found = []
    while text:
        sequence = next((each for each in SEQUENCES if text.startswith(each)), None)
        if sequence is None:
            found.append(text[0])
            text = text[1:]
        elif sequence == "\x1b" and len(text) > 1 and text[1] in "[O":
            text = text[2:].lstrip("0123456789;")[1:]
        else:
            found.append(SEQUENCES[sequence])
            text = text[len(sequence) :]
    return found
