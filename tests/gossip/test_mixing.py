"""Slots, mailboxes and mixing: nothing torn, nothing read twice, nothing waited for in vain."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from typing import Any

import numpy as np
import pytest
import torch

from galamp.core.config import GossipConfig
from galamp.core.errors import RunFailed, StopRun
from galamp.gossip.mixing import Gossiper
from galamp.gossip.topologies import make_topology
from galamp.gossip.topologies.base import Topology
from galamp.gossip.topologies.complete import Complete
from galamp.gossip.topologies.from_node import FromNode
from galamp.gossip.topologies.ring import DirectedRing
from galamp.gossip.transport.base import TransportContext
from galamp.gossip.transport.mailbox import CAPACITY, Mailbox, Token
from galamp.gossip.transport.parameter_slots import ParameterSlots, gossip_specs
from galamp.gossip.transport.publication import CHECKSUMS
from galamp.gossip.transport.publication_ring import PublicationRing
from galamp.gossip.transport.shared_memory import SharedMemoryTransport
from galamp.gossip.vectors import checksum_of
from galamp.memory.arrays import ArraySpec, SharedArrays, Wakeup
from galamp.memory.control import ControlBlock
from galamp.memory.status import StatusBoard
from galamp.memory.versioned_slots import VersionedSlots, header_spec
from tests.support.engine import DEADLINE_S


class Killed(Exception):
    """Stands for a SIGKILL in the middle of a write."""


def world(topology: Topology, parameters: int) -> tuple[SharedArrays, tuple[Wakeup, ...]]:
    specs = ControlBlock.specs(topology.size) + StatusBoard.specs(topology.size, 1)
    specs += gossip_specs(topology, parameters) + PublicationRing.specs(topology)
    arrays = SharedArrays.create(specs)
    control = ControlBlock(arrays)
    control.prepare()
    for rank in range(topology.size):
        control.set_alive(rank, True)
    return arrays, tuple(Wakeup() for _ in range(topology.size))


def gossiper(
    arrays: SharedArrays,
    wakeups: tuple[Wakeup, ...],
    topology: Topology,
    rank: int,
    vector: torch.Tensor,
    *,
    sync: bool = False,
    max_staleness: int | None = 100,
    verify: bool = False,
    idle: Any = lambda: None,
    more: tuple[torch.Tensor, ...] = (),
) -> Gossiper:
    config = GossipConfig(sync=sync, max_staleness=max_staleness, verify_gossip=verify)
    vectors = [vector, *more]
    size = sum(each.numel() for each in vectors)
    return Gossiper(
        SharedMemoryTransport(
            TransportContext(
                arrays, rank, topology, size, wakeups=wakeups, ordered=config.synchronous
            )
        ),
        vectors,
        config,
        control=ControlBlock(arrays),
        row=row(arrays, topology.size, rank),
        idle=idle,
        publication_ring=PublicationRing(arrays, rank),
    )


def row(arrays: SharedArrays, learners: int, rank: int) -> Any:
    return StatusBoard(arrays, learners).learner(rank)


def test_a_vector_that_goes_to_another_node_is_recorded_with_its_checksum() -> None:
    """In a ring of two nodes with two learners each, learner 1 sends to the other one."""
    topology = FromNode(DirectedRing(4, 0), 0, 2)
    arrays, wakeups = world(topology, 3)
    vectors = [torch.full((3,), 1.0 + rank) for rank in range(2)]
    found = {}
    for rank, vector in enumerate(vectors):
        gossiper(arrays, wakeups, topology, rank, vector).publish(1)
        ((_, entry),), _ = PublicationRing(arrays, rank).drain()
        found[rank] = entry.checksum, "checksum" in entry.as_dict()
    assert found == {0: (0, False), 1: (checksum_of(vectors[1:]) % CHECKSUMS, True)}
    assert found[1][0] > 0


def test_a_run_on_one_machine_records_no_checksum() -> None:
    topology = DirectedRing(2, 0)
    arrays, wakeups = world(topology, 3)
    gossiper(arrays, wakeups, topology, 0, torch.ones(3), verify=True).publish(1)
    ((_, entry),), _ = PublicationRing(arrays, 0).drain()
    assert "checksum" not in entry.as_dict()


class TestSlots:
    @staticmethod
    def pair() -> tuple[VersionedSlots, np.ndarray[Any, Any], SharedArrays]:
        arrays = SharedArrays.create([header_spec("h"), ArraySpec("p", (2, 8), "float32")])
        return VersionedSlots(arrays, "h"), arrays["p"], arrays

    @staticmethod
    def publish(slots: VersionedSlots, payload: Any, value: float) -> None:
        slots.write(
            lambda slot: payload[slot].__setitem__(slice(None), value),
            incarnation=0,
            round_=int(value),
            version=int(value),
        )

    @staticmethod
    def read(slots: VersionedSlots, payload: Any, number: int | None = None) -> Any:
        copies: list[Any] = []
        header = slots.read(lambda slot: copies.append(payload[slot].copy()), number)
        return None if header is None else (header.version, copies[-1])

    def test_newest_and_the_one_before(self) -> None:
        slots, payload, _ = self.pair()
        assert self.read(slots, payload) is None
        for value in (1, 2, 3):
            self.publish(slots, payload, value)
        version, copy = self.read(slots, payload)
        assert version == 3
        assert (copy == 3).all()
        assert self.read(slots, payload, 2)[0] == 2
        assert self.read(slots, payload, 1) is None, "overwritten by 3"

    def test_killed_writer_is_never_read(self) -> None:
        slots, payload, arrays = self.pair()
        self.publish(slots, payload, 1)
        self.publish(slots, payload, 2)

        def half(slot: int) -> None:
            payload[slot][:4] = 3
            raise Killed

        for incarnation in range(3):
            with pytest.raises(Killed):
                slots.write(half, incarnation=incarnation, round_=3, version=3)
            assert self.read(slots, payload)[0] == 2, "the whole one is still there"
            assert self.read(slots, payload, 1) is None, "half of it is overwritten"
            assert self.read(slots, payload, 3) is None
            slots = VersionedSlots(arrays, "h")
        self.publish(slots, payload, 3)
        version, copy = self.read(slots, payload)
        assert version == 3
        assert (copy == 3).all()

    def test_overwritten_while_copied(self) -> None:
        slots, payload, _ = self.pair()
        self.publish(slots, payload, 1)

        def slow_copy(slot: int) -> None:
            for value in (2, 3):
                self.publish(slots, payload, value)

        assert slots.read(slow_copy) is None


class TestMailbox:
    def box(self) -> Mailbox:
        return Mailbox(SharedArrays.create([Mailbox.spec(0, 1, "x")]), 0, 1, "x")

    def test_order_and_newest(self) -> None:
        box = self.box()
        assert box.newest() is None
        assert box.oldest() is None
        for number in (1, 2, 3):
            box.put(Token(number, number, 0))
        assert box.unread == 3
        assert box.oldest() == (Token(1, 1, 0), 0)
        token, index = box.newest() or pytest.fail("nothing")
        assert token.number == 3
        assert box.accept(index) == 2, "two were passed over"
        assert box.unread == 0
        assert box.newest() is None, "a message is read once"

    def test_overrun(self) -> None:
        box = self.box()
        for number in range(3 * CAPACITY):
            box.put(Token(number, number, 0))
        assert box.oldest() is None, "overwritten"
        token, index = box.newest() or pytest.fail("nothing")
        assert token.number == 3 * CAPACITY - 1
        assert box.accept(index) == 3 * CAPACITY - 1


class TestMixing:
    def test_waits_for_no_one(self) -> None:
        ring = DirectedRing(2)
        arrays, wakeups = world(ring, 4)
        x = torch.ones(4)
        one = gossiper(arrays, wakeups, ring, 0, x)
        for _ in range(3):
            one.publish(1)
            assert not one.mix()
        assert row(arrays, 2, 0)["staleness"] == 3
        assert (x == 1).all()

    def test_takes_the_newest_once(self) -> None:
        ring = DirectedRing(2)
        arrays, wakeups = world(ring, 4)
        x, y = torch.zeros(4), torch.zeros(4)
        receiver = gossiper(arrays, wakeups, ring, 0, x)
        sender = gossiper(arrays, wakeups, ring, 1, y)
        for value in (2.0, 4.0, 8.0):
            y.fill_(value)
            sender.publish(int(value))
        assert receiver.mix()
        assert (x == 4.0).all()
        assert not receiver.mix()
        assert (x == 4.0).all()
        mine = row(arrays, 2, 0)
        assert (mine.metrics["received"], mine.metrics["dropped"], mine["staleness"]) == (1, 2, 1)

    def test_only_with_news_from_every_peer(self) -> None:
        graph = Complete(3)
        arrays, wakeups = world(graph, 2)
        vectors = [torch.full((2,), float(v)) for v in (0, 3, 6)]
        all_ = [gossiper(arrays, wakeups, graph, r, v) for r, v in enumerate(vectors)]
        all_[1].publish(1)
        assert not all_[0].mix()
        all_[2].publish(1)
        assert all_[0].mix()
        assert (vectors[0] == 3).all()

    def test_dead_peer_is_left_out(self) -> None:
        graph = Complete(3)
        arrays, wakeups = world(graph, 2)
        vectors = [torch.full((2,), float(v)) for v in (0, 4, 100)]
        all_ = [gossiper(arrays, wakeups, graph, r, v) for r, v in enumerate(vectors)]
        ControlBlock(arrays).set_alive(2, False)
        all_[1].publish(1)
        assert all_[0].mix()
        assert (vectors[0] == 2).all(), "the weights are shared by those who are left"

    def test_former_incarnation_is_ignored(self) -> None:
        ring = DirectedRing(2)
        arrays, wakeups = world(ring, 2)
        x, y = torch.zeros(2), torch.ones(2)
        receiver = gossiper(arrays, wakeups, ring, 0, x)
        sender = gossiper(arrays, wakeups, ring, 1, y)
        sender.publish(1)
        ControlBlock(arrays).set_incarnation(1, 1)
        assert not receiver.mix()
        sender.publish(2)
        assert receiver.mix()

    @pytest.mark.parametrize("bound", [1, 2, 8])
    def test_staleness_bound_waits_for_the_living(self, bound: int) -> None:
        """Only once it has gone so many rounds without mixing, and in each round after them."""
        ring = DirectedRing(2)
        arrays, wakeups = world(ring, 2)
        turns: list[int] = []

        def idle() -> None:
            turns.append(1)
            if len(turns) == 2:
                ControlBlock(arrays).set_alive(1, False)

        one = gossiper(arrays, wakeups, ring, 0, torch.zeros(2), max_staleness=bound, idle=idle)
        for _ in range(bound):
            assert not one.mix()
        assert not turns
        assert not one.mix()
        assert len(turns) == 2, "waited until the peer was declared dead"

    @pytest.mark.parametrize("bound", [1, 2, 8])
    def test_a_mix_gives_the_staleness_bound_anew(self, bound: int) -> None:
        ring = DirectedRing(2)
        arrays, wakeups = world(ring, 2)
        turns: list[int] = []

        def idle() -> None:
            turns.append(1)
            sender.publish(len(turns))

        one = gossiper(arrays, wakeups, ring, 0, torch.zeros(2), max_staleness=bound, idle=idle)
        sender = gossiper(arrays, wakeups, ring, 1, torch.ones(2))
        found = [one.mix() for _ in range(3 * (bound + 1))]
        assert found == [*[False] * bound, True] * 3
        assert len(turns) == 3

    def test_a_staleness_bound_of_nought_waits_in_every_round(self) -> None:
        ring = DirectedRing(2)
        arrays, wakeups = world(ring, 2)

        def over() -> None:
            raise StopRun

        one = gossiper(arrays, wakeups, ring, 0, torch.zeros(2), max_staleness=0, idle=over)
        with pytest.raises(StopRun):
            one.mix()

    def test_a_vector_of_another_machine_does_not_wait_for_its_round(self) -> None:
        """Lane 0 of machine 0: 1 is beside it, 2 on the other machine, whose round is 3 of 4."""
        graph = make_topology("hierarchical", 4, nodes=2)
        arrays, wakeups = world(graph, 2)
        vectors = [torch.full((2,), float(v)) for v in (0, 1, 8, 0)]
        one, beside, other, _ = (
            gossiper(arrays, wakeups, graph, rank, vector) for rank, vector in enumerate(vectors)
        )
        other.round = 3
        other.publish(1)
        beside.publish(1)
        assert one.mix()
        assert (vectors[0] == 4).all(), "half of it, in round 0"
        assert one.mix()
        assert (vectors[0] == 2.5).all(), "then of the one beside it"
        assert not one.mix()
        beside.publish(2)
        assert one.mix()
        assert (vectors[0] == 1.75).all(), "in the other machine's round, which had no news"

    def test_a_faster_machine_does_not_come_before_the_own_one_in_each_round(self) -> None:
        graph = make_topology("hierarchical", 4, nodes=2)
        arrays, wakeups = world(graph, 2)
        one, beside, other, _ = (
            gossiper(arrays, wakeups, graph, rank, torch.ones(2)) for rank in range(4)
        )
        for version in range(12):
            other.round, beside.round = 3, 0
            other.publish(version)
            beside.publish(version)
            one.publish(version)
            assert one.mix()
        one.publish(12)
        entries, _ = PublicationRing(arrays, 0).drain()
        assert [source.peer for _, entry in entries for source in entry.mixed] == [2, 1, 1, 1] * 3

    def test_lock_step_sender_waits_for_room(self) -> None:
        ring = DirectedRing(2)
        arrays, wakeups = world(ring, 2)

        def over() -> None:
            raise StopRun

        sender = gossiper(arrays, wakeups, ring, 0, torch.zeros(2), sync=True, idle=over)
        sender.publish(1)
        sender.publish(2)
        with pytest.raises(StopRun):
            sender.publish(3)

    def test_nothing_that_is_not_finite(self) -> None:
        ring = DirectedRing(2)
        arrays, wakeups = world(ring, 2)
        y = torch.tensor([1.0, float("nan")])
        with pytest.raises(RunFailed, match="learner 1 diverged"):
            gossiper(arrays, wakeups, ring, 1, y).publish(7)
        assert ParameterSlots(arrays, 1).published == 0
        # Whoever publishes it all the same is not listened to.
        x = torch.zeros(2)
        receiver = gossiper(arrays, wakeups, ring, 0, x)
        sender = gossiper(arrays, wakeups, ring, 1, torch.ones(2))
        sender.publish(1)
        ParameterSlots(arrays, 1).payload[1, 0] = float("inf")
        assert not receiver.mix()
        assert (x == 0).all()

    def test_what_differs_from_its_checksum_is_not_mixed(self) -> None:
        ring = DirectedRing(2)
        arrays, wakeups = world(ring, 5)
        more = torch.full((2,), 7.0)  # an odd number of each: no part fills whole words
        x, y = torch.zeros(3), torch.full((3,), 4.0)
        receiver = gossiper(arrays, wakeups, ring, 0, x, verify=True, more=(more.clone(),))
        sender = gossiper(arrays, wakeups, ring, 1, y, verify=True, more=(more,))
        sender.publish(1)
        # As two writers would leave it: the sequence says whole, and it is not.
        ParameterSlots(arrays, 1).payload[1, 4] = 7.0001
        assert not receiver.mix()
        assert (x == 0).all()
        assert row(arrays, 2, 0).metrics["torn"] == 1
        sender.publish(2)
        assert receiver.mix()
        assert (x == 2).all()
        assert row(arrays, 2, 0).metrics["torn"] == 1


PARAMETERS = 400_000
MIN_MIXES = 300


def publish_flat_out(arrays: SharedArrays, wakeups: tuple[Wakeup, ...]) -> None:
    """Child: publish constant vectors 1, 2, 3, ... as fast as it can, until killed."""
    torch.set_num_threads(1)
    y = torch.zeros(PARAMETERS)
    sender = gossiper(arrays, wakeups, DirectedRing(2), 1, y)
    while os.getppid() != 1:
        y += 1
        sender.publish(int(y[0]))


@pytest.mark.real
def test_flat_out_nothing_torn_nothing_twice() -> None:
    ring = DirectedRing(2)
    arrays, wakeups = world(ring, PARAMETERS)
    x = torch.zeros(PARAMETERS)
    receiver = gossiper(arrays, wakeups, ring, 0, x)
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=publish_flat_out, args=(arrays, wakeups), daemon=True)
    child.start()
    try:
        last, mixes = 0.0, 0
        until_s = time.monotonic() + DEADLINE_S
        # Not before the sender was ahead of the receiver once: else nothing was overwritten.
        while mixes < MIN_MIXES or last <= mixes:
            x.zero_()
            if receiver.mix():
                message = 2 * float(x[0])
                assert (x == x[0]).all(), "a mixture of two vectors"
                assert message > last, "read twice, or older than the one before"
                last, mixes = message, mixes + 1
            assert time.monotonic() < until_s, f"{mixes} mixes, {int(last)} publications"
    finally:
        os.kill(child.pid or 0, signal.SIGKILL)
        child.join(DEADLINE_S)
    retried = row(arrays, 2, 0).metrics["retried"]
    print(f"{mixes} mixes, {int(last)} publications, {retried} torn copies thrown away")
