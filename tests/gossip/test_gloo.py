"""gloo's port besides the contract: how nodes meet, and what breaks an edge."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from galamp.gossip.cluster import GLOO, gloo_edge, gloo_meeting
from galamp.gossip.cluster.gloo_edge import FRAMES, TEXTS, _head
from galamp.gossip.cluster.gloo_meeting import (
    UNANSWERED_S,
    Group,
    Meeting,
    StoreHost,
    end_unanswered,
    split,
)
from tests.contracts.port import DEADLINE_S, End
from tests.gossip.test_ports import free_address, needs_port
from tests.support.net_namespaces import ADDRESSES, ip, two_machines

needs_port(GLOO)
HOST, LONG = "127.0.0.1", timedelta(seconds=DEADLINE_S)


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
    until_s = time.monotonic() + DEADLINE_S
    while not high._name and time.monotonic() < until_s:  # a busy machine connects later
        assert high.group() is None
    asked = high._name
    assert high.group() is None
    assert high._name == asked != ""
    monkeypatch.undo()
    one, other = met(low.group, high.group)
    sent, got = bytearray(b"text"), bytearray(4)
    sending = threading.Thread(target=one.send, args=(sent, TEXTS, LONG))
    sending.start()
    other.receive(got, TEXTS, LONG)
    sending.join(DEADLINE_S)
    assert got == sent

    # Once broken it is so for both, at once; and the next one has another name.
    one.destroy()
    with pytest.raises(RuntimeError):
        other.receive(got, TEXTS, LONG)
    again, _ = met(low.group, high.group)
    assert again is not one
    for meeting in (low, high):
        meeting.close()
    host.close()


def test_what_is_no_name_in_the_store_ends_no_bridge(address: str) -> None:
    """Whoever reaches the port can put it there; the next name of the other node replaces it."""
    host, low, high = StoreHost(address), Meeting(address, 0, 1), Meeting(address, 1, 0)
    host._store.set("0-1/ask", b"\xff")
    assert low.group() is None
    for group in met(low.group, high.group):
        group.destroy()
    for meeting in (low, high):
        meeting.close()
    host.close()


def test_only_connections_to_the_store_end_unanswered(address: str) -> None:
    port, name = split(address)[1], (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    with contextlib.ExitStack() as stack:
        ends = []
        for at in ((HOST, port), (HOST, 0)):
            listener = stack.enter_context(socket.create_server(at))
            end = socket.create_connection(listener.getsockname(), DEADLINE_S)
            ends.append(stack.enter_context(end))
        end_unanswered(port)
        assert [end.getsockopt(*name) for end in ends] == [1000 * UNANSWERED_S, 0]
        ends[0].sendall(b"still open")


@pytest.mark.slow
@pytest.mark.timing
def test_behind_a_cut_no_attempt_to_meet_waits_for_long() -> None:
    """Packets that are lost, not a cable that is out, of which TCP would be told."""
    at = f"tcp/{ADDRESSES[0]}:7447"
    listens = (
        "from galamp.gossip.cluster.gloo_meeting import *; h = StoreHost({!r}); time.sleep(60)"
    )
    meets = (
        "from galamp.gossip.cluster.gloo_meeting import *; m, b = Meeting({!r}, 1, 0), {}\n"
        "while time.monotonic() < b + 25:\n"
        "    a = time.monotonic(); m.group(); print(m._store is not None, time.monotonic() - a)\n"
        "    time.sleep(0.1)"
    )
    with two_machines() as cabled, contextlib.ExitStack() as stack:
        began_s, started = time.monotonic(), []
        for machine, code in enumerate((listens, meets)):
            words = cabled.within(machine, [sys.executable, "-c", code.format(at, began_s)])
            program = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
            started.append(stack.enter_context(program))
            stack.callback(program.kill)
        time.sleep(8.0)
        ip("route", "add", "blackhole", ADDRESSES[1], namespace=cabled.names[0])
        time.sleep(10.0)
        ip("route", "del", "blackhole", ADDRESSES[1], namespace=cabled.names[0])
        told = [line.split() for line in started[1].communicate(timeout=DEADLINE_S)[0].splitlines()]
    there = "".join("+" if connected == "True" else "-" for connected, _ in told)
    assert re.fullmatch("-*[+]+-+[+]+", there), "there, gone within the cut, and there again"
    assert max(float(waited_s) for _, waited_s in told) < 9.0


@pytest.fixture
def raw(address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[End, Group, Meeting]]:
    """Node 0's port, which says nothing and waits long, and a node 1, whose part a test plays."""
    monkeypatch.setattr(gloo_edge, "LEASE", gloo_edge.QUIET)
    monkeypatch.setattr(gloo_edge.GlooEdge, "_speak", lambda *_: None)
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
    until_s = time.monotonic() + DEADLINE_S
    with pytest.raises(RuntimeError):  # at the deadline, too
        group.receive(bytearray(1), 77, LONG)
    return time.monotonic() < until_s


def test_a_node_that_falls_silent_is_gone(
    raw: tuple[End, Group, Meeting], monkeypatch: pytest.MonkeyPatch
) -> None:
    end, group, _ = raw
    beat = _head(gloo_edge.BEAT, 0)
    group.send(beat, TEXTS, LONG)
    end.until(lambda: end.port.alive() == {1})
    monkeypatch.setattr(gloo_edge, "LEASE", timedelta(seconds=0.3))
    group.send(beat, TEXTS, LONG)  # after which it waits for so long
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
    group.send(_head(*head), tag, LONG)
    assert broken(group)
    assert (end.port.frames(), end.port.told(), end.port.asked()) == ([], [], [])
