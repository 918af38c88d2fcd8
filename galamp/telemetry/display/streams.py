"""Writing to streams whose reader may be gone: nothing here fails or waits because of that.

    text --announce, print_safely, warn--> SafeStream --> standard error or output, a pipe
    LC_ALL=C.ISO-8859-1 --replace_unsayable--> `?` where there is no such character
    2>&-  --fill_closed-->  /dev/null in place of a standard stream that was closed

Imports little, so that it can be imported before anything else.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from collections.abc import Callable
from typing import IO, TextIO

STARTING = "galamp: starting: loading PyTorch, trying the environment\n"
"""Printed first by commands that take seconds for both."""


def fill_closed() -> None:
    """Open /dev/null for each standard stream that was closed: `2>&-`.

    To be called before any file is opened: the next file would get that descriptor, and the output
    of native code or of a child would be written into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
            mode = "w" if number else "r"
            file = os.fdopen(number, mode, encoding="utf-8", errors="replace", closefd=False)
            setattr(sys, name, file)


def replace_unsayable() -> None:
    """Have standard output and error write `?` for what their encoding cannot express."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # It is lost, or has become a pipe after Python had found that it can be sought in.
            with contextlib.suppress(OSError, ValueError):
                stream.reconfigure(errors="replace")


class SafeStream:
    """A text stream whose loss is no error: after the first failure, writes do nothing."""

    def __init__(self, stream: IO[str] | None) -> None:
        """Wrap `stream`; isatty() is asked once, since a lost stream denies it.

        None, Python's value for a closed standard stream, is a lost stream.
        """
        self.lost = stream is None
        self.encoding: str = getattr(stream, "encoding", None) or "utf-8"
        self._stream = stream
        try:
            self._tty = stream is not None and stream.isatty()
        except (OSError, ValueError):
            self._tty = False

    def isatty(self) -> bool:
        """Return whether the stream was a terminal at the start."""
        return self._tty

    def fileno(self) -> int:
        """Return the file descriptor.

        Raises:
            OSError: the stream has none.
        """
        if self._stream is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._stream.fileno()

    def ready(self) -> bool:
        """Return whether a write would not have to wait: false while output is held (^S)."""
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
        self._attempt(lambda stream: stream.write(sayable))
        return len(text)

    def flush(self) -> None:
        """Send what is buffered."""
        self._attempt(lambda stream: stream.flush())

    def _attempt(self, action: Callable[[IO[str]], object]) -> None:
        if self.lost or self._stream is None:
            return
        try:
            action(self._stream)
        except BlockingIOError:
            pass  # what a non-blocking terminal did not take stays buffered for the next flush
        except ValueError:
            self.lost = True
        except OSError:
            self.lost = True
            self._drain()

    def _drain(self) -> None:
        """Point the lost descriptor at /dev/null: buffered text must not fail at exit."""
        try:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self.fileno())
            os.close(nothing)
        except (OSError, ValueError):
            pass


def print_safely(text: str, stream: TextIO | None) -> None:
    """Write to `stream`; a lost stream is no error."""
    safe = SafeStream(stream)
    safe.write(text)
    safe.flush()


def warn(text: str) -> None:
    """Print a warning about a failure that ends nothing; a lost stream is no error."""
    print_safely(f"galamp: warning: {text}\n", sys.stderr)


def announce(text: str, stream: TextIO | None) -> None:
    """Write to `stream` if it takes the text immediately; else omit the text."""
    safe = SafeStream(stream)
    if safe.ready():
        safe.write(text)
        safe.flush()
