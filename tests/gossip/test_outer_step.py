"""The outer step: Nesterov momentum on what updates and a mix have done, and what is recorded."""

from __future__ import annotations

import pytest
import torch

from galamp.core.config import GossipConfig
from galamp.core.errors import UserError
from galamp.gossip.consensus.outer_growth import growth_per_round
from galamp.gossip.consensus.radius import mixing_matrix
from galamp.gossip.outer_step import OuterStep
from galamp.gossip.topologies import make_topology
from galamp.storage.run_folder import StoredChoices
from galamp.supervision.plan import make_plan
from galamp.training.resolve import resolve_run
from tests.gossip.test_exchange import World
from tests.supervision.test_plan import machine, working

SIZE = 5000


@pytest.mark.parametrize(("momentum", "lr"), [(0.9, 0.7), (0.0, 0.5), (0.5, 1.5)])
def test_it_is_torchs_sgd_with_nesterov(momentum: float, lr: float) -> None:
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(SIZE, generator=generator)
    expected = torch.nn.Parameter(start.clone())
    sgd = torch.optim.SGD([expected], lr=lr, momentum=momentum, nesterov=momentum > 0)
    found = start.clone()
    outer = OuterStep(found, momentum=momentum, lr=lr)
    for _ in range(10):
        mixed = found + 0.1 * torch.randn(SIZE, generator=generator)
        expected.grad = expected.detach() - mixed
        sgd.step()
        outer.step(mixed, out=found)
        assert torch.allclose(found, expected.detach(), rtol=1e-6, atol=1e-6)


def test_without_momentum_and_at_rate_1_it_is_the_mix() -> None:
    found, mixed = torch.zeros(4), torch.tensor([1.0, -2.0, 3.0, 0.5])
    OuterStep(found, momentum=0.0, lr=1.0).step(mixed, out=found)
    assert torch.equal(found, mixed)
    assert not GossipConfig().outer_steps


def world(momentum: float = 0.5, lr: float = 1.0, **others: object) -> World:
    config = GossipConfig(
        outer_momentum=momentum,
        outer_lr=lr,
        max_staleness=None,
        **others,  # type: ignore[arg-type]
    )
    return World("ring", 2, config)


def test_what_has_been_done_since_the_last_one_goes_on() -> None:
    both = world()
    both.turn(0, 4.0)
    both.turn(1, 2.0)
    # Learner 1 began at 0 and has mixed 3: v = -3, and it goes on by half of that.
    assert float(both.parameters[1][0]) == 3.0 + 1.5
    both.turn(1, 1.0)
    assert float(both.parameters[1][0]) == 5.5, "nothing new: no mix, no outer step"
    both.turn(0)
    both.turn(1)
    mixed = (float(both.newest(0)[0]) + 5.5) / 2
    gone = mixed - 4.5
    assert float(both.parameters[1][0]) == pytest.approx(4.5 + gone + 0.5 * (0.5 * 3.0 + gone))


def test_a_part_of_the_way() -> None:
    both = world(momentum=0.0, lr=0.25)
    both.turn(0, 4.0)
    both.turn(1)
    assert float(both.parameters[1][0]) == 0.5


def test_its_length_is_recorded_as_that_of_an_update() -> None:
    """The certificate covers it: x = own y + sum of w m + u, and u holds the outer step, too."""
    both = world()
    both.turn(0, 4.0)
    both.turn(1, 2.0)
    both.turn(1, 0.25)
    last = both.publication_ring(1)[-1]
    assert (last.own, last.mixed[0].weight) == (0.5, 0.5)
    assert last.length == pytest.approx(1.5 + 0.25, rel=1e-4)


def test_the_optimisers_state_is_averaged_without() -> None:
    both = world(gossip_optimizer=True)
    both.squares[0].fill_(5.0)
    both.turn(0, 4.0)
    both.turn(1)
    assert float(both.squares[1][0]) == 3.0


def test_after_a_start_it_begins_without_momentum() -> None:
    both = world()
    both.turn(0, 4.0)
    both.turn(1, 2.0)
    both.parameters[1].fill_(10.0)
    both.exchanges[1].resume_from(5, 5)
    both.turn(0)
    both.turn(1)
    mixed = (float(both.newest(0)[0]) + 10.0) / 2
    assert float(both.parameters[1][0]) == pytest.approx(mixed + 0.5 * (mixed - 10.0))


@pytest.mark.parametrize("setting", [{"outer_momentum": 0.9}, {"outer_lr": 0.7}])
def test_without_gossip_it_has_no_meaning(setting: dict[str, float]) -> None:
    flag = "--" + next(iter(setting)).replace("_", "-")
    with pytest.raises(UserError, match=f"{flag} .* has no meaning"):
        make_plan(working("allreduce", **setting), machine(4))


# Where it drives learners apart


@pytest.mark.parametrize(
    ("name", "size", "momentum", "lr"),
    [
        ("ring", 4, 0.9, 0.7),
        ("ring", 8, 0.5, 0.7),
        ("ring", 4, 0.5, 0.7),
        ("bidirectional-ring", 8, 0.9, 0.7),
        ("exponential", 16, 0.9, 1.0),
        ("one-peer-exponential", 6, 0.9, 0.7),
        ("base-2", 5, 0.9, 0.7),
        ("star", 5, 0.5, 1.5),
    ],
)
def test_disagreement_grows_as_it_is_said_to(
    name: str, size: int, momentum: float, lr: float
) -> None:
    """The very steps, without updates; each vector is as long as is good for the eye."""
    graph = make_topology(name, size)
    said = growth_per_round(graph, momentum, lr)
    assert said is not None
    vectors = torch.randn(size, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    outer = [OuterStep(vector, momentum=momentum, lr=lr) for vector in vectors]
    matrices = [torch.from_numpy(mixing_matrix(graph, k)) for k in range(graph.period() or 0)]
    lengths = []
    for k in range(60 * len(matrices)):
        mixed = matrices[k % len(matrices)] @ vectors
        for one, result, vector in zip(outer, mixed, vectors, strict=True):
            one.step(result, out=vector)
        if (k + 1) % len(matrices) == 0:
            lengths.append(float((vectors - vectors.mean(0)).norm()))
    grown = (lengths[-1] / lengths[29]) ** (1 / (30 * len(matrices)))
    assert grown == pytest.approx(said, rel=0.03)


def test_what_is_not_known_is_not_said() -> None:
    assert growth_per_round(make_topology("random-pairs", 8), 0.9, 0.7) is None
    assert growth_per_round(make_topology("ring", 257), 0.9, 0.7) is None
    assert growth_per_round(make_topology("ring", 1), 0.9, 0.7) == 0.0


def resolved(topology: str, learners: int, **gossip: object) -> None:
    asked = working("gossip", learners, topology=topology, **gossip)
    resolve_run(asked, machine(4), StoredChoices())


def test_steps_that_drive_learners_apart_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        resolved("ring", 4, outer_momentum=0.9, outer_lr=0.7)
    assert str(caught.value) == (
        "--outer-momentum 0.9 --outer-lr 0.7: over --topology ring of 4 learners, they multiply "
        "disagreement by 1.141 per round; use less of them, or another graph, such as "
        "bidirectional-ring"
    )
    resolved("bidirectional-ring", 4, outer_momentum=0.9, outer_lr=0.7)
    resolved("ring", 3, outer_momentum=0.9, outer_lr=0.7)
    resolved("ring", 4)
