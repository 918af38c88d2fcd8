"""Learned states for more and fewer learners."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from galamp.core.moments import Moments
from galamp.core.normalisation import NormaliserSpec, Own, Saved, Scales, scales_of_all
from galamp.memory.learner_state import STATE_COUNTERS, State
from galamp.training.resize import resized

SEEDS = [11, 12, 13, 14, 15, 16]


def state(rank: int, generator_bytes: int = 5056) -> State:
    """Return a state of which every part can be told from the other learners'."""
    counters = {name: 100 * rank + at for at, name in enumerate(STATE_COUNTERS)}
    tensors = {
        "parameters": np.array([0.1, 1 + rank, -3.5 * rank], np.float32),
        "square_average": np.array([rank, 2 * rank, 1e-30], np.float32),
    }
    return State(tensors, counters, np.full(generator_bytes, rank, np.uint8))


SPEC = NormaliserSpec(2, True)


def counting(rank: int) -> State:
    """A state whose normaliser has counted numbers of its own."""
    data = np.random.default_rng(rank).normal(rank, 1 + rank, (600 + rank, 2))
    own = Own(Moments.of(data), Moments.of(data[:, :1]))
    return state(rank)._replace(normaliser=Saved(own, Scales.of(own)).packed())


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
def test_statistics_stay_those_of_all_data_counted_once(count: int) -> None:
    states = [counting(rank) for rank in range(3)]
    before = scales_of_all([Saved.unpacked(each.normaliser, SPEC) for each in states], SPEC)
    stay = resized(states, SEEDS[:count], SPEC)
    found = [Saved.unpacked(each.normaliser, SPEC) for each in stay]
    after = scales_of_all(found, SPEC)
    assert sum(each.own.observations.count for each in found) == 600 + 601 + 602
    assert np.allclose(after.packed(), before.packed(), rtol=1e-6)
    for new in found[3:]:
        assert new.own.count == 0
        first = Saved.unpacked(states[0].normaliser, SPEC)
        assert np.array_equal(new.scales.packed(), first.scales.packed())


@pytest.mark.parametrize("trained", [0, 1], ids=["first", "second"])
def test_a_newcomer_is_raw_where_one_of_its_networks_was_trained(trained: int) -> None:
    """Scales differ where nothing is pooled: who has seen too little holds initial weights."""
    states = [counting(rank) for rank in range(2)]
    initial = Saved(Own.none(SPEC), Scales.raw(2))
    scales = Scales.of(Own(*(Moments.of(np.random.default_rng(7).normal(size=(2000, n)))
                             for n in (2, 1))))  # fmt: skip
    for rank, each in enumerate(states):
        saved = replace(initial, scales=scales) if rank == trained else initial
        states[rank] = each._replace(normaliser=saved.packed())
    newcomer = Saved.unpacked(resized(states, SEEDS[:3], SPEC)[2].normaliser, SPEC)
    assert newcomer.scales.chosen
    states[trained] = states[trained]._replace(normaliser=replace(initial, adopted=True).packed())
    assert Saved.unpacked(resized(states, SEEDS[:3], SPEC)[2].normaliser, SPEC).adopted


def steps(states: list[State]) -> int:
    return sum(each.counters["agent_steps"] for each in states)


def same(one: State, other: State) -> bool:
    return (
        all(np.array_equal(one.tensors[name], other.tensors[name]) for name in one.tensors)
        and one.counters == other.counters
        and np.array_equal(one.generator, other.generator)
    )


def test_as_many_stay_as_they_are() -> None:
    states = [state(rank) for rank in range(3)]
    assert all(map(same, resized(states, SEEDS[:3]), states))


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_fewer_have_done_what_all_had_done(count: int) -> None:
    states = [state(rank) for rank in range(5)]
    before = steps(states)
    stay = resized(states, SEEDS[:count])
    assert len(stay) == count
    assert steps(stay) == before == steps(states)
    assert stay[0].counters["agent_steps"] == sum(100 * rank for rank in range(0, 5, count))
    for rank, each in enumerate(stay):
        assert each.counters["updates"] == states[rank].counters["updates"]
        assert each.tensors is states[rank].tensors


def test_those_that_come_begin_with_the_mean() -> None:
    states = [state(rank) for rank in range(3)]
    *stay, fourth, fifth = resized(states, SEEDS[:5])
    assert all(map(same, stay, states))
    for each in (fourth, fifth):
        assert np.array_equal(each.tensors["parameters"], np.array([0.1, 2, -3.5], np.float32))
        assert np.array_equal(each.tensors["square_average"], np.array([1, 2, 1e-30], np.float32))
        where = {name: states[2].counters[name] for name in ("turns", "rounds")}
        assert each.counters == dict.fromkeys(STATE_COUNTERS, 0) | where


def test_those_that_come_draw_on_their_own() -> None:
    *_, one, other = resized([state(0)], SEEDS[:3])
    drawn = []
    for each in (one, other):
        generator = torch.Generator()
        generator.set_state(torch.from_numpy(each.generator))
        drawn.append(torch.rand(4, generator=generator).tolist())
    assert drawn[0] == torch.rand(4, generator=torch.Generator().manual_seed(12)).tolist()
    assert drawn[1] == torch.rand(4, generator=torch.Generator().manual_seed(13)).tolist()


def test_a_generator_of_a_gpu_is_seed_and_offset() -> None:
    _, other = resized([state(0, generator_bytes=16)], SEEDS[:2])
    assert other.generator.view(np.int64).tolist() == [12, 0]
