"""One child of a run: its incarnations, its restart policy and its progress.

    Child.start: announce, fork --> ChildProcess --ends--> mark_dead, release: next incarnation

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

KILL_TIMEOUT_S = 5.0
"""A process that outlives SIGKILL for this long is stuck in the kernel, in disk I/O for example."""
MAX_TICK_S = 0.2
"""Longest time that one observation may add, should the supervisor itself have been stopped."""
MIN_USUAL_GAP_S = 0.05
"""A usual gap of 0 may grow to this at once."""
USUAL_GAP_DECAY = 0.99
"""Share of the usual gap that remains after each change of the counter."""


class ProgressMonitor:
    """Time since a counter last changed, counted only while the supervisor itself ran."""

    def __init__(self, count: Callable[[], int], usual_s: float = 0.0) -> None:
        """Observe `count`; `usual_s` is the usual gap that an earlier incarnation has shown."""
        self.still_s, self.usual_s = 0.0, usual_s
        self._count, self._last = count, count()

    def observe(self, passed_s: float, *, first: bool = False) -> None:
        """Record that `passed_s` more seconds have passed.

        A pause of the supervisor itself, as of a suspended machine, counts for `MAX_TICK_S` at
        most. The usual
        gap at most doubles per change: one long gap is not usual yet, and must not give a later
        hang more
        time. During the `first` work every gap counts as usual.
        """
        count = self._count()
        if count == self._last:
            self.still_s += min(passed_s, MAX_TICK_S)
        else:
            gap_s = self.still_s if first else min(self.still_s, 2 * self.usual_s + MIN_USUAL_GAP_S)
            self.usual_s = max(gap_s, USUAL_GAP_DECAY * self.usual_s)
            self.still_s = 0.0
        self._last = count

    def exceeds(self, timeout_s: float, gaps: float) -> bool:
        """Return whether the counter has not changed for max(timeout_s, gaps x usual gap)."""
        return self.still_s > max(timeout_s, gaps * self.usual_s)


class Child:
    """One child: a learner or a simulator, through all its incarnations."""

    def __init__(
        self, run_layout: RunLayout, rank: int, worker: int | None, max_restarts: int
    ) -> None:
        """Create learner `rank`, or its simulator number `worker`; no process runs yet."""
        self.rank, self.number = rank, worker
        self.role = "learner" if worker is None else "simulator"
        self.incarnation = 0
        self.process: ChildProcess | None = None
        self.due_s: float | None = None
        """time.monotonic() of the next start; None: no start is scheduled."""
        index = (
            rank if worker is None else run_layout.count + run_layout.simulator_index(rank, worker)
        )
        self.row = StatusRow(run_layout.arrays, index)
        self.beats = self.turns = ProgressMonitor(lambda: 0)
        self.given_up = False
        self.boot_s = 0.0
        """Start-up time of the first incarnation, in seconds."""
        self._run_layout, self._restart_policy = run_layout, RestartPolicy(max_restarts)
        self._work_at_run_start = self._work_at_start = self.work

    @property
    def title(self) -> str:
        """Role and rank: `learner 0`, `simulator 0.1`."""
        return f"{self.role} {self.rank}" + ("" if self.number is None else f".{self.number}")

    @property
    def work(self) -> int:
        """Agent steps of all incarnations together; never decreases."""
        return self.row["agent_steps"]

    @property
    def has_worked(self) -> bool:
        """Whether any incarnation has made agent steps since this attempt began."""
        return self.work > self._work_at_run_start

    @property
    def has_begun(self) -> bool:
        """Whether the current incarnation has made agent steps; always true for the first one."""
        return self.incarnation == 0 or self.work > self._work_at_start

    @property
    def expected(self) -> bool:
        """Whether a process runs or its start is scheduled."""
        return not self.given_up and (self.process is not None or self.due_s is not None)

    @property
    def unkillable(self) -> bool:
        """Whether the process ignores SIGKILL (stuck in uninterruptible I/O)."""
        return self.process is not None and self.process.stuck_s > KILL_TIMEOUT_S

    def start(self, postpone: Callable[[], bool]) -> None:
        """Start the current incarnation.

        Raises:
            StartPostponed: another event has to be handled first; start again later.
            OSError, EOFError: the system cannot create another process, or the fork server fails.
        """
        self.due_s = None
        self.row.clear()
        self.announce()
        self._work_at_start = self.work
        self.beats = ProgressMonitor(lambda: self.row["beat"], self.beats.usual_s)
        self.turns = ProgressMonitor(lambda: self.row["turns"], self.turns.usual_s)
        self.process = ChildProcess(*self._spec_and_task())
        try:
            self.process.start(postpone)
        except BaseException:
            self.process = None
            self.mark_dead()
            raise

    def note_boot(self, passed_s: float) -> None:
        """Add `passed_s` seconds to `boot_s` while the first incarnation still starts up."""
        if self.incarnation == 0 and self.row.phase is Phase.BOOT:
            self.boot_s += passed_s

    def mark_dead(self) -> None:
        """Announce that this child does not run: other processes stop waiting for it."""
        control = self._run_layout.control
        if self.number is None:
            control.set_alive(self.rank, False)
        else:
            control.set_simulator_incarnation(
                self._run_layout.simulator_index(self.rank, self.number), None
            )
            self._run_layout.wake_learner(self.rank)

    def release(self) -> None:
        """Release the process that has ended; the next incarnation may start."""
        if self.process is not None:
            self.process.close()
        self.process = None
        self.incarnation += 1

    def give_up(self) -> None:
        """Stop this child for good."""
        self.given_up, self.due_s = True, None
        if self.process is not None:
            self.process.kill()

    def expect_failure(self) -> None:
        """Announce an injected failure: the restart policy takes it for no repetition."""
        self._restart_policy.expect_failure()

    @property
    def repeats(self) -> bool:
        """Whether the last two incarnations have failed in the same way at the same agent step."""
        return self._restart_policy.repeats

    def delay_s(self, failure: ChildFailure) -> float | None:
        """Return the seconds until the restart after this failure; None: do not restart."""
        progress = self.work - self._work_at_start
        ended = Failure(failure.cause, progress, failure.deliberate, failure.external)
        return self._restart_policy.delay_s(ended, time.monotonic())

    def _spec_and_task(self) -> tuple[ChildSpec, Any]:
        if self.number is None:
            return self._run_layout.learner(self.rank, self.incarnation)
        return self._run_layout.simulator(self.rank, self.number, self.incarnation)

    def announce(self) -> None:
        """Announce the incarnation that starts; a learner becomes alive once it has started up."""
        control = self._run_layout.control
        if self.number is None:
            control.set_incarnation(self.rank, self.incarnation)
            # In lock-step all learners start together, and wait for one another at once.
            together = self._run_layout.plan.config.gossip.coupled
            control.set_alive(self.rank, together or self.incarnation == 0)
        else:
            index = self._run_layout.simulator_index(self.rank, self.number)
            control.set_simulator_incarnation(index, self.incarnation)
