"""The thread of updates: who calls what, whose heartbeats count, how errors and ends are told."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import pytest
import torch

from galamp.core.errors import RunFailed, StopRun
from galamp.workers import update_thread
from galamp.workers.update_thread import Reduce, UpdateThread

DEADLINE_S = 30.0
CPU = torch.device("cpu")
DONE = {"grad_norm": 1.0}


def nothing() -> None:
    """No heartbeat is wanted."""


class NoThreads(ThreadPoolExecutor):
    """As where the limit on processes is reached."""

    def submit(self, *arguments: object, **named: object) -> NoReturn:  # type: ignore[override]
        raise RuntimeError("can't start new thread")


def never() -> NoReturn:
    raise AssertionError("called")


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Ends an update that waits for it, whatever happens."""
    event = threading.Event()
    yield event
    event.set()


def waiting(event: threading.Event) -> Callable[[Reduce | None], dict[str, float]]:
    def update(reduce: Reduce | None) -> dict[str, float]:
        assert reduce is None
        assert event.wait(DEADLINE_S)
        return DONE

    return update


def test_an_update_runs_while_its_learner_does_something_else(release: threading.Event) -> None:
    thread = UpdateThread(CPU)
    thread.start(waiting(release))
    release.set()  # which an update in this thread would wait for in vain
    assert thread.finish(nothing) == DONE
    thread.close()


def test_the_learners_thread_reduces(release: threading.Event) -> None:
    """As often as the update asks; the update goes on with what it says."""
    called: list[int] = []
    answers = [True, False]

    def reduce() -> bool:
        called.append(threading.get_ident())
        return answers[len(called) - 1]

    found: list[bool] = []

    def update(ask: Reduce | None) -> dict[str, float]:
        assert ask is not None
        assert threading.get_ident() != me
        found.extend([ask(), ask()])
        return DONE

    me = threading.get_ident()
    thread = UpdateThread(CPU, reduce)
    for _ in range(2):
        thread.start(update)
        assert thread.finish(nothing) == DONE
        assert (called, found) == ([me, me], answers)
        called.clear()
        found.clear()
    thread.close()


def test_an_error_comes_with_its_traceback() -> None:
    def fails_here(reduce: Reduce | None) -> dict[str, float]:
        raise ZeroDivisionError("in the update")

    thread = UpdateThread(CPU)
    thread.start(fails_here)
    with pytest.raises(ZeroDivisionError, match="in the update") as told:
        thread.finish(nothing)
    assert "fails_here" in [frame.name for frame in traceback.extract_tb(told.value.__traceback__)]
    thread.close()


def test_only_progress_of_the_update_counts_as_progress(
    release: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or else a learner whose update hangs would never be found."""
    monkeypatch.setattr(update_thread, "POLL_S", 0.005)
    beats: list[int] = []
    thread = UpdateThread(CPU)

    def update(reduce: Reduce | None) -> dict[str, float]:
        time.sleep(0.05)
        assert not beats, "nothing has happened"
        thread.heartbeat()
        until_s = time.monotonic() + DEADLINE_S
        while not beats and time.monotonic() < until_s:
            time.sleep(0.001)
        return DONE

    thread.start(update)
    thread.finish(lambda: beats.append(1))
    assert beats == [1]
    thread.close()


def test_where_no_thread_can_start_the_update_comes_later(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(update_thread, "ThreadPoolExecutor", NoThreads)
    threads: list[int] = []

    def update(reduce: Reduce | None) -> dict[str, float]:
        threads.append(threading.get_ident())
        assert reduce is not None
        return {"grad_norm": float(reduce())}

    thread = UpdateThread(CPU, lambda: True)
    for _ in range(2):
        thread.start(update)
        assert not threads
        assert thread.finish(nothing) == DONE
        assert threads.pop() == threading.get_ident()
    assert capsys.readouterr().err == "galamp: warning: no room for another thread: no overlap\n"
    thread.close()


def test_progress_counts_where_no_thread_can_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once: or else a learner with a long update would be taken to hang."""
    monkeypatch.setattr(update_thread, "ThreadPoolExecutor", NoThreads)
    beats: list[int] = []
    seen: list[int] = []
    thread = UpdateThread(CPU)

    def update(reduce: Reduce | None) -> dict[str, float]:
        for _ in range(2):
            thread.heartbeat()
            seen.append(len(beats))
        return DONE

    thread.start(update)
    thread.finish(lambda: beats.append(1))
    assert seen == [1, 2]
    thread.close()


def test_an_update_is_completed_at_the_end(release: threading.Event) -> None:
    thread, completed = UpdateThread(CPU), []

    def update(reduce: Reduce | None) -> dict[str, float]:
        assert release.wait(DEADLINE_S)
        completed.append(True)
        return DONE

    thread.start(update)
    threading.Timer(0.05, release.set).start()
    thread.close()
    assert completed == [True]


def test_an_update_that_waits_for_others_is_ended_at_the_end() -> None:
    thread, applied = UpdateThread(CPU, never), []

    def update(ask: Reduce | None) -> dict[str, float]:
        assert ask is not None
        ask()
        applied.append(True)
        return DONE

    thread.start(update)
    thread.close()
    assert not applied


def test_an_exchange_that_is_over_ends_the_update() -> None:
    def reduce() -> bool:
        raise StopRun

    thread, applied = UpdateThread(CPU, reduce), []

    def update(ask: Reduce | None) -> dict[str, float]:
        assert ask is not None
        ask()
        applied.append(True)
        return DONE

    thread.start(update)
    with pytest.raises(StopRun):
        thread.finish(nothing)
    thread.close()
    assert not applied


def test_an_error_at_the_end_is_told() -> None:
    def update(reduce: Reduce | None) -> dict[str, float]:
        raise ZeroDivisionError("in the update")

    thread = UpdateThread(CPU)
    thread.start(update)
    with pytest.raises(ZeroDivisionError):
        thread.close()


def test_an_update_that_never_ends_is_told(
    release: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update_thread, "CLOSE_TIMEOUT_S", 0.05)
    thread = UpdateThread(CPU)
    thread.start(waiting(release))
    with pytest.raises(RunFailed, match="has not ended"):
        thread.close()


def test_it_computes_with_as_many_threads_as_the_learner(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is set in the thread: asked there, torch would set it first, which hides what was."""
    found: dict[int, int] = {}
    monkeypatch.setattr(
        torch, "set_num_threads", lambda threads: found.update({threading.get_ident(): threads})
    )
    for threads in (1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        thread = UpdateThread(CPU)
        thread.start(lambda reduce: {"grad_norm": float(found[threading.get_ident()])})
        assert thread.finish(nothing) == {"grad_norm": threads}
        thread.close()
