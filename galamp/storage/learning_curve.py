"""Learning curve for display: of bounded size, however long a run trains.

    row of metrics --add, cut--> Curve --points--> thinned --> Snapshot --> dashboard

Runs in the supervisor. Pure.
"""

from __future__ import annotations

MAX_POINTS = 4096
MAX_CURVE_POINTS = 400
"""Points that are shown at once."""


class Curve:
    """Mean true score over agent steps: points at equal distances in rows, and the newest one."""

    def __init__(self) -> None:
        self.points: list[tuple[int, float]] = []
        """(agent steps, score), at most `MAX_POINTS` + 1; the newest may be replaced."""
        self._every = 1
        """Of this many added points, one is kept."""
        self._since = 0
        """Number of points added after the last kept one."""

    def add(self, agent_steps: int, score: float) -> None:
        """Add the newest point."""
        if self._since:
            self.points.pop()
        self.points.append((agent_steps, score))
        self._since = (self._since + 1) % self._every
        if len(self.points) > MAX_POINTS and not self._since:
            self.points = self.points[(len(self.points) - 1) % 2 :: 2]
            self._every *= 2

    def cut(self, agent_steps: int) -> None:
        """Remove all points beyond `agent_steps`: the run resumed from there."""
        while self.points and self.points[-1][0] > agent_steps:
            self.points.pop()
            self._since = 0


def thinned(curve: list[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """Return at most `MAX_CURVE_POINTS` points of a curve, always including the last one."""
    step = -(-len(curve) // MAX_CURVE_POINTS) or 1
    return tuple(curve[(len(curve) - 1) % step :: step]) if curve else ()
