"""`bin/bench dashboard`: what the live screen costs, by turns within one run."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from galamp.core.errors import EXIT_USAGE, RunFailed
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


@pytest.mark.parametrize(("count", "factor"), [(6, 2.5706), (10, 2.2622), (40, 2.0227)])
def test_the_interval_is_that_of_a_mean_whose_spread_is_estimated(
    count: int, factor: float
) -> None:
    """With Student's factors from tables: those of a normal distribution are for known spreads."""
    values = [float(number) for number in range(count)]
    spread = (count * (count + 1) / 12) ** 0.5
    mean = dashboard.mean_of(values)
    assert mean.value == (count - 1) / 2
    assert mean.high - mean.value == pytest.approx(factor * spread / count**0.5, rel=2e-3)
    assert mean.value - mean.low == pytest.approx(mean.high - mean.value)


@pytest.mark.parametrize("pairs", ["1", "5"])
def test_few_pairs_are_refused(
    pairs: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dashboard, "measure", lambda *_: pytest.fail("it was begun"))
    assert cli.main(["dashboard", "--pairs", pairs]) == EXIT_USAGE
    assert f"--pairs {pairs}: expected 6 or more" in capsys.readouterr().err


Rows = Callable[[float], list[dict[str, float]]]


def measured(
    rows: Rows, monkeypatch: pytest.MonkeyPatch, ended_s: float = 1e9, begins_s: float = 10.0
) -> Turn:
    """Measure a turn of 6 s of a run whose rows are these, from `begins_s` of its own time on."""
    now_s = begins_s

    def take(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    class Run:
        session = 0

        @property
        def exit_code(self) -> int | None:
            return 3 if now_s >= ended_s else None

    screen = SimpleNamespace(take=take, taken_bytes=0)
    monkeypatch.setattr(dashboard.time, "monotonic", lambda: now_s)
    monkeypatch.setattr(dashboard, "spent_s", lambda pid: 0.0)
    monkeypatch.setattr(dashboard, "read_rows", lambda path: rows(min(now_s, ended_s)))
    return dashboard._turn(cast(Any, Run()), cast(Any, screen), Path("rows"), 6.0)


def every_2_s(until_s: float, steps: Callable[[float], float]) -> list[dict[str, float]]:
    times = [2.1 * number for number in range(1, 1000) if 2.1 * number <= until_s]
    return [{"wall_s": at, "global_step": steps(at)} for at in times]


def test_what_was_done_before_a_turn_is_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest row may be as old as the interval between rows: as long as what is left out."""

    def steps(at: float) -> float:
        return at if at < 10.0 else 10.0 + 100.0 * (at - 10.0)

    assert measured(lambda s: every_2_s(s, steps), monkeypatch).agent_steps_per_s == pytest.approx(
        100.0
    )


def test_a_turn_without_agent_steps_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunFailed, match="no agent step"):
        measured(lambda s: every_2_s(s, lambda at: 7.0), monkeypatch)


def test_a_run_that_ends_in_its_last_turn_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunFailed, match="ended with code 3"):
        measured(lambda s: every_2_s(s, lambda at: at), monkeypatch, ended_s=15.0)


@pytest.mark.slow
@pytest.mark.real
def test_a_real_run_draws_where_it_is_shown_only() -> None:
    workload = runs.Workload("CartPole-v1", "", 1, 2, "mlp")
    found = dashboard.measure(workload, 2, settling_s=2.0, turn_s=3.0)
    assert all(each.drawn_bytes > 100 for each in found[SHOWN])
    assert all(each.drawn_bytes == 0 for each in found[HELD])
    assert all(each.agent_steps_per_s > 0 for turns in found.values() for each in turns)
