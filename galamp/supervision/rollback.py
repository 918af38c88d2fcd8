"""Rollback in lock-step: after a learner fails, all learners return to one common turn and restart.

    a learner fails --> start: kill the others --all reaped--> finish: step back, restart all

Runs in the supervisor. A failed learner cannot rejoin a round that its peers are already in, so all
learners restart. All save their states in the same turns, so they have a saved turn in common.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from galamp.memory.learner_state import StateSlots, newest_common_turn
from galamp.supervision.child import UNKILLABLE_S, Child
from galamp.supervision.child_failure import ChildFailure
from galamp.supervision.children import Children
from galamp.supervision.launching import AwakeTimeout


class Rollback:
    """Kills and restarts all learners after one of them has failed."""

    def __init__(self, children: Children, states: Sequence[StateSlots]) -> None:
        self.cause: ChildFailure | None = None
        """The failure that caused the current or the last rollback."""
        self._children, self._states = children, states
        self._under_way, self._delay_s = False, 0.0
        self._timeout = AwakeTimeout(UNKILLABLE_S)

    def start(self, cause: ChildFailure, delay_s: float) -> None:
        """Kill all learners; they restart after `delay_s`."""
        self.cause, self._under_way, self._delay_s = cause, True, delay_s
        self._timeout = AwakeTimeout(UNKILLABLE_S)
        for child in self._children.learners:
            child.due_s = None
            child.kill()

    def covers(self, child: Child) -> bool:
        """Return whether this child's end is part of the rollback."""
        return self._under_way and child.role == "learner"

    @property
    def ready(self) -> bool:
        """Whether all learners have ended."""
        return self._under_way and not any(child.has_process for child in self._children.learners)

    def overdue(self) -> bool:
        """Return whether a learner cannot be ended, so that the rollback fails.

        To be called several times a second: while this process is stopped, as by Ctrl-Z, the time
        does not count, since it could not see that they have ended.
        """
        return self._under_way and self._timeout.expired()

    def finish(self) -> int | None:
        """Return to the newest turn that all have saved; returns it, or None if there is none."""
        self._under_way = False
        turn = newest_common_turn(self._states)
        if turn is not None:
            for states in self._states:
                states.roll_back(turn)
            due_s = time.monotonic() + self._delay_s
            # All are announced before the first one starts.
            for child in self._children.learners:
                child.announce()
                child.due_s = due_s
        return turn
