"""The supervisor's view of its children, without children: watches, and who cannot be ended."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest

from galamp.crew import Crew
from galamp.post import LONGEST_STEP_S, Post, Watch


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


class Immortal:
    """Stands for a process that the kernel cannot end: it waits for a disk for ever."""

    running, stuck, killed = True, True, 0

    def kill(self) -> None:
        self.killed += 1

    def join(self, timeout_s: float) -> bool:
        time.sleep(min(timeout_s, 0.05))
        return False


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch) -> Crew:
    """A crew of two, who cannot be ended."""
    monkeypatch.setattr("galamp.crew.KILL_WAIT_S", 0.2)
    crew = object.__new__(Crew)
    posts: list[Any] = [object.__new__(Post), object.__new__(Post)]
    for post in posts:
        post.worker, post.due_s = Immortal(), None
    crew.learners, crew.simulators = cast(list[Post], posts[:1]), cast(list[Post], posts[1:])
    return crew


def test_nobody_takes_the_place_of_who_has_not_ended(crew: Crew) -> None:
    crew.kill()
    assert crew.reap() == []
    assert crew.learners[0].worker is not None


def test_the_end_does_not_wait_for_who_cannot_be_ended(crew: Crew) -> None:
    began_s = time.monotonic()
    crew.end(0.1)
    assert time.monotonic() - began_s < 2.0
    assert [cast(Any, post.worker).killed for post in crew.posts] == [1, 1]
