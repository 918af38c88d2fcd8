"""Signals are taken over for a run and handed back as they were, whoever had set them up."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator

import pytest

from galamp.signals import Signals

HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)
seen: list[int] = []
native = HANDLER(seen.append)


@pytest.fixture
def number() -> Iterator[int]:
    """A signal that may be taken in any way; afterwards it is taken as before."""
    former = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    seen.clear()
    yield signal.SIGHUP
    signal.signal(signal.SIGHUP, former)


@pytest.mark.parametrize("before_python", [True, False])
def test_a_handler_of_a_program_in_c_comes_back(
    number: int, monkeypatch: pytest.MonkeyPatch, before_python: bool
) -> None:
    """Python knows of one that was there before itself that it is none of its own: None."""
    ctypes.CDLL(None).signal(number, native)
    if before_python:
        monkeypatch.setattr(signal, "getsignal", lambda number: None)
    with Signals(detach=False) as taken:
        os.kill(os.getpid(), number)
        assert taken.take() == number
    assert seen == []
    os.kill(os.getpid(), number)
    assert seen == [number]


def test_a_handler_in_python_comes_back(number: int) -> None:
    def handler(number: int, frame: object) -> None:
        seen.append(number)

    signal.signal(number, handler)
    with Signals(detach=False) as taken:
        os.kill(os.getpid(), number)
        assert taken.take() == number
    assert signal.getsignal(number) is handler
    os.kill(os.getpid(), number)
    assert seen == [number]


def test_an_ignored_signal_stays_so(number: int) -> None:
    signal.signal(number, signal.SIG_IGN)
    with Signals(detach=False) as taken:
        os.kill(os.getpid(), number)
        assert taken.take() is None
    assert signal.getsignal(number) is signal.SIG_IGN
