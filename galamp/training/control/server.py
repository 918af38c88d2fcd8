r"""Control server: the socket RUN/control, by which other commands talk to a running run.

    galamp attach --"watch"--> ControlServer --every snapshot--> galamp attach
    galamp profile --"profile"--> Tracing: may trace the run's processes while it is connected
    galamp scale --"scale"--> ControlServer.requested_learners --> Session: new number of learners
                                 \--at once, and once they all run--> galamp scale

Runs in the supervisor, which polls it in its loop, so nothing here waits. A client that does not
read misses snapshots, and is then dropped. Clients can do nothing else.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from galamp.core.errors import UserError
from galamp.telemetry.snapshot import Snapshot
from galamp.training.control.framing import (
    CONTROL,
    MAX_REQUEST_BYTES,
    BadMessageError,
    Lines,
    address,
    line_of,
)
from galamp.training.control.snapshot_json import as_json
from galamp.training.control.tracing import Tracing

MAX_CONNECTIONS = 16
MAX_MISSED = 40
"""A client that misses this many snapshots in a row, in 10 s, is dropped."""
REQUEST_TIMEOUT_S = 5.0
MAX_LEARNERS = 1024


class DisconnectedError(Exception):
    """The client has closed the connection, or does not read."""


class Connection:
    """One client's connection: what it has sent so far, and what is not sent to it yet."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.fd = connection.fileno()
        self.has_asked = self.is_watching = self.wants_game = False
        self.history = 0
        """Number of the history of metrics that it has."""
        self.since_s = time.monotonic()
        self.socket = connection
        self._lines = Lines(MAX_REQUEST_BYTES)
        self._unsent = b""
        self._missed = 0

    def receive(self) -> Iterator[dict[str, Any]]:
        """Yield the messages that have arrived.

        Raises:
            BadMessageError: a message is invalid.
            DisconnectedError: the client has disconnected.
        """
        try:
            data = self.socket.recv(MAX_REQUEST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            raise DisconnectedError from None
        if not data:
            raise DisconnectedError
        yield from self._lines.feed(data)

    def send(self, line: bytes) -> None:
        """Send a line as far as the socket takes it now; `flush` sends the rest.

        Raises:
            DisconnectedError: the client has disconnected.
        """
        self._unsent += line
        self.flush()

    def offer(self, line: bytes) -> bool:
        """Send a line, unless an earlier one is not fully sent yet; returns whether it was sent.

        Raises:
            DisconnectedError: the client has disconnected, or does not read.
        """
        self._missed = self._missed + 1 if self._unsent else 0
        if self._missed > MAX_MISSED:
            raise DisconnectedError
        if not self._missed:
            self.send(line)
        return not self._missed

    def flush(self) -> None:
        """Send what is not sent yet, as far as the socket takes it now.

        Raises:
            DisconnectedError: the client has disconnected.
        """
        if not self._unsent:
            return
        try:
            self._unsent = self._unsent[self.socket.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            raise DisconnectedError from None

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()


@dataclass(frozen=True)
class ScaleRequest:
    """A request for another number of learners, and the connection that it came from."""

    learners: int
    learners_before: int
    connection: Connection
    since_s: float


class ControlServer:
    """The run's end of RUN/control, open for as long as it is entered."""

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        """Listen in a folder that this run has locked; on failure the run continues without."""
        self._connections: dict[int, Connection] = {}
        self.tracing = Tracing()
        self._request: ScaleRequest | None = None
        self._learners = 0
        self._allow: Callable[[int], object] = lambda learners: None
        self._poll = select.poll()
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._listener: socket.socket | None = None
        self._bound: os.stat_result | None = None
        try:
            self._listener = _listen(self._folder)
            self._bound = os.stat(CONTROL, dir_fd=self._folder, follow_symlinks=False)
            self._poll.register(self._listener, select.POLLIN)
        except OSError as error:
            warn(f"{folder / CONTROL}: {error.strerror}; galamp attach and scale do not work")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Close all connections and remove the socket."""
        for connection in self._connections.values():
            connection.close()
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._unbind()
            self._listener.close()
        os.close(self._folder)

    def _unbind(self) -> None:
        """Remove the socket, unless another start has replaced it and taken the folder.

        While this socket is open, no other file gets its inode number.
        """
        found = os.stat(CONTROL, dir_fd=self._folder, follow_symlinks=False)
        if self._bound is not None and os.path.samestat(found, self._bound):
            os.unlink(CONTROL, dir_fd=self._folder)

    @property
    def requested_learners(self) -> int | None:
        """The requested number of learners; None if none is requested, or the run has it."""
        if self._request is None or self._request.learners == self._learners:
            return None
        return self._request.learners

    def configure(self, learners: int, allow: Callable[[int], object]) -> None:
        """Set the number of learners of the current attempt.

        Args:
            learners: their number.
            allow: raises a `UserError` for a number that the run could not have.
        """
        self._learners, self._allow = learners, allow

    def poll(self) -> None:
        """Accept connections, handle their requests, send what is pending; never waits."""
        for fd, _ in self._poll.poll(0):
            if fd in self._connections:
                self._receive(self._connections[fd])
            else:
                self._accept()
        for connection in list(self._connections.values()):
            with self._dropping(connection):
                self._service(connection)

    @property
    def wants_game(self) -> bool:
        """Whether a connection wants the frame of a game in its snapshots."""
        return any(connection.wants_game for connection in self._connections.values())

    def publish(self, snapshot: Snapshot) -> None:
        """Send a snapshot to every connection that watches; the history only where it is new."""
        number = snapshot.history.number if snapshot.history else 0
        lines: dict[bool, bytes] = {}
        for connection in list(self._connections.values()):
            if not connection.is_watching:
                continue
            new = connection.history != number
            if new not in lines:
                sent = snapshot if new else replace(snapshot, history=None)
                lines[new] = line_of({"snapshot": as_json(sent)})
            with self._dropping(connection):
                if connection.offer(lines[new]):
                    connection.history = number

    def confirm(self) -> None:
        """Answer the scale request: all children have worked."""
        if self._request and self._request.learners == self._learners:
            took_s = time.monotonic() - self._request.since_s
            found = {
                "learners": self._learners,
                "former": self._request.learners_before,
                "took_s": took_s,
            }
            self._answer({"scaled": found})

    def decline(self, why: str) -> None:
        """Answer the scale request: it failed, and why."""
        self._answer({"refused": why})

    def end(self, status: str) -> None:
        """Tell all connections that the run has ended, and how."""
        self.decline(f"the run has ended before it: {status}")
        for connection in list(self._connections.values()):
            self._send_last(connection, {"ended": status})

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            accepted, _ = self._listener.accept()
        except OSError:
            return
        connection = Connection(accepted)
        self._connections[connection.fd] = connection
        self._poll.register(connection.fd, select.POLLIN)
        if len(self._connections) > MAX_CONNECTIONS:
            self._send_last(
                connection, {"refused": f"{MAX_CONNECTIONS} connections are open already"}
            )

    def _receive(self, connection: Connection) -> None:
        with self._dropping(connection):
            for message in connection.receive():
                if connection.has_asked and not connection.is_watching:
                    raise BadMessageError("expected one request only")
                connection.has_asked = True
                self._handle(connection, message)

    def _service(self, connection: Connection) -> None:
        """Send what is pending; drop a connection without a request."""
        connection.flush()
        if not connection.has_asked and time.monotonic() - connection.since_s > REQUEST_TIMEOUT_S:
            raise BadMessageError(f"expected a request within {REQUEST_TIMEOUT_S:.0f} s")

    def _handle(self, connection: Connection, request: dict[str, Any]) -> None:
        match request:
            case {"want": "game", "show": bool(show), **more} if (
                connection.is_watching and not more
            ):
                connection.wants_game = show
            case _ if connection.is_watching:
                raise BadMessageError("expected one request only")
            case {"want": "watch", **more} if not more:
                connection.is_watching = True
            case {"want": "scale", "learners": int(number), **more} if not more:
                self._handle_scale(connection, number)
            case {"want": "profile", **more} if not more:
                connection.send(line_of(self.tracing.begin(connection.socket)))
            case _:
                raise BadMessageError(
                    "expected to be asked to watch, to profile, or to scale to some learners"
                )

    def _handle_scale(self, connection: Connection, learners: int) -> None:
        if isinstance(learners, bool) or not 1 <= learners <= MAX_LEARNERS:
            raise BadMessageError(f"expected from 1 to {MAX_LEARNERS} learners")
        if self._request is not None:
            raise BadMessageError(f"a change to {self._request.learners} learners is under way")
        if learners == self._learners:
            self._send_last(connection, {"kept": learners})
            return
        self._allow(learners)
        self._request = ScaleRequest(learners, self._learners, connection, time.monotonic())
        connection.send(line_of({"taken": learners}))

    def _answer(self, message: dict[str, Any]) -> None:
        """Answer the scale request and remove it."""
        if self._request is not None:
            self._send_last(self._request.connection, message)
            self._request = None

    @contextlib.contextmanager
    def _dropping(self, connection: Connection) -> Iterator[None]:
        """Drop a connection that has disconnected; answer and drop an invalid request."""
        try:
            yield
        except DisconnectedError:
            self._drop(connection)
        except (BadMessageError, UserError) as error:
            self._send_last(connection, {"refused": str(error)})

    def _send_last(self, connection: Connection, message: dict[str, Any]) -> None:
        """Send a last message, if the client reads it, and drop the connection."""
        with contextlib.suppress(DisconnectedError):
            connection.send(line_of(message))
        self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        # The descriptor of a connection that was dropped before may be another one's by now.
        if self._connections.get(connection.fd) is connection:
            del self._connections[connection.fd]
            self._poll.unregister(connection.fd)
            self.tracing.end(connection.fd)
            connection.close()


def _listen(folder: int) -> socket.socket:
    """Return a socket that listens in the open folder; one that a killed run left is replaced."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(CONTROL, dir_fd=folder, follow_symlinks=False).st_mode):
            os.unlink(CONTROL, dir_fd=folder)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        os.fchmod(listener.fileno(), 0o600)  # Linux gives its mode to the name that is bound
        listener.bind(address(folder))
        listener.listen(MAX_CONNECTIONS)
    except BaseException:
        listener.close()
        raise
    return listener
