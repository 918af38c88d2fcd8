"""Gossip of learners on GPUs: one wait a round, the same bits however late copies are, none torn.

The GPUs are host memory (tests/fakecuda), and the learners of a test are in one process.
"""

from __future__ import annotations

import os
from functools import partial

import pytest
import torch
from torch import Tensor

from galamp.core.config import GossipConfig
from galamp.core.errors import RunFailed, UserError
from galamp.gossip.device_mixing import DeviceGossiper
from galamp.memory.arrays import ArraySpec, SharedArrays
from galamp.memory.versioned_slots import VersionedSlots
from galamp.tools.bench.exchanges import costs
from tests.fakecuda.inside import on_gpus
from tests.support.engine import also
from tests.support.on_devices import Learners, counted

pytestmark = pytest.mark.real

VARIANTS = {
    "plain": GossipConfig(),
    "verified": GossipConfig(verify_gossip=True),
    "with the optimiser": GossipConfig(gossip_optimizer=True),
    "with both": GossipConfig(gossip_optimizer=True, verify_gossip=True),
}
STEERED = {
    "outer steps": GossipConfig(outer_momentum=0.9, outer_lr=0.7),
    "a floor": GossipConfig(ball_floor=30.0),
}
GRAPHS = [("ring", 2), ("exponential", 4), ("exponential", 8), ("complete", 4)]
ALL = [
    (also if graph[1] == 8 and variant != "with both" else pytest.param)(*graph, variant)
    for graph in GRAPHS
    for variant in VARIANTS
]
MAX_KERNELS = {
    "plain": (12, 1),
    "verified": (14, 2),
    "with the optimiser": (15, 2),
    "with both": (18, 3),
}
"""Of a turn of gossip with one peer, and for each further one."""


def gpus(count: int) -> list[str]:
    return [f"cuda:{rank}" for rank in range(count)]


def two(config: GossipConfig = VARIANTS["plain"]) -> Learners:
    """Two learners in a ring, the first at 0, the second at 2."""
    learners = Learners("ring", gpus(2), config)
    for rank, state in enumerate(learners.states):
        state["parameters"].fill_(2.0 * rank)
    return learners


def parameters(learners: Learners, rank: int) -> Tensor:
    return learners.states[rank]["parameters"].cpu()


def all_are(vector: Tensor, value: float) -> bool:
    return bool((vector == value).all())


# Numbers


@pytest.mark.parametrize(
    ("graph", "learners", "variant"),
    [
        (pytest.param if graph[1] == 4 else also)(*graph, variant)
        for graph in GRAPHS
        for variant in VARIANTS
    ]
    + [("exponential", 4, variant) for variant in STEERED],
)
@on_gpus(devices=8)
def test_learners_mix_and_tell_what_those_of_the_cpu_do(
    graph: str, learners: int, variant: str
) -> None:
    config = (VARIANTS | STEERED)[variant]
    there = Learners(graph, gpus(learners), config)
    here = Learners(graph, ["cpu"] * learners, config)
    for mine, theirs in zip(there.train(5), here.train(5), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)
    told = 0
    for rank, (mine, theirs) in enumerate(
        zip(there.publication_rings, here.publication_rings, strict=True)
    ):
        pairs = list(zip(mine.drain()[0], theirs.drain()[0], strict=True))
        for (_, publication), (_, expected) in pairs:
            assert publication.length == pytest.approx(expected.length, rel=1e-5)
            assert publication._replace(length=0.0) == expected._replace(length=0.0)
            told += len(publication.mixed)
        status, counted = (
            ("rounds", "staleness"),
            ("published", "sent", "received", "mixes", "dropped", "below_floor"),
        )
        mine_row, other = there.rows[rank], here.rows[rank]
        assert [mine_row[name] for name in status] == [other[name] for name in status]
        assert [mine_row.metrics[n] for n in counted] == [other.metrics[n] for n in counted]
    assert told > 0, "nothing was mixed"


@pytest.mark.parametrize(("graph", "learners", "variant"), ALL)
@on_gpus(devices=8)
def test_a_turn_waits_once(graph: str, learners: int, variant: str) -> None:
    there = Learners(graph, gpus(learners), VARIANTS[variant])
    copied_out = 2 if VARIANTS[variant].gossip_optimizer else 1
    for number in range(1, 5):
        turns = there.turns(number)
        assert max(turn["waits"] for turn in turns) == 1, (number, turns)
    peers = len(there.topology.in_peers(0, 0))
    first, each = MAX_KERNELS[variant]
    for turn in turns:
        assert turn["kernels"] <= first + each * (peers - 1), turn
        assert turn["to_device"] == peers, turn
        assert turn["to_host"] == copied_out + 1, "and the figures"
        assert turn["non_blocking"] == peers + copied_out, turn
        assert turn["between"] == 0, turn
    assert all(row.metrics["mixes"] > 0 for row in there.rows)


@pytest.mark.parametrize(("variant", "waits"), [("outer steps", 1), ("a floor", 2)])
@on_gpus(devices=4)
def test_only_a_floor_makes_the_host_wait_once_more(variant: str, waits: int) -> None:
    there = Learners("ring", gpus(4), STEERED[variant])
    turns = there.turns(3)
    assert max(turn["waits"] for turn in turns) == waits
    assert sum(row.metrics["mixes"] for row in there.rows) > 0


@on_gpus()
def test_what_is_published_to_be_watched_is_waited_for_once() -> None:
    there = Learners("ring", gpus(2), GossipConfig(gossip_every=2))
    turn = counted(lambda: there.exchanges[0].turn(1))
    assert (turn["waits"], turn["to_device"], turn["to_host"]) == (1, 0, 2), turn
    assert torch.equal(there.published(0), parameters(there, 0))
    assert there.rows[0].metrics["sent"] == 0


# In lock-step


@on_gpus()
def test_who_waits_for_a_peer_has_published_before() -> None:
    """Otherwise both would wait: the peer publishes only once it has heard of this learner."""
    heard: list[Tensor] = []

    def let_the_other_turn() -> None:
        heard.append(there.published(0))
        other.append(counted(lambda: there.exchanges[1].turn(1)))

    other: list[dict[str, int]] = []
    there = Learners("ring", gpus(2), GossipConfig(sync=True), let_the_other_turn)
    before = [parameters(there, rank) for rank in range(2)]
    there.exchanges[0].turn(1)
    assert len(heard) == 1
    assert torch.equal(heard[0], before[0])
    assert other[0]["waits"] == 1, "all it needs is there"
    for rank in range(2):
        assert torch.equal(parameters(there, rank), sum(before) / 2)


@on_gpus()
def test_lock_step_waits_for_the_gpu_twice() -> None:
    """To publish, and to mix once the peers have done so."""
    there = Learners("ring", gpus(2), GossipConfig(sync=True))
    gossipers = [one._parameters for one in there.exchanges]
    for turn in range(1, 4):
        publish = [partial(one.publish, turn) for one in gossipers]
        for works in (publish, [one.mix for one in gossipers]):
            assert [counted(work)["waits"] for work in works] == [1, 1]


@pytest.mark.parametrize("learners", [2, 3])
@on_gpus(hold=1)
def test_gradients_become_one_on_gpus_as_on_the_cpu(learners: int) -> None:
    there, waits = reduced(gpus(learners))
    assert waits == 3 * (2 * learners - 1), "whoever is last finds everything there"
    here, _ = reduced(["cpu"] * learners)
    torch.testing.assert_close(there, here, rtol=0, atol=1e-6)


def reduced(devices: list[str]) -> tuple[Tensor, int]:
    """Average gradients three times; returns the last mean, and how often the GPUs were waited for.

    Whoever waits for peers lets the next one reduce.
    """
    config = GossipConfig(method="allreduce", topology="none", certificate=False)
    ranks: list[int] = []
    learners = Learners("none", devices, config, lambda: learners.exchanges[ranks.pop(0)].reduce())
    waits = 0
    for turn in range(3):
        for rank, gradient in enumerate(learners.gradients):
            gradient.copy_(torch.linspace(rank, turn, len(gradient)))
        ranks += range(1, len(devices))
        waits += counted(learners.exchanges[0].reduce)["waits"]
        assert not ranks
        found = [gradient.cpu() for gradient in learners.gradients]
        assert all(torch.equal(one, found[0]) for one in found)
        for exchange in learners.exchanges:
            exchange.turn(turn)
    return found[0], waits


# Late copies


@pytest.mark.parametrize(("graph", "learners", "variant"), ALL)
@on_gpus(devices=8)
def test_late_copies_change_no_bit(graph: str, learners: int, variant: str) -> None:
    found = []
    for late in ("", "1"):
        os.environ["FAKE_CUDA_HOLD"] = late
        there = Learners(graph, gpus(learners), VARIANTS[variant])
        found.append(there.train(5))
        assert not any(row.metrics["retried"] or row.metrics["torn"] for row in there.rows)
        for rank, state in enumerate(there.states):
            state["parameters"].mul_(2.0)
            there.exchanges[rank]._parameters.publish(6)
            assert torch.equal(there.published(rank), parameters(there, rank))
    for early, late_ in zip(*found, strict=True):
        assert torch.equal(early, late_)


@on_gpus(hold=1)
def test_a_mean_that_does_not_wait_for_its_copies_has_other_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sound = Learners("ring", gpus(2), GossipConfig()).train(4)
    monkeypatch.setattr(torch.cuda.Stream, "wait_stream", lambda self, other: None)
    broken = Learners("ring", gpus(2), GossipConfig()).train(4)
    assert not any(
        torch.equal(one, other) for one, other in zip(sound[::2], broken[::2], strict=True)
    )


def unwaited(figures: Tensor) -> Tensor:
    """Copy to the host, and do not wait for it."""
    return torch.zeros_like(figures, device="cpu").pin_memory().copy_(figures, non_blocking=True)


@pytest.mark.parametrize("waits", [True, False])
@on_gpus(hold=1)
def test_a_slot_is_even_only_once_it_is_filled(
    waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    learners = two()
    if not waits:
        monkeypatch.setattr(Tensor, "cpu", unwaited)
    learners.exchanges[1].turn(1)
    assert all_are(learners.published(1), 2.0) == waits
    assert learners.rows[1].metrics["sent"] == 1


@pytest.mark.parametrize("trusts", [False, True])
@on_gpus(hold=1)
def test_what_is_overwritten_while_the_gpu_copies_it_is_not_mixed(
    trusts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer publishes once more, and has half of the vector after that in the slot read from."""
    learners = two()
    sender = learners.exchanges[1]._parameters
    sender.publish(1)
    wait_stream, times = torch.cuda.Stream.wait_stream, [1]

    def overtaken(self: torch.cuda.Stream, other: torch.cuda.Stream) -> None:
        if times and times.pop():
            learners.states[1]["parameters"].fill_(4.0)
            sender.publish(2)
            payload = learners.slots[1].payload[learners.slots[1].begin_write()]
            payload[: len(payload) // 2] = 100.0
        wait_stream(self, other)

    monkeypatch.setattr(torch.cuda.Stream, "wait_stream", overtaken)
    if trusts:
        monkeypatch.setattr(VersionedSlots, "unchanged", lambda self, read: True)
    turn = counted(lambda: learners.exchanges[0].turn(1))
    assert not times
    mixed = parameters(learners, 0)
    if trusts:
        assert set(mixed.tolist()) == {50.0, 1.0}, "torn"
    else:
        assert all_are(mixed, 2.0), "the newest that is whole"
        assert learners.rows[0].metrics["retried"] == 1
        learners.exchanges[0].turn(2)
        [source] = learners.publication_rings[0].drain()[0][-1][1].mixed
        assert source == (1, 2, 0.5)
    assert turn["waits"] == (2 if trusts else 3), "one of them is the sender's"


# Deaths and wrong numbers


class Killed(Exception):
    """Stands for a SIGKILL while the GPU copies."""


@pytest.mark.parametrize("lands", [True, False])
@on_gpus(hold=1)
def test_a_learner_killed_while_the_gpu_copies_is_followed_by_another(
    lands: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not the copy still lands when it is dead."""
    learners = two()
    learners.exchanges[1].turn(1)
    with monkeypatch.context() as patch:
        patch.setattr(DeviceGossiper, "_wait_for_device", lambda self: _die())
        learners.states[1]["parameters"].fill_(4.0)
        with pytest.raises(Killed):
            learners.exchanges[1].turn(2)
    if lands:
        torch.cuda.synchronize("cuda:1")
    assert all_are(learners.published(1), 2.0), "the one before"
    assert learners.slots[1].begin_read(2) is None
    assert learners.rows[1].metrics["sent"] == 1
    assert len(learners.publication_rings[1].drain()[0]) == 1
    learners.exchanges[0].turn(1)
    assert all_are(parameters(learners, 0), 1.0), "its earlier incarnation was heard"
    learners.control.set_incarnation(1, 1)
    learners.states[1]["parameters"].fill_(7.0)
    learners.exchanges[1] = learners.exchange(1)
    learners.exchanges[1].turn(3)
    read = learners.slots[1].begin_read() or pytest.fail("none is whole")
    assert (read.header.number, read.header.incarnation) == (2, 1)
    assert all_are(learners.published(1), 7.0)
    learners.exchanges[0].turn(2)
    assert learners.rows[0].metrics["mixes"] == 2
    assert all_are(parameters(learners, 0), 4.0)


def _die() -> None:
    raise Killed


@on_gpus(hold=1)
def test_nothing_that_is_not_finite_is_seen_or_taken() -> None:
    learners = two()
    learners.states[1]["parameters"][7] = float("nan")
    with pytest.raises(RunFailed, match="learner 1 diverged"):
        learners.exchanges[1].turn(3)
    assert learners.slots[1].published == 0
    assert learners.slots[1].begin_read(1) is None
    assert learners.rows[1].metrics["sent"] == 0
    # Whoever publishes it all the same is not listened to.
    learners.states[1]["parameters"].fill_(2.0)
    learners.exchanges[1] = learners.exchange(1)
    learners.exchanges[1].turn(4)
    learners.slots[1].payload[1, 7] = float("inf")
    learners.exchanges[0].turn(1)
    assert learners.rows[0].metrics["mixes"] == 0
    assert all_are(parameters(learners, 0), 0.0)
    learners.exchanges[1].turn(5)
    learners.exchanges[0].turn(2)
    assert learners.rows[0].metrics["mixes"] == 1


@on_gpus(hold=1)
def test_what_differs_from_its_checksum_is_not_mixed() -> None:
    learners = two(VARIANTS["with both"])
    learners.exchanges[1].turn(1)
    # As two writers would leave it: the sequence says whole, and it is not.
    learners.slots[1].payload[1, -1] += 0.25
    learners.exchanges[0].turn(1)
    assert (learners.rows[0].metrics["torn"], learners.rows[0].metrics["mixes"]) == (1, 0)
    assert all_are(parameters(learners, 0), 0.0)
    learners.exchanges[1].turn(2)
    learners.exchanges[0].turn(2)
    assert (learners.rows[0].metrics["torn"], learners.rows[0].metrics["mixes"]) == (1, 1)


# Measured


@pytest.mark.slow
@on_gpus()
def test_the_bench_measures_a_gpu() -> None:
    found = {one.topology: one for one in costs(4, 1000, "cuda:1")}
    assert found["complete"].peers == 3
    assert all(0 < one.quick_ms <= one.turn_ms <= one.slow_ms for one in found.values())


@on_gpus(no_kernel=1)
def test_the_bench_refuses_a_gpu_that_does_not_work() -> None:
    with pytest.raises(UserError, match="--device cuda:1: CUDA error: no kernel image") as told:
        next(iter(costs(2, 1000, "cuda:1")))
    assert "\n" not in str(told.value)


@on_gpus()
def test_page_locked_memory_is_given_back() -> None:
    arrays = SharedArrays.create([ArraySpec("a", (9,), "float32"), ArraySpec("b", (9,), "int64")])
    for _ in range(2):
        assert [arrays.page_lock(name) for name in "ab"] == [0, 0]
        assert torch.from_numpy(arrays["b"]).is_pinned()
        arrays.unlock_pages()
        assert not torch.from_numpy(arrays["b"]).is_pinned()
