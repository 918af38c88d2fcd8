"""`bin/bench dashboard`: what the live screen costs, by turns within one run."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

import pytest

from galamp.core.errors import EXIT_USAGE
from galamp.tools.bench import cli, dashboard, runs
from galamp.tools.bench.dashboard import HELD, SHOWN, Screen, Turn


@pytest.fixture
def screen() -> Iterator[Screen]:
    found = Screen()
    yield found
    found.close()


def writable(fd: int) -> bool:
    return bool(select.select([], [fd], [], 0)[1])


def test_a_terminal_that_is_held_takes_nothing(screen: Screen) -> None:
    """As the dashboard asks before it draws."""
    for times in (1, 2):
        screen.hold(True)
        assert not writable(screen.theirs)
        screen.take(0.0)
        assert screen.taken_bytes == 5 * (times - 1)
        screen.hold(False)
        assert writable(screen.theirs)
        os.write(screen.theirs, b"frame")
        screen.take(0.2)
        assert screen.taken_bytes == 5 * times
    assert os.get_terminal_size(screen.theirs) == (80, 24)


def test_each_pair_is_in_the_other_order() -> None:
    assert list(dashboard.in_turns(3)) == [SHOWN, HELD, HELD, SHOWN, SHOWN, HELD]


def turn(speed: float, busy: float = 0.0) -> Turn:
    return Turn(speed, busy, 0.0)


def test_the_cost_is_by_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that becomes slower all the time, and a screen that costs a tenth."""
    monkeypatch.setattr(dashboard, "cores", lambda: 2)
    held = [turn(speed, 0.02) for speed in (100.0, 90.0, 80.0)]
    shown = [turn(0.9 * each.agent_steps_per_s, 0.03) for each in held]
    throughput, processor = dashboard.remarks({SHOWN: shown, HELD: held})
    assert "0.9000 (95 % interval 0.9000 - 0.9000, 3 pairs)" in throughput
    assert "0.50 % of all cores (0.50 - 0.50)" in processor


def test_the_interval_is_that_of_a_normal_distribution() -> None:
    mean = dashboard.mean_of([1.0, 2.0, 3.0, 4.0])  # standard deviation sqrt(5 / 3)
    assert mean.value == 2.5
    assert mean.high - mean.value == pytest.approx(1.96 * (5 / 3) ** 0.5 / 2)
    assert mean.value - mean.low == pytest.approx(mean.high - mean.value)


def test_one_pair_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["dashboard", "--pairs", "1"]) == EXIT_USAGE
    assert "--pairs 1: expected 2 or more" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.real
def test_a_real_run_draws_where_it_is_shown_only() -> None:
    workload = runs.Workload("CartPole-v1", "", 1, 2, "mlp")
    found = dashboard.measure(workload, 2, settling_s=2.0, turn_s=3.0)
    assert all(each.drawn_bytes > 100 for each in found[SHOWN])
    assert all(each.drawn_bytes == 0 for each in found[HELD])
    assert all(each.agent_steps_per_s > 0 for turns in found.values() for each in turns)
