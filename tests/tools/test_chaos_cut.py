"""Faults of the link between two machines: the relay, the faults, every invariant seen to fail."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from galamp.core.config import RunConfig
from galamp.core.errors import EXIT_OK
from galamp.gossip.cluster.zenoh_port import LEASE_S
from galamp.supervision.children import Children
from galamp.telemetry.snapshot import NodeSnapshot
from galamp.tools.audit.across import Crossing
from galamp.tools.audit.audit import Audit, Violation
from galamp.tools.chaos.calibration import factor_of
from galamp.tools.chaos.injector import InjectedFault, Injector
from galamp.tools.chaos.invariants import PAUSE_S, Invariant, LearnerSeen, LearnersProgress
from galamp.tools.chaos.link import (
    DELAY_S,
    SLOW_BYTES_PER_S,
    Disturbance,
    Link,
    LinkView,
    of_link,
)
from galamp.tools.chaos.link_invariants import (
    BothFlat,
    CutNoticed,
    MachineReturns,
    NoneRefused,
    OtherRuns,
    OtherWhole,
    VectorsArrive,
    WireBytes,
)
from galamp.tools.chaos.monitor import InvariantMonitor
from galamp.tools.chaos.other_view import OtherView
from galamp.tools.chaos.record import conclude_both
from galamp.tools.chaos.relay import HOST, Relay
from galamp.tools.chaos.report import lines
from galamp.tools.chaos.schedule import (
    BRIDGE,
    LINK,
    MACHINE,
    OF_LINK,
    OF_PROCESSES,
    Fault,
    Kind,
    draw,
)
from galamp.tools.chaos.second_node import command, halves, other_folder
from galamp.training.control.server import ControlServer
from tests.support.engine import DEADLINE_S, galamp
from tests.support.snapshots import busy
from tests.tools.test_chaos import a_record


class Connected:
    """Two ends with a relay between, which works when the test has it work."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.listener = stack.enter_context(socket.create_server((HOST, 0)))
        self.listener.settimeout(DEADLINE_S)
        self.relay = Relay(self.listener.getsockname()[1])
        stack.callback(self.relay.close)
        self._commands = os.pipe()
        for end in self._commands:
            stack.callback(os.close, end)
        self._stack = stack
        self.near, self.far = self.connect()

    def connect(self) -> tuple[socket.socket, socket.socket]:
        near = socket.create_connection((HOST, self.relay.port), DEADLINE_S)
        self._stack.enter_context(near)
        self.work()
        far = self._stack.enter_context(self.listener.accept()[0])
        near.setblocking(False)
        far.setblocking(False)
        return near, far

    def work(self) -> None:
        self.relay.step(self._commands[0])

    def received(self, sink: socket.socket, count: int) -> bytes:
        """What comes until so much has come, or the end."""
        got, until_s = bytearray(), time.monotonic() + DEADLINE_S
        while len(got) < count and time.monotonic() < until_s:
            self.work()
            with contextlib.suppress(BlockingIOError):
                more = sink.recv(count - len(got))
                if not more:
                    break
                got += more
        return bytes(got)

    def nothing_comes(self, sink: socket.socket) -> bool:
        for _ in range(3):
            self.work()
        try:
            sink.recv(1)
        except BlockingIOError:
            return True
        return False


@pytest.fixture
def connected() -> Iterator[Connected]:
    with contextlib.ExitStack() as stack:
        yield Connected(stack)


class TestRelay:
    def test_forwards_every_byte_in_order_and_the_end(self, connected: Connected) -> None:
        text, near, far = os.urandom(1_000_000), connected.near, connected.far
        left, got, until_s = text, b"", time.monotonic() + DEADLINE_S
        while len(got) < len(text) and time.monotonic() < until_s:
            with contextlib.suppress(BlockingIOError):
                left = left[near.send(left) :]
            connected.work()
            with contextlib.suppress(BlockingIOError):
                got += far.recv(2**20)
        assert got == text
        near.shutdown(socket.SHUT_WR)
        assert connected.received(far, 1) == b""
        far.send(b"late")
        assert connected.received(near, 4) == b"late"
        far.close()
        assert connected.received(near, 1) == b""

    def test_a_cut_passes_nothing_and_tells_nobody_until_it_is_mended(
        self, connected: Connected
    ) -> None:
        connected.relay.obey("cut")
        connected.near.send(b"held")
        assert connected.nothing_comes(connected.far)
        connected.near.shutdown(socket.SHUT_WR)
        assert connected.nothing_comes(connected.far), "nor an end"
        connected.relay.obey("pass")
        assert connected.received(connected.far, 5) == b"held"

    def test_late_is_late_in_both_directions_and_in_order(self, connected: Connected) -> None:
        connected.relay.obey(f"delay {DELAY_S}")
        for source, sink in ((connected.near, connected.far), (connected.far, connected.near)):
            began_s = time.monotonic()
            for at in range(10):
                source.send(b"%d" % at)
            assert connected.received(sink, 10) == b"0123456789"
            assert time.monotonic() - began_s >= DELAY_S

    def test_a_narrow_link_takes_its_time(self, connected: Connected) -> None:
        connected.relay.obey("slow 100000")
        began_s = time.monotonic()
        connected.near.send(bytes(30_000))
        assert len(connected.received(connected.far, 30_000)) == 30_000
        assert time.monotonic() - began_s >= 0.3

    def test_a_reset_breaks_what_is_connected_and_no_more(self, connected: Connected) -> None:
        connected.relay.obey("reset")
        for end in (connected.near, connected.far):
            with pytest.raises(ConnectionResetError):
                connected.received(end, 1)
        near, far = connected.connect()
        near.send(b"again")
        assert connected.received(far, 5) == b"again"

    def test_an_end_that_breaks_breaks_the_other(self, connected: Connected) -> None:
        connected.near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connected.near.close()
        with pytest.raises(ConnectionResetError):
            connected.received(connected.far, 1)

    def test_where_nobody_listens_nobody_is_reached(self, connected: Connected) -> None:
        connected.listener.close()
        with socket.create_connection((HOST, connected.relay.port), DEADLINE_S) as alone:
            alone.setblocking(False)
            with pytest.raises(ConnectionResetError):
                connected.received(alone, 1)
        connected.near.send(b"others")
        assert connected.received(connected.far, 6) == b"others"

    def test_as_a_process_it_ends_with_who_has_started_it(self) -> None:
        with socket.create_server((HOST, 0)) as listener:
            link = Link(listener.getsockname()[1])
            listener.settimeout(DEADLINE_S)
            address = HOST, link.port
            with socket.create_connection(address, DEADLINE_S) as near, listener.accept()[0] as far:
                near.sendall(b"text")
                far.settimeout(DEADLINE_S)
                assert far.recv(4) == b"text"
                far.sendall(b"reply")
                assert near.recv(5) == b"reply"
                link.tell("reset")
                with pytest.raises(ConnectionResetError):
                    near.recv(1)
            assert link.running
            until_s = time.monotonic() + DEADLINE_S
            while not link.count() or not link.answered:
                assert time.monotonic() < until_s
            assert link.answered == 5, "what came back, also through what is broken by now"
            link.close()
            assert not link.count()
        assert not link.running
        link.tell("cut")  # does nothing, and raises nothing


class TestSchedule:
    def test_without_a_link_it_is_as_ever(self) -> None:
        faults = draw(7, learners=2, workers=2, seconds=300.0, every_s=2.0)
        assert {fault.kind for fault in faults} == set(OF_PROCESSES)
        assert {fault.role for fault in faults}.isdisjoint({BRIDGE, LINK})

    def test_a_round_has_every_kind_on_link_and_bridge(self) -> None:
        faults = draw(7, learners=2, workers=2, seconds=1000.0, every_s=2.0, link=True)
        a_round = faults[: 3 * len(OF_PROCESSES) + len(OF_LINK) + 2]
        assert [f.kind for f in a_round if f.role == MACHINE] == [Kind.KILL]
        assert sorted(f.kind for f in a_round if f.role == LINK) == sorted(OF_LINK)
        assert sorted(f.kind for f in a_round if f.role == BRIDGE) == sorted(OF_PROCESSES)
        cuts = [fault.stop_s for fault in faults if fault.kind is Kind.CUT]
        assert min(cuts) < LEASE_S < max(cuts), "some heal before the lease has passed"
        assert not any(fault.stop_s for fault in faults if fault.kind is Kind.RESET)
        assert next(f.target for f in faults if f.kind is Kind.CUT) == "link"

    def test_is_told_in_words(self) -> None:
        assert Fault(1, 0.0, Kind.CUT, LINK, stop_s=2.04).words == "link cut for 2.0 s"
        assert Fault(1, 0.0, Kind.RESET, LINK).words == "link reset"
        assert Fault(1, 0.0, Kind.KILL, BRIDGE).words == "SIGKILL to bridge"
        away = Fault(1, 0.0, Kind.KILL, MACHINE, stop_s=3.0)
        assert away.words == "SIGKILL to the other machine, which is started again after 3.0 s"


class StubLink:
    whole = True

    def __init__(self) -> None:
        self.told: list[str] = []

    def tell(self, command: str) -> None:
        self.told.append(command)


class StubView:
    present, received = True, 5

    @property
    def received_there(self) -> int:
        return self.received


class TestDisturbance:
    def begun(self, kind: Kind = Kind.CUT) -> tuple[Injector, StubLink, StubView]:
        link, view = StubLink(), StubView()

        def disturb(fault: Fault, now_s: float) -> Disturbance:
            return of_link(fault, now_s, cast(Link, link), cast(LinkView, view))

        faults = [Fault(1, 0.0, kind, LINK, stop_s=4.0), Fault(2, 0.0, Kind.RESET, LINK)]
        injector = Injector(cast(Children, None), faults, disturb)
        [begun] = injector.tick(1.0, 0.0)
        assert begun.fault.kind is kind, "the next one waits until this is over"
        return injector, link, view

    def test_it_is_over_when_a_vector_has_come_after_it(self) -> None:
        injector, link, view = self.begun()
        [cut] = injector.injected_faults
        view.present = False
        list(injector.tick(3.5, 0.0))
        assert (cut.noticed_s, link.told) == (3.5, ["cut"])
        view.received = 6  # it was on its way
        list(injector.tick(5.0, 0.0))
        assert link.told == ["cut", "pass"]
        view.present = True
        list(injector.tick(5.5, 0.0))
        assert not cut.over
        view.received = 7
        [reset] = injector.tick(6.0, 0.0)
        assert (cut.back_s, cut.since_s, cut.may_end(cast(Any, None))) == (6.0, 5.0, False)
        assert cut.as_dict(0.0)["lasted_s"] == 4.0
        list(injector.tick(6.1, 0.0))
        view.received = 8
        list(injector.tick(6.2, 0.0))
        assert (reset.over, link.told) == (True, ["cut", "pass", "reset", "pass"])

    def test_it_is_mended_when_the_faults_are_released(self) -> None:
        injector, link, _ = self.begun(Kind.DELAY)
        injector.release()
        injector.release()
        assert link.told == [f"delay {DELAY_S}", "pass"]

    def test_the_report_times_it_from_its_end(self) -> None:
        view = StubView()
        cut = of_link(
            Fault(1, 15.0, Kind.CUT, LINK, stop_s=4.0),
            115.0,
            cast(Any, StubLink()),
            cast(Any, view),
        )
        view.present = False
        cut.update(117.0)
        cut.update(119.0)
        view.present, view.received = True, 6
        cut.update(120.5)
        told = a_record(cut)
        (line, _) = told["kinds"]
        assert (line["kind"], line["role"]) == ("CUT", "link")
        assert (line["noticed_s"]["p50"], line["works_s"]["p50"]) == (2.0, 1.5)
        text = list(lines(told))
        assert max(map(len, text)) <= 100
        assert "Link, machine: noticed as that machine counts as gone" in "\n".join(text)

    def test_a_narrow_one_has_its_rate(self) -> None:
        assert self.begun(Kind.NARROW)[1].told == [f"slow {SLOW_BYTES_PER_S}"]


def found(invariant: Invariant) -> str:
    assert invariant.breach is not None, f"{invariant.name} holds"
    return invariant.breach.found


class TestInvariants:
    """Each is seen to hold, and then to fail."""

    def test_a_cut_that_nobody_notices(self) -> None:
        noticed = CutNoticed()
        for _ in range(70):
            noticed.observe(0.1, cut=True, present=True, hit=True)
            noticed.observe(0.1, cut=False, present=True, hit=False)
        for _ in range(49):
            noticed.observe(0.1, cut=True, present=True, hit=False)
        for _ in range(99):
            noticed.observe(0.1, cut=True, present=False, hit=False)
        assert noticed.breach is None
        noticed.observe(0.1, cut=True, present=True, hit=False)
        assert found(noticed).startswith("there after 14.")

    def test_the_longest_time_until_a_cut_was_noticed_is_told(self) -> None:
        noticed = CutNoticed()
        assert noticed.bound_s == 5.0, "3 s, whatever the transport's lease is, and 2 s of slack"
        for cut_s in (4.0, 2.0):
            noticed.observe(cut_s, cut=True, present=True, hit=False)
            noticed.observe(1.0, cut=True, present=False, hit=False)
            noticed.observe(0.1, cut=False, present=True, hit=False)
        assert noticed.breach is None
        assert noticed.remark == "longest time until one was noticed 4.00 s, bound 5 s"

    def test_a_survivor_that_pauses_for_a_machine_that_died(self) -> None:
        turning = LearnersProgress(1, limit_s=60.0, bound_s=5.0)
        turning.pause_s = PAUSE_S
        for _ in range(30):
            turning.observe(0.1, [LearnerSeen(1, others_hit=True)])
        assert turning.breach is None, "another process here is hit"
        for turns in (2, 3):
            for _ in range(17):
                turning.observe(0.125, [LearnerSeen(turns, others_hit=True, away=True)])
        assert turning.breach is None
        turning.observe(0.125, [LearnerSeen(3, others_hit=True, away=True)])
        assert found(turning) == "none for 2.1 s"
        assert "while the other machine was away 2.12 s, bound 2.0 s" in turning.remark

    def test_a_survivor_may_wait_for_the_lease_where_nobody_is_told(self) -> None:
        turning = LearnersProgress(1, limit_s=60.0, bound_s=9.0)
        turning.pause_s, turning.untold_pause_s = PAUSE_S, PAUSE_S + 3.0
        for _ in range(40):
            turning.observe(0.125, [LearnerSeen(1, others_hit=True, away=True, untold=True)])
        assert turning.breach is None
        for _ in range(2):
            turning.observe(0.125, [LearnerSeen(1, others_hit=True, away=True, untold=True)])
        assert found(turning) == "none for 5.1 s"
        assert "while the link was disturbed 5.12 s, bound 5.0 s" in turning.remark

    @pytest.mark.parametrize("link_first", [True, False])
    def test_a_pause_is_judged_by_the_fault_it_is_for(self, link_first: bool) -> None:
        """One fault is over, and the next one begins, before the learner has made a turn."""
        turning = LearnersProgress(1, limit_s=60.0, bound_s=9.0)
        turning.pause_s, turning.untold_pause_s = PAUSE_S, PAUSE_S + 3.0
        for untold, pause_s in ((link_first, 1.5), (not link_first, 1.5), (link_first, 1.5)):
            for _ in range(round(pause_s / 0.125)):
                turning.observe(0.125, [LearnerSeen(1, others_hit=True, away=True, untold=untold)])
        assert turning.breach is None

    @pytest.mark.parametrize("role", [LINK, MACHINE])
    def test_a_disturbed_link_or_machine_hits_others_than_the_learners(self, role: str) -> None:
        child = SimpleNamespace(rank=0, row={"turns": 5}, has_process=True, given_up=False)
        monitor = object.__new__(InvariantMonitor)
        monitor._children = cast(Any, SimpleNamespace(simulators_of=lambda rank: []))
        fault = InjectedFault(Fault(1, 0.0, Kind.KILL, role), 0.0, [])
        monitor._injector = cast(Any, SimpleNamespace(open=[fault]))
        seen = monitor._seen(cast(Any, child))
        assert (seen.others_hit, seen.away, seen.hit) == (True, True, False)
        assert seen.untold == (role == LINK)

    @pytest.mark.parametrize("bounded", [True, False])
    def test_the_lease_is_granted_for_the_link_alone(self, bounded: bool) -> None:
        """And only where learners wait at a bound; all literally, whatever the code says."""
        monitor = object.__new__(InvariantMonitor)
        monitor.turning = LearnersProgress(1, limit_s=60.0, bound_s=9.0)
        monitor._link = cast(Any, SimpleNamespace(busy=1.0, set_usual_turn=lambda turn_s: None))
        monitor._bounded = bounded
        monitor.set_usual_turn(0.5)
        assert monitor.turning.pause_s == 2.5
        assert monitor.turning.untold_pause_s == (5.5 if bounded else 2.5)

    @pytest.mark.parametrize(
        ("busy", "start_s", "up_s", "wrong"),
        [
            (1.0, 5, 5, None),
            (1.0, 6, 5, "11.0 s"),
            (3.0, 80, 30, None),
            (3.0, 5, 31, "31.0 s"),
            (3.0, 91, 0, "91.0 s"),
        ],
    )
    def test_a_machine_that_comes_back_late(
        self, busy: float, start_s: int, up_s: int, wrong: str | None
    ) -> None:
        returning = MachineReturns(busy)
        for _ in range(200):
            returning.observe(1.0, returns=False, up=True, hit=False)
            returning.observe(1.0, returns=True, up=True, hit=True)
        for up in [False] * start_s + [True] * up_s:
            returning.observe(1.0, returns=True, up=up, hit=False)
        assert (returning.breach and returning.breach.found) == wrong
        assert returning.longest_s == start_s + up_s
        assert f"from its bridge being up {up_s:.2f} s" in returning.remark

    def test_bounds_follow_what_a_process_gets_of_the_processors(self) -> None:
        assert factor_of(2.2, 2.0) == 1.0, "a machine that is free"
        assert factor_of(9.0, 2.0) == 4.5

    def test_a_link_that_does_not_heal(self) -> None:
        arriving = VectorsArrive()
        for _ in range(99):
            arriving.observe(0.1, whole=True, received=7, hit=False)
            assert arriving.breach is None
        for _ in range(200):
            arriving.observe(0.1, whole=False, received=7, hit=False)
            arriving.observe(0.1, whole=True, received=7, hit=True)
        for at in range(200):
            arriving.observe(0.1, whole=True, received=at // 50, hit=False)
        assert arriving.breach is None
        for _ in range(102):
            arriving.observe(0.1, whole=True, received=9, hit=False)
        assert found(arriving).startswith("none for 10.")
        assert "longest time without a vector 10." in arriving.remark

    def test_a_message_that_is_refused(self) -> None:
        none = NoneRefused()
        none.observe(50, 0)
        assert (none.checks, none.breach) == (50, None)
        none.observe(60, 1)
        assert found(none) == "1 refused, 60 vectors taken"

    @pytest.mark.parametrize("same_process", [True, False])
    def test_a_role_whose_processes_hold_more_and_more(self, same_process: bool) -> None:
        """Also where each process is flat, and every one begins with more than the last one."""
        pids = itertools.repeat(1) if same_process else itertools.count(1)
        flat, leaking, six = BothFlat(), BothFlat(), 6 * 2**20
        for more in range(7):
            flat.observe("bridge", next(pids), 20 + more, 50 * 2**20 + more, six)
            flat.observe("supervisor", 9, 90, 400 * 2**20, 0)
        assert flat.breach is None
        flat.observe("bridge", next(pids), 27, 50 * 2**20, six)
        assert found(flat) == "27"
        leaking.observe("bridge", next(pids), 20, 50 * 2**20, six)
        leaking.observe("bridge", next(pids), 20, 78 * 2**20, six)
        assert leaking.breach is None, "six vectors may be under way"
        leaking.observe("bridge", next(pids), 20, 79 * 2**20, six)
        assert found(leaking) == "79 MiB"
        leaking.observe("bridge", next(pids), 20, 60 * 2**20, six)
        told = "in turn: open files 20 to 20, at most 20; MiB 50 to 60, at most 79"
        assert leaking.remark == f"bridge, {1 if same_process else 4} {told}"

    def sends(self, wire: WireBytes, per_vector: int, *, pause_ticks: int) -> None:
        """A hundred vectors of a million bytes, each in two parts, and texts in between."""
        forwarded, half = 0, per_vector // 2
        for sent in range(1, 101):
            for part, count in ((half, sent - 1), (per_vector - half, sent)):
                forwarded += part
                wire.observe(0.05, calm=True, forwarded=forwarded, sent=count)
            for _ in range(pause_ticks):
                forwarded += 100
                wire.observe(0.05, calm=True, forwarded=forwarded, sent=sent)

    @pytest.mark.parametrize(
        ("pause_ticks", "per_vector", "holds"),
        [(8, 1_015_000, True), (8, 1_060_000, False), (0, 1_015_000, True), (0, 1_300_000, False)],
    )
    def test_more_bytes_than_those_of_the_vectors(
        self, pause_ticks: int, per_vector: int, holds: bool
    ) -> None:
        """Whether or not learners leave moments at which none is under way; else less exactly."""
        wire = WireBytes(1_000_000, learners=1)
        self.sends(wire, per_vector, pause_ticks=pause_ticks)
        assert (wire.breach is None) == holds
        assert (wire.forced > 0) == (pause_ticks == 0)
        assert wire.vectors >= 30
        if pause_ticks == 8:
            assert wire.vectors == 99, "counted from the first quiet moment on"
            assert wire.bytes == 99 * (per_vector + 800) + 700
        assert f"of {wire.vectors}" in wire.remark

    def test_what_a_disturbed_link_carries_does_not_count(self) -> None:
        wire = WireBytes(1_000_000, learners=1)
        for turn in range(50):
            wire.observe(1.0, calm=False, forwarded=9_000_000 * turn, sent=turn)
            for _ in range(10):
                wire.observe(0.05, calm=True, forwarded=9_000_000 * (turn + 1), sent=turn)
        assert (wire.vectors, wire.breach) == (0, None)
        assert wire.checks > 0
        assert wire.remark.startswith("not measured")

    def test_a_second_machine_that_ends_or_has_failures(self) -> None:
        other, whole = OtherRuns(), OtherWhole()
        other.observe("")
        whole.observe(10, [])
        assert (other.breach, whole.breach, whole.checks) == (None, None, 10)
        other.observe("it ended with code 70: galamp: bridge hung")
        whole.observe(0, ["2 restarts of the second machine"])
        assert found(other) == "it ended with code 70: galamp: bridge hung"
        assert found(whole) == "2 restarts of the second machine"


class StubSecond:
    def __init__(self, folder: Path, gossip: dict[str, Any]) -> None:
        self._told = {"run_dir": str(folder), "restarts": 0, "gossip": gossip}

    def end(self) -> dict[str, Any]:
        return self._told


@pytest.mark.parametrize(
    ("gossip", "violates", "wrong"),
    [
        ({"torn": 0, "refused": 0}, False, None),
        ({"torn": None, "refused": 0}, True, "second machine, line 7: 2 above 1"),
        ({"torn": 0, "refused": 3}, False, "second machine, 3 messages refused"),
        ({"torn": 1, "refused": 0}, False, "second machine, 1 torn copies"),
    ],
)
def test_the_second_machine_is_judged_as_the_first(
    gossip: dict[str, Any],
    violates: bool,
    wrong: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    audited = Audit()
    if violates:
        audited.violations.append(Violation(7, 1, 0.5, 100, 0, 2.0, 1.0, "both"))
    monkeypatch.setattr("galamp.tools.chaos.record.audit", lambda folder: audited)
    over = [Crossing(0, 1, 5, 5, 0, 0), Crossing(1, 0, 5, 5, 0, 0)]
    monkeypatch.setattr("galamp.tools.chaos.record.crossings", lambda folders: over)
    whole = conclude_both(tmp_path, cast(Any, StubSecond(tmp_path, gossip)))
    assert (whole.breach and whole.breach.found) == wrong


def test_what_the_second_machine_tells_is_heard_without_waiting_for_it(tmp_path: Path) -> None:
    view = OtherView(tmp_path / "run", 0)
    view.poll(1.0)
    assert (view.received, view.descriptors) == (0, 0), "there is no run yet"
    (tmp_path / "run").mkdir()
    with ControlServer(tmp_path / "run", pytest.fail) as server:
        view.poll(2.0)
        server.poll()
        server.poll()
        nodes = (NodeSnapshot(0, (1, 1), True, received=7, refused=2),)
        server.publish(replace(busy(1), nodes=nodes))
        view.poll(2.1)
        assert (view.received, view.refused, view.descriptors) == (7, 2, 1)
    view.poll(2.2)
    assert (view.received, view.refused, view.descriptors) == (0, 2, 0), "it was killed"


def test_the_second_machine_has_the_settings_of_the_first() -> None:
    config = RunConfig()
    config = replace(
        config,
        seed=5,
        environment=replace(config.environment, env_id="CartPole-v1", num_envs=4),
        cluster=replace(config.cluster, nodes=2, node_rank=1, join="tcp/127.0.0.1:7", wire="bf16"),
        report=replace(config.report, run_dir="first"),
    )
    words = command(config, Path("other"), resume=False)[1:]
    assert words[:3] == ["-m", "galamp", "run"]
    assert {"--seed=5", "--env-id=CartPole-v1", "--num-envs=4", "--algorithm=a2c"} <= set(words)
    assert {"--nodes=2", "--node-rank=1", "--join=tcp/127.0.0.1:7", "--wire=bf16"} <= set(words)
    assert [word for word in words if word.startswith("--run-dir")] == ["--run-dir=other"]
    again = command(config, Path("other"), resume=True)
    assert again[-1] == "--resume=other", "its settings are in its folder"
    assert str(other_folder(config)) == "first-node1"
    one, two = halves()
    assert len(one) == len(two) > 0


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--nodes", 2, "--join", "tcp/127.0.0.1:7"], "--cut: starts both machines"),
        (["--wire", "bf16", "--keys", "keys"], "--cut: starts both machines"),
        (["--transport", "gloo"], "--cut: a link of gloo cannot be led through a relay"),
        (["--topology", "none"], "has no edge"),
        (["--learners", "auto"], "with --cut give a number"),
        (["--method", "single"], "--method single is for one machine"),
    ],
)
def test_a_mistake_is_told_before_anything_starts(
    flags: list[object], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("zenoh")
    from galamp.cli.main import main

    assert main(["chaos", "--cut", *map(str, flags)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line


@pytest.mark.slow
@pytest.mark.parametrize("wire", ["float32", "bf16"])
def test_two_machines_survive_cuts(tmp_path: Path, wire: str) -> None:
    pytest.importorskip("zenoh")
    folder = tmp_path / "run"
    flags = ["--learners", 1, "--num-envs", 4, "--quiet", "--json", "--env-id", "CartPole-v1"]
    flags += ["--wire", wire, "--topology", "hierarchical", "--nodes-every", 2, "--chaos-seed", 3]
    flags += ["--seconds", 40, "--faults-every-s", 1, "--warm-up-s", 3, "--run-dir", folder]
    ended = galamp("chaos", "--cut", *flags)
    assert ended.returncode == EXIT_OK, ended.stdout + ended.stderr
    told = json.loads(ended.stdout)
    assert told["held"]
    of_link = [fault for fault in told["faults"] if fault["role"] == LINK]
    assert any(fault["kind"] == Kind.CUT for fault in of_link)
    assert all(fault["works_after_s"] is not None for fault in of_link)
    assert any(fault["role"] == BRIDGE for fault in told["faults"])
    killed = [fault for fault in told["faults"] if fault["role"] == MACHINE]
    assert killed
    assert all(fault["works_after_s"] is not None for fault in killed)
    assert all(each["checks"] for each in told["invariants"])
    assert Path(f"{folder}-node1", "summary.json").exists()
    for each in (folder, Path(f"{folder}-node1")):
        assert json.loads((each / "config.json").read_text())["cluster"]["wire"] == wire
