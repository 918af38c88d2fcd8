"""Writing to people who may have left: nothing here fails or waits because nobody reads.

    text --announce, tell--> SafeStream --> standard error or output, a terminal, a pipe

Light enough to be imported before anything else is.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from typing import IO, TextIO

STARTING = "galamp: starting: loading PyTorch, trying the environment\n"
"""Said at once by commands that take seconds for both."""


class SafeStream:
    """A text stream whose loss is not an error: from the first failure on, writes do nothing."""

    def __init__(self, stream: IO[str]) -> None:
        """Wrap `stream`; whether it is a terminal is asked once, since a lost one denies it."""
        self.lost = False
        self.encoding: str = getattr(stream, "encoding", None) or "utf-8"
        self._stream = stream
        try:
            self._tty = stream.isatty()
        except (OSError, ValueError):
            self._tty = False

    def isatty(self) -> bool:
        """Return whether the stream was a terminal to begin with."""
        return self._tty

    def fileno(self) -> int:
        """Return the file descriptor.

        Raises:
            OSError: the stream has none.
        """
        return self._stream.fileno()

    def ready(self) -> bool:
        """Return whether a write would be taken without waiting: no when output is held (^S)."""
        if self.lost:
            return False
        poll = select.poll()  # takes any descriptor; select() refuses those from 1024 on
        try:
            poll.register(self.fileno(), select.POLLOUT)
            return bool(poll.poll(0))
        except (OSError, ValueError):
            return True

    def write(self, text: str) -> int:
        """Write what the stream's encoding can express; the rest becomes `?`."""
        sayable = text.encode(self.encoding, "replace").decode(self.encoding)
        self._attempt(lambda: self._stream.write(sayable))
        return len(text)

    def flush(self) -> None:
        """Send what is buffered."""
        self._attempt(self._stream.flush)

    def _attempt(self, action: Callable[[], object]) -> None:
        if self.lost:
            return
        try:
            action()
        except BlockingIOError:
            pass  # what a non-blocking terminal did not take stays buffered for the next flush
        except ValueError:
            self.lost = True
        except OSError:
            self.lost = True
            self._drain()

    def _drain(self) -> None:
        """Point the lost descriptor at nothing: what is still buffered must not fail at exit."""
        try:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self.fileno())
            os.close(nothing)
        except (OSError, ValueError):
            pass


def tell(text: str, stream: TextIO) -> None:
    """Write to `stream`; that nobody is there to read is no error."""
    safe = SafeStream(stream)
    safe.write(text)
    safe.flush()


def announce(text: str, stream: TextIO) -> None:
    """Write to `stream` at once what only matters now: left out where it would have to wait."""
    safe = SafeStream(stream)
    if safe.ready():
        safe.write(text)
        safe.flush()
