"""Real runs in which one process dies at a named point of its work; the run goes on to its end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from galamp import crashpoints
from galamp.storage import checkpoint
from tests.engine import run, summary

SHORT = ["--env-id", "tests.crashing:healthy", "--learners", 2, "--num-envs", 4, "--quiet"]
SHORT += ["--simulator-workers", 2, "--total-steps", 30_000]

BY = {"rollouts.called": "learner 1", "rollouts.acted": "learner 1", "rollouts.sent": "learner 1"}
"""Who gets to points that are named after a room of both."""

BY_SIMULATORS = ("rollouts", "simulator", "episodes")
OF_RUNS = [point for point in crashpoints.POINTS if not point.startswith("checkpoint.")]
QUICK = {"slots.odd", "mailbox.written", "rollouts.sent", "rollouts.outcome", "learner.updated"}


@pytest.mark.parametrize(
    "point",
    [pytest.param(p, marks=[] if p in QUICK else [pytest.mark.slow]) for p in OF_RUNS],
)
def test_a_run_survives_a_death_at(
    point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = point.partition(".")[0]
    role = BY.get(point, "simulator 0.1" if room in BY_SIMULATORS else "learner 1")
    # A call is rare, and the first ones of all are made before any work is done.
    time = 2 if point in ("rollouts.called", "rollouts.joined") else 40
    monkeypatch.setenv(crashpoints.VARIABLE, f"{point}:{time}@{role}")
    ended = run(*SHORT, "--run-dir", tmp_path / "run")
    if point in ("rollouts.called", "rollouts.joined"):
        # Before its first step nobody is started anew.
        assert (ended.returncode, ended.stderr[:30]) in [
            (0, ""),
            (70, f"galamp: {role} was ended by"[:30]),
        ]
        return
    assert ended.returncode == 0, ended.stderr
    told = summary(tmp_path / "run")
    assert told["restarts"] == 1
    assert told["agent_steps"] >= 30_000
    saved = checkpoint.load(checkpoint.find(tmp_path / "run").path)
    assert saved.progress["agent_steps"] == told["agent_steps"]
    for learner in saved.learners:
        assert all(np.isfinite(values).all() for values in learner.parameters.values())


def test_an_order_that_makes_no_sense_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(crashpoints.VARIABLE, "slots.od:1")
    ended = run(*SHORT, "--run-dir", tmp_path / "run")
    assert ended.returncode == 2
    assert "no such point (did you mean slots.odd" in ended.stderr
    assert not (tmp_path / "run").exists()
