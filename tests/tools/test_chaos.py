"""Faults on purpose: the schedule, the arithmetic, every invariant seen to fail, and real runs."""

from __future__ import annotations

import json
import math
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from galamp.core.errors import EXIT_OK, EXIT_USAGE
from galamp.core.processes.allocator import keep_nothing_spare
from galamp.gossip.mixing import STALENESS_TIMEOUT_S
from galamp.gossip.topologies.ring import DirectedRing
from galamp.gossip.transport.parameter_slots import ParameterSlots, gossip_specs
from galamp.memory.arrays import SharedArrays
from galamp.memory.status import Phase
from galamp.storage import checkpoint
from galamp.supervision.child import Child
from galamp.supervision.children import Children
from galamp.tools.chaos import procfs
from galamp.tools.chaos.injector import InjectedFault, Injector, Target
from galamp.tools.chaos.invariants import (
    LEFT_GRACE_S,
    BoundedStaleness,
    Breach,
    Certified,
    ExpectedProcesses,
    FiniteParameters,
    Invariant,
    LearnerSeen,
    LearnersProgress,
    MonotonicCounters,
    NoLeaks,
    NoTornReads,
)
from galamp.tools.chaos.monitor import check_newest, inspect_files
from galamp.tools.chaos.record import RECOVERED_WITHIN_S, measure_throughput, overlapping, record
from galamp.tools.chaos.recovery import Span, Throughput, statistics
from galamp.tools.chaos.report import lines
from galamp.tools.chaos.scenario import CALM_S, ChaosScenario
from galamp.tools.chaos.schedule import (
    LEARNER,
    OF_PROCESSES,
    SERVER,
    SIMULATOR,
    Fault,
    Kind,
    draw,
)
from galamp.training.supervisor import Supervisor
from tests.support.checkpoints import made
from tests.support.engine import DEADLINE_S, ROOT, galamp, words
from tests.support.scenarios import accompanied

SIZE: dict[str, Any] = {"learners": 4, "workers": 2}


class TestSchedule:
    def test_is_the_seeds_alone(self) -> None:
        one = draw(7, **SIZE, seconds=60.0, every_s=2.0)
        assert one == draw(7, **SIZE, seconds=60.0, every_s=2.0)
        assert one != draw(8, **SIZE, seconds=60.0, every_s=2.0)

    def test_a_longer_one_begins_like_a_shorter_one(self) -> None:
        short = draw(7, **SIZE, seconds=60.0, every_s=2.0)
        assert draw(7, **SIZE, seconds=600.0, every_s=2.0)[: len(short)] == short

    @pytest.mark.parametrize("seed", range(5))
    def test_two_rounds_have_every_kind_twice_and_the_server_once(self, seed: int) -> None:
        faults = draw(seed, **SIZE, seconds=1000.0, every_s=2.0)[:25]
        pairs = [(fault.kind, fault.role) for fault in faults]
        assert pairs.count((Kind.KILL, SERVER)) == 1
        for kind in OF_PROCESSES:
            assert pairs.count((kind, LEARNER)) == pairs.count((kind, SIMULATOR)) == 2

    def test_keeps_within_its_bounds(self) -> None:
        faults = draw(3, **SIZE, seconds=3000.0, every_s=2.0, max_stop_s=1.5)
        assert len(faults) == pytest.approx(1500, rel=0.05)
        assert {fault.rank for fault in faults} == set(range(4))
        assert {fault.worker for fault in faults} == {0, 1}
        times = np.array([fault.at_s for fault in faults])
        assert times[-1] <= 3000.0
        assert 1.0 - 2e-3 <= np.diff(times).min() <= np.diff(times).max() <= 3.0 + 2e-3
        stops = [fault.stop_s for fault in faults if fault.kind is Kind.STOP]
        assert 0.1 <= min(stops) < 0.2
        assert 1.4 < max(stops) <= 1.5
        assert not any(fault.stop_s for fault in faults if fault.kind is not Kind.STOP)

    def test_is_told_in_words(self) -> None:
        assert Fault(1, 0.0, Kind.KILL, SERVER).words == "SIGKILL to server"
        assert Fault(1, 0.0, Kind.HANG, LEARNER, 2).words == "SIGSTOP for good to learner 2"
        stop = Fault(1, 0.0, Kind.STOP, SIMULATOR, 2, 1, 0.51)
        assert stop.words == "SIGSTOP for 0.5 s to simulator 2.1"


def series(*parts: tuple[int, int]) -> Throughput:
    """Return samples ten times a second of (seconds, agent steps per second), from time 100."""
    made = Throughput()
    rates = np.repeat([rate for _, rate in parts], [10 * seconds for seconds, _ in parts])
    for tick, steps in enumerate([0, *np.cumsum(rates / 10)]):
        made.add(100 + tick / 10, int(steps))
    return made


class TestRecovery:
    def test_an_outage_is_over_when_the_next_window_is_full(self) -> None:
        made = series((20, 1000), (3, 0), (20, 1000))
        assert made.usual(120.0, []) == pytest.approx(1000, rel=0.01)
        # From 2.8 s on, nine tenths of the two seconds that follow are at full speed.
        assert made.back_s(120.0, 1000.0) == 3.0

    def test_what_does_not_slow_down_is_back_at_once(self) -> None:
        assert series((20, 1000), (20, 950)).back_s(120.0, 1000.0) == 0.0

    def test_what_stays_slow_is_never_back(self) -> None:
        assert series((20, 1000), (60, 850)).back_s(120.0, 1000.0) is None

    def test_the_usual_is_of_the_undisturbed_and_of_late(self) -> None:
        made = series((100, 2000), (30, 1000), (10, 10), (5, 1000))
        disturbed = [Span(230.0, 240.0)]
        assert made.usual(245.0, disturbed) == pytest.approx(1000, rel=0.01)
        assert made.usual(245.0, [Span(100.0, math.inf)]) is None
        assert Throughput().usual(1.0, []) is None

    def test_a_window_must_be_whole(self) -> None:
        made = series((10, 1000))
        begins_s = np.array([99.0, 100.0, 108.0, 109.0])
        assert np.isnan(made.rates(begins_s)).tolist() == [True, False, False, True]

    def test_statistics(self) -> None:
        found = statistics([3.0, 1.0, None, 2.0, 10.0])
        assert found == {"count": 4, "unknown": 1, "p50": 2.5, "p99": 10.0, "max": 10.0}
        assert statistics([None]) == {
            "count": 0,
            "unknown": 1,
            "p50": None,
            "p99": None,
            "max": None,
        }


def found(invariant: Invariant) -> str:
    """Return what a broken invariant has found."""
    assert invariant.breach is not None, f"{invariant.name} holds"
    return invariant.breach.found


class TestInvariants:
    """Each is seen to hold, and then to fail."""

    def test_a_torn_copy(self) -> None:
        whole = NoTornReads()
        whole.observe(0, 500)
        assert (whole.checks, whole.breach) == (500, None)
        whole.observe(1, 600)
        assert found(whole) == "1 torn of 600 verified"

    def test_a_counter_that_falls(self) -> None:
        rising = MonotonicCounters()
        for turns in (5, 5, 9):
            rising.observe({"turns of learner 0": turns, "updates of learner 0": 3})
        assert rising.breach is None
        rising.observe({"turns of learner 0": 8, "updates of learner 0": 3})
        assert rising.breach == Breach(MonotonicCounters.name, "turns of learner 0 at least 9", "8")

    def test_a_learner_that_was_left_alone_stalls(self) -> None:
        turning = LearnersProgress(2, limit_s=60.0, bound_s=4.0)
        for turn in range(100):
            turning.observe(0.1, [LearnerSeen(turn, others_hit=True), LearnerSeen(0, hit=True)])
        assert turning.breach is None, "learner 1 has been hit, and has its limit"
        for _ in range(42):
            turning.observe(0.1, [LearnerSeen(99, others_hit=True), LearnerSeen(0, hit=True)])
        assert found(turning).startswith("none for 4.")
        assert turning.longest_s > 4.0

    def test_a_learner_in_trouble_stalls_for_good(self) -> None:
        turning = LearnersProgress(1, limit_s=60.0, bound_s=4.0)
        for _ in range(700):
            turning.observe(0.1, [LearnerSeen(0, expected=False, hit=True)])
        assert turning.breach is None, "nobody is there to make a turn"
        for _ in range(601):
            turning.observe(0.1, [LearnerSeen(0, hit=True)])
        assert "none for 60" in found(turning)

    def test_a_number_that_is_none(self) -> None:
        arrays = SharedArrays.create(gossip_specs(DirectedRing(2), 6))
        slots, finite = ParameterSlots(arrays, 0), FiniteParameters()
        slots.write(lambda slot: slots.payload[slot].fill_(1.0), incarnation=0, round_=0, version=1)
        finite.observe(0, cast(torch.Tensor, slots.copy(6)))
        assert finite.breach is None
        slots.payload[1, 3] = math.nan
        finite.observe(0, cast(torch.Tensor, slots.copy(6)))
        assert found(finite) == "1 of 6 are not"

    def test_a_zombie(self) -> None:
        running = ExpectedProcesses()
        for _ in range(3):
            running.observe(0.5, ["process 5 is a zombie"])
            running.observe(0.5, [])
        assert running.breach is None, "it was reaped in time"
        for _ in range(4):
            running.observe(0.5, ["process 5 is a zombie"])
        assert found(running) == "process 5 is a zombie"

    def test_what_a_simulator_has_left_behind(self) -> None:
        running, words = ExpectedProcesses(), "process 5 (sleep) runs, and belongs to no child"
        for _ in range(20):
            running.observe(0.5, [], [words])
            running.observe(0.5, [], ["process 6 (sleep) is a zombie"])
        assert running.breach is None, "others each time: all go in time"
        running.observe(1.0, [], [words])
        running.observe(LEFT_GRACE_S, [], [words])
        assert running.breach is None
        running.observe(0.5, [], [words])
        assert found(running) == words
        assert running.remark == ""
        running.helpers = 3
        assert running.remark.startswith("3 processes that environments had started")

    def test_an_end_without_a_fault(self) -> None:
        running = ExpectedProcesses()
        running.end_of("learner 0", hit=True)
        assert running.breach is None
        running.end_of("learner 0", hit=False)
        assert found(running) == "it ended"

    def test_a_leaked_file(self, tmp_path: Path) -> None:
        flat = NoLeaks()
        for _ in range(2):
            flat.observe_descriptors(procfs.descriptors())
        assert flat.breach is None
        with (tmp_path / "leak").open("w"):
            flat.observe_descriptors(procfs.descriptors())
        assert flat.breach is not None

    def test_leaked_memory(self) -> None:
        flat, leak = NoLeaks(), []
        keep_nothing_spare()
        flat.observe_memory(procfs.own_bytes())
        leak.append(np.ones(2**20, np.uint8))
        flat.observe_memory(procfs.own_bytes())
        assert flat.breach is None, "a MiB is no leak"
        leak.append(np.ones(procfs.own_bytes() // 10 + 30 * 2**20, np.uint8))
        flat.observe_memory(procfs.own_bytes())
        assert flat.breach is not None

    def test_memory_with_a_name(self) -> None:
        others = procfs.named_memory(os.getpid())  # such as semaphores of tests before this one
        name = f"{procfs.NAMED}galamp-test-{os.getpid()}"
        try:
            file = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
            os.truncate(file, 4096)
            mapped = mmap.mmap(file, 4096)
            os.close(file)
            flat = NoLeaks()
            flat.observe_names(procfs.named_memory(os.getpid()) - others)
            mapped.close()
        finally:
            os.unlink(name)
        assert found(flat) == name

    def test_a_damaged_checkpoint(self, tmp_path: Path) -> None:
        folder = tmp_path / "checkpoints"
        paths = [checkpoint.save(folder, made(steps)) for steps in (100, 200, 300)]
        assert check_newest(folder) == (2, ())
        damage(paths[0])
        assert check_newest(folder) == (2, ()), "an older one is not asked for"
        damage(paths[2])
        verified, damaged = check_newest(folder)
        assert verified == 1
        assert "ckpt-000000000300" in damaged[0]
        assert inspect_files(folder, []).damaged == damaged

    def test_staleness_past_its_bound(self) -> None:
        fresh = BoundedStaleness(1, bound=8)
        for stale in range(200):
            fresh.observe(0.1, [stale], [False])
        assert fresh.breach is None, "its peer is dead: there is nothing to mix"
        for stale in (200, 201, 0, 3, 8):
            fresh.observe(0.1, [stale], [True])
        assert fresh.breach is None, "one more round was under way when the peer came"
        fresh.observe(STALENESS_TIMEOUT_S, [9], [True])
        assert fresh.breach is None, "its deadline has passed once"
        fresh.observe(0.1, [11], [True])
        assert found(fresh) == "11"

    def test_a_distance_above_its_certificate(self) -> None:
        certified = Certified()
        certified.observe(50, ())
        assert (certified.checks, certified.breach) == (50, None)
        certified.observe(50, ("line 7: 2 above 1",))
        assert found(certified) == "line 7: 2 above 1"


def damage(path: Path) -> None:
    """Flip a bit in the middle of the largest file."""
    file = max(path.iterdir(), key=lambda each: each.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


class TestProcesses:
    def test_a_child_that_nobody_asks_for_is_a_zombie(self) -> None:
        child = subprocess.Popen(["true"])
        try:
            until_s = time.monotonic() + DEADLINE_S
            while not [
                c for c in procfs.children({os.getpid()}) if c.pid == child.pid and c.zombie
            ]:
                assert time.monotonic() < until_s
        finally:
            child.wait()
        assert procfs.process(child.pid) is None
        assert procfs.pss_bytes(child.pid) == 0

    def test_the_server_is_a_child_between(self) -> None:
        script = "import subprocess; subprocess.run(['sleep', '60'])"
        server = subprocess.Popen([sys.executable, "-c", script])
        try:
            until_s = time.monotonic() + DEADLINE_S
            while not (below := procfs.children({server.pid})):
                assert time.monotonic() < until_s
            assert procfs.server_of(below[0].pid) == server.pid
            assert procfs.server_of(server.pid) is None
            os.kill(below[0].pid, 9)
        finally:
            server.kill()
            server.wait()


class Place:
    """Stands for a child: what an injector observes."""

    given_up, has_begun = False, True

    def __init__(self, rank: int, number: int | None, pid: int) -> None:
        self.rank, self.number, self.incarnation, self.work = rank, number, 0, 10
        self.pid: int | None = pid
        self.running = True
        self.row = Row(pid)
        self.excused = 0

    @property
    def has_process(self) -> bool:
        return self.pid is not None

    def expect_failure(self) -> None:
        self.excused += 1


class Row(dict[str, int]):
    phase = Phase.COLLECT

    def __init__(self, pid: int) -> None:
        super().__init__(pid=pid)


class Places:
    """Stands for two learners with a simulator each; their processes just sleep."""

    def __init__(self, pids: list[int]) -> None:
        self.learners = [Place(rank, None, pids[rank]) for rank in range(2)]
        self.simulators = [Place(rank, 0, pids[2 + rank]) for rank in range(2)]
        self.all = [*self.learners, *self.simulators]

    def simulators_of(self, rank: int) -> list[Place]:
        return [self.simulators[rank]]


@pytest.fixture
def places() -> Iterator[Places]:
    sleepers = [subprocess.Popen(["sleep", "60"]) for _ in range(4)]
    yield Places([sleeper.pid for sleeper in sleepers])
    for sleeper in sleepers:
        sleeper.kill()
        sleeper.wait()


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


class TestInjector:
    def test_a_fault_is_put_off_until_its_target_is_there(self, places: Places) -> None:
        kill = Fault(1, 1.0, Kind.KILL, LEARNER, 1)
        injector = Injector(cast(Children, places), [kill])
        learner = places.learners[1]
        pid, learner.pid = learner.pid, None
        assert not list(injector.tick(102.0, 100.0))
        learner.pid, learner.row.phase = pid, Phase.BOOT
        assert not list(injector.tick(103.0, 100.0))
        learner.row.phase = Phase.UPDATE
        learner.running = False  # its process id may be another one's by now
        assert not list(injector.tick(103.5, 100.0))
        learner.running = True
        learner.has_begun = False  # a successor has longer for its first turn
        assert not list(injector.tick(103.7, 100.0))
        learner.has_begun = True
        [injected] = injector.tick(104.0, 100.0)
        assert (injected.fault, injected.at_s, learner.excused) == (kill, 104.0, 1)

    def test_who_has_not_got_over_a_fault_is_spared(self, places: Places) -> None:
        faults = [Fault(1, 0.0, Kind.TERM, LEARNER, 0), Fault(2, 0.0, Kind.KILL, LEARNER, 0)]
        injector = Injector(cast(Children, places), faults)
        assert [s.fault.number for s in injector.tick(1.0, 0.0)] == [1]
        assert not list(injector.tick(2.0, 0.0))
        places.learners[0].work += 1
        assert [s.fault.number for s in injector.tick(3.0, 0.0)] == [2]

    def test_a_killed_process_is_back_when_its_successor_works(self, places: Places) -> None:
        injector = Injector(cast(Children, places), [Fault(1, 0.0, Kind.SEGV, SIMULATOR, 0)])
        [injected] = injector.tick(1.0, 0.0)
        child = places.simulators[0]
        child.work += 5  # what it had yet done
        list(injector.tick(2.0, 0.0))
        assert injected.noticed_s is None
        child.incarnation, child.pid = 1, None
        list(injector.tick(3.0, 0.0))
        child.pid = 1
        list(injector.tick(4.0, 0.0))
        assert injected.noticed_s == 3.0
        assert not injected.over
        child.work += 5
        list(injector.tick(5.0, 0.0))
        assert (injected.over, injected.back_s, injector.open) == (True, 5.0, [])

    def test_a_stop_ends_in_time(self, places: Places) -> None:
        injector = Injector(cast(Children, places), [Fault(1, 0.0, Kind.STOP, LEARNER, 0, 0, 0.5)])
        [injected] = injector.tick(1.0, 0.0)
        pid = injected.hits[0].pid
        reaches(pid, "T")
        list(injector.tick(1.4, 0.0))
        assert state(pid) == "T"
        list(injector.tick(1.6, 0.0))
        reaches(pid, "S")
        assert not injected.over
        places.learners[0].work += 1
        list(injector.tick(1.7, 0.0))
        assert injected.back_s == 1.7

    def test_nobody_is_left_stopped(self, places: Places) -> None:
        injector = Injector(cast(Children, places), [Fault(1, 0.0, Kind.HANG, LEARNER, 0)])
        [injected] = injector.tick(1.0, 0.0)
        reaches(injected.hits[0].pid, "T")
        injector.release()
        reaches(injected.hits[0].pid, "S")


def reaches(pid: int, wanted: str) -> None:
    """Wait until the kernel says that a process is in this state."""
    until_s = time.monotonic() + DEADLINE_S
    while state(pid) != wanted:
        assert time.monotonic() < until_s


def injected(
    number: int, kind: Kind, at_s: float, back_s: float | None, rank: int = 0
) -> InjectedFault:
    """Return a fault on a learner that is over by `back_s`; a hang is noticed after 3 s."""
    child = cast(Child, Place(rank, None, 1))
    made = InjectedFault(
        Fault(number, at_s - 100, kind, LEARNER, rank), at_s, [Target(child, 0, 0, 1)]
    )
    made.back_s = back_s
    made.noticed_s = at_s + 3.0 if kind is Kind.HANG else None
    return made


def a_record(*injected_faults: InjectedFault, breach: Breach | None = None) -> dict[str, Any]:
    """Return the record of a run with these faults, at 1000 steps/s but for 120 to 123 s."""
    chaos = ChaosScenario(60.0, 6.0, 5, 4.0)
    chaos.throughput = series((20, 1000), (3, 0), (40, 1000))
    chaos.faults, chaos.began_s, chaos.complete = (
        (*(s.fault for s in injected_faults),),
        100.0,
        not breach,
    )
    injector = object.__new__(Injector)
    injector.injected_faults = list(injected_faults)
    chaos._injector = injector
    rising = MonotonicCounters()
    rising.breach = breach
    summary = {"restarts": 3, "agent_steps": 60_000, "run_dir": "runs/x"}
    return record(chaos, [rising], summary)


class TestRecord:
    def test_faults_at_once_in_one_group_are_told_apart(self) -> None:
        one, two = injected(1, Kind.KILL, 110.0, 115.0), injected(2, Kind.TERM, 114.0, 114.5)
        other, later = (
            injected(3, Kind.KILL, 112.0, 113.0, rank=1),
            injected(4, Kind.KILL, 120.0, None),
        )
        assert overlapping([one, two, other, later]) == [one, two]

    def test_a_hang_is_timed_from_when_it_was_noticed(self) -> None:
        hang = injected(1, Kind.HANG, 120.0, 125.0)
        [line, _] = a_record(hang)["kinds"]
        assert line["noticed_s"]["p50"] == 3.0
        assert line["works_s"]["p50"] == 2.0
        assert line["works_after_signal_s"]["p50"] == 5.0
        assert line["throughput_s"]["p50"] == 0.0

    def test_throughput_is_that_before_each_fault(self) -> None:
        kill = injected(1, Kind.KILL, 120.0, 123.0)
        measure_throughput(series((20, 1000), (3, 0), (40, 1000)), [kill])
        assert kill.usual == pytest.approx(1000, rel=0.01)
        assert kill.steps_back_s == 3.0
        promise = a_record(kill)["throughput"]
        assert (promise["kept"], promise["faults"], promise["within_s"]) == (
            1,
            1,
            RECOVERED_WITHIN_S,
        )

    def test_the_report_of_what_held(self) -> None:
        faults = [injected(1, Kind.HANG, 120.0, 125.0), injected(2, Kind.KILL, 130.0, None)]
        text = list(lines(a_record(*faults)))
        assert max(map(len, text)) <= 100
        assert "Throughput was back at 90% within 10 s after 2 of 2 faults." in text
        assert text[-2] == "everything held: 2 faults, 3 restarts, 60,000 agent steps; seed 5"
        assert text[-1].endswith("runs/x/chaos.json")

    def test_the_report_of_what_was_broken_tells_how_to_see_it_again(self) -> None:
        told = a_record(injected(1, Kind.KILL, 120.0, 123.0), breach=Breach("I9", "x\x1b", "y"))
        assert not told["held"]
        text = "\n".join(lines(told))
        assert "seed 5: I9" in text
        assert "expected  x\\x1b" in text
        assert "20.00 s  KILL  learner 0" in text


class StubWatchman:
    breach = Breach("I9", "x", "y")

    def tick(self, now_s: float) -> None:
        pass


class StubSupervisor:
    """Stands for a supervisor whose run was disturbed, and that can be asked to finish."""

    def __init__(self) -> None:
        self.recorder = self.children = self
        self.learners: list[Child] = []
        self.told: list[str] = []
        self.finished = 0

    def log_event(self, text: str, **_: object) -> None:
        self.told.append(text)

    def finish(self) -> None:
        self.finished += 1


def test_the_progress_of_a_scenario_is_that_of_its_time() -> None:
    """10 s of warm-up, 60 s of faults, and the calm after them."""
    chaos = ChaosScenario(60.0, 10.0, 5, 4.0)
    whole_s = 70.0 + CALM_S

    def goal(now_s: float, share_s: float, text: str) -> None:
        found = chaos.goal(now_s)
        assert found.text == text
        assert found.share == pytest.approx(share_s / whole_s)
        assert found.remaining_s == pytest.approx(whole_s - share_s)

    goal(1000.0, 0.0, "warm-up: 0 of 10 s   0 invariants broken")
    chaos._warm_s = 1000.0
    goal(1004.0, 4.0, "warm-up: 4 of 10 s   0 invariants broken")
    goal(1014.0, 10.0, "warm-up: 10 of 10 s   0 invariants broken")
    injector = object.__new__(Injector)
    injector.injected_faults = [injected(1, Kind.KILL, 1020.0, 1021.0)]
    done = injector.injected_faults[0].fault
    chaos.began_s, chaos._injector, chaos.faults = 1015.0, injector, (done, done, done)
    goal(1029.0, 24.0, "14 of 60 s   fault 1 of 3   0 invariants broken")
    chaos.breach = StubWatchman.breach
    goal(1076.0, 71.0, "60 of 60 s   fault 1 of 3   1 invariant broken")
    goal(9999.0, whole_s, "60 of 60 s   fault 1 of 3   1 invariant broken")


def test_the_first_breach_ends_the_run() -> None:
    chaos, supervisor = ChaosScenario(60.0, 6.0, 5, 4.0), StubSupervisor()
    for _ in range(2):
        chaos._step(cast(Supervisor, supervisor), cast(Any, StubWatchman()))
    assert (supervisor.finished, supervisor.told) == (1, ["chaos: broken: I9"])
    assert chaos.breach == StubWatchman.breach


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--sync"], "--sync, --max-staleness 0, --method allreduce: in lock-step"),
        (["--max-restarts", 0], "--max-restarts 0: the first fault would end the run"),
        (["--seconds", 0], "--seconds 0.0: expected a number of at least 1 (s)"),
    ],
)
def test_a_mistake_is_told_before_anything_starts(flags: list[Any], complaint: str) -> None:
    ended = galamp("chaos", *flags)
    assert ended.returncode == EXIT_USAGE
    assert ended.stderr.startswith(f"galamp: {complaint}")


@pytest.mark.timing
def test_a_run_survives(tmp_path: Path) -> None:
    """Most invariants are promises in seconds, and a checkpoint has to be on the disk in time."""
    folder = tmp_path / "run"
    flags = ["--learners", 2, "--num-envs", 4, "--quiet", "--json"]
    flags += ["--seconds", 4, "--faults-every-s", 0.5, "--warm-up-s", 3, "--run-dir", folder]
    with accompanied(folder) as (more, _):  # what they start is no breach, and ends with them
        ended = galamp("chaos", *flags, *more)
    assert ended.returncode == EXIT_OK, ended.stdout + ended.stderr
    told = json.loads(ended.stdout)
    assert told == json.loads((folder / "chaos.json").read_text())
    assert told["held"]
    assert told["complete"]
    again = draw(1, learners=2, workers=1, seconds=4.0, every_s=0.5, max_stop_s=2.4)
    assert told["schedule"] == [fault.as_dict() for fault in again]
    assert sum(fault["works_after_s"] is not None for fault in told["faults"]) >= 5
    assert all(each["checks"] for each in told["invariants"])
    assert told["summary"]["given_up"] == []
    [running] = [each for each in told["invariants"] if each["name"] == ExpectedProcesses.name]
    assert "that environments had started ended with their simulators" in running["remark"]


@pytest.mark.slow
def test_a_game_survives(tmp_path: Path) -> None:
    flags = ["--game", "Breakout", "--learners", 2, "--seconds", 60, "--run-dir", tmp_path / "run"]
    command = words("chaos", *flags, "--json", "--quiet")
    ended = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=300)
    assert ended.returncode == EXIT_OK, ended.stdout + ended.stderr
    assert all(fault["works_after_s"] is not None for fault in json.loads(ended.stdout)["faults"])
