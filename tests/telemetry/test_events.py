"""What happened in a run is kept: events.jsonl, overflowed updates, settings that changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from galamp.core.config import from_dict, to_dict
from galamp.training.resume import changes
from tests.support.crashing import Failing
from tests.support.engine import run, summary

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
    assert set(lost) == {"time", "start", "elapsed_s", "text"}


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
        ({"report": {"quiet": True, "json": True}}, []),
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
