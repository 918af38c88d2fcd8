"""Membership: epochs without a clock, and what is refused."""

from __future__ import annotations

import json
import typing
from dataclasses import asdict

import pytest

from galamp.core.cluster_config import MAX_NODES
from galamp.core.config import RunConfig
from galamp.core.nodes import MAX_LANES, MAX_LEARNERS, Ranks
from galamp.gossip.cluster import wire
from galamp.gossip.cluster.membership import ABSENT_S, TEXT_BYTES, Hello, Lane
from galamp.gossip.cluster.starts import Counts
from galamp.gossip.cluster.wire import Frame
from galamp.gossip.topologies.ring import DirectedRing
from galamp.memory.cluster_board import LARGEST_EPOCH, OVERTAKEN_KEPT, Start
from galamp.supervision.cluster import about_run
from tests.support.node_starts import ALL, LANES, NODES, Node, talk


def test_nodes_know_one_another_after_two_rounds() -> None:
    nodes = [Node(node, session=10 + node) for node in range(NODES)]
    nodes[0].hear(nodes[1])
    assert nodes[0].membership.present(1)
    assert not nodes[0].membership.knows_this(1), "it has not heard of this start yet"
    talk(*nodes)
    for one in nodes:
        assert all(map(one.membership.knows_this, one.membership.others))
        assert [one.board.rank(rank, "alive") for rank in one.ranks.remote] == [1] * 4
        assert one.membership.lanes_of(one.membership.others[0]) == (Lane(True, 3, 5),) * LANES


def test_a_node_that_is_not_heard_or_not_reached_is_absent_and_comes_back() -> None:
    one, other = Node(0, session=10), Node(1, session=11)
    one.hear(other)
    membership = one.membership
    assert membership.update(ALL, ABSENT_S / 2) == []
    assert ["gone" in line for line in membership.update(ALL, ABSENT_S)] == [True]
    assert [one.board.rank(rank, "alive") for rank in one.ranks.remote] == [0] * 4
    one.hear(other, now_s=5.0)
    assert membership.present(1)
    assert ["gone" in line for line in membership.update(frozenset(), 5.0)] == [True]


def test_a_node_that_starts_anew_with_nothing_passes_what_others_know_of_it() -> None:
    """Whatever was sent before is old then, though numbers begin anew."""
    one, other, third = (Node(node, session=10 + node) for node in range(NODES))
    talk(one, other, third)
    one.board.set_rank(one.ranks.here(2), "number", 500)
    before = Frame(2, 1, 0, 501, 0, 0, 0, 0)
    assert one.membership.objection(1, before) is None
    for times in (2, 3, 4):
        other = Node(1, session=100 + times)
        one.hear(other)
        assert one.board.start(1).session != 100 + times, "it is not taken for its predecessor"
        assert not other.membership.knows_this(0)
        talk(one, other, third)
        assert other.board.epoch == times
        assert one.board.start(1).epoch == times
        assert one.membership.objection(1, before) == "", "of an earlier start"
        assert one.membership.objection(1, before._replace(epoch=times, number=1)) is None


def test_a_start_that_is_not_known_is_to_be_told_so_but_hearsay_of_one_is_not_answered() -> None:
    """Two nodes that know different starts of a dead one would else answer each other for ever."""
    one, third = Node(0, session=10), Node(2, session=12)
    talk(one, third)
    one.hear(Node(1, session=11))
    third.hear(Node(1, session=13))
    talk(one, third)
    assert [node.membership.unknown for node in (one, third)] == [0, 0]
    one.hear(Node(1, session=14))
    assert one.membership.unknown == 1
    old, new = Node(1, session=11), Node(1, session=15)
    talk(one, new)
    before = one.membership.unknown
    one.hear(old)  # which has been overtaken, and is told so in time
    assert one.membership.unknown == before


def test_the_longest_text_of_the_largest_cluster_is_taken() -> None:
    start = Start(LARGEST_EPOCH, 2**61, (2**61,) * OVERTAKEN_KEPT)
    counts, lanes = Counts(10**15, 10**15), Lane(False, 2**40, 2**40)
    each = (start,) * MAX_NODES, (counts,) * MAX_LEARNERS, (lanes,) * MAX_LANES
    hello = Hello("x" * 1024, MAX_NODES - 1, *each)
    assert len(json.dumps(asdict(hello), separators=(",", ":"))) < TEXT_BYTES


def test_frames_under_another_nodes_rank_or_of_the_past_are_not_taken() -> None:
    one, other = Node(0, session=10), Node(1, session=11)
    talk(one, other)
    frame = Frame(2, 1, 0, 7, 0, 0, 0, 0)
    objection = one.membership.objection
    assert objection(1, frame) is None
    for rank in (0, 1, 4, 5):
        assert "not its own" in (objection(1, frame._replace(rank=rank)) or "")
    assert "not its own" in (objection(2, frame) or "")
    one.board.set_rank(one.ranks.here(2), "number", 7)
    assert [objection(1, frame._replace(number=n)) for n in (6, 7, 8)] == ["", "", None]
    assert [objection(1, frame._replace(epoch=e, number=8)) for e in (0, 2)] == ["", ""]


def test_a_node_that_differs_is_refused_once_in_words_that_name_both() -> None:
    one, other = Node(0, session=10, about="a ring"), Node(1, session=11, about="a star")
    assert one.hear(other, other) == ["node 1 differs: a star; this one: a ring", None]
    assert not one.membership.present(1)
    again = Node(1, session=12, about="a star")
    assert one.hear(again) == ["node 1 differs: a star; this one: a ring"]


@pytest.mark.parametrize("starts", [None, 7, [], [[1, 5]], [5, 5, 5]])
def test_a_node_of_another_version_is_refused_once_in_words_that_name_both(starts: object) -> None:
    """Of what it tells no more than what all must agree on can be read."""
    one = Node(0, session=10)
    told = {"about": "galamp 0.0.9, a run", "node": 1, "epoch": 1, "session": 5, "knows": [[0, 0]]}
    text = json.dumps(told | ({} if starts is None else {"starts": starts})).encode()
    said = [one.membership.hear(1, text, 0.0) for _ in range(3)]
    assert said == ["node 1 differs: galamp 0.0.9, a run; this one: a run", None, None]
    assert one.board.start(1).epoch == 0


def test_what_nodes_tell_and_send_is_that_of_the_protocol_number() -> None:
    """It is part of what they must agree on; who changes anything here raises `PROTOCOL`."""
    kinds = Hello, Start, Counts, Lane, Frame
    assert [", ".join(typing.get_type_hints(kind)) for kind in kinds] == [
        "about, node, starts, steps, lanes",
        "epoch, session, after",
        "before, since",
        "alive, rounds, published",
        "rank, epoch, incarnation, number, round, version, lanes, checksum, rounded",
    ]
    sent = wire._LAYOUT.format, wire.FORMAT, wire.PROTOCOL
    assert sent == ("<4sHxxIQQQQQQQQQqd", 2, 3)
    about = about_run(RunConfig(), Ranks(0, 2, 1), "CartPole-v1", "mlp", 7, DirectedRing(2))
    assert f"(protocol {wire.PROTOCOL})" in about


@pytest.mark.parametrize(
    "change",
    [
        {"starts": [[2**41, 1, []]] * 3},
        {"starts": [[-1, 1, []]] * 3},
        {"starts": [[1, 2**63, []]] * 3},
        {"starts": [[1, 1, [1] * 5000]] * 3},
        {"starts": []},
        {"starts": [[1, 1, []]] * 5000},
        {"steps": [[1, 1]]},
        {"steps": [[10**16, 0]] * 6},
        {"steps": [[1, 1.5]] * 6},
        {"steps": [1] * 6},
        {"lanes": []},
        {"lanes": [[True, 1, 1]] * 2},
        {"node": 2},
        {"about": "x" * 5000},
        {"more": 1},
    ],
)
def test_texts_that_are_none_are_refused_and_change_nothing(change: dict[str, object]) -> None:
    one, other = Node(0, session=10), Node(1, session=11)
    text = json.dumps(json.loads(other.hello()) | change).encode()
    refused = one.membership.hear(1, text, 0.0)
    assert refused
    assert "\n" not in refused
    for noise in (b"", b"\xff" * 9, b"[]", b"{}", b"{" * 10_000, b"0" * 10**6, text[:-1]):
        assert one.membership.hear(1, noise, 0.0)
    one.membership.update(ALL, 0.0)
    assert not one.membership.present(1)
    assert (one.board.epoch, one.board.start(1).epoch) == (1, 0)
