"""What happens in time: the seconds that are promised, measured alone, on whatever machine this is.

Run last and without other tests beside them, by `bin/test`, or `bin/test -m timing`. That the same
happens at all, on however busy a machine, is tested beside everything else, by the same scenarios;
those that wait longest are slow there.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from galamp.core.errors import UserError
from galamp.environments.names import canonical_env_id
from galamp.telemetry.display.streams import STARTING
from tests.support import scenarios
from tests.support.engine import also, galamp, started, training, wait_for
from tests.support.pace import kept
from tests.system.test_resources import BAD_NAMES

pytestmark = pytest.mark.timing

NOBODY_LEFT_S = 2.0
"""After the supervisor's death."""
SAVED_S = 5.0
"""From the first signal until the run has saved and ended."""
AT_ONCE_S = 2.0
FIRST_WORD_S = 0.5
"""From the command until something stands on the screen."""
LEFT_OUT_S = 1.0 + 2.0
"""A learner's deadline, then its rollout, and the next row of metrics that tells of it."""
HANG_S = 1.5
REPLACED_S = HANG_S + 3.0


def test_killed_supervisor_leaves_nothing_for_long(tmp_path: Path) -> None:
    kept(NOBODY_LEFT_S, lambda: scenarios.supervisor_killed(tmp_path / "run"))


@pytest.mark.parametrize("when", [also("server"), "learner"])
def test_supervisor_killed_at_the_start_leaves_nothing_for_long(tmp_path: Path, when: str) -> None:
    kept(NOBODY_LEFT_S, lambda: scenarios.supervisor_killed_while_starting(tmp_path / "run", when))


def test_first_signal_saves_and_stops_in_time(tmp_path: Path) -> None:
    kept(SAVED_S, lambda: scenarios.signalled(tmp_path / "run", signal.SIGINT))


@pytest.mark.parametrize("state", ["learner", also("restarting")])
def test_signal_in_any_state_ends_the_run_in_time(tmp_path: Path, state: str) -> None:
    kept(SAVED_S, lambda: scenarios.signalled_while(tmp_path / "run", state))


@pytest.mark.parametrize("times", [also(2), 3])
def test_second_and_third_signal_end_at_once(tmp_path: Path, times: int) -> None:
    kept(AT_ONCE_S, lambda: scenarios.signalled_again(tmp_path / "run", times))


@pytest.mark.parametrize("role", ["learner 1", also("simulator 0.0")])
def test_killed_child_is_replaced_at_once(tmp_path: Path, role: str) -> None:
    kept(AT_ONCE_S, lambda: scenarios.child_killed(tmp_path / "run", role, signal.SIGKILL))


def test_stopped_simulator_is_soon_left_out(tmp_path: Path) -> None:
    kept(LEFT_OUT_S, lambda: scenarios.simulator_stopped(tmp_path / "run"))


def test_stopped_child_is_replaced_after_the_limit(tmp_path: Path) -> None:
    kept(REPLACED_S, lambda: scenarios.child_stopped(tmp_path / "run", "learner 0", HANG_S))


def test_killed_server_takes_all_with_it_at_once(tmp_path: Path) -> None:
    kept(AT_ONCE_S, lambda: scenarios.server_killed(tmp_path / "run"))


def test_scaling_takes_seconds(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def scaled() -> float:
        with started(*scenarios.ENDLESS, "--run-dir", folder) as process:
            wait_for(lambda: training(folder), "training")
            told = galamp("scale", folder, "--learners", 3)
            assert told.returncode == 0, told.stderr
            scenarios.stopped(process, folder)
        return float(told.stdout.split()[-2])

    kept(10.0, scaled)


def test_bad_names_of_games_are_told_soon() -> None:
    def told() -> float:
        began_s = time.monotonic()
        for name in BAD_NAMES:
            with pytest.raises(UserError):
                canonical_env_id(name)
        return time.monotonic() - began_s

    kept(5.0, told)


def test_something_is_said_at_once(tmp_path: Path) -> None:
    """Before torch is loaded; what bin/galamp takes to find its environment comes on top."""

    def first_word_s() -> float:
        began_s = time.monotonic()
        with started("--game", "Pong", "--run-dir", tmp_path / "run") as process:
            assert process.stderr is not None
            assert process.stderr.readline() == STARTING
            return time.monotonic() - began_s

    kept(FIRST_WORD_S, first_word_s)
