r"""What a run and its visitors say to each other: one JSON object per line, over RUN/control.

    visitor: {"want": "watch"}                    run: {"snapshot": {...}} ... {"ended": "finished"}
    visitor: {"want": "scale", "learners": 3}     run: {"taken": 3} ... {"scaled": {...}}
                                                       or {"kept": 3}, having so many already
    visitor: anything else                        run: {"refused": "why, in a line"}

Used by the supervisor and by who visits it; both take the other's words for foreign.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from galamp.core.errors import GalampError

CONTROL = "control"
"""Name of the socket in the run folder."""

MOST_REQUEST_BYTES = 4096
MOST_LINE_BYTES = 2**22
"""Room for the snapshot of a thousand learners, ten times over."""


class BadMessageError(GalampError):
    """What came is nothing that is ever said here."""


def address(folder: int) -> str:
    """Return where the socket in an open folder is.

    A socket's path may have 107 bytes, a run folder's is often longer: the way through the open
    folder is short.
    """
    return f"/proc/self/fd/{folder}/{CONTROL}"


def line_of(message: dict[str, Any]) -> bytes:
    """Return a message as it is sent."""
    return json.dumps(message, allow_nan=False, separators=(",", ":")).encode() + b"\n"


class Lines:
    """Bytes as they come in, cut into messages; of a line at most `most` bytes are ever kept."""

    def __init__(self, most: int) -> None:
        self._most = most
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
            message = json.loads(line)
        except (ValueError, RecursionError):
            raise BadMessageError("expected a line of JSON") from None
        if not isinstance(message, dict):
            raise BadMessageError("expected a JSON object")
        return message

    def _check(self, size: int) -> None:
        if size > self._most:
            raise BadMessageError(f"expected at most {self._most} bytes in a line")
