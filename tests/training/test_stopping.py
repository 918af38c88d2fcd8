"""Runs that end before their total: by score, by time, when the score no longer rises."""

from __future__ import annotations

import io
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from galamp.core.config import from_dict, settings, to_dict
from galamp.core.errors import UserError
from galamp.core.settings import check, duration_text
from galamp.core.stop_config import StopConfig
from galamp.storage.event_log import read_events
from galamp.supervision.child_failure import ChildFailure
from galamp.telemetry.display.exit_message import exit_message
from galamp.telemetry.episode_statistics import EpisodeStatistics
from galamp.tools.chaos.command import check_kept
from galamp.training import stopping, train
from galamp.training.result import BY_REQUEST, StopReason, result_of
from galamp.training.stopping import StopConditions
from tests.support.crashing import Failing
from tests.support.engine import run, summary
from tests.support.told import Told

FLAGS = ["--learners", 1, "--num-envs", 4, "--simulator-workers", 1, "--num-steps", 5]
ENDLESS = ["--total-steps", 10**12]


class Constant(Failing):
    """Every episode has the same score, 50."""

    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step(action)
        return observation, 1.0, *rest


def constant() -> Failing:
    return Constant(lambda: None)


def recorder(
    mean: float | None = None, best: float | None = None, since_best: int = 0
) -> SimpleNamespace:
    episodes = SimpleNamespace(full_mean_return=mean, best=best)
    return SimpleNamespace(episodes=episodes, steps_since_best=since_best)


def met(config: StopConfig, **known: Any) -> str | None:
    reason = StopConditions(config).met(cast(Any, recorder(**known)))
    return reason.kind if reason else None


@pytest.mark.parametrize(
    ("mean", "expected"), [(None, None), (9.99, None), (10.0, "stop-score"), (11.0, "stop-score")]
)
def test_the_mean_of_100_episodes_has_to_reach_the_score(
    mean: float | None, expected: str | None
) -> None:
    assert met(StopConfig(stop_score=10.0), mean=mean, best=mean) == expected


@pytest.mark.parametrize(
    ("best", "since_best", "expected"),
    [
        (None, 10**9, None),
        (3.0, 999, None),
        (3.0, 1000, "stop-when-flat"),
    ],
)
def test_flat_is_a_best_mean_that_is_too_old(
    best: float | None, since_best: int, expected: str | None
) -> None:
    config = StopConfig(stop_when_flat=1000)
    assert met(config, mean=best, best=best, since_best=since_best) == expected


def test_time_counts_from_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    now = {"s": 5.0}
    monkeypatch.setattr(stopping, "time", SimpleNamespace(monotonic=lambda: now["s"]))
    conditions = StopConditions(StopConfig(max_time=7200.0))
    now["s"] += 7199.9
    assert conditions.met(cast(Any, recorder())) is None
    now["s"] += 0.1
    reason = conditions.met(cast(Any, recorder()))
    assert reason == StopReason("max-time", "--max-time 2h is over")


def test_without_conditions_nothing_ends_a_run() -> None:
    assert met(StopConfig(), mean=1e9, best=1e9, since_best=10**15) is None


@pytest.mark.parametrize("status", ["starting", "running", "stopping", "finished"])
def test_a_run_that_ends_already_is_left_alone(status: str) -> None:
    told, asked = Told(), list[StopReason]()
    supervisor = SimpleNamespace(finish=asked.append, recorder=recorder(mean=5.0, best=5.0))
    supervisor.recorder.status, supervisor.recorder.log_event = status, told.log_event
    StopConditions(StopConfig(stop_score=1.0)).tick(cast(Any, supervisor))
    goes_on = status in ("starting", "running")
    assert [reason.kind for reason in asked] == ["stop-score"] * goes_on
    assert len(told) == goes_on


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        ({"agent_steps": 90}, 90),
        ({"agent_steps": 90, "best_at_agent_steps": 40}, 40),
        ({"agent_steps": 90, "best_at_agent_steps": 91}, 90),
        ({"agent_steps": 90, "best_at_agent_steps": -1}, 90),
        ({"agent_steps": 90, "best_at_agent_steps": "40"}, 90),
    ],
)
def test_when_the_best_was_is_read_from_any_checkpoint(
    progress: dict[str, Any], expected: int
) -> None:
    statistics, kept = EpisodeStatistics(), EpisodeStatistics().progress()
    del kept["best_at_agent_steps"]
    statistics.resume_from(kept | progress)
    assert statistics.best_at == expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90.0), ("90s", 90.0), ("1.5m", 90.0), ("2h", 7200.0), ("2H", 7200.0), ("1d", 86_400.0),
     ("none", None)],
)  # fmt: skip
def test_times_have_units(text: str, seconds: float | None) -> None:
    (setting,) = [s for s in settings(StopConfig) if s.name == "max_time"]
    assert check(setting, text) == seconds
    if seconds is not None:
        assert check(setting, duration_text(seconds)) == seconds


@pytest.mark.parametrize(
    "text", ["", "h", "2w", "2 hours", "-1h", "0", "0.5s", "nan", "infs", "1e999h"]
)
def test_what_is_no_time_is_refused_in_one_line(text: str) -> None:
    (setting,) = [s for s in settings(StopConfig) if s.name == "max_time"]
    with pytest.raises(UserError, match=r"--max-time .*: expected a time such as 90s, 30m, 2h"):
        check(setting, text)


def test_conditions_are_of_the_run_and_can_be_removed() -> None:
    values = {"stop": {"max_time": 7200.0, "stop_score": 400.0, "stop_when_flat": 10**6}}
    assert to_dict(from_dict(values))["stop"] == values["stop"]
    assert from_dict({}).stop == StopConfig()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((None, None, None, None), ("finished", 0, "total-steps")),
        ((None, None, None, BY_REQUEST), ("finished", 0, "request")),
        ((None, None, None, StopReason("stop-score", "")), ("finished", 0, "stop-score")),
        ((None, None, None, StopReason("max-time", "")), ("stopped", 0, "max-time")),
        ((None, signal.SIGTERM, None, BY_REQUEST), ("stopped", 143, "signal")),
        ((ChildFailure("learner 1", "hung"), None, None, BY_REQUEST), ("failed", 70, "failure")),
        ((None, None, 3, BY_REQUEST), ("rescaled", 0, "scale")),
    ],
)
def test_how_a_run_ended(arguments: Any, expected: tuple[str, int, str]) -> None:
    result = result_of(*arguments)
    assert result.reason is not None
    assert (result.status, result.exit_code, result.reason.kind) == expected


@pytest.mark.parametrize(
    ("status", "kind", "on"),
    [
        ("finished", "stop-score", "go on: galamp run --resume runs/x --stop-score none"),
        ("finished", "stop-when-flat", "go on: galamp run --resume runs/x --stop-when-flat none"),
        ("stopped", "max-time", "go on: galamp run --resume runs/x"),
        ("finished", "total-steps", "evaluate it: galamp eval runs/x"),
    ],
)
def test_the_last_words_say_why_and_how_to_go_on(status: str, kind: str, on: str) -> None:
    told = exit_message({
        "status": status, "agent_steps": 5, "mean_return_100": None, "env_id": "CartPole-v1",
        "run_dir": "runs/x", "ended_by": kind, "reason": "it is \x1b[2J so",
    })  # fmt: skip
    assert told.splitlines()[-1] == on
    assert ("why: it is \\x1b[2J so\n" in told) == (kind != "total-steps")


@pytest.mark.parametrize("tty", [True, False])
def test_what_a_resume_changes_is_printed_above_the_screen(*, tty: bool) -> None:
    """Where there is no screen, all events are printed anyway."""
    screen = io.StringIO()
    screen.isatty = lambda: tty  # type: ignore[method-assign]
    before, now = to_dict(from_dict({})), from_dict({"stop": {"stop_score": 5.0}, "seed": 3})
    resume_point = SimpleNamespace(checkpoint=SimpleNamespace(config=before))
    train._announce_changes(cast(Any, resume_point), cast(Any, SimpleNamespace(config=now)), screen)
    lines = ["galamp: seed: from 1 to 3", "galamp: stop score: from none to 5"]
    assert screen.getvalue().splitlines() == (lines if tty else [])


def test_under_chaos_no_stored_condition_ends_a_run() -> None:
    stored = to_dict(from_dict({"stop": {"stop_score": 5.0}}))
    left = ["stop.max_time", "stop.stop_score"]
    with pytest.raises(UserError, match="add --stop-score none if it may"):
        check_kept(stored, left, Path("run"))
    check_kept(stored | {"stop": {}}, left, Path("run"))
    del stored["stop"]  # of an older galamp
    check_kept(stored, left, Path("run"))


def test_a_run_ends_at_its_score_and_goes_on_without(tmp_path: Path) -> None:
    folder, env = tmp_path / "run", ["--env-id", "tests.training.test_stopping:constant"]
    ended = run(*env, *FLAGS, *ENDLESS, "--stop-score", 50, "--run-dir", folder)
    assert ended.returncode == 0, ended.stderr
    told = summary(folder)
    assert (told["status"], told["ended_by"]) == ("finished", "stop-score")
    assert told["episodes"] >= 100
    assert told["reason"] == ("the mean score of 100 episodes, 50.00, has reached --stop-score 50")
    assert f"why: {told['reason']}" in ended.stderr
    kinds = [event.kind for event in read_events(folder / "events.jsonl")]
    assert kinds[-2:] == ["stop", "end"]

    more = told["agent_steps"] + 1000
    on = run("--resume", folder, *env, "--stop-score", "none", "--total-steps", more)
    assert on.returncode == 0, on.stderr
    assert "stop score: from 50 to none" in on.stderr
    assert summary(folder)["ended_by"] == "total-steps"
    assert summary(folder)["agent_steps"] >= more


@pytest.mark.slow
def test_a_run_ends_when_its_score_no_longer_rises(tmp_path: Path) -> None:
    folder, env = tmp_path / "run", ["--env-id", "tests.training.test_stopping:constant"]
    ended = run(*env, *FLAGS, *ENDLESS, "--stop-when-flat", 3000, "--run-dir", folder)
    assert ended.returncode == 0, ended.stderr
    told = summary(folder)
    assert told["ended_by"] == "stop-when-flat"
    assert told["agent_steps"] >= 5000 + 3000  # 100 episodes of 50 steps, then flat
    again = run("--resume", folder, *env)
    assert again.returncode == 0, again.stderr
    assert summary(folder)["ended_by"] == "stop-when-flat"
    assert summary(folder)["start"] == 2


@pytest.mark.timing
def test_a_run_ends_at_its_time(tmp_path: Path) -> None:
    folder, env = tmp_path / "run", ["--env-id", "tests.training.test_stopping:constant"]
    ended = run(*env, *FLAGS, *ENDLESS, "--max-time", "2s", "--run-dir", folder)
    assert ended.returncode == 0, ended.stderr
    told = summary(folder)
    assert (told["status"], told["ended_by"]) == ("stopped", "max-time")
    assert told["agent_steps"] > 0
    assert 1 < told["wall_s"] < 30
    assert f"go on: galamp run --resume {folder}" in ended.stderr
