"""Saved states of learners that go back in lock-step: what they leave is never gone back to."""

from __future__ import annotations

import numpy as np
import pytest

from galamp.memory.arrays import SharedArrays
from galamp.memory.learner_state import STATE_COUNTERS, State, StateSlots, newest_common_turn

SIZES = {"parameters": 2}


@pytest.fixture
def learners() -> list[StateSlots]:
    arrays = SharedArrays.create(
        [spec for rank in (0, 1) for spec in StateSlots.specs(rank, SIZES)]
    )
    return [StateSlots(arrays, rank, SIZES) for rank in (0, 1)]


def save(states: StateSlots, turn: int, timeline: float = 1.0) -> None:
    counters = dict.fromkeys(STATE_COUNTERS, 0) | {"turns": turn}
    tensors = {"parameters": np.full(2, timeline, np.float32)}
    state = State(tensors, counters, np.zeros(4, np.uint8))
    states.save(state, save_id=turn, incarnation=0)


@pytest.mark.parametrize("turn", [10, 20])
def test_who_goes_back_to_a_turn_keeps_that_one_alone(
    learners: list[StateSlots], turn: int
) -> None:
    states = learners[0]
    save(states, 10, timeline=10.0)
    save(states, 20, timeline=20.0)
    states.roll_back(turn)
    assert set(states.saved_turns()) == {turn}
    for found in (states.restore(), states.restore(turn)):
        assert found is not None
        state, header = found
        assert (header.round, header.version) == (turn, turn)
        assert state.tensors["parameters"].tolist() == [float(turn)] * 2


def test_a_turn_of_before_and_of_after_going_back_are_not_the_same(
    learners: list[StateSlots],
) -> None:
    """One learner had got further before all went back, the other one gets there first after it."""
    first, second = learners
    for states in learners:
        save(states, 10)
    save(first, 20)
    for states in learners:
        states.roll_back(10)
    save(second, 20, timeline=2.0)
    assert newest_common_turn(learners) == 10
    save(first, 20, timeline=2.0)
    assert newest_common_turn(learners) == 20
