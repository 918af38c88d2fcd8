"""The supervisor's view of its children, without children: watches, and who cannot be ended."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from galamp.crew import Crew, Ended
from galamp.launching import Readiness
from galamp.post import KILL_WAIT_S, LONGEST_STEP_S, Post, Watch
from galamp.reaper import Orphans
from galamp.regroup import Regroup
from galamp.supervisor import KILL_AFTER_S, LEAVE_S, Supervisor
from galamp.worker import WorkerFailure, _is_over
from tests.engine import wait_for


class Count:
    """A count that somebody else moves."""

    value = 0

    def __call__(self) -> int:
        return self.value


def test_a_count_that_moves_is_never_still() -> None:
    count = Count()
    watch = Watch(count)
    for _ in range(100):
        count.value += 1
        watch.look(0.05)
        assert not watch.exceeds(0.0, 0.0)


def test_a_pause_of_the_whole_machine_counts_for_little() -> None:
    watch = Watch(Count())
    watch.look(3600.0)
    assert watch.still_s == LONGEST_STEP_S
    for _ in range(100):
        watch.look(0.05)
    assert watch.exceeds(5.0, 20.0)


def gap(watch: Watch, count: Count, seconds: float, *, first: bool = False) -> None:
    """Let the count stand still for so long, and move."""
    for _ in range(round(seconds / 0.05)):
        watch.look(0.05, first=first)
    count.value += 1
    watch.look(0.05, first=first)


def test_one_long_gap_is_no_habit() -> None:
    count = Count()
    watch = Watch(count)
    for _ in range(20):
        gap(watch, count, 0.1)
    gap(watch, count, 2.5)  # a process that was stopped, and told to go on
    for _ in range(60):
        gap(watch, count, 0.1)
    for _ in range(65):
        watch.look(0.05)
    assert watch.exceeds(3.0, 20.0), "a hang after a pause is seen as soon as any other"


def test_the_first_work_shows_what_is_usual_and_so_does_a_former_life() -> None:
    count = Count()
    watch = Watch(count)
    gap(watch, count, 12.0, first=True)
    heir = Watch(count, watch.usual_s)
    for _ in range(400):
        watch.look(0.05)
        heir.look(0.05)
    for each in (watch, heir):
        assert not each.exceeds(10.0, 20.0)
        assert each.exceeds(10.0, 1.0)


def test_who_is_slow_is_given_more_time() -> None:
    count = Count()
    watch = Watch(count)
    for _ in range(8):
        gap(watch, count, 2.0)
    for _ in range(60):
        watch.look(0.05)
    assert watch.exceeds(1.0, 1.0)
    assert not watch.exceeds(1.0, 5.0)


def test_an_outlier_is_forgotten() -> None:
    count = Count()
    watch = Watch(count)
    for _ in range(200):
        watch.look(0.05)
    for _ in range(2000):
        count.value += 1
        watch.look(0.05)
    for _ in range(30):
        watch.look(0.05)
    assert watch.exceeds(1.0, 20.0)


def test_a_new_life_counts_once_it_has_worked() -> None:
    post = object.__new__(Post)
    post.role, post.row = "learner", cast(Any, {"agent_steps": 5})
    post.life, post._at_birth = 0, 5
    assert post.has_begun, "nobody goes on without those who are yet to begin"
    post.life = 1
    assert not post.has_begun
    post.row["agent_steps"] = 6
    assert post.has_begun


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
        assert not _is_over(child.pid)
        child.kill()
        wait_for(lambda: _is_over(child.pid), "the end of the process")
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

    pid, running, stuck, stuck_s, killed = 0, True, True, 0.0, 0

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def kill(self) -> None:
        self.killed += 1

    def join(self, timeout_s: float) -> bool:
        self.clock.now_s += timeout_s
        return False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that a crew goes by."""
    clock = Clock()
    monkeypatch.setattr("galamp.crew.time", clock)
    return clock


@pytest.fixture
def crew(clock: Clock) -> Crew:
    """A crew of two, who cannot be ended."""
    crew = object.__new__(Crew)
    posts: list[Any] = [object.__new__(Post), object.__new__(Post)]
    for post in posts:
        post.worker, post.due_s, post.given_up = Immortal(clock), None, False
    crew._server, crew.orphans = Readiness(), Orphans("GALAMP_SERVER")
    crew.learners, crew.simulators = cast(list[Post], posts[:1]), cast(list[Post], posts[1:])
    return crew


@pytest.mark.parametrize(
    ("kills", "external", "named"),
    [(6, True, True), (6, False, False), (5, True, False), (0, True, False)],
)
def test_only_a_new_kill_for_want_of_memory_is_named(
    crew: Crew, monkeypatch: pytest.MonkeyPatch, kills: int, external: bool, named: bool
) -> None:
    """Not where the kernel could not be asked this time, and tells of fewer than before."""
    monkeypatch.setattr("galamp.crew.out_of_memory_kills", lambda: kills)
    crew._out_of_memory = 5
    failure = WorkerFailure("learner 0", "was ended by SIGKILL", external=external)
    told = crew._named(failure)
    assert told is not None
    assert ("out of memory" in told.cause) == named
    assert crew._out_of_memory == max(5, kills)


def test_nobody_takes_the_place_of_who_has_not_ended(crew: Crew) -> None:
    crew.kill()
    assert crew.reap() == []
    assert crew.learners[0].worker is not None


def test_the_end_does_not_wait_for_who_cannot_be_ended(crew: Crew, clock: Clock) -> None:
    """For both together once so long as was asked for, and once more after a kill."""
    began_s = clock.now_s
    crew.end(0.1)
    assert clock.now_s - began_s == pytest.approx(0.1 + KILL_WAIT_S)
    assert [cast(Any, post.worker).killed for post in crew.posts] == [1, 1]


def test_a_run_does_not_wait_for_its_last_learner_if_that_cannot_be_ended(crew: Crew) -> None:
    assert crew.learning
    cast(Any, crew.learners[0].worker).stuck_s = KILL_WAIT_S + 0.1
    assert not crew.learning


def test_a_stop_does_not_wait_for_who_cannot_be_ended() -> None:
    supervisor = object.__new__(Supervisor)
    supervisor._stopping_since_s = None
    assert not supervisor._overdue
    supervisor._stopping_since_s = time.monotonic() - KILL_AFTER_S
    assert not supervisor._overdue
    supervisor._stopping_since_s -= LEAVE_S + 0.1
    assert supervisor._overdue


def test_in_lock_step_nobody_waits_for_ever_for_all_to_come_back(crew: Crew) -> None:
    regroup = Regroup(crew, [])
    regroup.begin(WorkerFailure("learner 0", "was ended by SIGKILL"), 0.0)
    assert not regroup.ready
    assert not regroup.overdue
    regroup._since_s -= KILL_WAIT_S
    assert regroup.overdue


@pytest.mark.parametrize(("role", "ends"), [("learner", True), ("simulator", False)])
def test_a_learner_that_fails_twice_at_the_same_place_ends_the_run(role: str, ends: bool) -> None:
    """The others run the same code; a simulator's game is a matter of its own."""
    supervisor = object.__new__(Supervisor)
    done: list[str] = []
    for name in ("_mark", "_fail", "_give_up"):
        setattr(supervisor, name, lambda *_, name=name: done.append(name))
    setattr(supervisor, "_is_fatal", lambda post: False)  # noqa: B010
    post = SimpleNamespace(role=role, given_up=False, repeats=True, delay_s=lambda failure: None)
    supervisor._lose(cast(Post, post), WorkerFailure(f"{role} 0", "raised ValueError: x"))
    assert done == ["_mark", "_fail" if ends else "_give_up"]


def test_who_cannot_be_started_is_lost_before_all_are_called_back() -> None:
    """In lock-step nobody may be left then: without going back at once, the run would be over."""
    supervisor = object.__new__(Supervisor)
    done: list[str] = []
    for name in ("_lose", "_step_back"):
        setattr(supervisor, name, lambda *_, name=name: done.append(name))
    lost = Ended(cast(Post, None), WorkerFailure("learner 0", "could not be started"))
    supervisor.crew = cast(Crew, SimpleNamespace(start_due=lambda now_s, hurried: [lost]))
    supervisor._stopping_since_s = None
    supervisor._restart()
    assert done == ["_lose", "_step_back"]
