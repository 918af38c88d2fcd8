"""Timer of a repeated check."""

from __future__ import annotations


class Clock:
    """Says when the next check is due; it is told the time."""

    def __init__(self, every_s: float) -> None:
        self._every_s, self._due_s = every_s, 0.0

    def due(self, now_s: float) -> bool:
        """Return whether the interval has passed since the last time that this was true."""
        if now_s < self._due_s:
            return False
        self._due_s = now_s + self._every_s
        return True
