"""gloo's port besides the contract: how nodes meet, and what breaks an edge."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from galamp.gossip.cluster import GLOO, gloo_edge, gloo_meeting
from galamp.gossip.cluster.gloo_edge import FRAMES, LEASE, TEXTS, _head
from galamp.gossip.cluster.gloo_meeting import Group, Meeting, StoreHost, split
from tests.contracts.port import DEADLINE_S, End
from tests.gossip.test_ports import free_address, needs_port

needs_port(GLOO)


@pytest.fixture
def address() -> str:
    return free_address()


def met(one: Callable[[], Group | None], other: Callable[[], Group | None]) -> list[Group]:
    """Have both meet, each in a thread, as in two nodes."""
    found: dict[int, Group] = {}

    def meet(at: int, group: Callable[[], Group | None]) -> None:
        until_s = time.monotonic() + DEADLINE_S
        while at not in found and time.monotonic() < until_s:
            made = group()
            if made is not None:
                found[at] = made

    threads = [threading.Thread(target=meet, args=each) for each in enumerate((one, other))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    return [found[0], found[1]]


def test_addresses_of_both_kinds() -> None:
    assert split("tcp/host-0:7447") == ("host-0", 7447)
    assert split("tcp/[::1]:7447") == ("::1", 7447)


def test_the_store_listens_at_its_address_only(address: str) -> None:
    host = StoreHost(address)
    port = split(address)[1]
    socket.create_connection(("127.0.0.1", port), DEADLINE_S).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), DEADLINE_S)
    host.close()


def test_an_ask_that_is_answered_late_is_answered(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes whose attempts do not coincide would else miss each other for ever."""
    monkeypatch.setattr(gloo_meeting, "MEET_S", 0.1)
    low, high = Meeting(address, 0, 1), Meeting(address, 1, 0)
    assert (low.group(), high.group()) == (None, None), "nobody listens"
    host = StoreHost(address)
    assert high.group() is None
    asked = high._name
    assert high.group() is None
    assert high._name == asked
    monkeypatch.undo()
    one, other = met(low.group, high.group)
    sent, got = bytearray(b"text"), bytearray(4)
    sending = threading.Thread(target=one.send, args=(sent, TEXTS, LEASE))
    sending.start()
    other.receive(got, TEXTS, LEASE)
    sending.join(DEADLINE_S)
    assert got == sent

    # Once broken it is so for both, at once; and the next one has another name.
    one.destroy()
    with pytest.raises(RuntimeError):
        other.receive(got, TEXTS, timedelta(seconds=DEADLINE_S))
    again, _ = met(low.group, high.group)
    assert again is not one
    for meeting in (low, high):
        meeting.close()
    host.close()


@pytest.fixture
def raw(address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[End, Group, Meeting]]:
    """Node 0's port, and a node 1 of which the test says what it sends."""
    monkeypatch.setattr(gloo_edge, "LEASE", timedelta(seconds=0.3))
    end = End(GLOO, 0, address)
    meeting = Meeting(address, 1, 0)
    group, until_s = None, time.monotonic() + DEADLINE_S
    while group is None and time.monotonic() < until_s:
        group = meeting.group()
    assert group is not None
    yield end, group, meeting
    group.destroy()
    meeting.close()
    end.port.close()


def broken(group: Group) -> bool:
    """Whether the other node breaks a group, before the deadline."""
    with pytest.raises(RuntimeError):
        group.receive(bytearray(1), 77, timedelta(seconds=DEADLINE_S))
    return True


def test_a_node_that_falls_silent_is_gone(raw: tuple[End, Group, Meeting]) -> None:
    end, group, _ = raw
    group.send(_head(gloo_edge.BEAT, 0), TEXTS, LEASE)
    end.until(lambda: end.port.alive() == {1})
    assert broken(group)
    end.until(lambda: not end.port.alive())


@pytest.mark.parametrize(
    ("head", "tag"),
    [
        ((2, 2**50), FRAMES),  # far longer than any frame
        ((2, 0), FRAMES),
        ((0, 8), FRAMES),  # as a learner of the receiver
        ((2**40, 8), FRAMES),
        ((gloo_edge.TEXT, 2**30), TEXTS),
        ((gloo_edge.TEXT, -1), TEXTS),
    ],
)
def test_what_is_no_frame_or_text_breaks_the_edge(
    head: tuple[int, int], tag: int, raw: tuple[End, Group, Meeting]
) -> None:
    end, group, _ = raw
    group.send(_head(*head), tag, LEASE)
    assert broken(group)
    assert (end.port.frames(), end.port.told(), end.port.asked()) == ([], [], [])
