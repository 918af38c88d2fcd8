"""Messages between a run and its connections: one JSON object per line, over RUN/control.

    client: {"want": "watch"}                    run: {"snapshot": {...}} ... {"ended": "finished"}
    client: {"want": "game", "show": true}       run: snapshots have the frame of a game, too
    client: {"want": "scale", "learners": 3}     run: {"taken": 3} ... {"scaled": {...}}
                                                      or {"kept": 3}, with that many already
    client: {"want": "profile"}                  run: {"processes": {"4711": "learner 0", ...}}
    client: anything else                        run: {"refused": "why, in a line"}

Used by the control server and the control clients; neither trusts the other's messages.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from galamp.core.errors import GalampError
from galamp.core.json_values import DecodeError, json_object

CONTROL = "control"
"""Name of the socket in the run folder."""

MAX_REQUEST_BYTES = 4096
MAX_LINE_BYTES = 2**22
"""Ten times the snapshot of a thousand learners."""


class BadMessageError(GalampError):
    """A message is not one of the above."""


def address(folder: int) -> str:
    """Return the path of the socket in an open folder.

    A socket path may have 107 bytes, and a run folder's is often longer; the path through the open
    folder is short.
    """
    return f"/proc/self/fd/{folder}/{CONTROL}"


def line_of(message: dict[str, Any]) -> bytes:
    """Return a message as bytes to send."""
    return json.dumps(message, allow_nan=False, separators=(",", ":")).encode() + b"\n"


class Lines:
    """Received bytes, split into messages; at most `max_bytes` of a line are stored."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Yield the messages that `data` completes.

        Raises:
            BadMessageError: a line is too long, or no JSON object.
        """
        self._rest += data
        while (end := self._rest.find(b"\n")) >= 0:
            line = bytes(self._rest[:end])
            del self._rest[: end + 1]
            yield self._message(line)
        self._check(len(self._rest))

    def _message(self, line: bytes) -> dict[str, Any]:
        self._check(len(line))
        try:
            return json_object(line)
        except DecodeError as error:
            raise BadMessageError(str(error)) from None

    def _check(self, size: int) -> None:
        if size > self._max_bytes:
            raise BadMessageError(f"expected at most {self._max_bytes} bytes in a line")
