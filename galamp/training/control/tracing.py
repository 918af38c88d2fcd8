"""Requests for a profile: who may trace the run's processes, for as long as it is connected.

client: {"want": "profile"}    run: {"processes": {"4711": "learner 0", ...}}
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any

from galamp.core.errors import UserError
from galamp.core.processes.tracing import NOBODY

Processes = dict[int, str]
"""Process id -> title, such as `learner 0`."""

_CREDENTIALS = struct.Struct("3i")


class Tracing:
    """The client that may trace, at most one at a time: the kernel takes no more."""

    def __init__(self) -> None:
        self._client: int | None = None
        self.forget()

    def forget(self) -> None:
        """Hold nothing of an attempt that has ended: its shared memory could not be freed."""
        self._processes: Callable[[], Processes] = dict
        self._permit: Callable[[int], object] = lambda pid: None

    def configure(
        self, processes: Callable[[], Processes], permit: Callable[[int], object]
    ) -> None:
        """Set what the current attempt has.

        Args:
            processes: returns those that run now.
            permit: lets a process trace them, or `NOBODY`.
        """
        self._processes, self._permit = processes, permit

    def begin(self, connection: socket.socket) -> dict[str, Any]:
        """Permit the process at the other end of a connection; returns the answer to it.

        Raises:
            UserError: another one is at it.
        """
        if self._client is not None:
            raise UserError("another profile is being recorded; wait for its end")
        self._client = connection.fileno()
        self._permit(peer_of(connection))
        return {"processes": {str(pid): title for pid, title in self._processes().items()}}

    def end(self, fd: int) -> None:
        """Take the permission back, if it was that of the connection with this descriptor."""
        if self._client == fd:
            self._client = None
            self._permit(NOBODY)


def peer_of(connection: socket.socket) -> int:
    """Return the process at the other end, as the kernel knows it; 0 from another container."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(found)[0])
