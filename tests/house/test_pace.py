"""How the tests themselves are told apart and timed: the mark `real`, and promises in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import reached
from tests.support import engine, pace, scenarios
from tests.system import test_crashing_runs, test_remote, test_resources


@pytest.mark.parametrize(
    ("test", "starter"),
    [
        (test_crashing_runs.test_a_run_survives_a_death_at, engine.run),
        (test_remote.test_a_closed_terminal_ends_nothing, engine.OnTerminal),
        (test_remote.test_looking_on_and_scaling, engine.started),
        # By way of a helper of its own module, and of a module.
        (test_resources.test_too_few_descriptors_are_refused, engine.command),
        (lambda: scenarios.signalled(Path(), 2), engine.words),
    ],
)
def test_who_starts_a_real_run_is_found(
    test: Callable[..., object], starter: Callable[..., object]
) -> None:
    assert starter in reached(test)


def test_who_starts_none_is_not_marked(request: pytest.FixtureRequest) -> None:
    starters = {vars(engine)[name] for name in engine.STARTERS}
    assert not starters & reached(test_resources.test_near_names_are_offered)
    assert request.node.get_closest_marker("real") is None


def test_who_is_overlooked_may_not_start_one() -> None:
    hidden = vars(engine)["r" + "un"]
    with pytest.raises(AssertionError, match=r"mark it with pytest\.mark\.real"):
        hidden("--total-steps", 1)


@pytest.mark.real
def test_a_plain_child_is_measured() -> None:
    assert 1.0 <= pace.slowness() < 100.0


@pytest.mark.parametrize(
    ("promise_s", "took_s", "times", "holds"),
    [
        (5.0, 4.9, [1.0], True),
        (5.0, 10.2, [1.0, 1.1], False),
        (5.0, 10.2, [2.0, 2.5], True),
        (5.0, 10.2, [1.0, 2.5], True),
        (5.0, 10.2, [2.5, 1.0], True),
        (2.0, 12.0, [3.0, 3.0], False),
    ],
)
def test_a_slow_machine_is_no_fault_and_a_slow_program_is(
    promise_s: float,
    took_s: float,
    times: list[float],
    holds: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left = iter(times)
    monkeypatch.setattr(pace, "slowness", lambda samples=0: next(left))
    if holds:
        pace.kept(promise_s, lambda: took_s)
    else:
        with pytest.raises(AssertionError, match="took 1"):
            pace.kept(promise_s, lambda: took_s)
