"""Signals are taken over for a run and handed back as they were, whoever had set them up."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from galamp.core.config import RunConfig
from galamp.core.errors import StoppedBySignal, UserError
from galamp.supervision.signals import Signals
from galamp.training.train import train
from galamp.workers.forkserver import sigchld_enabled
from tests.support.engine import DEADLINE_S

HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)
seen: list[int] = []
native = HANDLER(seen.append)


@pytest.fixture
def number() -> Iterator[int]:
    """A signal that may be taken in any way; afterwards it is taken as before."""
    resume_point = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    seen.clear()
    yield signal.SIGHUP
    signal.signal(signal.SIGHUP, resume_point)


@pytest.mark.parametrize("before_python", [True, False])
def test_a_handler_of_a_program_in_c_comes_back(
    number: int, monkeypatch: pytest.MonkeyPatch, before_python: bool
) -> None:
    """Python knows of one that was there before itself that it is none of its own: None."""
    ctypes.CDLL(None).signal(number, native)
    known = signal.getsignal

    def getsignal(each: int) -> object:
        return None if each == number else known(each)

    if before_python:
        monkeypatch.setattr(signal, "getsignal", getsignal)
    with Signals(detach=False) as taken:
        os.kill(os.getpid(), number)
        assert taken.receive() == number
    assert seen == []
    os.kill(os.getpid(), number)
    assert seen == [number]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_who_asks_to_stop_again_gives_no_second_signal() -> None:
    """The second one ends a run without saving; `q` on the dashboard asks to save."""
    with Signals(detach=True) as taken:
        taken.ask_to_stop()
        taken.ask_to_stop()
        assert (taken.receive(), taken.receive()) == (signal.SIGINT, None)
        taken.ask_to_stop()
        assert not taken.pending
        signal.raise_signal(signal.SIGTERM)
        assert taken.receive() == signal.SIGTERM
    with Signals(detach=True) as taken:
        signal.raise_signal(signal.SIGTERM)
        taken.ask_to_stop()
        assert (taken.receive(), taken.receive()) == (signal.SIGTERM, None)
    with Signals(detach=True) as taken:
        signal.raise_signal(signal.SIGHUP)
        taken.ask_to_stop()
        assert taken.receive() == signal.SIGINT, "a run goes on without its terminal"


def test_a_handler_in_python_comes_back(number: int) -> None:
    def handler(number: int, frame: object) -> None:
        seen.append(number)

    signal.signal(number, handler)
    with Signals(detach=False) as taken:
        os.kill(os.getpid(), number)
        assert taken.receive() == number
    assert signal.getsignal(number) is handler
    os.kill(os.getpid(), number)
    assert seen == [number]


def test_an_ignored_signal_stays_so(number: int) -> None:
    signal.signal(number, signal.SIG_IGN)
    with Signals(detach=False) as taken:
        os.kill(os.getpid(), number)
        assert taken.receive() is None
    assert signal.getsignal(number) is signal.SIG_IGN


def test_before_a_run_a_signal_is_an_error(number: int) -> None:
    """Also for process 1 of a container, which the kernel sends no signal that is not taken."""
    with Signals(detach=False) as taken:
        with pytest.raises(StoppedBySignal) as raised, taken.raising():
            os.kill(os.getpid(), number)
        assert raised.value.exit_code == 128 + number
        os.kill(os.getpid(), number)
        assert taken.receive() == number


def test_nothing_keeps_the_last_signal_from_ending_the_process(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", end)
    with Signals(detach=False) as taken:
        taken.exit_on_next(lambda: 1 / 0)
        with pytest.raises(SystemExit) as ended:
            os.kill(os.getpid(), number)
    assert ended.value.code == 128 + number


def test_training_outside_the_main_thread_is_refused_in_one_line() -> None:
    told: list[str] = []

    def call() -> None:
        try:
            train(RunConfig())
        except UserError as error:
            told.append(str(error))

    caller = threading.Thread(target=call)
    caller.start()
    caller.join(DEADLINE_S)
    assert told == ["train: Python receives signals in its main thread only; call it there"]


def test_a_program_that_ignores_the_ends_of_children_does_so_again() -> None:
    resume_point = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with sigchld_enabled():
            assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGCHLD, resume_point)
