"""Rollout ring between one learner and its simulators: its layout in shared memory.

    slots: observations, actions, outcomes of two rollouts,    a line of words per simulator
           of three with `--pipeline`
    written by: simulators, each for its environments;         committed, joined: simulator
                the learner (actions)                          sent, ticket, called to: learner

Row n is the n-th observation since this start of the run: row n + 1 follows the actions of row n.
Rollout k has the rows k T to (k + 1) T. So the last row of one rollout is the first row of the next
one, and is written to both slots. `rollout_ports` describes the protocol of the two sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from galamp.memory.arrays import WORDS_PER_LINE, ArraySpec, SharedArrays, Wakeup, memory_fence

NUM_SLOTS = 2
"""Rollouts per learner: the last observations of one are the first of the other."""
PIPELINE_SLOTS = 3
"""The same where one rollout is learned from while the next one is collected."""

INCARNATION = 2**32
"""The word JOINED is (incarnation + 1) * INCARNATION + ticket."""

COMMITTED, JOINED = range(2)
"""Words that a simulator writes, by index in its line."""
SENT, TICKET, CALLED_TO = range(3)
"""Words that the learner writes for a simulator, by index in its line."""


@dataclass(frozen=True)
class RolloutShape:
    """Sizes of one learner's ring: rollouts [T, B], B environments over `workers` simulators.

    Rollout k is in slot k modulo `slots`.
    """

    num_steps: int
    num_envs: int
    workers: int
    observation_shape: tuple[int, ...]
    observation_dtype: str
    action_shape: tuple[int, ...] = ()
    action_dtype: str = "int64"
    slots: int = NUM_SLOTS

    def envs(self, worker: int) -> slice:
        """Return simulator `worker`'s environments: contiguous, sizes differ by at most one."""
        return slice(
            self.num_envs * worker // self.workers, self.num_envs * (worker + 1) // self.workers
        )


class RolloutSlot(NamedTuple):
    """One rollout as shared arrays: the learner writes the actions, the simulators all others."""

    observations: npt.NDArray[Any]  # [T+1, B, ...]
    actions: npt.NDArray[Any]  # [T, B, ...]
    rewards: npt.NDArray[np.float32]  # [T, B] true rewards, rounded, never clipped
    terminated: npt.NDArray[np.bool_]  # [T, B]
    truncated: npt.NDArray[np.bool_]  # [T, B]
    valid: npt.NDArray[np.bool_]  # [T, B] False where the transition must not be learned from
    first: npt.NDArray[np.bool_]  # [T+1, B] the first observation of an episode, or after a call


class RolloutRing:
    """Shared arrays and wake-ups of one learner's ring; the base of both ports."""

    def __init__(
        self, arrays: SharedArrays, rank: int, shape: RolloutShape, wake: RingWake
    ) -> None:
        name = f"rollout{rank}."
        self._arrays, self._name = arrays, name
        self.shape = shape
        self.wake = wake
        self.slots = [
            RolloutSlot(*(arrays[name + part][slot] for part in RolloutSlot._fields))
            for slot in range(shape.slots)
        ]
        self._simulators = arrays.words(name + "simulators")
        self._learner = arrays.words(name + "learner")

    @staticmethod
    def specs(rank: int, shape: RolloutShape) -> list[ArraySpec]:
        """Return the arrays of learner `rank`'s ring."""
        steps, envs = shape.num_steps, shape.num_envs
        name = f"rollout{rank}."
        by_step = (shape.slots, steps, envs)
        observations = (shape.slots, steps + 1, envs, *shape.observation_shape)
        actions = (*by_step, *shape.action_shape)
        lines = shape.workers * WORDS_PER_LINE
        return [
            ArraySpec(name + "observations", observations, shape.observation_dtype, near=rank),
            ArraySpec(name + "actions", actions, shape.action_dtype, fill=-1),
            ArraySpec(name + "rewards", by_step, "float32", fill=float("nan")),
            ArraySpec(name + "terminated", by_step, "bool"),
            ArraySpec(name + "truncated", by_step, "bool"),
            ArraySpec(name + "valid", by_step, "bool"),
            ArraySpec(name + "first", (shape.slots, steps + 1, envs), "bool"),
            ArraySpec(name + "simulators", (lines,), "int64"),
            ArraySpec(name + "learner", (lines,), "int64"),
        ]

    def page_lock(self) -> int:
        """Page-lock the observations of all slots; see `SharedArrays.page_lock`."""
        return self._arrays.page_lock(self._name + "observations")

    def committed(self, worker: int) -> int:
        """Return the number of rows that simulator `worker` has committed."""
        return int(self._simulators[worker * WORDS_PER_LINE + COMMITTED])

    def joined(self, worker: int) -> tuple[int, int]:
        """Return the incarnation of simulator `worker` and the last ticket that it has answered.

        Ticket 0: it has arrived, and was not called yet. Incarnation -1: no simulator has arrived.
        """
        incarnation, ticket = divmod(
            self._simulators[worker * WORDS_PER_LINE + JOINED], INCARNATION
        )
        return int(incarnation) - 1, int(ticket)

    def sent(self, worker: int) -> int:
        """Return 1 + the last row whose actions were sent to simulator `worker`."""
        return int(self._learner[worker * WORDS_PER_LINE + SENT])

    def call(self, worker: int) -> tuple[int, int]:
        """Return the newest ticket for simulator `worker`, and the row that it calls to."""
        at = worker * WORDS_PER_LINE
        ticket = self._learner[at + TICKET]
        memory_fence()
        return int(ticket), int(self._learner[at + CALLED_TO])


class RingWake(NamedTuple):
    """Wake-ups of one ring: one for the learner, one per simulator."""

    learner: Wakeup
    simulators: tuple[Wakeup, ...]

    @classmethod
    def create(cls, workers: int) -> RingWake:
        """Create the wake-ups, in the supervisor."""
        return cls(Wakeup(), tuple(Wakeup() for _ in range(workers)))
