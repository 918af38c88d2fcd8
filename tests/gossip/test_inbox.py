"""What a port has received: the newest frame of every learner is handed over, whatever came."""

from __future__ import annotations

import threading

import pytest

from galamp.gossip.cluster.inbox import KEPT, Inbox
from galamp.gossip.cluster.port import Packed, PortContext

NODES, RANKS = 3, 6
BUSY, QUIET = (1, 2), (2, 4)
"""Nodes that send, and their learners."""


@pytest.fixture
def inbox() -> Inbox:
    return Inbox(PortContext(0, NODES, RANKS, (), (), 8, lambda: None))


def last_of(found: list[tuple[int, Packed]], node: int) -> bytes | None:
    """The frame of a node that was handed over last."""
    frames = [bytes(packed) for sender, packed in found if sender == node]
    return frames[-1] if frames else None


def test_a_quiet_learner_stays_up_to_date_however_much_others_send(inbox: Inbox) -> None:
    inbox.frame(*QUIET, b"old")
    for _ in range(2 * RANKS):
        inbox.frame(*BUSY, b"any")
    assert last_of(inbox.frames(), QUIET[0]) == b"old"
    inbox.frame(*QUIET, b"new")
    assert last_of(inbox.frames(), QUIET[0]) == b"new"
    assert inbox.frames() == []


def test_frames_come_oldest_first_and_only_the_newest_of_each_learner(inbox: Inbox) -> None:
    for number in range(KEPT + 3):
        inbox.frame(*QUIET, b"quiet %d" % number)
        inbox.frame(*BUSY, b"busy %d" % number)
    kept = range(3, KEPT + 3)
    expected: list[tuple[int, Packed]] = [(QUIET[0], b"quiet %d" % n) for n in kept]
    expected += [(BUSY[0], b"busy %d" % n) for n in kept]
    assert inbox.frames() == expected


def test_the_last_frame_is_handed_over_while_others_arrive(inbox: Inbox) -> None:
    """Threads of the network add frames while the bridge takes them."""
    last, found = 5000, list[tuple[int, Packed]]()

    def send(sender: tuple[int, int]) -> None:
        for number in range(last + 1):
            inbox.frame(*sender, b"%d" % number)

    threads = [threading.Thread(target=send, args=(each,)) for each in (BUSY, QUIET)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        found += inbox.frames()
    found += inbox.frames()
    for sender in (BUSY, QUIET):
        numbers = [int(bytes(packed)) for node, packed in found if node == sender[0]]
        assert numbers == sorted(set(numbers)), "nothing twice, nothing out of order"
        assert numbers[-1] == last
