"""A signal ends a command like an exception: what it was writing is removed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from galamp.core.leaving import ENDING, interrupted_by, leaving_on_signals
from galamp.environments.screens import Frame
from galamp.tools.play.video import video_file


@pytest.fixture(autouse=True)
def _default() -> Iterator[None]:
    """The signals end the process, as they do in a command."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ENDING)
@pytest.mark.parametrize("name", ["game.mp4", "game.gif"])
def test_a_video_that_was_being_written_is_removed(
    tmp_path: Path, number: signal.Signals, name: str
) -> None:
    def frames() -> Iterator[Frame]:
        for _ in range(3):
            yield np.zeros((32, 32, 3), np.uint8)
        assert list(tmp_path.iterdir()), "it is there while it is written"
        signal.raise_signal(number)

    with pytest.raises(SystemExit) as left, leaving_on_signals():
        video_file(str(tmp_path / name), overwrite=False).write(frames(), 10)
    assert left.value.code == 128 + number
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(number) is signal.SIG_DFL


def test_what_is_ignored_or_handled_stays_so() -> None:
    seen: list[int] = []
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    with leaving_on_signals():
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGTERM)
    assert seen == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_another_thread_changes_nothing() -> None:
    found: list[object] = []

    def look() -> None:
        with leaving_on_signals():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_an_onlooker_is_interrupted_and_leaves_signals_as_they_were(
    number: signal.Signals,
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), interrupted_by(number):
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_an_onlooker_leaves_an_ignored_signal_ignored() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with interrupted_by(signal.SIGTERM):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
