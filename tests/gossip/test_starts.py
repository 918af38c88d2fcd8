"""Starts: counts that neither fall nor double, and which of two processes of one node ends."""

from __future__ import annotations

import itertools

import pytest

from galamp.core.errors import RunFailed
from galamp.memory.cluster_board import OVERTAKEN_KEPT
from tests.models.stepping import put_back, step_through
from tests.support.node_starts import LANES, NODES, Node, talk


def test_counts_neither_fall_nor_double_however_often_a_node_dies() -> None:
    nodes = [Node(node, session=10 + node) for node in range(NODES)]
    done, seen = 0, 0
    for life in range(6):
        for node in nodes:
            for lane in range(LANES):
                node.rows[lane] += 100 + lane
                done += 100 + lane
        talk(*nodes)
        assert [node.total for node in nodes] == [done] * NODES
        assert done > seen
        seen = done
        if life % 2:  # from nothing, or from a checkpoint with a part of what it had done
            nodes[1] = Node(1, session=100 + life)
        else:
            nodes[1] = Node(1, session=100 + life, steps=min(nodes[1].rows[0], 50))
        nodes[1].hear(nodes[0])
    talk(*nodes)
    assert [node.total for node in nodes] == [done] * NODES
    late = Node(2, session=999)
    late.hear(nodes[0], nodes[1])
    assert late.total == done


def test_steps_made_before_the_first_contact_are_added_once() -> None:
    """Steps that a node hears of a start that it does not know yet come back to it as its own."""
    one, old = Node(0, session=10), Node(1, session=11)
    talk(one, old)
    old.rows[0] = 1000
    talk(one, old)
    new = Node(1, session=12)  # behind a cut: in an empty folder
    new.rows[0] = 1500
    one.hear(new)  # which heals, and the new one speaks first
    talk(one, new)
    assert [one.total, new.total] == [2500, 2500]


def test_steps_told_by_a_third_node_do_not_come_back() -> None:
    """Node 2 misses what the new start of node 1 tells, and hears of its steps by node 0."""
    one, old, third = (Node(node, session=10 + node) for node in range(NODES))
    talk(one, old, third)
    old.rows[0] = 1000
    talk(one, old, third)
    new, done = Node(1, session=20), 1000
    for _ in range(8):
        new.rows[0] += 50
        done += 50
        one.hear(new, third)
        third.hear(one)
        new.hear(one, third)
    assert [node.total for node in (one, new, third)] == [done] * 3


def test_a_third_nodes_greater_count_of_an_earlier_start_is_not_lost() -> None:
    """It was heard by node 2 alone, and node 2 hears of the next start from node 0 first."""
    one, old, third = (Node(node, session=10 + node) for node in range(NODES))
    talk(one, old, third)
    old.rows[0] = 500
    talk(one, old, third)
    old.rows[0] = 1000
    third.hear(old)
    new = Node(1, session=20)
    new.hear(one)
    new.rows[0] = 100
    one.hear(new)
    third.hear(one)
    talk(one, new, third)
    assert [node.total for node in (one, new, third)] == [1100] * 3


def test_a_checkpoint_of_a_start_is_not_added_to_what_the_others_know_of_it() -> None:
    one, old = Node(0, session=10), Node(1, session=11)
    talk(one, old)
    old.rows[0] = 1000
    talk(one, old)
    for session, saved in ((12, 900), (13, 1100)):  # older, and newer than what was told
        new = Node(1, session=session)
        new.board.set_rank(0, "at_start", saved)
        new.rows[0] = saved + 50
        one.hear(new)
        talk(one, new)
        assert one.total == new.total
    assert one.total == 1150


def test_a_renumbered_start_is_not_taken_for_an_earlier_one() -> None:
    one, old, third = (Node(node, session=10 + node) for node in range(NODES))
    new = Node(1, session=12)
    third.hear(new)  # which node 0 still takes for the old one
    new.rows[0] = 70
    third.hear(new)
    one.hear(old)
    talk(one, new)
    new.hear(third)
    talk(one, new, third)
    assert new.board.epoch == 2
    assert [node.total for node in (one, new, third)] == [70] * 3


LOST = r"node 1.*start 1 .*0b\).*start 2 .*0c\).*--node-rank 1, which runs or has run; if it runs"


def exchange(one: Node, *zombies: Node) -> None:
    """Each of two processes that run as one node, and the other node, tell what they know."""
    for each in zombies:
        if not each.overtaken:
            one.hear(each)
            each.hear(one)


@pytest.mark.parametrize("steps", [1000, 0])
def test_of_two_processes_of_one_node_the_one_that_is_known_longer_ends(steps: int) -> None:
    one, old = Node(0, session=10), Node(1, session=11)
    talk(one, old)
    old.rows[0] = steps
    talk(one, old)
    new, done = Node(1, session=12), steps
    for _ in range(12):
        exchange(one, old, new)
        new.rows[0] += 10
        done += 10
    exchange(one, old, new)
    assert (old.overtaken, new.overtaken) == (True, False)
    with pytest.raises(RunFailed, match=LOST):
        old.membership.starts.check_place()
    new.membership.starts.check_place()
    assert [one.total, new.total] == [done] * 2
    assert (new.board.epoch, one.board.epoch) == (2, 1)


@pytest.mark.parametrize("order", [1, -1])
def test_one_of_two_processes_that_overtake_each_other_at_once_stays(order: int) -> None:
    """Each is known to another node, when they hear of each other by both at the same time."""
    one, third = Node(0, session=10), Node(2, session=13)
    two = [Node(1, session=11), Node(1, session=12)][::order]
    two[0].rows[0], two[1].rows[0] = 30, 40
    one.hear(two[0])
    third.hear(two[1])
    from_one, from_third = one.hello(), third.hello()
    two[0].membership.hear(2, from_third, 0.0)
    two[1].membership.hear(0, from_one, 0.0)
    for _ in range(6):
        one.hear(third)
        third.hear(one)
        exchange(one, *two)
        exchange(third, *two)
    assert sorted(each.overtaken for each in two) == [False, True]
    (left,) = (each for each in two if not each.overtaken)
    talk(one, left, third)
    assert one.total == third.total == left.total
    assert one.total <= 70


@pytest.mark.parametrize("starts", [3, OVERTAKEN_KEPT])
def test_a_zombie_that_several_starts_have_overtaken_unheard_ends(starts: int) -> None:
    one, zombie = Node(0, session=10), Node(1, session=11)
    talk(one, zombie)
    zombie.rows[0] = 100
    talk(one, zombie)
    for session in range(12, 12 + starts):
        new = Node(1, session=session)
        new.rows[0] = 10
        talk(one, new)
    zombie.hear(one)
    assert zombie.overtaken
    exchange(one, zombie, new)
    assert one.total == new.total == 100 + 10 * starts


def test_no_start_ends_for_one_that_had_ended_before_it_began() -> None:
    """However late it is told of: node 2 was cut off, and knows many starts of the earlier node."""
    third = Node(2, session=12)
    for session in range(21, 26):
        talk(third, Node(1, session=session))
    one, new = Node(0, session=10), Node(1, session=30)
    said = third.hello()
    talk(one, new)
    assert one.membership.present(1)
    new.membership.hear(2, said, 0.0)
    talk(one, new, third)
    new.membership.hear(2, said, 0.0)  # a replay
    assert not new.overtaken
    assert new.board.epoch == third.board.start(1).epoch == 6
    again = Node(1, session=31)  # the usual case: it has died, and comes back
    talk(one, again, third)
    for text in (said, one.hello(), new.hello()):
        again.membership.hear(0, text, 0.0)
    assert not again.overtaken


def told_of_two_starts(*, steps: int) -> Node:
    """Node 2, which knows the second start of node 1, that has made so many steps, and ended."""
    third = Node(2, session=12)
    talk(third, Node(1, session=20))
    old = Node(1, session=21)
    talk(third, old)
    old.rows[0] = steps
    talk(third, old)
    assert third.board.start(1)[:2] == (2, 21)
    return third


HELLOS = [(0, 1), (0, 2), (1, 0), (1, 2)]
"""Receiver and sender of the first hellos that new starts of nodes 0 and 1 hear."""


@pytest.mark.parametrize("saved", [1000, 900, 0])
def test_a_start_that_ended_long_ago_doubles_nothing_in_any_order_of_hellos(saved: int) -> None:
    """Nodes 0 and 1 start again while node 2 lives, which tells of the start before."""
    for order in itertools.permutations(HELLOS):
        third = told_of_two_starts(steps=1000)
        nodes = [Node(0, session=10), Node(1, session=30), third]
        nodes[1].rows[0] = saved
        nodes[1].board.set_rank(0, "at_start", saved)
        for receiver, sender in order:
            nodes[receiver].hear(nodes[sender])
            assert nodes[0].total <= 1000
        talk(*nodes)
        assert [node.total for node in nodes] == [1000] * 3, order
        assert not any(node.overtaken for node in nodes)


@pytest.mark.parametrize("first", [0, 1, None])
def test_steps_behind_a_cut_are_added_to_those_of_a_dead_start_once(first: int | None) -> None:
    """Node 0, or node 1, hears node 2 first when the cut heals; or all hear all."""
    third = told_of_two_starts(steps=1000)
    one, new = Node(0, session=10), Node(1, session=30)
    talk(one, new)
    new.rows[0] = 100
    talk(one, new)
    if first is not None:
        (one, new)[first].hear(third)
        new.hear(one)
    talk(one, new, third)
    assert [node.total for node in (one, new, third)] == [1100] * 3


def test_two_processes_on_both_sides_of_a_cut_double_nothing_whatever_their_epochs() -> None:
    one, third = Node(0, session=10), Node(2, session=12)
    talk(one, third, Node(1, session=20))
    there = Node(1, session=31)
    talk(third, there)
    there.rows[0] = 100
    talk(third, there)
    for session in (32, 33):
        here = Node(1, session=session)
        talk(one, here)
    here.rows[0] = 50
    talk(one, here)
    assert (there.board.epoch, here.board.epoch) == (2, 3)
    third.hear(one)
    there.hear(third)
    third.hear(there)
    for _ in range(6):
        talk(one, third, rounds=1)
        exchange(one, there, here)
        exchange(third, there, here)
        assert one.total <= 150
        assert third.total <= 150
    assert sorted([there.overtaken, here.overtaken]) == [False, True]
    assert one.total == third.total == 150


def test_of_two_that_have_overtaken_each_other_no_count_falls_or_doubles() -> None:
    """The known one has counted a part of what the other one has made."""
    one, third = Node(0, session=10), Node(2, session=12)
    two = Node(1, session=21), Node(1, session=22)
    one.hear(two[0])
    third.hear(two[1])
    two[0].rows[0], two[1].rows[0] = 100, 7
    one.hear(two[0])
    third.hear(two[1])
    from_one, from_third = one.hello(), third.hello()
    two[0].told(2, from_third)
    two[1].told(0, from_one)
    two[0].rows[0] += 30
    talk(one, two[0])
    talk(third, two[1])
    assert [one.total, third.total] == [137, 107]
    seen = 0
    for _ in range(4):
        third.hear(one)
        one.hear(third)
        exchange(one, *two)
        exchange(third, *two)
        assert seen <= third.total <= 137
        seen = third.total
    assert one.total == third.total == 137


def test_a_start_replaces_none_that_has_counted_one_which_it_does_not_know_of() -> None:
    """That one, which lives behind a cut, would take its own steps for those of the new start."""
    one, third = Node(0, session=10), Node(2, session=12)
    cut_off, known, new = (Node(1, session=session) for session in (23, 21, 22))
    cut_off.rows[0] = 100
    third.hear(cut_off)
    one.hear(known)
    new.hear(one)
    known.hear(third)
    one.hear(known)
    assert one.total == 100
    new.board.begin(5, 22, new.board.own.after)
    one.hear(new)
    cut_off.hear(one)
    talk(one, new)
    assert [one.total, new.total, cut_off.total] == [100] * 3


@pytest.mark.parametrize("epoch", [1, 3])
def test_steps_of_a_checkpoint_that_another_process_goes_on_from_count_once(epoch: int) -> None:
    """The first one was cut off, and runs; those that the second one meets never heard of it."""
    one, old = Node(0, session=10), Node(1, session=11)
    old.board.begin(epoch, 11)
    old.rows[0] = 1000
    new = Node(1, session=12, after=(11,))
    new.rows[0] = 1000
    new.board.set_rank(0, "at_start", 1000)
    talk(one, new)
    new.rows[0] += 50
    for _ in range(4):
        old.rows[0] += not old.overtaken
        exchange(one, old, new)
    assert [old.overtaken, new.overtaken] == [epoch == 1, epoch == 3]
    assert 1050 <= one.total <= 1054


def test_a_start_that_has_lost_its_place_passes_none_any_more() -> None:
    """Else the one that stays, which has overtaken it, would end as well."""
    one, old, third = (Node(node, session=10 + node) for node in range(NODES))
    talk(one, old)
    talk(one, Node(1, session=13))
    third.hear(Node(1, session=14))
    old.hear(one, third)
    assert (old.overtaken, old.board.epoch) == (True, 1)


def test_a_bridge_killed_while_it_takes_a_newer_start_loses_and_doubles_no_step() -> None:
    """Its next incarnation knows the old start or the new one, with all steps of either."""
    one, old = Node(0, session=10), Node(1, session=11)
    talk(one, old)
    old.rows[0], old.rows[1] = 1000, 500
    talk(one, old)
    new = Node(1, session=12)
    new.hear(one)
    new.rows[0] = 70
    text, starts, found = new.hello(), one.membership.starts, set[tuple[int, ...]]()
    states = step_through(one.arrays, lambda: one.membership.hear(1, text, 0.0)).states
    for state in states:
        put_back(one.arrays, state)
        found.add((one.board.start(1).session, *starts.elsewhere().values()))
        assert one.board.start(1).after == ((11,) if one.board.start(1).session == 12 else ())
    assert len(states) > 3
    assert found == {(11, 1000, 500, 0, 0), (12, 1070, 500, 0, 0)}


def test_hearsay_of_a_present_start_is_not_added() -> None:
    one, other = Node(0, session=10), Node(1, session=11)
    talk(one, other)
    one.rows[0] += 100
    other.hear(one)
    one.rows[0] += 100
    one.hear(other)
    assert one.total == 200
