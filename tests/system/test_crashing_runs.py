"""Real runs in which one process dies at a named point of its work; the run goes on to its end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from galamp.core import failpoints
from galamp.storage import checkpoint
from tests.support.engine import run, summary

STEPS = 10_000
SHORT = ["--env-id", "tests.support.crashing:healthy", "--learners", 2, "--num-envs", 4, "--quiet"]
SHORT += ["--simulator-workers", 2, "--total-steps", STEPS]

BY = {"rollouts.acted": "learner 1", "rollouts.sent": "learner 1"}
"""Who gets to points that are named after a room of both."""

BY_SIMULATORS = ("rollouts", "simulator", "episodes")
OF_CALLS = ("rollouts.called", "rollouts.joined")
OF_RUNS = [
    point
    for point in failpoints.POINTS
    if not point.startswith(("checkpoint.", "bridge.")) and point not in OF_CALLS
]
QUICK = {"learner.updated"}


@pytest.mark.parametrize(
    "point",
    [pytest.param(p, marks=[] if p in QUICK else [pytest.mark.slow]) for p in OF_RUNS],
)
def test_a_run_survives_a_death_at(
    point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = point.partition(".")[0]
    role = BY.get(point, "simulator 0.1" if room in BY_SIMULATORS else "learner 1")
    monkeypatch.setenv(failpoints.VARIABLE, f"{point}:40@{role}")
    ended = run(*SHORT, "--run-dir", tmp_path / "run")
    assert ended.returncode == 0, ended.stderr
    assert summary(tmp_path / "run")["restarts"] == 1
    is_whole(tmp_path / "run")


def is_whole(folder: Path) -> None:
    """Check that a run has come to its end, with a sound checkpoint."""
    told = summary(folder)
    assert told["agent_steps"] >= STEPS
    saved = checkpoint.load(checkpoint.find(folder).path)
    assert saved.progress["agent_steps"] == told["agent_steps"]
    for learner in saved.learners:
        assert all(np.isfinite(values).all() for values in learner.parameters.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "role", "env", "restarts"),
    [
        # Its two simulators are called at first; then one dies, and the learner with the call.
        ("rollouts.called", "learner 1", "stumbling", 2),
        # It arrives, joins, is late and left out, and dies as it joins again.
        ("rollouts.joined", "simulator 1.0", "dozing", 1),
    ],
)
def test_a_run_survives_a_death_in_a_later_call(
    point: str,
    role: str,
    env: str,
    restarts: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEST_FAILED_ONCE", str(tmp_path / "failed"))
    monkeypatch.setenv(failpoints.VARIABLE, f"{point}:3@{role}")
    folder = tmp_path / "run"
    flags = ["--env-id", f"tests.support.crashing:{env}", "--total-steps", 60_000]
    ended = run(*SHORT, *flags, "--run-dir", folder)
    assert ended.returncode == 0, ended.stderr
    told = summary(folder)
    assert (told["restarts"], told["given_up"]) == (restarts, [])
    is_whole(folder)


def test_an_order_that_makes_no_sense_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(failpoints.VARIABLE, "slots.od:1")
    ended = run(*SHORT, "--run-dir", tmp_path / "run")
    assert ended.returncode == 2
    assert "no such point (did you mean slots.odd" in ended.stderr
    assert not (tmp_path / "run").exists()
