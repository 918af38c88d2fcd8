"""What every transport must keep; inherit `TransportContract` and say what it is called."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from galamp.core.config import GossipConfig
from galamp.gossip.exchange import Exchange, exchange_specs
from galamp.gossip.topologies.base import Topology
from galamp.gossip.topologies.complete import Complete
from galamp.gossip.topologies.ring import DirectedRing
from galamp.gossip.transport import transport_class
from galamp.gossip.transport.base import Message, PeerStatus, Transport, TransportContext
from galamp.memory.arrays import SharedArrays, Wakeup
from galamp.memory.control import ControlBlock
from galamp.memory.status import StatusBoard
from galamp.memory.versioned_slots import Header
from tests.models.stepping import put_back, state_of, step_through
from tests.support.loops import each

SIZE = 6
NAMES = ("parameters", "gradients")
SENDER, RECEIVER = 0, 1
DEADLINE_S = 60.0
MOST = 64
"""More publications than any transport has room for."""


class Nodes:
    """Shared memory of learners that all run, and ends of their transport, in this process."""

    def __init__(self, name: str, topology: Topology, *, ordered: bool = False) -> None:
        self._kind, self.topology, self._ordered = transport_class(name), topology, ordered
        specs = ControlBlock.specs(topology.size) + StatusBoard.specs(topology.size, 1)
        for exchange in NAMES:
            specs += self._kind.specs(topology, SIZE, exchange)
        self.arrays = SharedArrays.create(specs)
        self.control = ControlBlock(self.arrays)
        self.control.prepare()
        for rank in range(topology.size):
            self.control.set_alive(rank, True)
        self._wakeups = [Wakeup() for _ in range(topology.size)]

    def end(self, rank: int, name: str = NAMES[0]) -> Transport:
        """What a new process of the learner has."""
        return self._kind(
            TransportContext(
                self.arrays, rank, self.topology, SIZE, self._wakeups, name, self._ordered
            )
        )

    def write(self, end: Transport, value: int) -> Header:
        """Publish a vector that is `value` everywhere, piece by piece."""
        vector = end.begin_write()
        for at in range(SIZE):
            vector[at] = value
        incarnation = self.control.incarnation(end.rank)
        return end.end_write(
            incarnation=incarnation, round_=10 + value, version=value, checksum=-value
        )

    def publish(self, end: Transport, value: int) -> Header:
        """The same, and tell all out-peers."""
        header = self.write(end, value)
        for peer in end.out_peers:
            end.notify(peer, header)
        return header


def read(end: Transport, message: Message) -> tuple[Header, Tensor] | None:
    """Return the publication of a message, if it is whole."""
    begun = end.begin_read(message)
    if begun is None:
        return None
    vector = begun.vector.clone()
    return (begun.header, vector) if end.unchanged(begun) else None


def taken(end: Transport, peer: int = SENDER) -> tuple[int, int] | None:
    """Take the next message; returns its publication's value, and the messages skipped."""
    message = end.news(peer)
    found = None if message is None else read(end, message)
    if message is None or found is None:
        return None
    header, vector = found
    assert message.incarnation == header.incarnation
    return value_of(header, vector), end.accept(message, header.number)


def value_of(header: Header, vector: Tensor) -> int:
    """Return the value of a publication, all of which must be of one."""
    value = header.version
    assert vector.shape == (SIZE,)
    assert vector.dtype == torch.float32
    assert (vector == value).all(), f"torn: {vector.tolist()} of {header}"
    assert (header.round, header.checksum) == (10 + value, -value)
    return value


def states_of(nodes: Nodes, act: Callable[[], object]) -> list[bytes]:
    """Every state of memory that a kill within `act` may leave; memory is as before afterwards."""
    before = state_of(nodes.arrays)
    states = step_through(nodes.arrays, act).states
    put_back(nodes.arrays, before)
    return states


class TransportContract:
    name: str
    """In `TRANSPORTS`."""

    def pair(self, *, ordered: bool = False) -> tuple[Nodes, Transport, Transport]:
        """Two learners that send to each other: the memory, and the end of each."""
        nodes = Nodes(self.name, DirectedRing(2), ordered=ordered)
        return nodes, nodes.end(SENDER), nodes.end(RECEIVER)

    def test_it_knows_its_peers(self) -> None:
        ring = Nodes(self.name, DirectedRing(3)).end(1)
        assert (ring.rank, ring.in_peers, ring.out_peers) == (1, (0,), (2,))
        everyone = Nodes(self.name, Complete(3)).end(1)
        assert everyone.in_peers == everyone.out_peers == (0, 2)

    # Newest wins

    def test_before_the_first_publication_there_is_nothing(self) -> None:
        _, _, receiver = self.pair()
        assert receiver.news(SENDER) is None
        assert receiver.fetch(SENDER, SIZE) is None

    def test_the_newest_wins_and_is_read_once(self) -> None:
        nodes, sender, receiver = self.pair()
        for value in (1, 2, 3):
            nodes.publish(sender, value)
        assert taken(receiver) == (3, 2)
        assert receiver.news(SENDER) is None
        nodes.publish(sender, 4)
        assert taken(receiver) == (4, 0)

    def test_what_comes_while_a_message_is_read_is_not_read_twice(self) -> None:
        nodes, sender, receiver = self.pair()
        nodes.publish(sender, 1)
        message = receiver.news(SENDER) or pytest.fail("no message")
        nodes.publish(sender, 2)
        header, vector = read(receiver, message) or pytest.fail("nothing whole")
        assert value_of(header, vector) == 2
        receiver.accept(message, header.number)
        assert receiver.news(SENDER) is None
        nodes.publish(sender, 3)
        assert taken(receiver) == (3, 1)

    def test_what_nobody_was_told_of_is_no_news_and_can_be_fetched(self) -> None:
        nodes, sender, receiver = self.pair()
        nodes.write(sender, 5)
        assert receiver.news(SENDER) is None
        for size in (SIZE, 2):
            vector = receiver.fetch(SENDER, size)
            assert vector is not None
            assert vector.tolist() == [5.0] * size
        assert vector is not None
        vector += 1
        assert (receiver.fetch(SENDER, SIZE) == 5).all(), "what is fetched is one's own"

    def test_numbers_count_all_publications_from_one(self) -> None:
        nodes, sender, receiver = self.pair()
        assert [nodes.publish(sender, value).number for value in (7, 8)] == [1, 2]
        message = receiver.news(SENDER) or pytest.fail("no message")
        assert (message.peer, message.number, message.round) == (SENDER, 2, 18)

    @each("seed", range(20))
    def test_every_message_is_read_or_counted_as_skipped(self, seed: int) -> None:
        nodes, sender, receiver = self.pair()
        draw, read_, skipped, newest = random.Random(seed), 0, 0, 0
        for value in range(1, 60):
            nodes.publish(sender, value)
            if draw.random() < 0.3 or value == 59:
                found = taken(receiver) or pytest.fail("the newest is whole")
                assert newest < found[0] == value
                newest, read_, skipped = found[0], read_ + 1, skipped + found[1]
        assert read_ + skipped == 59

    def test_exchanges_do_not_meet(self) -> None:
        nodes, sender, receiver = self.pair()
        others = nodes.end(SENDER, NAMES[1]), nodes.end(RECEIVER, NAMES[1])
        nodes.publish(sender, 1)
        assert others[1].news(SENDER) is None
        nodes.publish(others[0], 2)
        assert taken(receiver) == (1, 0)
        assert taken(others[1]) == (2, 0)

    def test_each_peer_is_told_by_itself(self) -> None:
        nodes = Nodes(self.name, Complete(3))
        ends = [nodes.end(rank) for rank in range(3)]
        ends[0].notify(2, nodes.write(ends[0], 1))
        assert ends[1].news(0) is None
        assert taken(ends[2]) == (1, 0)
        nodes.publish(ends[1], 9)
        assert taken(ends[0], 1) == (9, 0)
        assert taken(ends[2]) is None
        assert taken(ends[2], 1) == (9, 0)

    # In order

    def test_in_order_a_writer_has_room_until_its_messages_are_unread(self) -> None:
        nodes, sender, receiver = self.pair(ordered=True)
        told = []
        while sender.has_room():
            told.append(len(told) + 1)
            nodes.publish(sender, told[-1])
            assert len(told) < MOST
        assert told
        for value in told:
            assert not sender.has_room() or value > 1
            assert taken(receiver) == (value, 0)
        assert receiver.news(SENDER) is None
        assert sender.has_room()

    @each("seed", range(20))
    def test_in_order_every_message_is_read_with_what_it_names(self, seed: int) -> None:
        nodes, sender, receiver = self.pair(ordered=True)
        draw, value = random.Random(seed), 0
        told: list[int] = []
        found = []
        for _ in range(300):
            if draw.random() < 0.5:
                found.append(taken(receiver))
            elif sender.has_room():
                value += 1
                header = nodes.write(sender, value)
                if draw.random() < 0.8:
                    sender.notify(RECEIVER, header)
                    told.append(value)
        found += [taken(receiver) for _ in range(MOST)]
        assert [one for one in found if one] == [(value, 0) for value in told]
        assert len(told) > 20

    def test_a_dead_peer_takes_no_room(self) -> None:
        nodes, sender, _ = self.pair(ordered=True)
        value = 0
        while sender.has_room():
            nodes.publish(sender, value := value + 1)
        nodes.control.set_alive(RECEIVER, False)
        assert sender.has_room()

    # Nothing torn, nobody blocked

    def test_a_reader_that_takes_its_time_holds_nobody_up_and_is_told(self) -> None:
        nodes, sender, receiver = self.pair()
        nodes.publish(sender, 1)
        message = receiver.news(SENDER) or pytest.fail("no message")
        begun = receiver.begin_read(message)
        assert begun is not None
        assert receiver.unchanged(begun)
        for value in range(2, MOST):
            nodes.publish(sender, value)
        assert not receiver.unchanged(begun)
        assert taken(receiver) == (MOST - 1, MOST - 2)

    def test_a_writer_that_goes_on_during_a_read_is_noticed(self) -> None:
        """At every opcode of three publications, a reader begins, and ends at every later one."""
        nodes, sender, receiver = self.pair()
        nodes.publish(sender, 1)
        message = receiver.news(SENDER) or pytest.fail("no message")
        states = states_of(nodes, lambda: [nodes.publish(sender, value) for value in (2, 3, 4, 5)])
        whole = 0
        for first in range(len(states)):
            for last in range(first, len(states)):
                put_back(nodes.arrays, states[first])
                begun = receiver.begin_read(message)
                if begun is None:
                    break
                start = begun.vector[: SIZE // 2].clone()
                put_back(nodes.arrays, states[last])
                rest = begun.vector[SIZE // 2 :].clone()
                if receiver.unchanged(begun):
                    value_of(begun.header, torch.cat((start, rest)))
                    whole += 1
        assert whole > len(states), "some reads are whole"

    @each("ordered", [False, True])
    def test_a_writer_killed_anywhere_leaves_whole_publications_only(self, ordered: bool) -> None:
        nodes, sender, receiver = self.pair(ordered=ordered)
        nodes.publish(sender, 1)
        for state in states_of(nodes, lambda: nodes.publish(sender, 2)):
            put_back(nodes.arrays, state)
            vector = nodes.end(RECEIVER).fetch(SENDER, SIZE)
            assert vector is not None, "the one before is still there"
            assert vector.tolist() in ([1.0] * SIZE, [2.0] * SIZE)
            message = receiver.news(SENDER) or pytest.fail("the one before was told of")
            found = read(receiver, message)
            assert found is None or value_of(*found) in (1, 2)
            nodes.control.set_incarnation(SENDER, 1)
            assert receiver.news(SENDER) is None, "of the dead"
            successor = nodes.end(SENDER)
            assert successor.has_room(), "the dead are not waited for"
            number = nodes.publish(successor, 3).number
            assert number in (2, 3)
            assert number == 3 or vector[0] == 1, "a number is given once"
            found_anew = nodes.end(RECEIVER)
            assert (taken(found_anew) or pytest.fail("no news"))[0] == 3

    def test_a_publication_that_is_never_ended_is_forgotten(self) -> None:
        nodes, sender, receiver = self.pair()
        nodes.publish(sender, 1)
        sender.begin_write().fill_(100.0)
        assert taken(receiver) == (1, 0)
        for end in (sender, nodes.end(SENDER)):
            end.begin_write().fill_(100.0)
            assert (receiver.fetch(SENDER, SIZE) == 1).all()
        assert nodes.publish(sender, 2).number == 2
        assert taken(receiver) == (2, 0)

    def test_any_learners_newest_vector_can_be_fetched(self) -> None:
        nodes = Nodes(self.name, DirectedRing(3))
        receiver = nodes.end(1)
        assert receiver.in_peers == (0,)
        assert receiver.fetch(2, SIZE) is None
        nodes.publish(nodes.end(2), 5)
        vector = receiver.fetch(2, SIZE)
        assert vector is not None
        assert vector.tolist() == [5.0] * SIZE

    # Incarnations

    def test_messages_of_former_incarnations_are_not_taken(self) -> None:
        nodes, sender, receiver = self.pair()
        nodes.publish(sender, 1)
        before = receiver.news(SENDER) or pytest.fail("no message")
        nodes.control.set_incarnation(SENDER, 1)
        assert receiver.news(SENDER) is None
        assert (receiver.fetch(SENDER, SIZE) == 1).all(), "its vector is still the newest"
        successor = nodes.end(SENDER)
        assert nodes.publish(successor, 2).number == 2
        assert receiver.begin_read(before) is None, "the newest is not of the message's incarnation"
        message = receiver.news(SENDER) or pytest.fail("no message")
        assert (message.number, message.incarnation) == (2, 1)
        assert (taken(receiver) or pytest.fail("no news"))[0] == 2

    @each("ordered", [False, True])
    def test_a_receiver_that_is_started_anew_reads_nothing_twice(self, ordered: bool) -> None:
        nodes, sender, receiver = self.pair(ordered=ordered)
        nodes.publish(sender, 1)
        assert taken(receiver) == (1, 0)
        successor = nodes.end(RECEIVER)
        assert successor.news(SENDER) is None
        nodes.publish(sender, 2)
        assert taken(successor) == (2, 0)

    # Peers, and waits for them

    def test_the_state_of_peers_is_told(self) -> None:
        nodes, _, receiver = self.pair()
        StatusBoard(nodes.arrays, 2).learner(SENDER)["rounds"] = 7
        assert receiver.status(SENDER) == PeerStatus(alive=True, round=7)
        nodes.control.set_alive(SENDER, False)
        assert receiver.status(SENDER) == PeerStatus(alive=False, round=7)

    def test_a_wait_ends_at_its_timeout(self) -> None:
        _, _, receiver = self.pair()
        for timeout_s in (0.0, 0.01):
            start_s = time.monotonic()
            receiver.wait(timeout_s)
            assert time.monotonic() - start_s < DEADLINE_S

    def test_messages_and_if_in_order_their_end_wake_the_other(self) -> None:
        nodes, sender, receiver = self.pair(ordered=True)
        start_s = time.monotonic()
        nodes.publish(sender, 1)
        receiver.wait(2 * DEADLINE_S)
        taken(receiver)
        sender.wait(2 * DEADLINE_S)
        assert time.monotonic() - start_s < DEADLINE_S

    # What it is for

    @each("sync", [False, True])
    def test_learners_mix_through_it(self, sync: bool) -> None:
        learners = self.learners(GossipConfig(sync=sync, gossip_optimizer=True))
        states = [state for state, _ in learners]
        before = [torch.stack([state[name] for state in states]) for name in states[0]]
        gossipers = [exchange._parameters for _, exchange in learners]
        for gossiper in gossipers:
            gossiper.publish(1)
        assert all(gossiper.mix() for gossiper in gossipers)
        for name, vectors in zip(states[0], before, strict=True):
            for state in states:
                assert torch.allclose(state[name], vectors.mean(0), atol=1e-6)

    def test_a_learner_that_is_started_anew_begins_from_its_peers_mean(self) -> None:
        learners = self.learners(GossipConfig(gossip_probability=0.0))
        assert learners[0][1].mean_of_peers() is None
        for rank, (state, exchange) in enumerate(learners):
            state["parameters"].fill_(rank)
            exchange.turn(1)
        mean = learners[0][1].mean_of_peers()
        assert mean is not None
        assert mean.tolist() == [1.5] * SIZE

    def learners(self, config: GossipConfig) -> list[tuple[dict[str, Tensor], Exchange]]:
        """Three learners that all send to each other: the state of each, and its exchange."""
        graph, sizes = Complete(3), {"parameters": SIZE, "square": 3}
        specs = ControlBlock.specs(3) + StatusBoard.specs(3, 1)
        specs += exchange_specs(config, graph, sizes, self.name)
        arrays, wakeups = SharedArrays.create(specs), [Wakeup() for _ in range(3)]
        ControlBlock(arrays).prepare()
        generator, found = torch.Generator().manual_seed(1), []
        for rank in range(3):
            ControlBlock(arrays).set_alive(rank, True)
            state = {name: torch.randn(size, generator=generator) for name, size in sizes.items()}
            exchange = Exchange(
                arrays,
                rank,
                graph,
                config,
                state=state,
                gradient=torch.zeros(SIZE),
                seed=1,
                wakeups=wakeups,
                row=StatusBoard(arrays, 3).learner(rank),
                idle=lambda: None,
                transport=self.name,
            )
            exchange.resume_from(0, 0)
            found.append((state, exchange))
        return found

    def test_a_bridge_carries_vectors_on_by_these_verbs_alone(self) -> None:
        """As between two machines: a mirror of the sender has its vectors on the other."""
        here, sender, bridge_in = self.pair()
        there = Nodes(self.name, DirectedRing(2))
        bridge_out, receiver = there.end(SENDER), there.end(RECEIVER)
        for value in (1, 2, 3):
            sent = here.publish(sender, value)
            assert mirror(bridge_in, bridge_out)
            message = receiver.news(SENDER) or pytest.fail("nothing came over")
            header, vector = read(receiver, message) or pytest.fail("nothing whole")
            assert value_of(header, vector) == value
            assert header == sent
            receiver.accept(message, header.number)
        assert not mirror(bridge_in, bridge_out)


def mirror(source: Transport, mirrored: Transport) -> bool:
    """Publish, as the in-peer on another machine, its newest vector; False if it is not new."""
    message = source.news(mirrored.rank)
    begun = None if message is None else source.begin_read(message)
    if message is None or begun is None:
        return False
    mirrored.begin_write().copy_(begun.vector)
    if not source.unchanged(begun):
        return False
    number, incarnation, round_, version, checksum = begun.header
    header = mirrored.end_write(
        incarnation=incarnation, round_=round_, version=version, checksum=checksum
    )
    for peer in mirrored.out_peers:
        mirrored.notify(peer, header)
    source.accept(message, number)
    return True
