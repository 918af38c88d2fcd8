"""Lock-step after a loss: all learners go back to one turn, and on from there together.

    a learner is lost --> begin: end the others --all reaped--> finish: step back, start all anew

Runs in the supervisor. A learner cannot come back into a round that its peers are in already, so
nobody goes on alone: everyone's saved states, which are made in the same turns, hold one in common.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from galamp.memory.learner_state import StateSlots, newest_common_turn
from galamp.supervision.child import KILL_WAIT_S, Child
from galamp.supervision.children import Children
from galamp.supervision.process import ChildFailure


class Rollback:
    """Calls all learners back, once one of them is lost."""

    def __init__(self, children: Children, states: Sequence[StateSlots]) -> None:
        self.cause: ChildFailure | None = None
        """Why they are being called back, or were the last time."""
        self._children, self._states = children, states
        self._under_way, self._delay_s, self._since_s = False, 0.0, 0.0

    def begin(self, cause: ChildFailure, delay_s: float) -> None:
        """End all learners, to start them anew so long after."""
        self.cause, self._under_way, self._delay_s = cause, True, delay_s
        self._since_s = time.monotonic()
        for child in self._children.learners:
            child.due_s = None
            if child.process is not None:
                child.process.kill()

    def takes(self, child: Child) -> bool:
        """Whether whoever was at `child` has ended because everyone is called back."""
        return self._under_way and child.role == "learner"

    @property
    def ready(self) -> bool:
        """Whether all learners are gone."""
        return self._under_way and all(child.process is None for child in self._children.learners)

    @property
    def overdue(self) -> bool:
        """Whether somebody cannot be ended, so that there is no going back."""
        return self._under_way and time.monotonic() - self._since_s > KILL_WAIT_S

    def finish(self) -> int | None:
        """Go back to the newest turn that all have saved; returns it, or None if there is none."""
        self._under_way = False
        turn = newest_common_turn(self._states)
        if turn is not None:
            for states in self._states:
                states.roll_back(turn)
            due_s = time.monotonic() + self._delay_s
            for (
                child
            ) in self._children.learners:  # all are known to all before the first one begins
                child.announce()
                child.due_s = due_s
        return turn
