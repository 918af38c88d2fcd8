"""Ports of a rollout ring: observations go to the learner, actions go back to the simulators.

    simulator s                                                 learner
    arrive: ready to be called                -- joined -->
    answer(row): newest observations into row <-- call ----     start_rollout: call inactive ones
                                              -- joined -->     start_rollout: active from that row
    write(row): outcome, next observations    -- committed ->   receive(row + 1): wait for the row
    actions(row): wait                        <-- sent ----     send(row)

Rollout n is started only after the update on rollout n - slots + 1: with two slots the last one,
with three the one before. A simulator that has actions writes to its slot and, with the last row or
when it is called, to the first row of the next slot. So nothing that it writes is being learned
from.

A simulator is active while the learner uses its environments. The learner drops a simulator that
has died or is late, whatever the algorithm: from the transition that leads to the missing row on,
all of that rollout are invalid, even if it still writes them. V-trace corrects for actions of an
older policy, not for what is not there. The same simulator, or its successor, becomes active again
at the first row of a later rollout: the learner calls it to that row with a new ticket. A simulator
answers only tickets that were issued after its arrival, and only between two steps. So one
incarnation answers a ticket, and its earlier writes are complete by then. A write that a kill has
interrupted lies above the committed count and is never read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from galamp.core.failpoints import hit
from galamp.memory.arrays import WORDS_PER_LINE, SharedArrays, memory_fence
from galamp.memory.rollouts import (
    CALLED_TO,
    COMMITTED,
    INCARNATION,
    JOINED,
    SENT,
    TICKET,
    RingWake,
    RolloutRing,
    RolloutShape,
)

POLL_S = 0.1
"""Longest sleep within a wait; after each, `idle` checks for a stop and counts a heartbeat."""

MIN_TIMEOUT_S = 1.0
"""Shortest time that the learner waits for a live simulator before it continues without it."""
USUAL_WAIT_FACTOR = 20.0
"""The timeout is this many times the usual wait."""

Idle = Callable[[], None]
"""Called in every iteration of a wait; raises to end the wait."""

IncarnationOf = Callable[[int], int | None]
"""Returns the incarnation (from 0) of simulator `worker`; None while it does not run."""


class SimulatorPort(RolloutRing):
    """The simulator's side of the ring, for one incarnation (counted from 0)."""

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
        """Announce this simulator to the learner; it does not answer earlier calls."""
        self._ticket, _ = self.call(self.worker)
        memory_fence()
        self._join(0)

    def actions(self, observations: npt.NDArray[Any], idle: Idle) -> npt.NDArray[Any]:
        """Wait for the actions for `observations`, `[envs, ...]`; return a view `[envs, ...]`.

        If the learner calls during the wait, `observations` become those of the row of the call.
        """
        while True:
            ticket, row = self.call(self.worker)
            if ticket != self._ticket:
                self._answer(ticket, row, observations)
            elif self.sent(self.worker) > self._row >= 0:
                memory_fence()
                slot, step = divmod(self._row, self.shape.num_steps)
                return self.slots[slot % self.shape.slots].actions[step, self.envs]
            else:
                idle()
                self.wake.simulators[self.worker].wait(POLL_S)

    def write(
        self,
        observations: npt.NDArray[Any],
        *,
        first: npt.NDArray[np.bool_] | None = None,
        **outcome: npt.NDArray[Any],
    ) -> None:
        """Write the outcome of the actions (fields of `RolloutSlot`), and the next observations.

        `first` [envs]: the observations are the first of an episode; by default, where the step is
        not `valid`, which was a reset.
        """
        slot, step = divmod(self._row, self.shape.num_steps)
        for name, values in outcome.items():
            getattr(self.slots[slot % self.shape.slots], name)[step, self.envs] = values
        hit("rollouts.outcome")
        self._row += 1
        self._commit(observations, first=~outcome["valid"] if first is None else first)

    def _answer(self, ticket: int, row: int, observations: npt.NDArray[Any]) -> None:
        """Answer a call: this simulator is active from `row` on.

        The learner's policy may have missed steps of it, so nothing comes before this row.
        """
        self._ticket, self._row = ticket, row
        self._commit(observations, first=True)
        self._join(ticket)

    def _commit(self, observations: npt.NDArray[Any], *, first: npt.NDArray[Any] | bool) -> None:
        """Write the current row of its environments, into both slots that share the row."""
        slot, step = divmod(self._row, self.shape.num_steps)
        self._write_row(slot, step, observations, first)
        if step == 0 and slot > 0:
            self._write_row(slot - 1, self.shape.num_steps, observations, first)
        memory_fence()
        hit("rollouts.written")
        self._simulators[self.worker * WORDS_PER_LINE + COMMITTED] = self._row + 1
        hit("rollouts.committed")
        self.wake.learner.signal()

    def _write_row(
        self, slot: int, step: int, observations: npt.NDArray[Any], first: npt.NDArray[Any] | bool
    ) -> None:
        to = self.slots[slot % self.shape.slots]
        to.observations[step, self.envs] = observations
        to.first[step, self.envs] = first

    def _join(self, ticket: int) -> None:
        memory_fence()
        self._simulators[self.worker * WORDS_PER_LINE + JOINED] = (
            self._incarnation + 1
        ) * INCARNATION + ticket
        hit("rollouts.joined")
        self.wake.learner.signal()


class LearnerPort(RolloutRing):
    """The learner's side of the ring; the learner alone decides which simulators are active.

    `valid_mask` [T, B] bool: the transitions of the current rollout that are complete.
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
        """Create the port; a `synchronous` learner waits for live simulators without a timeout."""
        super().__init__(arrays, rank, shape, wake)
        self.valid_mask = np.zeros((shape.num_steps, shape.num_envs), np.bool_)
        self._incarnations, self._synchronous = incarnations, synchronous
        self._active: dict[int, int] = {}
        self._called: dict[int, tuple[int, int]] = {}
        self._first = 0
        self._usual_s = 0.0

    def first_rollout(self) -> int:
        """Return a number above all rollouts that earlier incarnations of the learner started."""
        used = 0
        for worker in range(self.shape.workers):
            ticket, row = self.call(worker)
            used = max(used, self.committed(worker), self.sent(worker), row + 1 if ticket else 0)
        return used // self.shape.num_steps + 2 if used else 0

    def start_rollout(self, number: int, idle: Idle) -> None:
        """Start rollout `number`: activate simulators that have answered, and call inactive ones.

        If no simulator is active, as at the start of a run and after a restart, wait for them.
        """
        self._first = number * self.shape.num_steps
        self._activate()
        if not self._active:
            self._wait_for_active(idle, all_live=self._synchronous or number == 0)
        self._call(self._first + self.shape.num_steps)
        self.valid_mask[:] = False
        for worker in self._active:
            self.valid_mask[:, self.shape.envs(worker)] = True

    @property
    def envs(self) -> int:
        """Number of environments of active simulators."""
        spans = map(self.shape.envs, self._active)
        return sum(span.stop - span.start for span in spans)

    def receive(self, row: int, workers: Sequence[int], idle: Idle) -> None:
        """Wait until the active ones of the simulators `workers` have committed row `row`.

        A simulator that has died or is late is dropped.
        """
        for worker in workers:
            if worker in self._active and not self._wait_for(worker, row, idle):
                self._drop(worker, row)
        memory_fence()

    def send(self, row: int, workers: Sequence[int], actions: npt.NDArray[Any]) -> None:
        """Send the actions of row `row`, `[environments of workers, ...]`, to active simulators."""
        slot, step = divmod(row, self.shape.num_steps)
        first, last = self.shape.envs(workers[0]), self.shape.envs(workers[-1])
        self.slots[slot % self.shape.slots].actions[step, first.start : last.stop] = actions
        memory_fence()
        hit("rollouts.acted")
        for worker in workers:
            if worker in self._active:
                self._learner[worker * WORDS_PER_LINE + SENT] = row + 1
                hit("rollouts.sent")
                self.wake.simulators[worker].signal()

    def _inactive(self) -> Iterator[tuple[int, int]]:
        """Yield (worker, incarnation) of simulators that have arrived but are not active."""
        for worker in range(self.shape.workers):
            incarnation = self._incarnations(worker)
            if (
                worker not in self._active
                and incarnation is not None
                and self.joined(worker)[0] == incarnation
            ):
                yield worker, incarnation

    def _activate(self) -> None:
        """Activate simulators that have answered the call to the first row of the rollout."""
        for worker, incarnation in self._inactive():
            ticket = self.joined(worker)[1]
            if ticket and self.call(worker) == (ticket, self._first):
                self._active[worker] = incarnation

    def _call(self, row: int) -> None:
        """Call all inactive simulators to `row`, each incarnation once."""
        for worker, incarnation in self._inactive():
            if self._called.get(worker) != (incarnation, row):
                self._called[worker] = (incarnation, row)
                at = worker * WORDS_PER_LINE
                self._learner[at + CALLED_TO] = row
                memory_fence()
                hit("rollouts.called")
                self._learner[at + TICKET] += 1
                self.wake.simulators[worker].signal()

    def _wait_for_active(self, idle: Idle, *, all_live: bool) -> None:
        """Wait until all live simulators are active.

        Unless `all_live`, one active simulator is enough after the timeout.
        """
        timer = WaitTimer(self.timeout_s)
        while True:
            self._call(self._first)
            self._activate()
            live = {w for w in range(self.shape.workers) if self._incarnations(w) is not None}
            if self._active and live <= self._active.keys():
                return
            if self._active and timer.expired() and not all_live:
                return
            idle()
            self.wake.learner.wait(POLL_S)

    @property
    def timeout_s(self) -> float:
        """Longest wait for a live simulator, in seconds."""
        return max(MIN_TIMEOUT_S, USUAL_WAIT_FACTOR * self._usual_s)

    def _wait_for(self, worker: int, row: int, idle: Idle) -> bool:
        """Wait for row `row` of an active simulator; return whether it was committed in time."""
        timer: WaitTimer | None = None
        while self.committed(worker) <= row:
            if self._incarnations(worker) != self._active[worker]:
                return False
            timer = timer or WaitTimer(self.timeout_s)
            if timer.expired() and len(self._active) > 1 and not self._synchronous:
                return False
            idle()
            self.wake.learner.wait(POLL_S)
        if timer is not None:
            self._usual_s += 0.1 * (timer.passed_s - self._usual_s)
        return True

    def _drop(self, worker: int, row: int) -> None:
        """Drop a simulator; its transitions are invalid from the one that leads to `row` on."""
        del self._active[worker]
        self.valid_mask[max(0, row - self._first - 1) :, self.shape.envs(worker)] = False


class WaitTimer:
    """Timer of a wait; a time in which this process was suspended counts as 2 `POLL_S` at most."""

    def __init__(self, limit_s: float) -> None:
        self.passed_s = 0.0
        self._limit_s, self._last_s = limit_s, time.monotonic()

    def expired(self) -> bool:
        """Whether the limit has passed; call it in every iteration of the wait."""
        now_s = time.monotonic()
        self.passed_s += min(now_s - self._last_s, 2 * POLL_S)
        self._last_s = now_s
        return self.passed_s > self._limit_s
