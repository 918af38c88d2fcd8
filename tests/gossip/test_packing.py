"""Frames that leave a node: of the newest vector, whole, and all in the same memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from galamp.gossip import cluster
from galamp.gossip.cluster.packing import Packing
from galamp.gossip.cluster.rounding import Rounding
from galamp.gossip.cluster.wire import BF16, FLOAT32, Frame, bit_sum, pack
from galamp.memory.versioned_slots import VersionedSlots
from tests.support.two_nodes import SIZE, TOY, OneNode, TwoNodes

EXACT = 1.0 + 2.0**-10


@pytest.fixture(params=[FLOAT32, BF16])
def node(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[OneNode]:
    monkeypatch.setitem(cluster.PORTS, TOY, "tests.support.toy_port:InOneProcess")
    two = TwoNodes(wire=request.param)
    yield two[0]
    two.close()


def packing_of(node: OneNode) -> Packing:
    bridge = node.bridge
    return Packing(bridge._mirrors, bridge._identity, node.ranks, node.board)


def expected(node: OneNode, rank: int, number: int, value: float, rounding: Rounding) -> bytearray:
    """The frame of a vector, made in memory of its own."""
    identity, vector = node.bridge._identity, np.full(SIZE, value, np.float32)
    frame = Frame(rank, 1, 0, number, 3, abs(int(value)), 5, bit_sum(vector))
    if identity.wire != BF16:
        return pack(frame, vector, identity)
    rounded = rounding.encode(vector)
    frame = frame._replace(checksum=bit_sum(rounded.vector), rounded=rounded.distance)
    return pack(frame, rounded.halves, identity)


def test_each_frame_is_made_where_the_last_one_was(node: OneNode) -> None:
    packing, roundings = packing_of(node), [Rounding(SIZE) for _ in range(2)]
    made = set[int]()
    for number, value in enumerate((EXACT, -2.5, EXACT), start=1):
        for rank in range(2):
            node.publish(rank, value + rank, round_=3)
            frame = packing.frame(rank, 5)
            assert frame == expected(node, rank, number, value + rank, roundings[rank])
            made.add(id(frame))
    assert len(made) == 1


def test_of_a_vector_that_changes_while_it_is_copied_nothing_is_sent_or_left_out(
    node: OneNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    packing, rounding = packing_of(node), Rounding(SIZE)
    assert packing.frame(0, 5) is None, "there is none yet"
    node.publish(0, EXACT, round_=3)
    assert packing.frame(0, 5) == expected(node, 0, 1, EXACT, rounding)
    node.publish(0, 1.0 + 2.0**-8 - 2.0**-11, round_=3)
    with monkeypatch.context() as patched:
        patched.setattr(VersionedSlots, "unchanged", lambda *_: False)
        assert packing.frame(0, 5) is None
    node.publish(0, EXACT, round_=3)
    assert packing.frame(0, 5) == expected(node, 0, 3, EXACT, rounding)
