"""Presence of a child: what the control block says of it, for those that wait for it.

    Child --announce, mark_dead--> Presence --> ControlBlock --> learners

Runs in the supervisor, the one writer of the control block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from galamp.memory.control import ControlBlock


class Presence(Protocol):
    """One child's words in the control block."""

    def announce(self, incarnation: int) -> None:
        """Announce the incarnation that starts."""

    def mark_dead(self) -> None:
        """Announce that the child does not run: other processes stop waiting for it."""


class LearnerPresence:
    """Presence of learner `rank`, whose peers may wait for it.

    Args:
        together: whether all learners start together and wait for one another at once, as in
            lock-step; otherwise a restarted learner becomes alive once it has started up.
    """

    def __init__(self, control: ControlBlock, rank: int, *, together: bool) -> None:
        self._control, self._rank, self._together = control, rank, together

    def announce(self, incarnation: int) -> None:
        """Announce the incarnation that starts."""
        self._control.set_incarnation(self._rank, incarnation)
        self._control.set_alive(self._rank, self._together or incarnation == 0)

    def mark_dead(self) -> None:
        """Announce that it does not run."""
        self._control.set_alive(self._rank, False)


class BridgePresence:
    """Presence of a node's bridge: without it, other nodes' learners cannot be heard."""

    def __init__(self, control: ControlBlock, remote: range) -> None:
        self._control, self._remote = control, remote

    def announce(self, incarnation: int) -> None:
        """Announce nothing: learners are there when the bridge says so."""

    def mark_dead(self) -> None:
        """Announce that the other nodes' learners are not there."""
        for rank in self._remote:
            self._control.set_alive(rank, False)


class SimulatorPresence:
    """Presence of a simulator, for which its learner may wait.

    Args:
        control: control block of the run.
        index: number of the simulator over all learners.
        wake_learner: wakes its learner, which then reads the control block again.
    """

    def __init__(
        self, control: ControlBlock, index: int, wake_learner: Callable[[], object]
    ) -> None:
        self._control, self._index, self._wake_learner = control, index, wake_learner

    def announce(self, incarnation: int) -> None:
        """Announce the incarnation that starts."""
        self._control.set_simulator_incarnation(self._index, incarnation)

    def mark_dead(self) -> None:
        """Announce that it does not run."""
        self._control.set_simulator_incarnation(self._index, None)
        self._wake_learner()
