"""The rollout ring between one learner and its simulators.

Observations flow from simulators to the learner, actions flow back:

    simulator s                                                 learner
    arrive: ready to be called                -- joined -->
    join(row): newest observations into row   <-- call ----     invite: absent simulators, to a row
                                              -- joined -->     admit: they take part from there on
    write(row): outcome, next observations    -- committed ->   take(row + 1): wait for the lanes
    actions(row): wait                        <-- sent ----     send(row)

Row n is the n-th observation of the run's present start: row n + 1 follows the actions of row n.
Slot k holds rows k T .. (k + 1) T, so the last row of one slot is the first of the next, written to
both. Actions of a slot are sent only once its former rollout has been learned from, so whoever has
actions may write.

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
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from galamp.crashpoints import reach
from galamp.shm import WORDS_PER_LINE, ArraySpec, SharedArrays, Wakeup, memory_fence

SLOTS = 2
"""Rollouts per learner: the last observations of one are the first of the other."""

POLL_S = 0.1
"""A wait looks at the world (stop, parent, heartbeat) at least so often."""

LEAST_PATIENCE_S = 1.0
"""The learner waits for a living simulator at least so long before it goes on without it."""
USUAL_WAITS = 20.0
"""It waits for so many times as long as it usually has to."""

Idle = Callable[[], None]
"""Called at every turn of a wait; raises to end the wait."""

Lives = Callable[[int], int | None]
"""Says which life (counted from 0) simulator `worker` is in; None while it has none."""

_LIFE = 2**32
"""What a simulator has joined is its life, counted from 1, times this, and the ticket."""

_COMMITTED, _JOINED = range(2)
"""Words of a simulator's line."""
_SENT, _TICKET, _CALLED_TO = range(3)
"""Words of the learner's line for a simulator."""


@dataclass(frozen=True)
class RolloutShape:
    """Sizes of one learner's ring: T steps of B lanes, split over `workers` simulators."""

    num_steps: int
    num_envs: int
    workers: int
    observation_shape: tuple[int, ...]
    observation_dtype: str

    def lanes(self, worker: int) -> slice:
        """Return the lanes of simulator `worker`: contiguous, sizes differing by at most one."""
        return slice(
            self.num_envs * worker // self.workers, self.num_envs * (worker + 1) // self.workers
        )


class Slot(NamedTuple):
    """One rollout as shared arrays: the learner writes actions, the simulators the rest."""

    observations: npt.NDArray[Any]  # [T+1, B, ...]
    actions: npt.NDArray[np.int64]  # [T, B]
    rewards: npt.NDArray[np.float32]  # [T, B] true rewards, never clipped
    terminated: npt.NDArray[np.bool_]  # [T, B]
    truncated: npt.NDArray[np.bool_]  # [T, B]
    valid: npt.NDArray[np.bool_]  # [T, B] False where nothing can be learned from


class RolloutRing:
    """The shared arrays and wake-ups of one learner's ring; both sides' views are made from it."""

    def __init__(
        self, arrays: SharedArrays, rank: int, shape: RolloutShape, wake: RingWake
    ) -> None:
        name = f"rollout{rank}."
        self.shape = shape
        self.wake = wake
        self.slots = [
            Slot(*(arrays[name + part][slot] for part in Slot._fields)) for slot in range(SLOTS)
        ]
        self._simulators = arrays.words(name + "simulators")
        self._learner = arrays.words(name + "learner")

    @staticmethod
    def specs(rank: int, shape: RolloutShape) -> list[ArraySpec]:
        """Return the arrays of learner `rank`'s ring."""
        steps, lanes = shape.num_steps, shape.num_envs
        name = f"rollout{rank}."
        by_step = (SLOTS, steps, lanes)
        observations = (SLOTS, steps + 1, lanes, *shape.observation_shape)
        lines = shape.workers * WORDS_PER_LINE
        return [
            ArraySpec(name + "observations", observations, shape.observation_dtype),
            ArraySpec(name + "actions", by_step, "int64", fill=-1),
            ArraySpec(name + "rewards", by_step, "float32", fill=float("nan")),
            ArraySpec(name + "terminated", by_step, "bool"),
            ArraySpec(name + "truncated", by_step, "bool"),
            ArraySpec(name + "valid", by_step, "bool"),
            ArraySpec(name + "simulators", (lines,), "int64"),
            ArraySpec(name + "learner", (lines,), "int64"),
        ]

    def committed(self, worker: int) -> int:
        """Return how many rows simulator `worker` has committed."""
        return int(self._simulators[worker * WORDS_PER_LINE + _COMMITTED])

    def joined(self, worker: int) -> tuple[int, int]:
        """Return the life of simulator `worker` and the ticket that it last answered.

        Ticket 0: it has arrived, and was not called yet. Life -1: nobody has arrived.
        """
        life, ticket = divmod(self._simulators[worker * WORDS_PER_LINE + _JOINED], _LIFE)
        return int(life) - 1, int(ticket)

    def sent(self, worker: int) -> int:
        """Return the row after the last one whose actions simulator `worker` was sent."""
        return int(self._learner[worker * WORDS_PER_LINE + _SENT])

    def call(self, worker: int) -> tuple[int, int]:
        """Return the newest ticket given to simulator `worker`, and the row it is for."""
        at = worker * WORDS_PER_LINE
        ticket = self._learner[at + _TICKET]
        memory_fence()
        return int(ticket), int(self._learner[at + _CALLED_TO])


class RingWake(NamedTuple):
    """Wake-ups of one ring: one for the learner, one per simulator."""

    learner: Wakeup
    simulators: tuple[Wakeup, ...]

    @classmethod
    def create(cls, workers: int) -> RingWake:
        """Make them, in the supervisor."""
        return cls(Wakeup(), tuple(Wakeup() for _ in range(workers)))


class SimulatorPort(RolloutRing):
    """A simulator's side of the ring, in one of its lives (counted from 0)."""

    def __init__(
        self,
        arrays: SharedArrays,
        rank: int,
        shape: RolloutShape,
        wake: RingWake,
        worker: int,
        life: int = 0,
    ) -> None:
        super().__init__(arrays, rank, shape, wake)
        self.worker = worker
        self.lanes = shape.lanes(worker)
        self._life, self._row = life, -1
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
                return self.slots[slot % SLOTS].actions[step, self.lanes]
            else:
                idle()
                self.wake.simulators[self.worker].wait(POLL_S)

    def write(self, observations: npt.NDArray[Any], **outcome: npt.NDArray[Any]) -> None:
        """Hand the learner what the actions led to: columns of `Slot`, and the next row."""
        slot, step = divmod(self._row, self.shape.num_steps)
        for name, values in outcome.items():
            getattr(self.slots[slot % SLOTS], name)[step, self.lanes] = values
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
        self.slots[slot % SLOTS].observations[step, self.lanes] = observations
        if step == 0 and slot > 0:
            last = self.slots[(slot - 1) % SLOTS]
            last.observations[self.shape.num_steps, self.lanes] = observations
        memory_fence()
        reach("rollouts.written")
        self._simulators[self.worker * WORDS_PER_LINE + _COMMITTED] = self._row + 1
        reach("rollouts.committed")
        self.wake.learner.signal()

    def _join(self, ticket: int) -> None:
        memory_fence()
        self._simulators[self.worker * WORDS_PER_LINE + _JOINED] = (self._life + 1) * _LIFE + ticket
        reach("rollouts.joined")
        self.wake.learner.signal()


class LearnerPort(RolloutRing):
    """The learner's side of the ring; it alone says whose lanes count.

    `trusted` [T, B] says of which transitions of the present rollout everything is there.
    """

    def __init__(
        self,
        arrays: SharedArrays,
        rank: int,
        shape: RolloutShape,
        wake: RingWake,
        lives: Lives,
        *,
        patient: bool = False,
    ) -> None:
        """Make the learner's side; a `patient` learner waits for the living as long as it takes."""
        super().__init__(arrays, rank, shape, wake)
        self.trusted = np.zeros((shape.num_steps, shape.num_envs), np.bool_)
        self._lives, self._patient = lives, patient
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

    def begin(self, number: int, idle: Idle) -> None:
        """Begin rollout `number`: count in who has answered, and call those who take no part.

        Where nobody does it waits for them, as at the start of a run and after a restart.
        """
        self._first = number * self.shape.num_steps
        self._admit()
        if not self._present:
            self._gather(idle, self._patient or number == 0)
        self._call(self._first + self.shape.num_steps)
        self.trusted[:] = False
        for worker in self._present:
            self.trusted[:, self.shape.lanes(worker)] = True

    @property
    def lanes(self) -> int:
        """Lanes that take part."""
        spans = map(self.shape.lanes, self._present)
        return sum(span.stop - span.start for span in spans)

    def take(self, row: int, workers: Sequence[int], idle: Idle) -> None:
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
        first, last = self.shape.lanes(workers[0]), self.shape.lanes(workers[-1])
        self.slots[slot % SLOTS].actions[step, first.start : last.stop] = actions
        memory_fence()
        reach("rollouts.acted")
        for worker in workers:
            if worker in self._present:
                self._learner[worker * WORDS_PER_LINE + _SENT] = row + 1
                reach("rollouts.sent")
                self.wake.simulators[worker].signal()

    def _absent(self) -> Iterator[tuple[int, int]]:
        """Yield who has arrived in its present life and takes no part: worker and life."""
        for worker in range(self.shape.workers):
            life = self._lives(worker)
            if worker not in self._present and life is not None and self.joined(worker)[0] == life:
                yield worker, life

    def _admit(self) -> None:
        """Count in who has answered the call to the rollout's first row."""
        for worker, life in self._absent():
            ticket = self.joined(worker)[1]
            if ticket and self.call(worker) == (ticket, self._first):
                self._present[worker] = life

    def _call(self, row: int) -> None:
        """Call everyone who is absent to `row`, each life once."""
        for worker, life in self._absent():
            if self._called.get(worker) != (life, row):
                self._called[worker] = (life, row)
                at = worker * WORDS_PER_LINE
                self._learner[at + _CALLED_TO] = row
                memory_fence()
                reach("rollouts.called")
                self._learner[at + _TICKET] += 1
                self.wake.simulators[worker].signal()

    def _gather(self, idle: Idle, patient: bool) -> None:
        """Wait until somebody takes part: all who live, or who is there when patience ends."""
        waited = Patience(self.patience_s)
        while True:
            self._call(self._first)
            self._admit()
            living = {w for w in range(self.shape.workers) if self._lives(w) is not None}
            if self._present and living <= self._present.keys():
                return
            if self._present and waited.ends() and not patient:
                return
            idle()
            self.wake.learner.wait(POLL_S)

    @property
    def patience_s(self) -> float:
        """How long a living simulator is waited for."""
        return max(LEAST_PATIENCE_S, USUAL_WAITS * self._usual_s)

    def _wait_for(self, worker: int, row: int, idle: Idle) -> bool:
        """Wait for a simulator that takes part; returns whether it came."""
        waited: Patience | None = None
        while self.committed(worker) <= row:
            if self._lives(worker) != self._present[worker]:
                return False
            waited = waited or Patience(self.patience_s)
            if waited.ends() and len(self._present) > 1 and not self._patient:
                return False
            idle()
            self.wake.learner.wait(POLL_S)
        if waited is not None:
            self._usual_s += 0.1 * (waited.passed_s - self._usual_s)
        return True

    def _leave_out(self, worker: int, row: int) -> None:
        """Trust nothing of a simulator from before row `row` on: that row is not there."""
        del self._present[worker]
        self.trusted[max(0, row - self._first - 1) :, self.shape.lanes(worker)] = False


class Patience:
    """Measures a wait; a moment in which this process did not run counts for little."""

    def __init__(self, limit_s: float) -> None:
        self.passed_s = 0.0
        self._limit_s, self._then_s = limit_s, time.monotonic()

    def ends(self) -> bool:
        """Whether the wait has lasted for its limit."""
        now_s = time.monotonic()
        self.passed_s += min(now_s - self._then_s, 2 * POLL_S)
        self._then_s = now_s
        return self.passed_s > self._limit_s
