"""Two nodes in this process: their shared memory, bridges over a toy port, and learners' ends."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

from galamp.core.nodes import Place, Ranks
from galamp.gossip.cluster.wire import FLOAT32
from galamp.gossip.topologies import make_topology
from galamp.gossip.topologies.from_node import FromNode
from galamp.gossip.transport.base import Transport, TransportContext
from galamp.gossip.transport.parameter_slots import ParameterSlots, gossip_specs
from galamp.gossip.transport.publication import Publication
from galamp.gossip.transport.publication_ring import PublicationRing
from galamp.gossip.transport.shared_memory import SharedMemoryTransport
from galamp.memory.arrays import SharedArrays, Wakeup
from galamp.memory.cluster_board import ClusterBoard
from galamp.memory.control import ControlBlock
from galamp.memory.status import Phase, StatusBoard
from galamp.memory.versioned_slots import Header
from galamp.workers import bridge
from galamp.workers.bridge import Bridge
from galamp.workers.bridge_task import BridgeTask
from tests.support.toy_port import InOneProcess

SIZE = 7
TOY = "in-one-process"
ADDRESSES = (f"toy/two-nodes-{number}" for number in itertools.count())
DEADLINE_S = 60.0
BEGIN_S = 1000.0
"""Time at which bridges open, far from that of this machine's clock."""


class OneNode:
    """A node as its supervisor and its learners see it; `bridge` is stepped by the test."""

    def __init__(
        self,
        node: int,
        address: str,
        *,
        lanes: int = 2,
        graph: str = "ring",
        about: str = "run",
        wire: str = FLOAT32,
        trained: int = 0,
        parameters: int = SIZE,
        clock: Callable[[], float],
    ) -> None:
        """Begin; its first learner has `trained` for so many steps before the bridge begins.

        The first `parameters` numbers of a vector are those of the network. Bridges open at the
        time that `clock` gives: tests tell them the time, and this machine may be slow.
        """
        self._clock = clock
        self.ranks = ranks = Ranks(node, 2, lanes)
        self.topology = FromNode(make_topology(graph, ranks.all), ranks.among_all(0), lanes)
        remote = len(ranks.remote)
        specs = ControlBlock.specs(ranks.all) + StatusBoard.specs(lanes, 1, (), remote)
        specs += ClusterBoard.specs(ranks.nodes, ranks.all) + gossip_specs(self.topology, SIZE)
        specs += PublicationRing.specs(self.topology)
        self.arrays = SharedArrays.create(specs)
        self.control = ControlBlock(self.arrays)
        self.control.prepare()
        for rank in range(lanes):
            self.control.set_alive(rank, True)
        for rank in ranks.remote:
            self.control.set_incarnation(rank, 1)
        self.board = ClusterBoard(self.arrays, ranks.nodes, ranks.all)
        self.status = StatusBoard(self.arrays, lanes, remote)
        for row in self.status.learners():
            row.enter(Phase.COLLECT)
        self.status.learner(0)["agent_steps"] = trained
        wakeup = Wakeup()
        wakeups = (*(Wakeup() for _ in range(lanes)), *(wakeup for _ in ranks.remote))
        place = Place(node, 2, (address,), (address,))
        self.task = BridgeTask(
            self.arrays, place, ranks, self.topology, wakeup, wakeups, about, 1, 2, parameters,
            True, TOY, wire,
        )  # fmt: skip
        self.ends: list[Transport] = [self.end(rank) for rank in range(lanes)]
        self.rings = [PublicationRing(self.arrays, rank) for rank in range(ranks.all)]
        self.bridge = self._open()

    def _open(self) -> Bridge:
        with patch.object(bridge, "time", SimpleNamespace(monotonic=self._clock)):
            return Bridge(self.task)

    def end(self, lane: int) -> Transport:
        """What a new process of a learner has."""
        wakeups = self.task.wakeups
        return SharedMemoryTransport(
            TransportContext(self.arrays, lane, self.topology, SIZE, wakeups)
        )

    def new_bridge(self) -> None:
        """As the supervisor starts one after the last one was killed."""
        self.bridge.close()
        self.bridge = self._open()

    @property
    def port(self) -> InOneProcess:
        port = self.bridge._port
        assert isinstance(port, InOneProcess)
        return port

    def publish(self, lane: int, value: float, *, round_: int = 0) -> Header:
        """Publish a vector that is `value` everywhere, and tell all out-peers of the round."""
        end = self.ends[lane]
        end.begin_write().fill_(value)
        header = end.end_write(incarnation=0, round_=round_, version=abs(int(value)))
        self.rings[lane].append(
            Publication(lane, header.number, round_, header.version, 0, 1.0, 1.0, ())
        )
        for peer in self.topology.out_peers(lane, round_):
            end.notify(peer, header)
        return header

    def newest(self, rank: int) -> float | None:
        """The value of a learner's newest vector; it must be the same everywhere."""
        vector = ParameterSlots(self.arrays, rank).copy(SIZE)
        if vector is None:
            return None
        assert (vector == vector[0]).all(), f"torn: {vector}"
        return float(vector[0])

    def news(self, lane: int, peer: int) -> bool:
        """Whether a learner has been told of a vector that it has not read."""
        return self.ends[lane].news(peer) is not None

    def mixed(self, lane: int) -> float | None:
        """The value of the vector that an in-peer has sent a learner; None if there is no news."""
        end = self.ends[lane]
        for peer in end.in_peers:
            message = end.news(peer)
            read = None if message is None else end.begin_read(message)
            if message is not None and read is not None:
                value = float(read.vector[0])
                assert torch.equal(read.vector, torch.full((SIZE,), value))
                assert end.unchanged(read)
                end.accept(message, read.header.number)
                return value
        return None


class TwoNodes:
    """Both, and the time that their bridges are told."""

    def __init__(self, graph: str = "ring", wire: str = FLOAT32, parameters: int = SIZE) -> None:
        self.address, self._graph, self.now_s = next(ADDRESSES), graph, BEGIN_S
        self.nodes = [self.node(n, wire=wire, parameters=parameters) for n in range(2)]

    def node(self, node: int, **others: Any) -> OneNode:
        """Return a new node, whose bridge opens now."""
        return OneNode(node, self.address, graph=self._graph, clock=lambda: self.now_s, **others)

    def __getitem__(self, node: int) -> OneNode:
        return self.nodes[node]

    def begin_anew(self, node: int) -> OneNode:
        """Start a node again in an empty memory, as in a new folder."""
        self.nodes[node].bridge.close()
        self.nodes[node] = self.node(node)
        return self.nodes[node]

    def step(self, passed_s: float = 0.1) -> None:
        """Let some time pass, and both bridges work; what they send has arrived then."""
        self.now_s += passed_s
        for node in self.nodes:
            node.bridge.step(self.now_s)
        self._until_real(lambda: all(node.port.at_rest() for node in self.nodes))

    def until(self, holds: Callable[[], object], passed_s: float = 0.1) -> None:
        """Work until something holds."""
        end_s = time.monotonic() + DEADLINE_S
        while not holds():
            self.step(passed_s)
            assert time.monotonic() < end_s, "it never holds"

    def _until_real(self, holds: Callable[[], bool]) -> None:
        """Wait for the outboxes, which have threads of their own."""
        end_s = time.monotonic() + DEADLINE_S
        while not holds():
            time.sleep(0.0002)
            assert time.monotonic() < end_s, "an outbox never ends"

    def acquainted(self) -> bool:
        """Whether each knows the other's start, and is known by it."""
        return all(
            node.bridge._membership.present(1 - at) and node.bridge._membership.knows_this(1 - at)
            for at, node in enumerate(self.nodes)
        )

    def met(self) -> TwoNodes:
        """Work until they are acquainted, and their learners may begin."""
        self.until(lambda: self.acquainted() and all(node.board.settled for node in self.nodes))
        return self

    def close(self) -> None:
        for node in self.nodes:
            node.bridge.close()
