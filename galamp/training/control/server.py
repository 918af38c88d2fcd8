r"""Where a running run is spoken to: a socket in its folder, RUN/control.

    galamp attach --"watch"--> ControlServer --every snapshot--> galamp attach
    galamp scale --"scale"--> ControlServer.wanted --> Session: another number of learners
                                 \--at once, and once they all run--> galamp scale

Runs in the supervisor, which polls it between two other things: so nothing here ever waits. Who
does not read is left out, then dropped. Whatever a visitor says, it comes to no more than this.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from galamp.core.errors import UserError
from galamp.telemetry.snapshot import Snapshot
from galamp.training.control.framing import (
    CONTROL,
    MOST_REQUEST_BYTES,
    BadMessageError,
    Lines,
    address,
    line_of,
)
from galamp.training.control.snapshot_json import as_json

MOST_VISITORS = 16
MOST_MISSED = 40
"""A watcher who has not taken one snapshot while so many more were made, in 10 s, is dropped."""
SPEAK_WITHIN_S = 5.0
MOST_LEARNERS = 1024


class LeftError(Exception):
    """A visitor has gone, or is as good as gone."""


class Connection:
    """One connection: what it has said so far, and what it has not taken yet."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.fd = connection.fileno()
        self.asked = self.watches = False
        self.since_s = time.monotonic()
        self._connection = connection
        self._lines = Lines(MOST_REQUEST_BYTES)
        self._unsent = b""
        self._missed = 0

    def hear(self) -> Iterator[dict[str, Any]]:
        """Yield what it says now.

        Raises:
            BadMessageError: it makes no sense.
            LeftError: it has left.
        """
        try:
            data = self._connection.recv(MOST_REQUEST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            raise LeftError from None
        if not data:
            raise LeftError
        yield from self._lines.feed(data)

    def say(self, line: bytes) -> None:
        """Send a line, as far as it is taken now; the rest goes with `flush`.

        Raises:
            LeftError: it has left.
        """
        self._unsent += line
        self.flush()

    def show(self, line: bytes) -> None:
        """Send a line, unless a former one was not all taken yet.

        Raises:
            LeftError: it has left, or takes nothing.
        """
        self._missed = self._missed + 1 if self._unsent else 0
        if self._missed > MOST_MISSED:
            raise LeftError
        if not self._missed:
            self.say(line)

    def flush(self) -> None:
        """Send what was not taken before.

        Raises:
            LeftError: it has left.
        """
        if not self._unsent:
            return
        try:
            self._unsent = self._unsent[self._connection.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            raise LeftError from None

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


@dataclass(frozen=True)
class ScaleRequest:
    """Another number of learners, and who asked for it."""

    learners: int
    resume_point: int
    asker: Connection
    since_s: float


class ControlServer:
    """The run's end of RUN/control, open for as long as it is entered."""

    def __init__(self, folder: Path, complain: Callable[[str], None]) -> None:
        """Open it in a folder that is ours alone; where that fails the run goes on without."""
        self._visitors: dict[int, Connection] = {}
        self._wish: ScaleRequest | None = None
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
            complain(f"{folder / CONTROL}: {error.strerror}; galamp attach and scale do not work")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Send everyone away and remove the socket."""
        for visitor in self._visitors.values():
            visitor.close()
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._unbind()
            self._listener.close()
        os.close(self._folder)

    def _unbind(self) -> None:
        """Remove the socket, unless the name is that of another start, which took the folder.

        As long as ours is open, no other one gets its number.
        """
        found = os.stat(CONTROL, dir_fd=self._folder, follow_symlinks=False)
        if self._bound is not None and os.path.samestat(found, self._bound):
            os.unlink(CONTROL, dir_fd=self._folder)

    @property
    def wanted(self) -> int | None:
        """The number of learners that someone asked for, unless the run has it."""
        if self._wish is None or self._wish.learners == self._learners:
            return None
        return self._wish.learners

    def begin(self, learners: int, allow: Callable[[int], object]) -> None:
        """Note that the run goes on with so many learners.

        Args:
            learners: their number.
            allow: raises a `UserError` for a number that the run could not have.
        """
        self._learners, self._allow = learners, allow

    def poll(self) -> None:
        """Let visitors in, hear what they want, send what they had not taken; never waits."""
        for fd, _ in self._poll.poll(0):
            if fd in self._visitors:
                self._hear(self._visitors[fd])
            else:
                self._let_in()
        for visitor in list(self._visitors.values()):
            with self._leaving(visitor):
                self._attend(visitor)

    def show(self, snapshot: Snapshot) -> None:
        """Show a snapshot to who watches."""
        watchers = [visitor for visitor in self._visitors.values() if visitor.watches]
        line = line_of({"snapshot": as_json(snapshot)}) if watchers else b""
        for visitor in watchers:
            with self._leaving(visitor):
                visitor.show(line)

    def confirm(self) -> None:
        """Tell who asked for other learners that all of them have worked."""
        if self._wish and self._wish.learners == self._learners:
            took_s = time.monotonic() - self._wish.since_s
            found = {
                "learners": self._learners,
                "former": self._wish.resume_point,
                "took_s": took_s,
            }
            self._answer({"scaled": found})

    def decline(self, why: str) -> None:
        """Say that the learners who were asked for cannot be had."""
        self._answer({"refused": why})

    def end(self, status: str) -> None:
        """Tell everyone that the run has ended, and how."""
        self.decline(f"the run has ended before it: {status}")
        for visitor in list(self._visitors.values()):
            self._dismiss(visitor, {"ended": status})

    def _let_in(self) -> None:
        assert self._listener is not None
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        visitor = Connection(connection)
        self._visitors[visitor.fd] = visitor
        self._poll.register(visitor.fd, select.POLLIN)
        if len(self._visitors) > MOST_VISITORS:
            self._dismiss(visitor, {"refused": f"{MOST_VISITORS} visitors are here already"})

    def _hear(self, visitor: Connection) -> None:
        with self._leaving(visitor):
            for message in visitor.hear():
                if visitor.asked:
                    raise BadMessageError("expected one request only")
                visitor.asked = True
                self._take(visitor, message)

    def _attend(self, visitor: Connection) -> None:
        """Send what is left to send; who says nothing is not kept."""
        visitor.flush()
        if not visitor.asked and time.monotonic() - visitor.since_s > SPEAK_WITHIN_S:
            raise BadMessageError(f"expected a request within {SPEAK_WITHIN_S:.0f} s")

    def _take(self, visitor: Connection, request: dict[str, Any]) -> None:
        match request:
            case {"want": "watch", **more} if not more:
                visitor.watches = True
            case {"want": "scale", "learners": int(number), **more} if not more:
                self._take_wish(visitor, number)
            case _:
                raise BadMessageError("expected to be asked to watch, or to scale to some learners")

    def _take_wish(self, visitor: Connection, learners: int) -> None:
        if isinstance(learners, bool) or not 1 <= learners <= MOST_LEARNERS:
            raise BadMessageError(f"expected from 1 to {MOST_LEARNERS} learners")
        if self._wish is not None:
            raise BadMessageError(f"a change to {self._wish.learners} learners is under way")
        if learners == self._learners:
            self._dismiss(visitor, {"kept": learners})
            return
        self._allow(learners)
        self._wish = ScaleRequest(learners, self._learners, visitor, time.monotonic())
        visitor.say(line_of({"taken": learners}))

    def _answer(self, message: dict[str, Any]) -> None:
        """Tell who wished for something what came of it; the wish is over."""
        if self._wish is not None:
            self._dismiss(self._wish.asker, message)
            self._wish = None

    @contextlib.contextmanager
    def _leaving(self, visitor: Connection) -> Iterator[None]:
        """See a visitor out who has left, or who has asked for something impossible."""
        try:
            yield
        except LeftError:
            self._drop(visitor)
        except (BadMessageError, UserError) as error:
            self._dismiss(visitor, {"refused": str(error)})

    def _dismiss(self, visitor: Connection, message: dict[str, Any]) -> None:
        """Say a last thing, if it is heard, and hang up."""
        with contextlib.suppress(LeftError):
            visitor.say(line_of(message))
        self._drop(visitor)

    def _drop(self, visitor: Connection) -> None:
        # One who left long ago, as an asker may, had a number that is another visitor's by now.
        if self._visitors.get(visitor.fd) is visitor:
            del self._visitors[visitor.fd]
            self._poll.unregister(visitor.fd)
            visitor.close()


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
        listener.listen(MOST_VISITORS)
    except BaseException:
        listener.close()
        raise
    return listener
