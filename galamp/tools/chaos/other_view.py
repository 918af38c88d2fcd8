"""What the other node tells of itself: vectors that its bridge has taken, messages it has refused.

    RUN-node1/control --snapshots--> OtherView --> LinkWatch, Disturbance

Runs in the supervisor, which never waits for it: the connection does not block, and is made anew
when the node was killed, or does not exist yet.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import Any

from galamp.training.control.framing import (
    MAX_LINE_BYTES,
    BadMessageError,
    Lines,
    address,
    line_of,
)
from galamp.training.control.snapshot_json import snapshot_from

CONNECT_EVERY_S = 0.25
CHUNK_BYTES = 2**16


class OtherView:
    """The view of a node whose run is in `folder`, of the messages of node `sender`.

    Attributes:
        received: vectors that its present start has taken; 0 while nothing is heard of it.
        refused: most messages that one of its starts has refused.
    """

    def __init__(self, folder: Path, sender: int) -> None:
        self.received = self.refused = 0
        self._folder, self._sender, self._due_s = folder, sender, 0.0
        self._socket: socket.socket | None = None
        self._lines = Lines(MAX_LINE_BYTES)

    @property
    def descriptors(self) -> int:
        """Number of files that it holds open now."""
        return int(self._socket is not None)

    def poll(self, now_s: float) -> None:
        """Take what was told since, or try to connect."""
        if self._socket is None and now_s >= self._due_s:
            self._due_s = now_s + CONNECT_EVERY_S
            self._connect()
        if self._socket is not None and not self._listens(self._socket):
            self.close()

    def close(self) -> None:
        """Close the connection; nothing is known then."""
        self.received = 0
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self) -> None:
        one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        one.setblocking(False)
        with contextlib.suppress(OSError):
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                one.connect(address(folder))
            finally:
                os.close(folder)
            one.sendall(line_of({"want": "watch"}))
            self._socket, self._lines = one, Lines(MAX_LINE_BYTES)
            return
        one.close()

    def _listens(self, one: socket.socket) -> bool:
        """Take what there is; return whether the connection stands."""
        try:
            while data := one.recv(CHUNK_BYTES):
                for message in self._lines.feed(data):
                    self._take(message)
        except BlockingIOError:
            return True
        except (OSError, BadMessageError):
            return False
        return False

    def _take(self, message: dict[str, Any]) -> None:
        if "snapshot" not in message:
            return
        for node in snapshot_from(message["snapshot"]).nodes:
            if node.node == self._sender:
                self.received = node.received
                self.refused = max(self.refused, node.refused)
