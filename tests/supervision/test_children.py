"""Children as their supervisor sees them, without processes: hangs, failures, unkillable ones."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from galamp.core.processes.reaper import Orphans
from galamp.memory.status import Phase
from galamp.supervision.child import KILL_TIMEOUT_S, UNKILLABLE_S, Child
from galamp.supervision.child_failure import ChildFailure, failure_of
from galamp.supervision.children import (
    SERVER_END_TIMEOUT_S,
    TICK_S,
    Children,
    Ended,
    _not_started,
    failure_lines,
)
from galamp.supervision.launching import AwakeTimeout, Readiness, is_over
from galamp.supervision.memory_kills import RECENT_S, MemoryKills
from galamp.supervision.progress_monitor import MAX_TICK_S, ProgressMonitor
from galamp.supervision.restart_policy import Failure, RestartPolicy
from galamp.supervision.rollback import Rollback
from galamp.training.supervisor import (
    EXIT_GRACE_S,
    ITERATION_GRACE_S,
    STOP_TIMEOUT_S,
    Supervisor,
)
from galamp.workers.child import ChildSpec
from tests.support.engine import wait_for


class Count:
    """A count that somebody else moves."""

    value = 0

    def __call__(self) -> int:
        return self.value


def test_a_count_that_moves_is_never_still() -> None:
    count = Count()
    monitor = ProgressMonitor(count)
    for _ in range(100):
        count.value += 1
        monitor.observe(0.05)
        assert not monitor.exceeds(0.0, 0.0)


def test_a_pause_of_the_whole_machine_counts_for_little() -> None:
    monitor = ProgressMonitor(Count())
    monitor.observe(3600.0)
    assert monitor.still_s == MAX_TICK_S
    for _ in range(100):
        monitor.observe(0.05)
    assert monitor.exceeds(5.0, 20.0)


def gap(monitor: ProgressMonitor, count: Count, seconds: float, *, first: bool = False) -> None:
    """Let the count stand still for so long, and move."""
    for _ in range(round(seconds / 0.05)):
        monitor.observe(0.05, first=first)
    count.value += 1
    monitor.observe(0.05, first=first)


def test_one_long_gap_is_no_habit() -> None:
    count = Count()
    monitor = ProgressMonitor(count)
    for _ in range(20):
        gap(monitor, count, 0.1)
    gap(monitor, count, 2.5)  # a process that was stopped, and told to go on
    for _ in range(60):
        gap(monitor, count, 0.1)
    for _ in range(65):
        monitor.observe(0.05)
    assert monitor.exceeds(3.0, 20.0), "a hang after a pause is seen as soon as any other"


def test_the_first_work_shows_what_is_usual_and_so_does_an_earlier_incarnation() -> None:
    count = Count()
    monitor = ProgressMonitor(count)
    gap(monitor, count, 12.0, first=True)
    successor = ProgressMonitor(count, monitor.usual_s)
    for _ in range(400):
        monitor.observe(0.05)
        successor.observe(0.05)
    for each in (monitor, successor):
        assert not each.exceeds(10.0, 20.0)
        assert each.exceeds(10.0, 1.0)


def test_who_is_slow_is_given_more_time() -> None:
    count = Count()
    monitor = ProgressMonitor(count)
    for _ in range(8):
        gap(monitor, count, 2.0)
    for _ in range(60):
        monitor.observe(0.05)
    assert monitor.exceeds(1.0, 1.0)
    assert not monitor.exceeds(1.0, 5.0)


def test_an_outlier_is_forgotten() -> None:
    count = Count()
    monitor = ProgressMonitor(count)
    for _ in range(200):
        monitor.observe(0.05)
    for _ in range(2000):
        count.value += 1
        monitor.observe(0.05)
    for _ in range(30):
        monitor.observe(0.05)
    assert monitor.exceeds(1.0, 20.0)


def test_a_new_incarnation_counts_once_it_has_worked() -> None:
    child = object.__new__(Child)
    child.role, child.row = "learner", cast(Any, {"agent_steps": 5})
    child.incarnation, child._work_at_start = 0, 5
    assert child.has_begun, "nobody goes on without those who are yet to begin"
    child.incarnation = 1
    assert not child.has_begun
    child.row["agent_steps"] = 6
    assert child.has_begun


def test_a_pause_during_the_first_start_gives_later_ones_no_hours() -> None:
    child = object.__new__(Child)
    child.row, child.incarnation, child.boot_s = (
        cast(Any, SimpleNamespace(phase=Phase.BOOT)),
        0,
        0.0,
    )
    child.note_boot(3600.0)
    assert child.boot_s == MAX_TICK_S
    child.note_boot(0.05)
    assert child.boot_s == pytest.approx(MAX_TICK_S + 0.05)


HEADLESS = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_process_lives_as_long_as_any_thread_of_it() -> None:
    child = subprocess.Popen([sys.executable, "-c", HEADLESS])
    stat = Path(f"/proc/{child.pid}/stat")
    try:
        wait_for(lambda: ") Z " in stat.read_text(), "the end of the first thread")
        assert not is_over(child.pid)
        child.kill()
        wait_for(lambda: is_over(child.pid), "the end of the process")
        assert not stat.exists()
    finally:
        child.kill()
        child.wait()


class Clock:
    """Stands for the module `time`: its time passes only in waits."""

    now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


class Immortal:
    """Stands for a process that the kernel cannot end: it waits for a disk for ever."""

    pid, running, killed = 4711, True, 0

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def kill(self) -> None:
        self.killed += 1

    def join(self, timeout_s: float) -> None:
        self.clock.now_s += timeout_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that the supervisor's waits go by."""
    clock = Clock()
    monkeypatch.setattr("galamp.supervision.children.time", clock)
    return clock


class Sent(list[int]):
    """Signals that the fork server was sent, and pids of the children left behind."""

    left: set[int]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """What happens to the fork server."""
    sent = Sent()
    sent.left = set()
    monkeypatch.setattr("galamp.supervision.children.left_behind", sent.left)
    monkeypatch.setattr("galamp.supervision.children.send_server", sent.append)
    monkeypatch.setattr(
        "galamp.supervision.children.wake_server", lambda: sent.append(signal.SIGCONT)
    )
    return sent


@pytest.fixture
def children(clock: Clock, sent: Sent) -> Children:
    """A learner and a simulator that cannot be ended."""
    children = object.__new__(Children)
    members: list[Any] = [object.__new__(Child), object.__new__(Child)]
    for child in members:
        child._process, child.due_s, child.given_up = Immortal(clock), None, False
        child._hang, child.hung_s = "hung", 0.0
    children._server, children.orphans, children._orphans_due_s = (
        Readiness(),
        Orphans("GALAMP_SERVER"),
        0.0,
    )
    children.learners, children.simulators = (
        cast(list[Child], members[:1]),
        cast(list[Child], members[1:]),
    )
    return children


class Kernel:
    """What the kernel tells of its kills, and whom they are put down to."""

    kills = 5

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            "galamp.supervision.memory_kills.out_of_memory_kills", lambda: self.kills
        )
        self.known = MemoryKills()

    def names(self, now_s: float, *, killed: bool = True) -> bool:
        """Whether a SIGKILL that is seen now is told as being out of memory."""
        failure = ChildFailure("learner 0", "was ended by SIGKILL", external=True, killed=killed)
        told = self.known.explain(failure, now_s)
        return told is not None and "out of memory" in told.cause


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """A kernel that has killed others, long ago."""
    return Kernel(monkeypatch)


@pytest.mark.parametrize(
    ("kills", "killed", "named"),
    [(6, True, True), (6, False, False), (5, True, False), (0, True, False)],
)
def test_only_a_new_kill_for_want_of_memory_is_named(
    kernel: Kernel, kills: int, killed: bool, named: bool
) -> None:
    """Not where the kernel could not be asked this time, and tells of fewer than before.

    Nor of who could not write why it failed, as on a full disk.
    """
    kernel.kills = kills
    assert kernel.names(100.0, killed=killed) == named
    kernel.kills = 5
    assert not kernel.names(100.0), "none is made up afterwards"


def test_each_kill_for_want_of_memory_is_put_down_to_one_process(kernel: Kernel) -> None:
    """Also of several at once, with others in between that have ended well or by themselves."""
    kernel.kills = 7
    assert kernel.names(100.0)
    assert kernel.known.explain(None, 100.0) is None
    assert not kernel.names(100.0, killed=False)
    assert kernel.names(100.0)
    assert not kernel.names(100.0)


@pytest.mark.parametrize(("later_s", "named"), [(1.0, True), (2 * RECENT_S, False)])
def test_an_old_kill_of_somebody_else_is_nobodys_later(
    kernel: Kernel, later_s: float, named: bool
) -> None:
    """As of an evaluation: a `kill -9` of a learner is then told as what it is."""
    kernel.kills = 6
    kernel.known.poll(100.0)
    kernel.known.poll(100.0 + later_s)
    assert kernel.names(100.0 + later_s) == named


def test_the_kernel_is_asked_now_and_then(
    children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    polled: list[float] = []
    children._memory_kills = cast(Any, SimpleNamespace(poll=polled.append))
    monkeypatch.setattr(children, "with_process", lambda: iter(()))
    children.check(0.05)
    assert len(polled) == 1


def test_nobody_takes_the_place_of_who_has_not_ended(children: Children) -> None:
    children.kill()
    assert children.reap() == []
    assert children.learners[0].has_process


def test_the_end_does_not_wait_for_who_cannot_be_ended(
    children: Children, clock: Clock, sent: Sent
) -> None:
    """For all together as long as was asked for, after a kill, and after that of the server."""
    began_s = clock.now_s
    children.end(0.1)
    assert clock.now_s - began_s == pytest.approx(0.1 + KILL_TIMEOUT_S + SERVER_END_TIMEOUT_S)
    assert [cast(Any, child)._process.killed for child in children.all] == [1, 1]
    assert sent.left == {4711}, "the command line does not wait for them either"


@pytest.mark.parametrize("kind", ["stopped", "hung", "sound"])
def test_the_end_does_not_wait_for_a_server_that_tells_of_no_end(
    children: Children, sent: Sent, kind: str
) -> None:
    """A stopped one is woken, one that hangs is killed: its children are then adopted."""
    cure = {"stopped": signal.SIGCONT, "hung": signal.SIGKILL}.get(kind)
    for child in children.all:
        process = cast(Any, child)._process

        def join(timeout_s: float, process: Any = process) -> None:
            process.clock.now_s += timeout_s
            process.running = bool(cure and cure not in sent)

        process.join = join
    children.end(0.1)
    assert (signal.SIGKILL in sent) == (kind == "hung")
    assert signal.SIGCONT in sent
    assert not sent.left


def test_orphans_are_looked_for_after_an_end_and_now_and_then(
    children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter([1, 0, 0, 0])
    scans: list[float] = []
    monkeypatch.setattr(children, "end_orphans", lambda: scans.append(now_s) or next(left))
    for tenth in range(25):
        now_s = tenth / 10
        children.look_for_orphans(now_s)
    assert scans == [0.0, 0.1, 1.1, 2.1], "and again at once while any is not gone"


def test_what_many_have_in_common_is_told_once() -> None:
    child = cast(Child, None)
    lost = [Ended(child, ChildFailure(f"learner {n}", "could not be started")) for n in range(1000)]
    other = Ended(child, ChildFailure("simulator 0.1", "raised ValueError: x"))
    words = failure_lines([other, *lost, Ended(child, None)])
    assert list(filter(None, words)) == [
        "simulator 0.1 raised ValueError: x",
        "1000 learners and simulators: each could not be started",
    ]
    assert failure_lines(lost[:2]) == [
        "learner 0 could not be started",
        "learner 1 could not be started",
    ]


@pytest.mark.parametrize("cause", ["not started", "server lost"])
def test_failures_of_the_server_are_no_repetition(tmp_path: Path, cause: str) -> None:
    """Two of them after any progress say nothing about the learner, so they end no run."""
    if cause == "not started":
        place = SimpleNamespace(
            title="learner 0", due_s=0.0, release=lambda: None, mark_dead=lambda: None
        )
        failure = _not_started(cast(Child, place), OSError("no server")).failure
    else:
        spec = ChildSpec("learner", 0, None, "", (), str(tmp_path / "log"))
        failure = failure_of(spec, 31, 255, server_lost=True)
    assert failure is not None
    restart_policy = RestartPolicy(10)
    for now_s in (0.0, 100.0, 200.0):
        loss = Failure(failure.cause, 500, failure.deliberate, failure.external)
        assert restart_policy.delay_s(loss, now_s) is not None
        assert not restart_policy.repeats


def test_every_start_of_a_run_knows_that_the_server_has_loaded() -> None:
    """Long after the first one the file that has told so may have been tidied away."""
    resources = SimpleNamespace(hang_after_s=1.0, start_timeout_s=1.0, max_restarts=1)
    config = SimpleNamespace(
        resources=resources, gossip=SimpleNamespace(exchanges_in_lock_step=False)
    )
    shape = SimpleNamespace(workers=0)
    plan = SimpleNamespace(config=config)
    run_layout = cast(
        Any, SimpleNamespace(plan=plan, count=0, shape=shape, control=None, board=None)
    )
    assert Children(run_layout)._server is Children(run_layout)._server


@pytest.fixture
def awake(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of timeouts that count only while the supervisor runs."""
    awake = Clock()
    monkeypatch.setattr("galamp.supervision.launching.time", awake)
    return awake


def last_until(awake: Clock, seconds: float, is_over: Callable[[], bool]) -> bool:
    """Whether something is over after so many seconds of ticks, and after a long pause before."""
    awake.now_s += 3600.0
    assert not is_over(), "a pause of the supervisor itself is no delay of anybody"
    for _ in range(round(seconds / TICK_S)):
        awake.now_s += TICK_S
        if is_over():
            return True
    return False


def test_a_stop_does_not_wait_for_who_cannot_be_ended(awake: Clock) -> None:
    supervisor = object.__new__(Supervisor)
    supervisor._stopping = None
    assert not supervisor._overdue()
    supervisor._stopping = AwakeTimeout(STOP_TIMEOUT_S + EXIT_GRACE_S)
    assert not last_until(awake, STOP_TIMEOUT_S, supervisor._overdue)
    assert last_until(awake, EXIT_GRACE_S, supervisor._overdue)


def test_a_pause_while_a_run_stops_kills_nobody(
    awake: Clock, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by Ctrl-Z: learners are stopped then, too, and have not saved yet."""
    monkeypatch.setattr("galamp.training.supervisor.wake_server", lambda: None)
    killed: list[bool] = []
    setattr(children, "kill", lambda: killed.append(True))  # noqa: B010
    supervisor, control = object.__new__(Supervisor), SimpleNamespace(quit=False)
    supervisor.children = children
    supervisor.run_layout = cast(Any, SimpleNamespace(control=control))
    supervisor._stopping = AwakeTimeout(STOP_TIMEOUT_S + EXIT_GRACE_S)

    def is_killed() -> bool:
        supervisor._overdue()
        supervisor._enforce_stop_timeouts()
        return bool(killed)

    assert not last_until(awake, ITERATION_GRACE_S - 1.0, is_killed)
    assert not control.quit
    assert last_until(awake, STOP_TIMEOUT_S, is_killed)
    assert control.quit


def test_in_lock_step_nobody_waits_for_ever_for_all_to_come_back(
    children: Children, awake: Clock
) -> None:
    rollback = Rollback(children, [])
    rollback.start(ChildFailure("learner 0", "was ended by SIGKILL"), 0.0)
    assert not rollback.ready
    assert not last_until(awake, UNKILLABLE_S - 1.0, rollback.overdue)
    assert last_until(awake, 2.0, rollback.overdue)
