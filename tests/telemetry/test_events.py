"""What happened in a run is kept: events.jsonl, overflowed updates, settings that changed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from galamp.core.config import from_dict, to_dict
from galamp.storage.event_log import KeptEvent, read_events
from galamp.training.resume import changes
from tests.support.crashing import Failing
from tests.support.engine import DEADLINE_S, run, started, summary, titled, training, wait_for

FLAGS = ["--learners", 1, "--num-envs", 2, "--simulator-workers", 1]


class Huge(Failing):
    """Rewards whose squares float32 cannot hold."""

    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step(action)
        return observation, 1e30, *rest


def huge() -> Failing:
    return Huge(lambda: None)


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_every_event_is_kept_over_all_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_FAILED_ONCE", str(tmp_path / "failed"))
    folder = tmp_path / "run"
    first = run("--env-id", "tests.support.crashing:once", *FLAGS, "--total-steps", 4000, "--quiet",
                "--json", "--run-dir", folder)  # fmt: skip
    assert first.returncode == 0, first.stderr
    assert first.stderr == ""
    again = run("--resume", folder, "--env-id", "tests.support.crashing:once",
                "--total-steps", 5000, "--gamma", 0.9)  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert again.stdout == "", "--json is the former caller's"
    assert "started anew" not in again.stderr
    found = events(folder)
    assert [each["start"] for each in found] == sorted(each["start"] for each in found)
    (lost,) = [each for each in found if "raised ZeroDivisionError" in each["text"]]
    assert lost["start"] == 1
    assert lost["text"].startswith("simulator 0.0 ")
    second = [each["text"] for each in found if each["start"] == 2]
    assert not [line for line in second if line.startswith("env id")]
    for line in ("total steps: from 4000 to 5000", "gamma: from 0.99 to 0.9"):
        assert line in second
        assert line in again.stderr
    assert set(lost) == {
        "time", "start", "elapsed_s", "wall_s", "kind", "who", "cause", "text",
    }  # fmt: skip


def test_a_killed_simulator_and_every_command_are_kept(tmp_path: Path) -> None:
    folder, env = tmp_path / "run", ["--env-id", "tests.support.crashing:unhurried"]
    with started(*env, *FLAGS, "--total-steps", 10**12, "--run-dir", folder) as process:
        wait_for(lambda: "running" in kinds(folder) and training(folder), "training")
        [victim] = titled(process.pid, "simulator 0.0")
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: "restart" in kinds(folder), "the restart")
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 128 + signal.SIGTERM
    first = kept(folder)
    assert [event.kind for event in first] == ["start", "running", "restart", "stop", "end"]
    lost, end = first[2], first[-1]
    assert (lost.who, lost.cause) == ("simulator 0.0", "was ended by SIGKILL")
    done = summary(folder)["agent_steps"]
    assert end.text == f"stopped after {done:,} agent steps: signal"
    assert end.cause == "SIGTERM"
    assert (summary(folder)["ended_by"], summary(folder)["reason"]) == ("signal", "SIGTERM")

    again = run("--resume", folder, *env, "--total-steps", done + 200, "--gamma", 0.9)
    assert again.returncode == 0, again.stderr
    found = kept(folder)
    assert found[: len(first)] == first
    second = found[len(first) :]
    assert {event.start for event in second} == {2}
    assert [event.kind for event in second if event.kind != "running"] == [
        "resume", "setting", "setting", "start", "end",
    ]  # fmt: skip
    assert {event.text for event in second if event.kind == "setting"} == {
        f"total steps: from {10**12} to {done + 200}", "gamma: from 0.99 to 0.9",
    }  # fmt: skip
    begun, on = [event.command for event in found if event.command]
    assert begun.startswith("galamp run --env-id tests.support.crashing:unhurried --learners 1 ")
    assert on.startswith(f"galamp run --resume {folder} ")
    assert min(event.wall_s for event in second) >= lost.wall_s > 0


def kept(folder: Path) -> list[KeptEvent]:
    """Return the events but for notices, which depend on the machine."""
    return [event for event in read_events(folder / "events.jsonl") if event.kind != "notice"]


def kinds(folder: Path) -> list[str]:
    return [event.kind for event in kept(folder)]


def test_updates_that_change_nothing_are_told_once(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ended = run("--env-id", "tests.telemetry.test_events:huge", *FLAGS, "--total-steps", 400,
                "--run-dir", folder)  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert summary(folder)["overflowed_updates"] == sum(summary(folder)["updates_per_learner"])
    told = [each["text"] for each in events(folder) if "too large for float32" in each["text"]]
    assert len(told) == 1
    assert "--clip-rewards" in told[0]
    assert told[0] in ended.stderr


@pytest.mark.parametrize(
    ("values", "lines"),
    [
        ({}, []),
        ({"algorithm": {"gamma": 0.5}}, ["gamma: from 0.99 to 0.5"]),
        ({"gossip": {"max_staleness": None}}, ["max staleness: from 8 to inf"]),
        ({"gossip": {"target_ball": 0.5}}, ["target ball: from the default to 0.5"]),
        ({"resources": {"learners": 3}}, ["learners: from auto to 3"]),
        ({"algorithm": {"gamma": 0.99000001}}, ["gamma: from 0.99 to 0.99000001"]),
        ({"report": {"quiet": True, "json": True, "on_hangup": "stop"}}, []),
        ({"stop": {"max_time": 7200.0}}, ["max time: from none to 2h"]),
        (
            {"seed": 2, "resources": {"pin": False}},
            ["seed: from 1 to 2", "pin: from yes to no"],
        ),
    ],
)
def test_a_line_for_each_setting_that_changed(values: dict[str, Any], lines: list[str]) -> None:
    assert changes(to_dict(from_dict({})), from_dict(values)) == lines


@pytest.mark.parametrize(
    "resume_point", [{}, {"algorithm": 3}, {"algorithm": {"gamma": "\x1b[2J"}}, {"seed": [1]}]
)
def test_what_a_foreign_checkpoint_says_is_shown_as_it_can_be(resume_point: dict[str, Any]) -> None:
    for line in changes(resume_point, from_dict({})):
        assert line.isprintable()
