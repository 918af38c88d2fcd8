"""Base-(k+1) graphs: one period averages exactly, for any number of learners, with few peers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from galamp.core.errors import UserError
from galamp.gossip.consensus.radius import mixing_matrix, radius_per_update
from galamp.gossip.topologies import make_topology
from galamp.gossip.topologies.base_graph import BaseGraph
from tests.support.loops import each
from tests.tools.test_topology_command import as_object

SIZES = range(2, 65)


def with_degree(degree: int, size: int) -> BaseGraph:
    return type("Base", (BaseGraph,), {"degree": degree})(size)


def after_a_period(graph: BaseGraph) -> np.ndarray:
    product = np.eye(graph.size)
    for k in range(graph.period()):
        product = mixing_matrix(graph, k) @ product
    return product


@each("degree", [1, 2, 3, 4])
@each("size", SIZES)
def test_a_period_averages_exactly(degree: int, size: int) -> None:
    graph = with_degree(degree, size)
    assert np.abs(after_a_period(graph) - 1 / size).max() < 1e-12


@each("degree", [1, 2, 3, 4])
@each("size", SIZES)
def test_it_takes_few_rounds_of_few_peers(degree: int, size: int) -> None:
    """Theorem 1 of the paper: at most 2 log_{k+1}(n) + 2 rounds."""
    graph = with_degree(degree, size)
    assert graph.period() <= 2 * math.log(size, degree + 1) + 2 + 1e-9
    rounds = range(graph.period())
    assert max(len(graph.in_peers(rank, k)) for rank in range(size) for k in rounds) <= degree


def test_periods_are_those_of_the_published_code() -> None:
    """Of `len(BaseGraph(n, k).w_list)` in github.com/yukiTakezawa/BaseGraph, n = 2, 3, ..."""
    published = {
        1: (1, 3, 2, 5, 4, 5, 3, 7, 6, 7, 5, 7, 6, 7, 4, 9, 8, 9, 7),
        2: (1, 1, 2, 3, 2, 4, 3, 2, 4, 5, 3, 5, 5, 4, 4, 5, 3, 6, 5),
    }
    for degree, periods in published.items():
        found = [with_degree(degree, size).period() for size in range(2, 2 + len(periods))]
        assert tuple(found) == periods


def test_three_learners() -> None:
    """The paper's example of algorithm 2 in its smallest: 2 + 1."""
    graph = make_topology("base-2", 3)
    third = 1 / 3
    expected = [
        [[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]],
        [[1, 0, 0], [0, third, 2 * third], [0, 2 * third, third]],
        [[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]],
    ]
    assert graph.period() == 3
    for k, matrix in enumerate(expected):
        assert np.allclose(mixing_matrix(graph, k), matrix, rtol=0, atol=1e-15)


def test_for_powers_of_two_base_2_is_a_hypercube() -> None:
    graph = make_topology("base-2", 8)
    assert [graph.in_peers(5, k) for k in range(3)] == [(4,), (7,), (1,)]


def test_six_learners_take_four_rounds_not_five() -> None:
    """6 = 2 * 3: two groups of three, then three pairs, is shorter than 4 + 2."""
    graph = make_topology("base-2", 6)
    assert graph.period() == 4
    assert [graph.in_peers(rank, 3) for rank in range(6)] == [(3,), (4,), (5,), (0,), (1,), (2,)]


def test_theory_knows_its_ball() -> None:
    assert radius_per_update(make_topology("base-2", 8)) == pytest.approx(2.0)
    assert radius_per_update(make_topology("base-2", 5)) is not None


@pytest.mark.parametrize("weights", ["uniform", "metropolis"])
def test_its_weights_are_its_own(weights: str) -> None:
    with pytest.raises(UserError, match=f"--gossip-weights {weights}: .* base-3 are part of it"):
        make_topology("base-3", 5, weights)


@pytest.mark.parametrize("size", [5, 6, 33])
def test_the_analysis_says_that_it_averages_exactly(
    size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    found = as_object(capsys, "base-2", "--learners", str(size))
    assert found["consensus"]["averages_exactly_after"] == found["graph"]["period"]
    assert found["traffic"]["most_messages_received_per_round"] == 1
