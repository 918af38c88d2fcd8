"""Bridges of two nodes over a port without a network: learners see no difference to one machine."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from galamp.core.errors import StopRun
from galamp.gossip import cluster
from galamp.gossip.cluster.membership import ABSENT_S
from galamp.gossip.cluster.wire import BF16, Frame, bit_sum, pack
from galamp.gossip.transport.parameter_slots import ParameterSlots
from galamp.gossip.transport.publication import CHECKSUMS, FOLLOWS
from galamp.memory.arrays import Wakeup
from galamp.memory.cluster_board import SETTLE_LIMIT_S
from galamp.memory.status import Phase
from galamp.memory.versioned_slots import Header
from galamp.workers import bridge as bridge_module
from galamp.workers.bridge import (
    FETCH_AGAIN_S,
    FOLLOW_EVERY_S,
    GATHER_S,
    JOIN_S,
    SPARE_EVERY_S,
    TICK_S,
    Bridge,
)
from tests.models.stepping import put_back, state_of, step_through
from tests.support.two_nodes import SIZE, TOY, OneNode, TwoNodes

Turns = Callable[[float, set[int]], tuple[list[float], list[float]]]


@pytest.fixture(autouse=True)
def _toy_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cluster.PORTS, TOY, "tests.support.toy_port:InOneProcess")


@pytest.fixture
def two() -> Iterator[TwoNodes]:
    nodes = TwoNodes()
    yield nodes
    nodes.close()


@pytest.fixture
def complete() -> Iterator[TwoNodes]:
    nodes = TwoNodes(graph="complete")
    yield nodes.met()
    nodes.close()


def until_mixed(two: TwoNodes, node: int, value: float) -> None:
    """Work until a node's first learner has got a vector of this value."""
    two.until(lambda: two[node].mixed(0) == value)


def test_vectors_reach_the_learners_that_the_graph_sends_them_to(two: TwoNodes) -> None:
    """In the ring 0 -> 1 -> 2 -> 3 -> 0, of which each node has two and calls them 0 and 1."""
    two.met()
    for node in two.nodes:
        node.publish(0, 1.0)
        sent = node.publish(1, 10.0 + node.ranks.node, round_=5)
        assert node.mixed(1) == 1.0, "within a node nothing has changed"
        assert sent.number == 1
    two.until(lambda: all(node.board.rank(3, "mirrored") for node in two.nodes))
    assert [node.newest(3) for node in two.nodes] == [11.0, 10.0]
    assert [node.mixed(0) for node in two.nodes] == [11.0, 10.0]
    assert [node.mixed(0) for node in two.nodes] == [None, None], "nothing is read twice"
    for node in two.nodes:
        assert node.status.learner(3)["rounds"] == 6
        assert node.ends[0].status(3).round == 6
        assert node.board.node(1 - node.ranks.node, "received") == 1


def test_a_learner_that_starts_up_or_is_dead_is_not_waited_for_on_the_other_node(
    two: TwoNodes,
) -> None:
    two.met()
    seen = two[1].board
    two.until(lambda: [seen.rank(rank, "alive") for rank in (2, 3)] == [1, 1])
    two[0].status.learner(0).reset()
    two[0].control.set_alive(1, False)
    two.until(lambda: [seen.rank(rank, "alive") for rank in (2, 3)] == [0, 0])
    two[0].status.learner(0).enter(Phase.COLLECT)
    two.until(lambda: [seen.rank(rank, "alive") for rank in (2, 3)] == [1, 0])


def test_the_newest_wins_and_what_it_replaced_is_counted(two: TwoNodes) -> None:
    two.met()
    two[1].port.stuck = True
    for value in range(1, 21):
        two[0].publish(1, float(value))
        two[0].bridge.step(two.now_s)
    two[1].port.stuck = False
    two.until(lambda: two[1].newest(3) == 20.0)
    assert two[1].mixed(0) == 20.0
    board = two[0].board
    two.until(lambda: board.node(1, "sent") + board.node(1, "overwritten") == 20)
    assert board.node(1, "sent") <= 3


def test_what_may_not_leave_yet_stays_and_the_newest_leaves(two: TwoNodes) -> None:
    two.met()
    allowed = False
    two[0].bridge.may_send = lambda: allowed
    for value in range(1, 21):
        two[0].publish(1, float(value))
        two.step(0.01)
    assert two[1].newest(3) != 20.0
    assert two[1].mixed(0) is None
    allowed = True
    until_mixed(two, 1, 20.0)
    board = two[0].board
    two.until(lambda: board.node(1, "sent") + board.node(1, "overwritten") == 20)
    assert board.node(1, "sent") == 1


def test_frames_that_leave_and_come_are_counted_for_the_pace(two: TwoNodes) -> None:
    two.met()
    before = [(node.bridge.sent(), node.bridge.received()) for node in two.nodes]
    for value in (1.0, 2.0):
        two[0].publish(1, value)
        two.until(lambda: two[1].newest(3) == value)  # noqa: B023
    after = [(node.bridge.sent(), node.bridge.received()) for node in two.nodes]
    passed = [(b[0] - a[0], b[1] - a[1]) for a, b in zip(before, after, strict=True)]
    assert passed == [(2, 0), (0, 2)]


def test_a_step_in_which_nothing_is_to_leave_does_not_ask_whether_it_may(two: TwoNodes) -> None:
    """Else it would use up the one time a second that an empty bucket allows."""
    two.met()
    asked_s = list[float]()

    def may_send() -> bool:
        once = not asked_s or two.now_s - asked_s[-1] >= 1.0
        asked_s.extend([two.now_s] if once else [])
        return once

    two[0].bridge.may_send = may_send
    two[0].publish(1, 1.0)
    for _ in range(101):
        two.step(TICK_S)
    assert len(asked_s) == 1
    two[0].publish(1, 2.0)
    two.step(TICK_S)
    assert asked_s[-1] == two.now_s
    two.step(TICK_S)
    assert two[1].newest(3) == 2.0


@pytest.mark.parametrize(
    ("cores", "quota", "expected"), [(range(4), None, 4), (range(4), 1.5, 1.5), ([1], 8.0, 1)]
)
@pytest.mark.parametrize("paced", [True, False])
def test_a_bridge_has_its_share_of_the_cores_that_its_node_may_use(
    two: TwoNodes, monkeypatch: pytest.MonkeyPatch,
    cores: Sequence[int], quota: float | None, expected: float, paced: bool,
) -> None:  # fmt: skip
    given, allowed = list[float](), list[bool]()

    class Bucket:
        def __init__(self, of: float, sent: Callable[[], int], received: Callable[[], int]) -> None:
            given.append(of)
            assert (sent(), received()) == (0, 0)

        def may_send(self) -> bool:
            return False

    monkeypatch.setattr(bridge_module, "TokenBucket", Bucket)
    monkeypatch.setattr(bridge_module, "allowed_processors", lambda: quota)
    monkeypatch.setattr(bridge_module.os, "sched_getaffinity", lambda _: set(cores))
    monkeypatch.setattr(Bridge, "run", lambda bridge: allowed.append(bridge.may_send()))
    monkeypatch.setattr(Bridge, "close", lambda bridge: None)
    bridge_module.main(replace(two[0].task, paced=paced))
    assert given == ([expected] if paced else [])
    assert allowed == [not paced]


def test_a_node_that_asks_is_answered_at_once(two: TwoNodes) -> None:
    """Its learners wait at their start for the vectors of those that train."""
    two.met()
    two[0].bridge.may_send = lambda: False
    two[0].publish(0, 7.0)
    two[1].port.fetch(0, 0)
    two.until(lambda: two[1].newest(2) == 7.0)


@pytest.mark.parametrize("parameters", [SIZE, 4])
def test_lengths_of_mirrored_vectors_are_measured_for_the_certificate(parameters: int) -> None:
    """Of parameters only, as learners measure them, where an optimiser's state goes with them."""
    two = TwoNodes(parameters=parameters).met()
    for value in (1.0, 4.0, 4.0, -2.0):
        two[0].publish(1, value)
        until_mixed(two, 1, value)
    entries, lost = two[1].rings[3].drain()
    lengths = [entry.length / math.sqrt(parameters) for _, entry in entries]
    assert lost == 0
    assert lengths[-3:] == pytest.approx([3.0, 0.0, 6.0], rel=1e-4)
    assert all(entry.own == 1.0 and not entry.mixed for _, entry in entries)
    assert [entry.number for _, entry in entries] == list(range(1, len(entries) + 1))
    two.close()


def test_a_mirrored_vector_is_recorded_with_its_checksum(two: TwoNodes) -> None:
    two.met()
    two[0].publish(1, 3.0)
    until_mixed(two, 1, 3.0)
    entries = [entry for _, entry in two[1].rings[3].drain()[0] if entry.incarnation != FOLLOWS]
    vector = np.full(SIZE, 3.0, np.float32)
    assert entries[-1].checksum == bit_sum(vector) % CHECKSUMS > 0


@pytest.mark.parametrize("parameters", [SIZE, 4])
def test_rounded_vectors_carry_on_what_was_left_out_and_how_much_it_is(parameters: int) -> None:
    two = TwoNodes(wire=BF16, parameters=parameters).met()
    exact, sent = 1.0 + 2.0**-10, []
    for _ in range(8):
        two[0].publish(1, exact)
        two.until(lambda: two[0].board.node(1, "sent") > len(sent))
        two.until(lambda: two[1].mixed(0) is not None)
        sent.append(two[1].newest(3))
    assert set(sent) == {1.0, 1.0 + 2.0**-7}, "the nearest numbers of half the length"
    assert sum(filter(None, sent)) == 8 * exact
    entries, _ = two[1].rings[3].drain()
    errors = [entry.rounded for _, entry in entries if entry.incarnation != FOLLOWS]
    wanted = [abs(value - exact) * math.sqrt(parameters) for value in sent if value is not None]
    assert errors[-8:] == pytest.approx(wanted, rel=1e-4)
    assert not any(entry.checksum for _, entry in entries), "they are others than were published"
    assert min(errors[-8:]) > 0
    two.close()


def test_a_node_alone_begins_soon_and_its_absent_learners_follow_its_own() -> None:
    two = TwoNodes()
    alone, other = two.nodes
    other.port.cut = True
    two.step(0.0)
    assert not alone.board.settled
    two.step(JOIN_S + 0.5)
    assert alone.board.settled
    alone.publish(0, 5.0)
    alone.publish(1, 6.0)
    two.step(2.0)
    assert [alone.newest(rank) for rank in alone.ranks.remote] == [5.0, 6.0]
    assert alone.mixed(0) is None, "nobody is told of them"
    assert [alone.board.rank(rank, "alive") for rank in alone.ranks.remote] == [0, 0]
    two.close()


def test_vectors_of_a_node_that_has_left_stay_until_the_supervisor_has_them(two: TwoNodes) -> None:
    """It copies them for the mean of all nodes; mirrors follow soon, but not in the same step."""
    two.met()
    here, away = two.nodes
    away.publish(1, 9.0)
    two.until(lambda: here.newest(3) == 9.0)
    here.publish(1, 2.0)
    away.port.cut = True
    while here.board.node(1, "present"):
        here.bridge._follow_due_s = two.now_s - 10.0  # all are due, now
        two.step()
    left_s = two.now_s
    assert here.newest(3) == 9.0
    two.step(FOLLOW_EVERY_S - 0.1)
    assert here.newest(3) == 9.0
    two.until(lambda: here.newest(3) == 2.0)
    assert two.now_s - left_s < 2.0 * FOLLOW_EVERY_S + 0.2


def test_what_an_absent_learner_follows_already_is_not_written_again() -> None:
    two = TwoNodes()
    alone, other = two.nodes
    other.port.cut = True
    two.until(lambda: alone.board.settled)
    slots = ParameterSlots(alone.arrays, 3)
    for number, value in enumerate((5.0, 5.0, 6.0), start=1):
        alone.publish(1, value)
        for _ in range(3):
            two.step(2.0)
            assert (alone.newest(3), slots.published) == (value, number)
    other.port.cut = False
    two.met()
    other.publish(1, 9.0)
    two.until(lambda: alone.newest(3) == 9.0)
    other.port.cut = True
    two.until(lambda: alone.newest(3) == 6.0)  # although it has followed it before
    two.close()


def test_no_learner_wakes_the_bridge_by_what_it_has_read(two: TwoNodes) -> None:
    two.met()
    two[0].publish(1, 1.0)
    two.until(lambda: two[1].newest(3) == 1.0)
    two[1].task.wakeup.clear()
    assert two[1].mixed(0) == 1.0
    assert not two[1].task.wakeup.wait(0.0)
    two[1].publish(1, 2.0)
    assert two[1].task.wakeup.wait(0.0)


@pytest.fixture
def bridge_turns(two: TwoNodes, monkeypatch: pytest.MonkeyPatch) -> Turns:
    """Runs a bridge's loop for ten turns: its pauses, and when it returns memory, by its clock."""
    node, pauses, began_s, returned = two[0], list[float](), list[float](), list[float]()

    def run(turn_s: float, signalled: set[int]) -> tuple[list[float], list[float]]:
        clock, turns = itertools.count(node.bridge._opened_s, turn_s), itertools.count(1)

        def step(now_s: float) -> None:
            turn = next(turns)
            began_s.append(now_s - node.bridge._opened_s)
            if turn in signalled:
                node.task.wakeup.signal()
            node.control.quit = turn == 10

        node.task.wakeup.clear()
        time_ = SimpleNamespace(monotonic=lambda: next(clock), sleep=pauses.append)
        monkeypatch.setattr(node.bridge, "step", step)
        monkeypatch.setattr(bridge_module, "time", time_)
        monkeypatch.setattr(bridge_module, "TICK_S", 0.001)
        monkeypatch.setattr(bridge_module, "return_spare", lambda: returned.append(began_s[-1]))
        with pytest.raises(StopRun):
            node.bridge.run()
        return pauses, returned

    return run


def test_a_bridge_with_nothing_to_do_sleeps_once_a_tick(bridge_turns: Turns) -> None:
    """And a moment longer only where a learner has begun to send to its peers."""
    pauses, _ = bridge_turns(1.0, {2, 5})
    assert pauses == [GATHER_S] * 2


def test_a_bridge_returns_the_memory_that_vectors_took_now_and_then(bridge_turns: Turns) -> None:
    _, returned = bridge_turns(0.3 * SPARE_EVERY_S, set())
    assert returned == pytest.approx([0.0, 1.2 * SPARE_EVERY_S, 2.4 * SPARE_EVERY_S])


def trains_alone_before_the_other_comes() -> tuple[TwoNodes, OneNode, OneNode]:
    """A node whose learners have published 7 and 8, and one that begins."""
    two = TwoNodes()
    first, late = two.nodes
    late.port.cut = True
    two.until(lambda: first.board.settled)
    first.publish(0, 7.0)
    first.publish(1, 8.0)
    return two, first, two.begin_anew(1)


def test_a_node_that_comes_late_waits_for_the_vectors_of_those_that_train() -> None:
    two, first, late = trains_alone_before_the_other_comes()
    two.until(lambda: late.board.settled)
    assert [late.newest(rank) for rank in late.ranks.remote] == [7.0, 8.0]
    assert [late.board.rank(rank, "mirrored") for rank in late.ranks.remote] == [1, 1]
    assert [first.board.rank(rank, "mirrored") for rank in first.ranks.remote] == [0, 0]
    two.close()


def test_a_vector_that_has_come_is_there_again_after_its_node_was_away_for_a_moment() -> None:
    """As after the bridge was killed. Nothing newer is published: learners would wait for 12 s."""
    two = TwoNodes()
    two.met()
    two[0].publish(0, 7.0)
    two[0].publish(1, 8.0)
    two.until(lambda: two[1].newest(3) == 8.0)
    late = two.begin_anew(1)
    late.port.fetch = lambda node, rank: None  # type: ignore[method-assign]
    two.until(two.acquainted)
    two[0].bridge._offer(1, 0, 0)  # once: no later frame may come to the next bridge
    two.until(lambda: late.board.rank(2, "mirrored"))
    assert not late.board.settled, "the other one's vector has not come"
    late.new_bridge()
    late.port.cut = True
    since_s = late.bridge._opened_s = two.now_s
    two.step()
    assert not late.board.rank(2, "mirrored")
    late.port.cut = False
    assert not late.board.settled
    two.until(lambda: late.board.settled)
    assert two.now_s - since_s < JOIN_S + 1.0
    assert [late.board.rank(rank, "mirrored") for rank in late.ranks.remote] == [1, 1]
    assert [late.newest(rank) for rank in late.ranks.remote] == [7.0, 8.0]
    assert ParameterSlots(late.arrays, 2).published == 1, "it is not recorded twice"
    two.close()


def test_a_node_that_comes_late_does_not_wait_for_a_learner_that_is_dead() -> None:
    two, first, _ = trains_alone_before_the_other_comes()
    first.control.set_alive(0, False)
    late = two.begin_anew(1)
    two.until(lambda: late.board.settled)
    assert [late.board.rank(rank, "mirrored") for rank in late.ranks.remote] == [0, 1]
    two.close()


def test_no_learner_waits_for_ever_for_vectors_that_do_not_come() -> None:
    two = TwoNodes()
    two.met()
    two[0].publish(0, 7.0)
    late = two.begin_anew(1)
    late.port.stuck = True  # it hears texts, and no vector
    two.until(lambda: late.board.settled, passed_s=1.0)
    assert two.now_s - late.bridge._opened_s >= SETTLE_LIMIT_S
    late.port.stuck = False
    two.close()


def test_a_cut_is_noticed_and_heals_by_itself(two: TwoNodes) -> None:
    two.met()
    two[0].publish(1, 1.0)
    two.until(lambda: two[1].mixed(0) == 1.0)
    two[1].port.cut = True
    two.until(lambda: not any(node.board.rank(3, "alive") for node in two.nodes))
    for node in two.nodes:
        assert any("gone" in line for line in node.board.notices())
        node.publish(1, 2.0)
        node.publish(0, 2.0)
    two.step()
    assert two[1].mixed(0) is None
    two[1].port.cut = False
    two.until(lambda: all(node.board.rank(3, "alive") for node in two.nodes))
    two[0].publish(1, 3.0)
    two.until(lambda: two[1].mixed(0) == 3.0)


def test_a_bridge_after_a_killed_one_goes_on(two: TwoNodes) -> None:
    two.met()
    two[0].publish(1, 1.0)
    two.until(lambda: two[1].mixed(0) == 1.0)
    for node in two.nodes:
        node.status.learner(0)["agent_steps"] = 100
    two.until(lambda: two[1].status.agent_steps() == 200, passed_s=0.5)
    session = two[0].board.session
    two[0].new_bridge()
    two[1].new_bridge()
    two[0].publish(1, 2.0)
    two.met()
    two[0].publish(1, 3.0)
    two.until(lambda: two[1].mixed(0) == 3.0)
    assert (two[0].board.session, two[0].board.epoch) == (session, 1)
    two.until(lambda: two[1].status.agent_steps() == two[0].status.agent_steps() == 200)


def test_steps_made_before_the_first_bridge_begins_are_of_this_start() -> None:
    """Learners do not wait for ever for a bridge; others may know more of an earlier start."""
    two = TwoNodes()
    two.met()
    two[1].status.learner(0)["agent_steps"] = 500
    two.until(lambda: two[0].status.agent_steps() == 500, passed_s=0.5)
    two[1].bridge.close()
    late = two.nodes[1] = two.node(1, trained=20)
    two.met()
    two.until(lambda: two[0].status.agent_steps() == 520, passed_s=0.5)
    two.until(lambda: late.board.missing(0) == 500)
    two.close()


def test_a_bridge_after_a_killed_one_counts_on(two: TwoNodes) -> None:
    two.met()
    board = two[0].board

    def counted() -> tuple[int, int]:
        two.step()
        return board.node(1, "sent"), board.node(1, "overwritten")

    two[1].port.stuck = True
    for value in range(1, 21):
        two[0].publish(1, float(value))
        two.step()
    two[1].port.stuck = False
    two.until(lambda: sum(counted()) == 20)
    sent, overwritten = counted()
    assert overwritten > 0
    for more in (1, 2):
        two[0].new_bridge()
        assert counted() == (sent + more - 1, overwritten)
        two.met()
        two[0].publish(1, 20.0 + more)
        two.until(lambda: two[1].newest(3) == 20.0 + more)  # noqa: B023
        two.until(lambda: counted() == (sent + more, overwritten))  # noqa: B023


def test_rounds_are_heard_also_of_a_learner_that_sends_nothing(two: TwoNodes) -> None:
    """Whoever waits for one that is ahead, in a graph that changes, would wait for nothing."""
    two.met()
    row = two[1].status.learner(3)
    two[0].status.learner(1)["rounds"] = 40
    two.until(lambda: row["rounds"] == 40)
    assert two[1].ends[0].status(3).round == 40
    two[0].publish(1, 1.0, round_=30)  # was on its way for longer than the text
    two.until(lambda: two[1].mixed(0) == 1.0)
    assert row["rounds"] == 40
    two[0].publish(1, 2.0, round_=50)
    two.until(lambda: two[1].mixed(0) == 2.0)
    assert row["rounds"] == 51
    again = two.begin_anew(0)  # whose rounds begin anew
    again.status.learner(1)["rounds"] = 3
    two.until(lambda: row["rounds"] == 3)


def test_of_frames_that_wait_the_newest_is_mirrored_for_all_that_any_was_for(
    complete: TwoNodes,
) -> None:
    """The receivers are lanes 0 and 1 of node 0: bits 1 and 2."""
    node = complete[0]
    received, arrivals = node.board.node(1, "received"), node.bridge._arrivals
    for number, lanes in ((50, 1), (51, 0), (52, 2)):
        arrivals.add(1, framed(complete, number, value=float(number), lanes=lanes))
    arrivals.take()
    assert not arrivals
    assert [node.mixed(lane) for lane in (0, 1)] == [52.0, 52.0]
    assert node.board.node(1, "received") == received + 1
    damaged = framed(complete, 54, lanes=2)
    damaged[-1] ^= 64
    arrivals.add(1, framed(complete, 53, value=53.0, lanes=1))
    arrivals.add(1, damaged)
    arrivals.take()
    assert [node.mixed(lane) for lane in (0, 1)] == [53.0, None], "of what is damaged nothing is"
    assert node.board.node(1, "refused") == 1


class Clock:
    """A clock that goes on only while something works, for so long."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s, self.done = 0.0, list[str]()
        monkeypatch.setattr("galamp.workers.bridge.time.monotonic", lambda: self.now_s)

    def taking(self, name: str, work_s: float, work: Callable[..., object]) -> Any:
        """A function that takes so long."""

        def slow(*given: object) -> object:
            self.now_s += work_s
            self.done.append(name)
            return work(*given)

        return slow


def test_between_long_vectors_the_supervisor_and_the_others_hear_of_a_bridge(
    two: TwoNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be taken for hung, and the node for gone, when it has most to do."""
    two.met()
    node, clock = two[0], Clock(monkeypatch)
    clock.now_s = two.now_s
    bridge, mirrors = node.bridge, node.bridge._mirrors
    monkeypatch.setattr(mirrors, "put", clock.taking("put", 1.5, mirrors.put))
    monkeypatch.setattr(mirrors, "follow", clock.taking("follow", 1.5, mirrors.follow))
    monkeypatch.setattr(node.port, "tell", clock.taking("tell", 0.0, node.port.tell))
    wakeup = SimpleNamespace(signal=clock.taking("at once", 0.0, lambda: None))
    monkeypatch.setattr(bridge, "_task", replace(node.task, wakeup=cast(Wakeup, wakeup)))
    beats = node.status.bridge()
    bridge._hello_due_s = clock.now_s + 0.1
    for rank in (2, 3):
        node.bridge._arrivals.add(1, framed(two, 50, rank=rank))
    for _ in range(2):
        before = beats["beat"]
        bridge.step(clock.now_s)
        assert beats["beat"] > before + 1
    assert clock.done == ["put", "at once", "tell", "put"]
    assert [node.newest(rank) for rank in (2, 3)] == [9.0, 9.0]
    two[1].port.cut = True
    clock.done.clear()
    for _ in range(4):
        clock.now_s += 3.0
        bridge.step(clock.now_s)
    assert clock.done.count("tell") == 4
    assert clock.done.count("follow") == 3, "in the first the node leaves"


def test_nodes_that_can_reach_each_other_again_say_so_at_once(two: TwoNodes) -> None:
    two.met()
    two[1].port.cut = True
    two.until(
        lambda: not any(node.board.node(1 - at, "present") for at, node in enumerate(two.nodes))
    )
    two.step(ABSENT_S + 1.0)
    for node in two.nodes:
        node.bridge._hello_due_s = two.now_s + 0.5  # each has just told of itself, to nobody
    two[1].port.cut = False
    for _ in range(3):
        two.step(0.06)
    assert [node.board.node(1 - at, "present") for at, node in enumerate(two.nodes)] == [1, 1]


def test_a_node_whose_start_is_not_known_is_told_so_at_once(two: TwoNodes) -> None:
    """It has to renumber itself, before anything that it sends is taken."""
    two.met()
    for _ in range(3):
        two.until(lambda: two[0].bridge._hello_due_s > two.now_s + 0.4)
        again = two.begin_anew(1)
        epoch = two[0].board.start(1).epoch
        for _ in range(4):
            two.step(0.06)
        assert two[0].board.start(1).epoch == again.board.epoch == epoch + 1
        assert two[0].board.node(1, "present")
        assert again.bridge._membership.knows_this(0)


def test_texts_that_news_is_told_by_do_not_go_to_and_fro_without_end(
    two: TwoNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    two.met()
    said = list[int]()
    monkeypatch.setattr(two[0].port, "tell", lambda node, text: said.append(node))
    for _ in range(100):
        two[0].bridge._tell_soon(two.now_s)
        two.step(0.001)
    assert len(said) <= 3


def test_a_vector_that_was_asked_for_in_vain_is_asked_for_again_soon() -> None:
    two, _, late = trains_alone_before_the_other_comes()
    asked_s, fetch = dict[int, list[float]](), late.port.fetch

    def lost_at_first(node: int, rank: int) -> None:
        asked_s.setdefault(rank, []).append(two.now_s)
        if len(asked_s[rank]) > 1:
            fetch(node, rank)

    late.port.fetch = lost_at_first  # type: ignore[method-assign]
    two.until(lambda: late.board.settled)
    for first_s, again_s in (times[:2] for times in asked_s.values()):
        assert FETCH_AGAIN_S <= again_s - first_s < FETCH_AGAIN_S + 0.2
    assert sorted(asked_s) == [0, 1]
    two.close()


def test_a_bridge_killed_while_a_start_begins_or_is_renumbered_leaves_one_that_is_heard() -> None:
    two = TwoNodes()
    node = two[0]
    node.bridge.close()
    nobody = b"\0" * node.arrays.size_bytes
    put_back(node.arrays, nobody)
    for work in (lambda: node.board.begin(1, 77), lambda: node.board.begin(2, 77, (66,))):
        states = step_through(node.arrays, work).states
        assert len(states) > 1
        for state in states:
            put_back(node.arrays, state)
            node.control.prepare()
            node.bridge = Bridge(node.task)
            assert node.board.session
            assert node.board.epoch >= 1
            node.bridge.close()
        put_back(node.arrays, states[-1])
    node.bridge = Bridge(node.task)
    two.close()


def test_a_node_that_begins_anew_is_heard_although_its_numbers_begin_anew(two: TwoNodes) -> None:
    two.met()
    for value in range(1, 10):
        two[1].publish(1, float(value))
        until_mixed(two, 0, value)
    two[1].status.learner(0)["agent_steps"] = 500
    two.until(lambda: two[0].status.agent_steps() == 500, passed_s=0.5)
    again = two.begin_anew(1)
    two.met()
    assert again.board.epoch == 2
    again.publish(1, 30.0)
    two.until(lambda: two[0].mixed(0) == 30.0)
    again.status.learner(0)["agent_steps"] = 20
    two.until(lambda: two[0].status.agent_steps() == 520, passed_s=0.5)
    two.until(lambda: again.status.agent_steps() == 520)
    assert again.board.missing(0) == 500


def framed(
    two: TwoNodes, number: int, *, rank: int = 3, value: float = 9.0, lanes: int = 1
) -> bytearray:
    """A frame of node 1, whose learners are 2 and 3 of all."""
    vector = np.full(SIZE, value, np.float32)
    epoch = two[1].board.epoch
    frame = Frame(rank, epoch, 0, number, 0, 0, lanes, bit_sum(vector))
    return pack(frame, vector, two[0].bridge._identity)


def took(bridge: Bridge, packed: bytearray | bytes) -> None:
    """A frame of node 1 that has come."""
    bridge._arrivals.add(1, bytes(packed))
    bridge._take()


def test_replays_wrong_ranks_and_broken_frames_change_nothing(
    two: TwoNodes, capsys: pytest.CaptureFixture[str]
) -> None:
    two.met()
    two[1].publish(1, 1.0)
    two.until(lambda: two[0].mixed(0) == 1.0)
    bridge, before = two[0].bridge, two[0].newest(3)
    flipped = framed(two, 50)
    flipped[-1] ^= 64
    bad = [
        framed(two, 1),  # a replay
        framed(two, 50, rank=1),  # as a learner of the receiver
        flipped,
        framed(two, 50)[:-1],
        framed(two, 50, value=math.nan),
        b"",
        b"GALA" * 40,
    ]
    for packed in bad:
        took(bridge, packed)
    assert two[0].mixed(0) is None
    assert two[0].newest(3) == before
    assert two[0].board.node(1, "refused") == len(bad) - 1, "a late one is no offence"
    (said,) = [n for n in two[0].board.notices() if "refused" in n or "own" in n]
    assert capsys.readouterr().out == said + "\n", "nor is the log filled with them"
    took(bridge, framed(two, 50))
    assert two[0].mixed(0) == 9.0


def test_a_bridge_killed_anywhere_within_a_frame_leaves_whole_vectors(two: TwoNodes) -> None:
    two.met()
    node, packed = two[0], framed(two, 50)
    two[1].publish(1, 1.0)
    two.until(lambda: node.newest(3) == 1.0)
    before = state_of(node.arrays)
    states = step_through(node.arrays, lambda: took(node.bridge, packed)).states
    assert len(states) > 10
    for state in states:
        put_back(node.arrays, state)
        assert node.newest(3) in (1.0, 9.0)
        found = node.mixed(0)
        assert found in (None, 1.0, 9.0)
        put_back(node.arrays, state)
        node.ends[0] = node.end(0)
        took(node.bridge, framed(two, 51, value=11.0))
        assert node.newest(3) == 11.0
        assert node.mixed(0) == 11.0
    put_back(node.arrays, before)


def apart(two: TwoNodes, value: float, *receivers: int, between: bool = True) -> None:
    """A publication whose tokens are put one by one, as by a learner that is preempted."""
    end = two[0].ends[0]
    end.begin_write().fill_(value)
    header = end.end_write(incarnation=0, round_=0, version=abs(int(value)))
    for peer in receivers:
        end.notify(peer, header)
        sent = two[0].board.node(1, "sent")
        while between and two[0].board.node(1, "sent") == sent:
            two.step()


def test_tokens_of_one_publication_that_come_apart_reach_all_receivers(complete: TwoNodes) -> None:
    """Learner 0 of node 0 is learner 2 on node 1, whose own are learners 2 and 3 on node 0."""
    two = complete
    apart(two, 5.0, 2, 3)
    two.until(lambda: two[1].news(0, 2))
    two.until(lambda: two[1].news(1, 2))
    assert [two[1].mixed(lane) for lane in (0, 1)] == [5.0, 5.0]
    before = two[1].board.node(0, "received")
    apart(two, 6.0, 2, 3, 2)
    two.until(lambda: two[1].mixed(1) == 6.0)
    assert two[1].mixed(0) == 6.0
    two.step()
    assert [two[1].mixed(lane) for lane in (0, 1)] == [None, None], "nothing is read twice"
    assert two[1].board.node(0, "received") == before + 1


def test_a_token_after_a_vector_that_was_fetched_is_not_lost(complete: TwoNodes) -> None:
    two = complete
    apart(two, 5.0)
    two[1].port.fetch(0, 0)
    two.until(lambda: two[1].newest(2) == 5.0)
    assert two[1].mixed(0) is None
    end = two[0].ends[0]
    end.notify(2, Header(1, 0, 0, 5))
    two.until(lambda: two[1].mixed(0) == 5.0)


def test_a_vector_that_is_followed_is_not_mixed_though_a_token_was_not_read() -> None:
    """It is this node's own; what the learner away had sent last is not to be had any more."""
    two = TwoNodes()
    two.met()
    here, away = two.nodes
    away.publish(1, 9.0)
    two.until(lambda: here.news(0, 3))
    away.port.cut = True
    here.publish(1, 2.0)
    two.until(lambda: here.newest(3) == 2.0)
    two.step(2.0)
    assert here.mixed(0) is None
    assert here.ends[0].fetch(3, SIZE) is None, "no learner begins from it"
    again = here.end(0)
    assert again.news(3) is None, "nor does the next incarnation mix it"
    away.port.cut = False
    two.until(lambda: here.board.rank(3, "alive"))
    away.publish(1, 10.0)
    two.until(lambda: here.mixed(0) == 10.0)
    two.close()


def test_a_read_that_has_begun_when_a_mirror_is_followed_is_no_mix() -> None:
    two = TwoNodes()
    two.met()
    here, away = two.nodes
    away.publish(1, 9.0)
    two.until(lambda: here.news(0, 3))
    message = here.ends[0].news(3)
    assert message is not None
    here.publish(1, 2.0)
    here.bridge._mirrors.follow(3)
    assert here.ends[0].begin_read(message) is None
    assert here.ends[0].news(3) is None
    two.close()


def test_nodes_that_differ_exchange_nothing_and_say_why() -> None:
    two = TwoNodes()
    two[1].bridge.close()
    two.nodes[1] = two.node(1, about="something else")
    for _ in range(30):
        two.step()
        for node in two.nodes:
            node.publish(1, 1.0)
    assert [node.mixed(0) for node in two.nodes] == [None, None]
    (said,) = two[0].board.notices()
    assert said == "node 1 differs: something else; this one: run"
    assert all(node.board.settled for node in two.nodes), "each trains for itself"
    two.close()


@pytest.mark.parametrize("graph", ["complete", "one-peer-exponential", "star"])
def test_every_edge_between_nodes_carries_tokens(graph: str) -> None:
    two = TwoNodes(graph=graph)
    two.met()
    for round_ in range(4):
        for node in two.nodes:
            for lane in range(2):
                node.publish(lane, 1.0 + round_, round_=round_)
    expected = {
        (node.ranks.node, receiver, sender)
        for node in two.nodes
        for sender, receiver in node.topology.edges()
        if receiver < 2 <= sender
    }
    heard = set[tuple[int, int, int]]()

    def all_heard() -> bool:
        for node in two.nodes:
            for lane, end in enumerate(node.ends):
                for peer in end.in_peers:
                    message = end.news(peer) if peer >= 2 else None
                    if message is not None:
                        heard.add((node.ranks.node, lane, peer))
        return heard == expected

    two.until(all_heard)
    two.close()


def test_a_node_that_is_never_heard_of_is_in_the_events() -> None:
    """As behind a firewall, or with the keys of another run: once, until it is heard."""
    two = TwoNodes()
    other = two[0].port
    other.cut = True
    for _ in range(5):
        two.step(10.0)
    (line,) = [line for line in two[1].board.notices() if "not heard of" in line]
    assert line.startswith(f"node 0 at {two.address} not heard of for ")
    other.cut = False
    two.met()
    two.step(1000.0)
    assert not [line for line in two[1].board.notices() if "not heard of" in line]
    two.close()
