"""Control client: the other end of RUN/control, to request something of a running run.

    ControlClient --send--> ControlServer.poll
    ControlServer.publish, .decline, .end --messages--> attach, scale

Runs in `galamp attach` and `galamp scale`. Every wait has a timeout, and messages are validated.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from galamp.core.errors import GalampError, UserError
from galamp.core.sanitize import clean
from galamp.storage.run_status import not_running
from galamp.training.control.framing import (
    CONTROL,
    MAX_LINE_BYTES,
    BadMessageError,
    Lines,
    line_of,
)

CONNECT_S = 5.0
CHUNK_BYTES = 2**16
BESIDE_EVERY_S = 0.1


class NoAnswerError(GalampError):
    """The run exists and does not answer: its supervisor is stopped, or hangs."""


class ControlClient:
    """A connection to a running run, open for as long as it is entered."""

    def __init__(self, run: Path) -> None:
        """Connect to the run in a folder.

        Raises:
            UserError: it is no run folder, or the run is not running.
            NoAnswerError: the run does not accept the connection.
        """
        self._run = run
        self._lines = Lines(MAX_LINE_BYTES)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(CONNECT_S)
        try:
            self._connect()
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Close the connection."""
        self._socket.close()

    def send(self, request: dict[str, Any]) -> None:
        """Send a request; if the connection is closed already, `messages` ends at once."""
        try:
            self._socket.sendall(line_of(request))
        except TimeoutError:
            raise self._no_answer(CONNECT_S) from None
        except OSError:
            pass

    def messages(
        self, timeout_s: float, beside: Callable[[], object] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield the run's messages until it closes the connection.

        Args:
            timeout_s: longest silence.
            beside: called several times a second while this waits.

        Raises:
            UserError: the message is a refusal.
            NoAnswerError: none comes within `timeout_s`.
            BadMessageError: the message is none of a run's.
        """
        self._socket.settimeout(timeout_s)
        while data := self._receive(timeout_s, beside):
            try:
                yield from map(_unless_refused, self._lines.feed(data))
            except BadMessageError as error:
                raise BadMessageError(f"{self._run}: what answers is no run: {error}") from None

    def _connect(self) -> None:
        """Connect to the socket in the folder; a link in its place is refused.

        The socket is opened first, since its own path may be too long for a socket address.
        """
        try:
            folder = os.open(self._run, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise UserError(f"{self._run}: {error.strerror}; expected a run folder") from None
        control = -1
        try:
            control = os.open(CONTROL, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            self._check_socket(os.fstat(control).st_mode)
            self._socket.connect(f"/proc/self/fd/{control}")
        except (FileNotFoundError, ConnectionRefusedError):
            raise not_running(self._run) from None
        except (TimeoutError, BlockingIOError):
            raise self._no_answer(CONNECT_S) from None
        except OSError as error:
            raise UserError(f"{self._run}: cannot be reached: {error.strerror}") from None
        finally:
            os.close(folder)
            if control >= 0:
                os.close(control)

    def _check_socket(self, mode: int) -> None:
        if not stat.S_ISSOCK(mode):
            what = "a link" if stat.S_ISLNK(mode) else "no socket"
            raise UserError(
                f"{self._run / CONTROL}: is {what}, where a run has its socket, and nothing is "
                "sent there: remove it, and start the run anew to reach it"
            )

    def _receive(self, timeout_s: float, beside: Callable[[], object] | None) -> bytes:
        until_s, poll = time.monotonic() + timeout_s, select.poll()
        poll.register(self._socket, select.POLLIN)
        while beside is not None and not poll.poll(BESIDE_EVERY_S * 1e3):
            beside()
            if time.monotonic() > until_s:
                raise self._no_answer(timeout_s)
        try:
            return self._socket.recv(CHUNK_BYTES)
        except TimeoutError:
            raise self._no_answer(timeout_s) from None
        except ConnectionError:
            return b""

    def _no_answer(self, waited_s: float) -> NoAnswerError:
        return NoAnswerError(
            f"{self._run}: no answer for {waited_s:.0f} s; is it stopped (Ctrl-Z), or very busy?"
        )


def _unless_refused(message: dict[str, Any]) -> dict[str, Any]:
    if "refused" in message:
        raise UserError(clean(str(message["refused"])))
    return message
