"""The floor of the ball: averages that would move a learner too little are left out."""

from __future__ import annotations

import pytest

from galamp.core.config import GossipConfig
from galamp.gossip.transport.publication import Source
from galamp.telemetry.consensus import History
from tests.gossip.test_exchange import World


def pair(floor: float, **others: object) -> World:
    return World("ring", 2, GossipConfig(ball_floor=floor, max_staleness=None, **others))  # type: ignore[arg-type]


@pytest.mark.parametrize(("apart", "mixes"), [(1.9, False), (2.0, True), (4.0, True)])
def test_an_average_that_moves_a_learner_by_less_is_left_out(apart: float, mixes: bool) -> None:
    world = pair(1.0)
    world.turn(0, apart)
    world.turn(1)
    assert float(world.parameters[1][0]) == (apart / 2 if mixes else 0.0)
    metrics = world.rows[1].metrics
    assert (metrics["mixes"], metrics["below_floor"]) == (int(mixes), int(not mixes))
    assert metrics["received"] == 1


def test_what_is_left_out_is_recorded_as_no_mix() -> None:
    """So the certificate is that of what really happened."""
    world = pair(1.0)
    world.turn(0, 1.0)
    world.turn(1, 0.5)
    world.turn(1, 0.25)
    assert [(one.own, one.mixed) for one in world.publication_ring(1)] == [(1.0, ())] * 2
    assert world.publication_ring(0)[0].length == pytest.approx(1.0, rel=1e-4)
    world.turn(0, 9.0)
    world.turn(1)
    world.turn(1)
    assert world.publication_ring(1)[-1].mixed == (Source(0, 2, 0.5),)


def test_to_be_close_is_not_to_be_stale() -> None:
    world = pair(1.0)
    for _ in range(5):
        world.turn(0, 0.1)
        world.turn(1, 0.1)
    assert world.rows[1]["staleness"] == 0
    assert world.rows[1].metrics["mixes"] == 0


def test_the_optimisers_state_stays_as_well() -> None:
    world = pair(1.0, gossip_optimizer=True)
    world.squares[0].fill_(5.0)
    world.turn(0, 1.0)
    world.turn(1)
    assert float(world.squares[1][0]) == 1.0
    world.turn(0, 9.0)
    world.turn(1)
    assert float(world.squares[1][0]) == 3.0


def test_disagreement_does_not_vanish() -> None:
    """Without updates a ring of two comes to a halt at the floor instead of at 0."""
    world = pair(0.1)
    world.turn(0, 8.0)
    for _ in range(50):
        world.turn(1)
        world.turn(0)
    apart = float((world.parameters[0] - world.parameters[1]).norm())
    assert 0.0 < apart < 0.2


def test_theory_has_no_radius_for_it() -> None:
    """Where one leaves an average out that its peer takes, the mean is not kept."""
    assert GossipConfig(sync=True).has_radius
    config = GossipConfig(sync=True, ball_floor=0.1)
    assert not config.has_radius
    world = World("ring", 2, config)
    for with_radius in (True, False):
        history = History(world.arrays, world.topology, None, print, with_radius=with_radius)  # type: ignore[arg-type]
        assert (history._theory is not None) == with_radius
