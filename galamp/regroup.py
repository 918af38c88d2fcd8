"""Lock-step after a loss: all learners go back to one turn, and on from there together.

    a learner is lost --> begin: end the others --all reaped--> finish: step back, start all anew

Runs in the supervisor. A learner cannot come back into a round that its peers are in already, so
nobody goes on alone: everyone's saved states, which are made in the same turns, hold one in common.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from galamp.crew import Crew
from galamp.post import Post
from galamp.state import StateSlots
from galamp.worker import WorkerFailure


class Regroup:
    """Calls all learners back, once one of them is lost."""

    def __init__(self, crew: Crew, states: Sequence[StateSlots]) -> None:
        self.cause: WorkerFailure | None = None
        """Why they are being called back, or were the last time."""
        self._crew, self._states = crew, states
        self._under_way, self._delay_s = False, 0.0

    def begin(self, cause: WorkerFailure, delay_s: float) -> None:
        """End all learners, to start them anew so long after."""
        self.cause, self._under_way, self._delay_s = cause, True, delay_s
        for post in self._crew.learners:
            if post.worker is not None:
                post.worker.kill()

    def takes(self, post: Post) -> bool:
        """Whether whoever was at `post` has ended because everyone is called back."""
        return self._under_way and post.role == "learner"

    @property
    def ready(self) -> bool:
        """Whether all learners are gone."""
        return self._under_way and all(post.worker is None for post in self._crew.learners)

    def finish(self) -> int | None:
        """Go back to the newest turn that all have saved; returns it, or None if there is none."""
        self._under_way = False
        turn = common_state(self._states)
        if turn is not None:
            for states, post in zip(self._states, self._crew.learners, strict=True):
                states.step_back(turn)
                post.due_s = time.monotonic() + self._delay_s
        return turn


def common_state(states: Sequence[StateSlots]) -> int | None:
    """Return the newest turn of which everyone has a whole state; None if there is none."""
    turns = [set(each.kept()) for each in states]
    return max(set.intersection(*turns), default=None)
