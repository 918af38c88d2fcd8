"""Periodic global averages: a graph whose every H-th round joins all, in time or with some late."""

from __future__ import annotations

import numpy as np
import pytest

from galamp.core.config import GossipConfig
from galamp.core.errors import UserError
from galamp.gossip.consensus.radius import mixing_matrix, radius_per_update
from galamp.gossip.topologies import make_topology
from galamp.gossip.topologies.base import Topology
from galamp.supervision.plan import make_plan
from tests.contracts.topology import TopologyContract
from tests.gossip.test_exchange import World
from tests.supervision.test_plan import machine, working
from tests.support.loops import each
from tests.tools.test_topology_command import as_object

KINDS = {
    "ring": ("ring", 4, "auto"),
    "at once": ("ring", 1, "auto"),
    "changing": ("one-peer-exponential", 3, "auto"),
    "drawn": ("random-pairs", 5, "auto"),
    "without edges": ("none", 2, "auto"),
    "not doubly stochastic": ("star", 3, "uniform"),
    "weighed": ("star", 3, "metropolis"),
}


@pytest.mark.parametrize("kind", KINDS)
class TestPeriodicGlobalAverage(TopologyContract):
    large = (1000,)

    @pytest.fixture(autouse=True)
    def _named(self, kind: str) -> None:
        self.kind = kind

    def make(self, size: int) -> Topology:
        name, every, weights = KINDS[self.kind]
        return make_topology(name, size, weights, 7, every)


@each("size", [2, 3, 8, 33])
@each("every", [1, 2, 5])
def test_every_so_many_rounds_average_exactly(size: int, every: int) -> None:
    graph, ring = make_topology("ring", size, "auto", 0, every), make_topology("ring", size)
    for k in range(2 * every):
        is_global = k % every == every - 1
        expected = np.full((size, size), 1 / size) if is_global else mixing_matrix(ring, 0)
        assert np.array_equal(mixing_matrix(graph, k), expected)
        assert graph.partial(k) == is_global


def test_the_ball_of_a_long_ring_is_of_the_last_rounds_only() -> None:
    """After the global round nothing is left: the sum over rounds ends there."""
    size, every = 64, 8
    graph = make_topology("ring", size, "auto", 0, every)
    beta = np.linalg.svd(mixing_matrix(make_topology("ring", size), 0), compute_uv=False)[1]
    found = radius_per_update(graph)
    assert found == pytest.approx(sum(beta**j for j in range(1, every)), rel=1e-6)
    alone = radius_per_update(make_topology("ring", size))
    assert alone is not None
    assert found < alone / 50


def async_world(late_in: int) -> World:
    """Four learners without edges but for every second round, before which all but 3 have sent."""
    world = World("none", 4, GossipConfig(max_staleness=None, global_average_every=2))
    for rank in range(late_in):
        world.turn(rank, float(1 + rank))
    return world


def test_who_is_late_in_a_global_round_is_left_out() -> None:
    world = async_world(3)
    for rank in range(3):
        world.turn(rank)
    # 0 came first, and nobody had sent; 1 heard 0; 2 heard both.
    assert [float(one[0]) for one in world.parameters] == [1.0, 1.5, 2.0, 0.0]
    assert [row.metrics["left_out"] for row in world.rows] == [0, 2, 1, 0]


def test_it_averages_with_the_newest_of_all() -> None:
    """Whoever is ahead reads what the others have published since their last global round."""
    world = async_world(4)
    for rank in range(4):
        world.turn(rank)
    for rank in range(4):
        world.turn(rank, 10.0)
    before = [float(one[0]) for one in world.parameters]
    world.turn(0)
    assert float(world.parameters[0][0]) == pytest.approx(sum(before) / 4)
    assert world.rows[0].metrics["left_out"] == 0


def test_other_rounds_still_want_all_their_peers() -> None:
    world = World("complete", 3, GossipConfig(max_staleness=None, global_average_every=10**6))
    world.turn(0, 1.0)
    world.turn(1)
    assert float(world.parameters[1][0]) == 0.0
    assert world.rows[1]["staleness"] == 1


def test_lock_step_over_no_edges_is_together_all_the_same() -> None:
    config = GossipConfig(topology="none", sync=True, global_average_every=8)
    assert config.exchanges_in_lock_step
    assert not GossipConfig(topology="none", sync=True).exchanges_in_lock_step


def test_the_analysis_knows_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("ring", "--learners", "16", "--global-average-every", "4")
    found = as_object(capsys, *words)
    assert found["topology"] == "ring, all every 4 rounds"
    assert found["graph"]["period"] == 4
    assert found["consensus"]["averages_exactly_after"] == 4
    assert found["traffic"]["messages_per_round_per_learner"] == (3 * 1 + 15) / 4


def test_without_gossip_it_has_no_meaning() -> None:
    with pytest.raises(UserError, match="--global-average-every 4 has no meaning"):
        make_plan(working("independent", global_average_every=4), machine(4))
