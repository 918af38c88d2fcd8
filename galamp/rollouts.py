"""The rollout ring between one learner and its simulators.

Observations flow from simulators to the learner, actions and free slots flow back:

    simulator s                                             learner
    claim(row) -> views, write them -- commit(row) -->  take(row): wait for the lanes
    actions(row): wait              <-- send(row) ----  actions written into the slot
    claim waits for a free slot     <-- release(slot) - the update is done

Row n is the n-th observation of the run's present start: row 0 is the reset, row n + 1 follows the
actions of row n. Slot k holds rows k T .. (k + 1) T, so the last row of one slot is the first of
the next, written to both. Simulators write only their own lanes. What a dead simulator was
writing lies above its committed count and is never read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from galamp.shm import WORDS_PER_LINE, ArraySpec, SharedArrays, Wakeup, memory_fence

SLOTS = 2
"""Rollouts in flight per learner: one being filled while the other is learned from."""

POLL_S = 0.1
"""A wait looks at the world (stop, parent, heartbeat) at least so often."""

Idle = Callable[[], None]
"""Called at every turn of a wait; raises to end the wait."""


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
        self._committed = arrays.words(name + "committed")
        self._sent = arrays.words(name + "sent")
        self._released = arrays.words(name + "released")

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
            ArraySpec(name + "committed", (lines,), "int64"),
            ArraySpec(name + "sent", (lines,), "int64"),
            ArraySpec(name + "released", (WORDS_PER_LINE,), "int64"),
        ]

    def committed(self, worker: int) -> int:
        """Return how many rows simulator `worker` has committed."""
        return int(self._committed[worker * WORDS_PER_LINE])

    def sent(self, worker: int) -> int:
        """Return how many rows of actions simulator `worker` was sent."""
        return int(self._sent[worker * WORDS_PER_LINE])


class RingWake(NamedTuple):
    """Wake-ups of one ring: one for the learner, one per simulator."""

    learner: Wakeup
    simulators: tuple[Wakeup, ...]

    @classmethod
    def create(cls, workers: int) -> RingWake:
        """Make them, in the supervisor."""
        return cls(Wakeup(), tuple(Wakeup() for _ in range(workers)))


class SimulatorPort(RolloutRing):
    """A simulator's side of the ring."""

    def __init__(
        self, arrays: SharedArrays, rank: int, shape: RolloutShape, wake: RingWake, worker: int
    ) -> None:
        super().__init__(arrays, rank, shape, wake)
        self.worker = worker
        self.lanes = shape.lanes(worker)

    def claim(self, row: int, idle: Idle) -> None:
        """Wait until the slot that row `row` begins is free; other rows are free already."""
        slot, step = divmod(row, self.shape.num_steps)
        while step == 0 and slot - self._released[0] >= SLOTS:
            idle()
            self.wake.simulators[self.worker].wait(POLL_S)

    def write_observations(self, row: int, observations: npt.NDArray[Any]) -> None:
        """Write row `row` of the own lanes, into both slots that share it."""
        slot, step = divmod(row, self.shape.num_steps)
        self.slots[slot % SLOTS].observations[step, self.lanes] = observations
        if step == 0 and slot > 0:
            last = self.slots[(slot - 1) % SLOTS]
            last.observations[self.shape.num_steps, self.lanes] = observations

    def write_outcome(self, row: int, **columns: npt.NDArray[Any]) -> None:
        """Write what the actions of row `row` led to: columns of `Slot` for the own lanes."""
        slot, step = divmod(row, self.shape.num_steps)
        for name, values in columns.items():
            getattr(self.slots[slot % SLOTS], name)[step, self.lanes] = values

    def commit(self, row: int) -> None:
        """Hand row `row` to the learner."""
        memory_fence()
        self._committed[self.worker * WORDS_PER_LINE] = row + 1
        self.wake.learner.signal()

    def actions(self, row: int, idle: Idle) -> npt.NDArray[np.int64]:
        """Wait for the actions of row `row`; returns a view of the own lanes."""
        at = self.worker * WORDS_PER_LINE
        while self._sent[at] <= row:
            idle()
            self.wake.simulators[self.worker].wait(POLL_S)
        memory_fence()
        slot, step = divmod(row, self.shape.num_steps)
        return self.slots[slot % SLOTS].actions[step, self.lanes]


class LearnerPort(RolloutRing):
    """The learner's side of the ring."""

    def take(self, row: int, workers: Sequence[int], idle: Idle) -> None:
        """Wait until the simulators `workers` have committed row `row`.

        A simulator that dies or hangs is the supervisor's to notice; it then ends the wait
        through `idle`.
        """
        for worker in workers:
            while self.committed(worker) <= row:
                idle()
                self.wake.learner.wait(POLL_S)
        memory_fence()

    def send(self, row: int, workers: Sequence[int], actions: npt.NDArray[np.int64]) -> None:
        """Give the actions of row `row`, `[lanes of workers]`, to those simulators."""
        slot, step = divmod(row, self.shape.num_steps)
        first, last = self.shape.lanes(workers[0]), self.shape.lanes(workers[-1])
        self.slots[slot % SLOTS].actions[step, first.start : last.stop] = actions
        memory_fence()
        for worker in workers:
            self._sent[worker * WORDS_PER_LINE] = row + 1
            self.wake.simulators[worker].signal()

    def release(self, slot: int) -> None:
        """Free slot `slot`, whose rollout has been learned from.

        No signal: a simulator waits for actions, which come after this, hardly ever for a slot.
        """
        memory_fence()
        self._released[0] = slot + 1
