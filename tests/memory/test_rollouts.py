"""The ring between a learner and its simulators: who takes part, and whose environments count."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from galamp.memory import rollout_ports
from galamp.memory.arrays import SharedArrays
from galamp.memory.rollout_ports import LearnerPort, SimulatorPort
from galamp.memory.rollouts import (
    NUM_SLOTS,
    PIPELINE_SLOTS,
    RingWake,
    RolloutRing,
    RolloutShape,
)

T = 3


class Blocked(Exception):
    """Whoever runs would have to wait."""


def blocked() -> None:
    raise Blocked


class Simulator:
    """A simulator whose observations are serial numbers, different in every incarnation."""

    def __init__(self, ring: Ring, worker: int, incarnation: int) -> None:
        self.port = SimulatorPort(ring.arrays, 0, ring.shape, ring.wake, worker, incarnation)
        self.serial = 1000 * (1 + incarnation) + 100_000 * worker
        self.acted: dict[int, int] = {}
        self.resets: set[int] = set()
        self.begun: set[int] = set()
        self.port.arrive()

    def advance(self) -> bool:
        """Do one step if there are actions for it; returns whether there were."""
        envs = self.port.envs.stop - self.port.envs.start
        try:
            actions = self.port.actions(np.full((envs, 1), self.serial, np.float32), blocked)
        except Blocked:
            return False
        self.acted[self.serial] = int(actions[0])
        self.serial += 1
        self.port.write(
            np.full((envs, 1), self.serial, np.float32),
            rewards=np.full(envs, self.serial, np.float32),
            terminated=np.zeros(envs, np.bool_),
            truncated=np.zeros(envs, np.bool_),
            valid=np.full(envs, self.serial not in self.resets),
            first=np.full(envs, self.serial in self.begun) if self.begun else None,
        )
        return True


class Ring:
    """One learner and its simulators, with two environments each, all in this process."""

    def __init__(self, workers: int, *, synchronous: bool = False, slots: int = NUM_SLOTS) -> None:
        self.shape = RolloutShape(T, 2 * workers, workers, (1,), "float32", slots=slots)
        self.pending: tuple[int, dict[str, Any]] | None = None
        self.arrays = SharedArrays.create(RolloutRing.specs(0, self.shape))
        self.wake = RingWake.create(workers)
        self.incarnations: dict[int, int | None] = dict.fromkeys(range(workers), None)
        self.simulators: dict[int, Simulator] = {}
        self.resume_point: list[Simulator] = []
        self.synchronous = synchronous
        self.in_vain = 0
        self.learner = self.new_learner()

    def new_learner(self) -> LearnerPort:
        return LearnerPort(
            self.arrays,
            0,
            self.shape,
            self.wake,
            self.incarnations.__getitem__,
            synchronous=self.synchronous,
        )

    def start(self, worker: int, incarnation: int) -> Simulator:
        self.incarnations[worker] = incarnation
        self.simulators[worker] = Simulator(self, worker, incarnation)
        return self.simulators[worker]

    def kill(self, worker: int) -> None:
        self.resume_point.append(self.simulators.pop(worker))
        self.incarnations[worker] = None

    def work(self) -> None:
        """What a learner calls while it waits: whoever can go on does."""
        moved = [simulator.advance() for simulator in self.simulators.values()]
        self.in_vain = 0 if any(moved) else self.in_vain + 1
        if self.in_vain > 20:
            raise Blocked

    def rollout(self, number: int) -> None:
        """Collect a rollout; actions are numbers of their own."""
        self.learner.start_rollout(number, self.work)
        everyone = range(self.shape.workers)
        for step in range(T):
            row = number * T + step
            self.learner.receive(row, everyone, self.work)
            self.learner.send(row, everyone, np.full(self.shape.num_envs, 7 * row))
        self.learner.receive(number * T + T, everyone, self.work)
        self.check(number)
        if self.shape.slots > NUM_SLOTS:
            self.check_pending(number)

    def check_pending(self, number: int) -> None:
        """What is learned from while this rollout was collected is what it was before."""
        if self.pending is not None:
            before, found = self.pending[1], self.trusted(self.pending[0], self.pending[1]["mask"])
            assert all(np.array_equal(before[name], found[name]) for name in before)
        self.pending = number, self.trusted(number, self.learner.valid_mask.copy())

    def trusted(self, number: int, mask: Any) -> dict[str, Any]:
        """Return copies of what counts in a rollout."""
        slot = self.learner.slots[number % self.shape.slots]
        counted = {
            name: getattr(slot, name)[:T][mask] for name in slot._fields if name != "observations"
        }
        after = slot.observations[1:][mask]
        return {**counted, "before": slot.observations[:T][mask], "after": after, "mask": mask}

    def check(self, number: int) -> None:
        """Whatever is trusted is what one incarnation did with just these actions."""
        slot = self.learner.slots[number % self.shape.slots]
        by_serial = {
            serial: action
            for simulator in [*self.simulators.values(), *self.resume_point]
            for serial, action in simulator.acted.items()
        }
        for step, env_index in np.argwhere(self.learner.valid_mask):
            before, after = slot.observations[step : step + 2, env_index, 0]
            assert after == before + 1
            assert slot.rewards[step, env_index] == after
            assert (
                by_serial[int(before)] == slot.actions[step, env_index] == 7 * (number * T + step)
            )


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout_ports, "POLL_S", 0.001)


def test_all_take_part_from_the_first_row() -> None:
    ring = Ring(2)
    for worker in range(2):
        ring.start(worker, 0)
    for number in range(4):
        ring.rollout(number)
        assert ring.learner.valid_mask.all()
        assert ring.learner.envs == 4


def test_the_environments_of_a_dead_simulator_do_not_count_from_its_death_on() -> None:
    ring = Ring(2)
    for worker in range(2):
        ring.start(worker, 0)
    ring.rollout(0)
    ring.learner.start_rollout(1, ring.work)
    for step in range(T):
        if step == 2:
            ring.kill(1)
        ring.learner.receive(T + step, range(2), ring.work)
        ring.learner.send(T + step, range(2), np.full(4, 7 * (T + step)))
        ring.simulators[0].advance()
        if step == 0:
            ring.simulators[1].advance()
    ring.learner.receive(2 * T, range(2), ring.work)
    ring.check(1)
    # It had answered step 0; what followed is not there.
    half = [True, True, False, False]
    assert ring.learner.valid_mask.tolist() == [[True] * 4, half, half]
    ring.rollout(2)
    assert ring.learner.envs == 2


def test_a_successor_takes_part_from_the_first_row_of_a_later_rollout() -> None:
    ring = Ring(2)
    for worker in range(2):
        ring.start(worker, 0)
    ring.rollout(0)
    ring.kill(1)
    ring.rollout(1)
    ring.start(1, 1)
    ring.rollout(2)  # calls it
    assert not ring.learner.valid_mask[:, 2:].any()
    ring.rollout(3)
    assert ring.learner.valid_mask.all()


def test_an_observation_is_the_first_at_the_start_and_after_a_reset() -> None:
    ring = Ring(2)
    for worker in range(2):
        ring.start(worker, 0)
    # Observations of the second simulator in its rows 2, 3 (shared by two rollouts) and 7.
    ring.simulators[1].resets = {101_002, 101_003, 101_007}
    found = []
    for number in range(3):
        ring.rollout(number)
        found.append(ring.learner.slots[number % NUM_SLOTS].first.copy())
    rows = [first[:, environment].tolist() for environment in (0, 3) for first in found]
    never = [False] * (T + 1)
    assert rows[:3] == [[True, False, False, False], never, never]
    assert rows[3:] == [[True, False, True, True], [True, *never[1:]], [False, True, False, False]]
    assert all((first[:, 0::2] == first[:, 1::2]).all() for first in found)


def test_a_first_observation_need_not_follow_a_reset() -> None:
    """Environments that reset in the same step say themselves where an episode begins."""
    ring = Ring(1)
    ring.start(0, 0)
    ring.simulators[0].resets, ring.simulators[0].begun = {1_001}, {1_001, 1_003}
    ring.rollout(0)
    slot = ring.learner.slots[0]
    assert slot.first[:, 0].tolist() == [True, True, False, True]
    assert slot.valid[:, 0].tolist() == [False, True, True]


def test_what_a_simulator_shows_first_after_it_was_away_is_a_first_observation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A successor's, that of one that was late, and everyone's for a new learner."""
    monkeypatch.setattr(rollout_ports, "MIN_TIMEOUT_S", 0.01)
    ring, number = Ring(2), [0]

    def first() -> list[list[bool]]:
        ring.rollout(number[0])
        rows: list[list[bool]] = ring.learner.slots[number[0] % NUM_SLOTS].first[:T].tolist()
        number[0] += 1
        return rows

    for worker in range(2):
        ring.start(worker, 0)
    first()
    ring.kill(1)
    first()
    ring.start(1, 1)
    first()  # calls it
    joined, nobody = [False, False, True, True], [False] * 4
    assert first() == [joined, nobody, nobody]
    assert first() == [nobody, nobody, nobody]
    late = ring.simulators.pop(1)
    first()
    ring.simulators[1] = late
    first()
    assert not ring.learner.valid_mask[:, 2:].any()
    assert first() == [joined, nobody, nobody]
    ring.learner = ring.new_learner()
    number[0] = ring.learner.first_rollout()
    assert first() == [[True] * 4, nobody, nobody]


def test_a_new_life_does_not_answer_a_call_to_a_former_one() -> None:
    ring = Ring(1)
    simulator = ring.start(0, 0)
    with pytest.raises(Blocked):
        ring.learner.start_rollout(0, blocked)
    assert ring.learner.call(0) == (1, 0)
    ring.kill(0)
    simulator = ring.start(0, 1)
    assert not simulator.advance()
    assert ring.learner.joined(0) == (1, 0)
    ring.rollout(0)
    assert ring.learner.joined(0) == (1, 2)


def test_who_is_late_is_left_out_and_called_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout_ports, "MIN_TIMEOUT_S", 0.01)
    ring = Ring(2)
    for worker in range(2):
        ring.start(worker, 0)
    ring.rollout(0)
    sleeper = ring.simulators.pop(1)
    for number in (1, 2):
        ring.learner.start_rollout(number, lambda: None)
        for step in range(T):
            row = number * T + step
            ring.learner.receive(row, range(2), lambda: ring.simulators[0].advance())
            ring.learner.send(row, range(2), np.full(4, 7 * row))
            ring.simulators[0].advance()
        ring.learner.receive(number * T + T, range(2), lambda: None)
        ring.check(number)
        assert ring.learner.envs == 2
    ring.simulators[1] = sleeper
    while sleeper.advance():
        pass  # late, it still writes what nobody trusts any more
    ring.rollout(3)
    ring.rollout(4)
    assert ring.learner.valid_mask.all()


@pytest.mark.parametrize(("workers", "synchronous"), [(1, False), (2, True)])
def test_the_last_one_and_lock_step_are_waited_for(
    workers: int, synchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout_ports, "MIN_TIMEOUT_S", 0.0)
    ring = Ring(workers, synchronous=synchronous)
    for worker in range(workers):
        ring.start(worker, 0)
    ring.rollout(0)
    ring.learner.start_rollout(1, ring.work)
    ring.learner.receive(T, range(workers), ring.work)
    ring.learner.send(T, range(workers), np.zeros(2 * workers, np.int64))
    turns = []

    def idle() -> None:
        turns.append(1)
        if len(turns) == 50:
            ring.work()

    ring.learner.receive(T + 1, range(workers), idle)
    assert len(turns) >= 50
    assert ring.learner.valid_mask.all()


def test_a_new_learner_begins_beyond_what_the_former_one_has_used() -> None:
    ring = Ring(2)
    for worker in range(2):
        ring.start(worker, 0)
    assert ring.learner.first_rollout() == 0
    for number in range(3):
        ring.rollout(number)
    ring.simulators[0].advance()
    ring.learner = ring.new_learner()
    first = ring.learner.first_rollout()
    assert first * T > max(ring.learner.committed(worker) for worker in range(2))
    for number in range(first, first + 3):
        ring.rollout(number)
        assert ring.learner.valid_mask.all()


def test_nobody_is_there_until_somebody_comes() -> None:
    ring = Ring(2)
    turns = []

    def idle() -> None:
        turns.append(1)
        if len(turns) == 20:
            ring.start(0, 0)
        elif turns:
            for simulator in ring.simulators.values():
                simulator.advance()

    ring.learner.start_rollout(0, idle)
    assert len(turns) > 20
    assert ring.learner.envs == 2


@pytest.mark.parametrize(
    ("seed", "slots"),
    [*((n, NUM_SLOTS) for n in range(30)), *((n, PIPELINE_SLOTS) for n in range(10))],
)
def test_whatever_happens_what_is_trusted_is_true(
    seed: int, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deaths, restarts, sleep and new learners at random: `check` looks at every rollout.

    With three slots at the rollout before as well, which may still be learned from.
    """
    monkeypatch.setattr(rollout_ports, "MIN_TIMEOUT_S", 0.0)
    monkeypatch.setattr(rollout_ports, "USUAL_WAIT_FACTOR", 0.0)
    rng = random.Random(seed)
    ring = Ring(3, slots=slots)
    incarnations = dict.fromkeys(range(3), -1)
    asleep: set[int] = set()

    def fate() -> None:
        worker = rng.randrange(3)
        chance = rng.random()
        if worker not in ring.simulators:
            incarnations[worker] += 1
            ring.start(worker, incarnations[worker])
            asleep.discard(worker)
        elif chance < 0.04:
            ring.kill(worker)
        elif chance < 0.08:
            asleep.symmetric_difference_update({worker})
        for each, simulator in list(ring.simulators.items()):
            if each not in asleep and rng.random() < 0.7:
                simulator.advance()

    valid_mask = rounds = 0
    number = 0
    monkeypatch.setattr(ring, "work", fate)
    for _ in range(40):
        ring.rollout(number)
        valid_mask += int(ring.learner.valid_mask.sum())
        rounds += 1
        number += 1
        if rng.random() < 0.05:
            ring.learner, ring.pending = ring.new_learner(), None
            number = ring.learner.first_rollout()
    assert valid_mask > 0.1 * rounds * T * ring.shape.num_envs


def test_the_search_for_a_mixture_finds_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulator that answers its former incarnation's calls mixes observations of both."""

    def answers_everything(port: Any) -> None:
        port._ticket = 0
        port._join(0)

    ring = Ring(1)
    ring.start(0, 0)
    ring.learner.start_rollout(0, ring.work)
    ring.learner.receive(0, [0], ring.work)
    ring.learner.send(0, [0], np.zeros(2, np.int64))
    ring.simulators[0].advance()
    monkeypatch.setattr(SimulatorPort, "arrive", answers_everything)
    ring.resume_point.append(ring.simulators.pop(0))
    Simulator(ring, 0, 1).advance()  # the learner has not heard of the death yet
    with pytest.raises((AssertionError, KeyError)):
        ring.check(0)
