"""The place of one child, and how long it has shown no progress.

    Child.fill: announce, start --> ChildProcess --ends--> mark_dead, empty: the next life may begin

Runs in the supervisor.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from galamp.memory.status import Phase, StatusRow
from galamp.supervision.layout import RunLayout
from galamp.supervision.process import ChildFailure, ChildProcess
from galamp.supervision.restart_policy import Failure, RestartPolicy
from galamp.workers.child import ChildSpec

KILL_WAIT_S = 5.0
"""Whom the kernel has not ended so long after a kill, it will not: it waits for a disk, say."""
LONGEST_STEP_S = 0.2
"""A gap in the supervisor's own time counts for so much at most."""
LEAST_HABIT_S = 0.05
"""A usual gap of nothing may grow to so much at once."""
FORGETTING = 0.99
"""How much of the longest gap is remembered from one count to the next."""


class ProgressMonitor:
    """How long a count has stood still, in time that the supervisor itself was awake."""

    def __init__(self, count: Callable[[], int], usual_s: float = 0.0) -> None:
        """Watch `count`, of which a former life has shown what gap is usual."""
        self.still_s, self.usual_s = 0.0, usual_s
        self._count, self._last = count, count()

    def observe(self, passed_s: float, *, first: bool = False) -> None:
        """Take note of `passed_s` more seconds.

        A gap in the supervisor's own time, as where the machine is paused, counts for little. What
        is usual grows by doubling: one long gap is no habit, and a hang soon after it would have
        all the more time. Only the gaps of the `first` work are taken as they are.
        """
        count = self._count()
        if count == self._last:
            self.still_s += min(passed_s, LONGEST_STEP_S)
        else:
            habit_s = self.still_s if first else min(self.still_s, 2 * self.usual_s + LEAST_HABIT_S)
            self.usual_s = max(habit_s, FORGETTING * self.usual_s)
            self.still_s = 0.0
        self._last = count

    def exceeds(self, least_s: float, gaps: float) -> bool:
        """Whether it has stood still for `least_s` and for so many times its usual gap."""
        return self.still_s > max(least_s, gaps * self.usual_s)


class Child:
    """The place of one child, and who fills it now."""

    def __init__(
        self, run_layout: RunLayout, rank: int, worker: int | None, most_restarts: int
    ) -> None:
        """Make the place of learner `rank`, or of one of its simulators; nobody fills it yet."""
        self.rank, self.number = rank, worker
        self.role = "learner" if worker is None else "simulator"
        self.incarnation = 0
        self.process: ChildProcess | None = None
        self.due_s: float | None = None
        """When the next life begins; None: none is wanted."""
        index = (
            rank if worker is None else run_layout.count + run_layout.simulator_index(rank, worker)
        )
        self.row = StatusRow(run_layout.arrays, index)
        self.beats = self.turns = ProgressMonitor(lambda: 0)
        self.given_up = False
        self.boot_s = 0.0
        """How long its first life took to come up."""
        self._run_layout, self._restart_policy = run_layout, RestartPolicy(most_restarts)
        self._at_first = self._at_birth = self.work

    @property
    def title(self) -> str:
        """Role and rank in words: `learner 0`, `simulator 0.1`."""
        return f"{self.role} {self.rank}" + ("" if self.number is None else f".{self.number}")

    @property
    def work(self) -> int:
        """What its lives have done together, in agent steps: a number that never falls."""
        return self.row["agent_steps"]

    @property
    def has_worked(self) -> bool:
        """Whether any of its lives since this start of the run has done any work."""
        return self.work > self._at_first

    @property
    def has_begun(self) -> bool:
        """Whether the present life has done any work; of a first life it is taken for granted."""
        return self.incarnation == 0 or self.work > self._at_birth

    @property
    def expected(self) -> bool:
        """Whether somebody is here, or is to come."""
        return not self.given_up and (self.process is not None or self.due_s is not None)

    @property
    def unkillable(self) -> bool:
        """Whether somebody is here whom not even the kernel can end, as while a disk hangs."""
        return self.process is not None and self.process.stuck_s > KILL_WAIT_S

    def start(self, hurried: Callable[[], bool]) -> None:
        """Begin the present life.

        Raises:
            Hurried: something else is to be looked at first; the life can be begun later.
            OSError, EOFError: the machine has no room for another process, or the server fails.
        """
        self.due_s = None
        self.row.clear()
        self.announce()
        self._at_birth = self.work
        self.beats = ProgressMonitor(lambda: self.row["beat"], self.beats.usual_s)
        self.turns = ProgressMonitor(lambda: self.row["turns"], self.turns.usual_s)
        self.process = ChildProcess(*self._spec_and_task())
        try:
            self.process.start(hurried)
        except BaseException:
            self.process = None
            self.mark_dead()
            raise

    def note_boot(self, passed_s: float) -> None:
        """Take note of `passed_s` more seconds, should the first life still come up."""
        if self.incarnation == 0 and self.row.phase is Phase.BOOT:
            self.boot_s += passed_s

    def mark_dead(self) -> None:
        """Tell the others that nobody is here: they do not wait."""
        control = self._run_layout.control
        if self.number is None:
            control.set_alive(self.rank, False)
        else:
            control.set_simulator_incarnation(
                self._run_layout.simulator_index(self.rank, self.number), None
            )
            self._run_layout.wake_learner(self.rank)

    def release(self) -> None:
        """Leave the place of a child that has ended to its next life."""
        if self.process is not None:
            self.process.close()
        self.process = None
        self.incarnation += 1

    def give_up(self) -> None:
        """Want nobody here any more."""
        self.given_up, self.due_s = True, None
        if self.process is not None:
            self.process.kill()

    def expect_failure(self) -> None:
        """Do not take the next end of a life for a defect: somebody is about to bring it about."""
        self._restart_policy.expect_failure()

    @property
    def repeats(self) -> bool:
        """Whether its last two lives have ended in the same way at the same place."""
        return self._restart_policy.repeats

    def delay_s(self, failure: ChildFailure) -> float | None:
        """Return how long to wait before the next life after this failure; None for never."""
        progress = self.work - self._at_birth
        loss = Failure(failure.cause, progress, failure.deliberate, failure.external)
        return self._restart_policy.delay_s(loss, time.monotonic())

    def _spec_and_task(self) -> tuple[ChildSpec, Any]:
        if self.number is None:
            return self._run_layout.learner(self.rank, self.incarnation)
        return self._run_layout.simulator(self.rank, self.number, self.incarnation)

    def announce(self) -> None:
        """Tell the others who is about to live here; a learner counts once it has come up."""
        control = self._run_layout.control
        if self.number is None:
            control.set_incarnation(self.rank, self.incarnation)
            # In lock-step all begin anew together, and wait for one another from the start.
            together = self._run_layout.plan.config.gossip.coupled
            control.set_alive(self.rank, together or self.incarnation == 0)
        else:
            index = self._run_layout.simulator_index(self.rank, self.number)
            control.set_simulator_incarnation(index, self.incarnation)
