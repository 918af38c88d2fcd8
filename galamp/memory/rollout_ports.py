"""The two sides of a rollout ring: observations go to the learner, actions back to simulators.

    simulator s                                                 learner
    arrive: ready to be called                -- joined -->
    answer(row): newest observations into row <-- call ----     begin: call the absent to a row
                                              -- joined -->     begin: they take part from there on
    write(row): outcome, next observations    -- committed ->   take(row + 1): wait for the lanes
    actions(row): wait                        <-- sent ----     send(row)

Actions of a slot are sent only once its former rollout has been learned from, so whoever has them
may write.

Whose lanes are learned from is the learner's to say. A simulator that has died, or is late, is left
out: from there on nothing in its lanes counts, whatever is still written to them. It, or the one
that is started in its place, takes part again from the first row of a later rollout, to which the
learner calls it by a ticket of its own. A simulator answers only tickets that were given after it
had arrived, and only between two steps, so a ticket is answered by one life, whose earlier writes
are over. What a dead simulator was writing lies above its committed count and is never read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from galamp.core.failpoints import reach
from galamp.memory.arrays import WORDS_PER_LINE, SharedArrays, memory_fence
from galamp.memory.rollouts import (
    CALLED_TO,
    COMMITTED,
    INCARNATION,
    JOINED,
    NUM_SLOTS,
    SENT,
    TICKET,
    RingWake,
    RolloutRing,
    RolloutShape,
)

POLL_S = 0.1
"""A wait reads at the world (stop, parent, heartbeat) at least so often."""

MIN_TIMEOUT_S = 1.0
"""The learner waits for a living simulator at least so long before it goes on without it."""
USUAL_WAIT_FACTOR = 20.0
"""It waits for so many times as long as it usually has to."""

Idle = Callable[[], None]
"""Called at every turn of a wait; raises to end the wait."""

IncarnationOf = Callable[[int], int | None]
"""Says which life (counted from 0) simulator `worker` is in; None while it has none."""


class SimulatorPort(RolloutRing):
    """A simulator's side of the ring, in one of its lives (counted from 0)."""

    def __init__(
        self,
        arrays: SharedArrays,
        rank: int,
        shape: RolloutShape,
        wake: RingWake,
        worker: int,
        incarnation: int = 0,
    ) -> None:
        super().__init__(arrays, rank, shape, wake)
        self.worker = worker
        self.envs = shape.envs(worker)
        self._incarnation, self._row = incarnation, -1
        self._ticket = 0

    def arrive(self) -> None:
        """Be ready to be called; calls to a former life are not answered."""
        self._ticket, _ = self.call(self.worker)
        memory_fence()
        self._join(0)

    def actions(self, observations: npt.NDArray[Any], idle: Idle) -> npt.NDArray[np.int64]:
        """Wait for the actions that follow `observations`; returns a view of the own lanes.

        Where the learner calls meanwhile, `observations` are those of the row that it calls to.
        """
        while True:
            ticket, row = self.call(self.worker)
            if ticket != self._ticket:
                self._answer(ticket, row, observations)
            elif self.sent(self.worker) > self._row >= 0:
                memory_fence()
                slot, step = divmod(self._row, self.shape.num_steps)
                return self.slots[slot % NUM_SLOTS].actions[step, self.envs]
            else:
                idle()
                self.wake.simulators[self.worker].wait(POLL_S)

    def write(self, observations: npt.NDArray[Any], **outcome: npt.NDArray[Any]) -> None:
        """Hand the learner what the actions led to: columns of `RolloutSlot`, and the next row."""
        slot, step = divmod(self._row, self.shape.num_steps)
        for name, values in outcome.items():
            getattr(self.slots[slot % NUM_SLOTS], name)[step, self.envs] = values
        reach("rollouts.outcome")
        self._row += 1
        self._commit(observations)

    def _answer(self, ticket: int, row: int, observations: npt.NDArray[Any]) -> None:
        """Take part from `row` on."""
        self._ticket, self._row = ticket, row
        self._commit(observations)
        self._join(ticket)

    def _commit(self, observations: npt.NDArray[Any]) -> None:
        """Write the present row of the own lanes, into both slots that share it."""
        slot, step = divmod(self._row, self.shape.num_steps)
        self.slots[slot % NUM_SLOTS].observations[step, self.envs] = observations
        if step == 0 and slot > 0:
            last = self.slots[(slot - 1) % NUM_SLOTS]
            last.observations[self.shape.num_steps, self.envs] = observations
        memory_fence()
        reach("rollouts.written")
        self._simulators[self.worker * WORDS_PER_LINE + COMMITTED] = self._row + 1
        reach("rollouts.committed")
        self.wake.learner.signal()

    def _join(self, ticket: int) -> None:
        memory_fence()
        self._simulators[self.worker * WORDS_PER_LINE + JOINED] = (
            self._incarnation + 1
        ) * INCARNATION + ticket
        reach("rollouts.joined")
        self.wake.learner.signal()


class LearnerPort(RolloutRing):
    """The learner's side of the ring; it alone says whose lanes count.

    `valid_mask` [T, B] says of which transitions of the present rollout everything is there.
    """

    def __init__(
        self,
        arrays: SharedArrays,
        rank: int,
        shape: RolloutShape,
        wake: RingWake,
        incarnations: IncarnationOf,
        *,
        synchronous: bool = False,
    ) -> None:
        """Make the learner's side; a `synchronous` learner waits for the living as long as it takes."""
        super().__init__(arrays, rank, shape, wake)
        self.valid_mask = np.zeros((shape.num_steps, shape.num_envs), np.bool_)
        self._incarnations, self._synchronous = incarnations, synchronous
        self._present: dict[int, int] = {}
        self._called: dict[int, tuple[int, int]] = {}
        self._first = 0
        self._usual_s = 0.0

    def first_rollout(self) -> int:
        """Return the number of a rollout beyond all that a former life of the learner has begun."""
        used = 0
        for worker in range(self.shape.workers):
            ticket, row = self.call(worker)
            used = max(used, self.committed(worker), self.sent(worker), row + 1 if ticket else 0)
        return used // self.shape.num_steps + 2 if used else 0

    def start_rollout(self, number: int, idle: Idle) -> None:
        """Begin rollout `number`: count in who has answered, and call those who take no part.

        Where nobody does it waits for them, as at the start of a run and after a restart.
        """
        self._first = number * self.shape.num_steps
        self._admit()
        if not self._present:
            self._gather(idle, self._synchronous or number == 0)
        self._call(self._first + self.shape.num_steps)
        self.valid_mask[:] = False
        for worker in self._present:
            self.valid_mask[:, self.shape.envs(worker)] = True

    @property
    def envs(self) -> int:
        """Lanes that take part."""
        spans = map(self.shape.envs, self._present)
        return sum(span.stop - span.start for span in spans)

    def receive(self, row: int, workers: Sequence[int], idle: Idle) -> None:
        """Wait until those of the simulators `workers` that take part have committed row `row`.

        Who has died or is late is left out.
        """
        for worker in workers:
            if worker in self._present and not self._wait_for(worker, row, idle):
                self._leave_out(worker, row)
        memory_fence()

    def send(self, row: int, workers: Sequence[int], actions: npt.NDArray[np.int64]) -> None:
        """Give the actions of row `row`, `[lanes of workers]`, to those that take part."""
        slot, step = divmod(row, self.shape.num_steps)
        first, last = self.shape.envs(workers[0]), self.shape.envs(workers[-1])
        self.slots[slot % NUM_SLOTS].actions[step, first.start : last.stop] = actions
        memory_fence()
        reach("rollouts.acted")
        for worker in workers:
            if worker in self._present:
                self._learner[worker * WORDS_PER_LINE + SENT] = row + 1
                reach("rollouts.sent")
                self.wake.simulators[worker].signal()

    def _absent(self) -> Iterator[tuple[int, int]]:
        """Yield who has arrived in its present life and takes no part: worker and life."""
        for worker in range(self.shape.workers):
            incarnation = self._incarnations(worker)
            if (
                worker not in self._present
                and incarnation is not None
                and self.joined(worker)[0] == incarnation
            ):
                yield worker, incarnation

    def _admit(self) -> None:
        """Count in who has answered the call to the rollout's first row."""
        for worker, incarnation in self._absent():
            ticket = self.joined(worker)[1]
            if ticket and self.call(worker) == (ticket, self._first):
                self._present[worker] = incarnation

    def _call(self, row: int) -> None:
        """Call everyone who is absent to `row`, each life once."""
        for worker, incarnation in self._absent():
            if self._called.get(worker) != (incarnation, row):
                self._called[worker] = (incarnation, row)
                at = worker * WORDS_PER_LINE
                self._learner[at + CALLED_TO] = row
                memory_fence()
                reach("rollouts.called")
                self._learner[at + TICKET] += 1
                self.wake.simulators[worker].signal()

    def _gather(self, idle: Idle, synchronous: bool) -> None:
        """Wait until somebody takes part: all who live, or who is there when patience ends."""
        waited = WaitTimer(self.timeout_s)
        while True:
            self._call(self._first)
            self._admit()
            living = {w for w in range(self.shape.workers) if self._incarnations(w) is not None}
            if self._present and living <= self._present.keys():
                return
            if self._present and waited.expired() and not synchronous:
                return
            idle()
            self.wake.learner.wait(POLL_S)

    @property
    def timeout_s(self) -> float:
        """How long a living simulator is waited for."""
        return max(MIN_TIMEOUT_S, USUAL_WAIT_FACTOR * self._usual_s)

    def _wait_for(self, worker: int, row: int, idle: Idle) -> bool:
        """Wait for a simulator that takes part; returns whether it came."""
        waited: WaitTimer | None = None
        while self.committed(worker) <= row:
            if self._incarnations(worker) != self._present[worker]:
                return False
            waited = waited or WaitTimer(self.timeout_s)
            if waited.expired() and len(self._present) > 1 and not self._synchronous:
                return False
            idle()
            self.wake.learner.wait(POLL_S)
        if waited is not None:
            self._usual_s += 0.1 * (waited.passed_s - self._usual_s)
        return True

    def _leave_out(self, worker: int, row: int) -> None:
        """Trust nothing of a simulator from before row `row` on: that row is not there."""
        del self._present[worker]
        self.valid_mask[max(0, row - self._first - 1) :, self.shape.envs(worker)] = False


class WaitTimer:
    """Measures a wait; a moment in which this process did not run counts for little."""

    def __init__(self, limit_s: float) -> None:
        self.passed_s = 0.0
        self._limit_s, self._then_s = limit_s, time.monotonic()

    def expired(self) -> bool:
        """Whether the wait has lasted for its limit."""
        now_s = time.monotonic()
        self.passed_s += min(now_s - self._then_s, 2 * POLL_S)
        self._then_s = now_s
        return self.passed_s > self._limit_s
