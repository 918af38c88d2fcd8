"""Learner state in shared memory: it survives the learner's process.

    learner --save, on request and at its end--> StateSlots --> supervisor: checkpoint on disk
    checkpoint, or earlier incarnation --> StateSlots --restore, at its start--> learner

Each learner has a pair of versioned slots. A state is its flat tensors one after the other (the
algorithm's `state()`), its counters, the state of its sampling generator, and what its normaliser
keeps, if it has one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from galamp.memory.arrays import ArraySpec, SharedArrays
from galamp.memory.versioned_slots import NUM_SLOTS, Header, VersionedSlots, header_spec

STATE_COUNTERS = (
    "agent_steps", "updates", "turns", "rounds", "mixes", "sent", "received", "dropped",
)  # fmt: skip
"""Counters of a status row and its metrics that continue after a restart or a resume."""

GENERATOR_BYTES = 8192
"""Space for the state of a random generator."""
GENERATOR_BYTES_OF = {"cpu": 5056, "cuda": 16}
"""Size of the state of torch's generator on each kind of device."""

FINAL = 2**40
"""Save id of the last state of a learner, at the end of a run."""

READ_TRIES = 5

SAVE_EVERY_STEPS = 160
"""Agent steps of one environment after which synchronous learners all save."""

Sizes = Mapping[str, int]
"""Number of elements of each state tensor of the algorithm, in order."""


NOTHING: npt.NDArray[np.float64] = np.zeros(0)


def save_every_turns(num_steps: int, learners: int) -> int:
    """Return after how many turns, each of so many agent steps, synchronous learners save.

    All save after the same turns, so that all can return to the same one. The longer rollouts are,
    the longer turns take: after a stop or a death no more than some seconds are to be repeated. But
    learners at either end of a ring can be `learners` / 2 turns apart, and each keeps two states:
    the interval is longer than that, so that all have one of the same turn.
    """
    return max(learners, SAVE_EVERY_STEPS // num_steps)


class State(NamedTuple):
    """One saved state, copied out of shared memory."""

    tensors: dict[str, npt.NDArray[np.float32]]
    counters: dict[str, int]
    generator: npt.NDArray[np.uint8]
    normaliser: npt.NDArray[np.float64] = NOTHING
    """What its normaliser keeps; empty without one."""


class StateSlots(VersionedSlots):
    """Learner `rank`'s saved states."""

    def __init__(self, arrays: SharedArrays, rank: int, sizes: Sizes) -> None:
        name = f"state{rank}."
        super().__init__(arrays, name + "header")
        self._sizes = dict(sizes)
        self._tensors = arrays[name + "tensors"]
        self._counters = arrays[name + "counters"]
        self._generator = arrays[name + "generator"]
        self._normaliser = arrays[name + "normaliser"]

    @staticmethod
    def specs(rank: int, sizes: Sizes, normaliser: int = 0) -> list[ArraySpec]:
        """Return the arrays of learner `rank`'s saved states; `normaliser`: numbers of that."""
        name, total = f"state{rank}.", sum(sizes.values())
        return [
            header_spec(name + "header"),
            ArraySpec(name + "tensors", (NUM_SLOTS, total), "float32", math.nan, near=rank),
            ArraySpec(name + "counters", (NUM_SLOTS, len(STATE_COUNTERS) + 1), "int64"),
            ArraySpec(name + "generator", (NUM_SLOTS, GENERATOR_BYTES), "uint8"),
            ArraySpec(name + "normaliser", (NUM_SLOTS, normaliser), "float64"),
        ]

    def save(self, state: State, *, save_id: int, incarnation: int) -> Header:
        """Publish a state under `save_id`; only one process at a time may do so."""
        return self.write(
            lambda slot: self._put(slot, state),
            incarnation=incarnation,
            round_=state.counters["turns"],
            version=save_id,
        )

    def restore(self, turn: int | None = None) -> tuple[State, Header] | None:
        """Return the newest complete state, or that of `turn`; None if there is none."""
        for _ in range(READ_TRIES):
            newest = self.published
            numbers = (newest, newest - 1) if turn is None else (self.saved_turns().get(turn, 0),)
            for number in numbers:
                found = self._copy(number)
                if found is not None:
                    return found
        return None

    def _copy(self, number: int) -> tuple[State, Header] | None:
        parts: list[State] = []
        header = self.read(lambda slot: parts.append(self._get(slot)), number)
        return None if header is None else (parts[-1], header)

    def saved_turns(self) -> dict[int, int]:
        """Return all complete states: turn of the learner -> publication number."""
        numbers = range(max(1, self.published - NUM_SLOTS + 1), self.published + 1)
        reads = [read for number in numbers if (read := self.begin_read(number)) is not None]
        return {read.header.round: read.header.number for read in reads}

    def roll_back(self, turn: int) -> None:
        """Make the saved state of `turn` the only one; only while the learner does not run."""
        found = self.restore(turn)
        assert found is not None, "another process writes while the learner does not run"
        state, header = found
        # A later state would be of the same turn as one that another learner saves from now on.
        for _ in range(NUM_SLOTS):
            self.save(state, save_id=header.version, incarnation=header.incarnation)

    def _put(self, slot: int, state: State) -> None:
        at = 0
        for name, size in self._sizes.items():
            self._tensors[slot, at : at + size] = state.tensors[name].reshape(-1)
            at += size
        length = state.generator.size
        self._generator[slot, :length] = state.generator
        self._normaliser[slot] = state.normaliser
        self._counters[slot, :-1] = [state.counters[name] for name in STATE_COUNTERS]
        self._counters[slot, -1] = length

    def _get(self, slot: int) -> State:
        tensors: dict[str, npt.NDArray[Any]] = {}
        at = 0
        for name, size in self._sizes.items():
            tensors[name] = self._tensors[slot, at : at + size].copy()
            at += size
        *counters, length = self._counters[slot].tolist()
        values = dict(zip(STATE_COUNTERS, counters, strict=True))
        generator = self._generator[slot, :length].copy()
        return State(tensors, values, generator, self._normaliser[slot].copy())


def newest_common_turn(states: Sequence[StateSlots]) -> int | None:
    """Return the newest turn of which all learners have a complete state; None if there is none."""
    turns = [set(each.saved_turns()) for each in states]
    return max(set.intersection(*turns), default=None)
