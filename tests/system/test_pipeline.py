"""Runs with `--pipeline`: a learner that is killed, a stop, a resume, the same again, a refusal."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from galamp.core import failpoints
from galamp.storage import checkpoint
from tests.support.engine import run, started, summary, titled, training, wait_for
from tests.support.scenarios import ENDLESS, rows, stopped, successor, works_on
from tests.system.test_crashing_runs import SHORT, is_whole

PIPELINE = ["--algorithm", "vtrace", "--pipeline"]


@pytest.mark.counted
def test_a_run_is_killed_at_stopped_and_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with started(*ENDLESS, *PIPELINE, "--run-dir", folder) as process:
        wait_for(lambda: training(folder), "training")
        [victim] = titled(process.pid, "learner 1")
        os.kill(victim, signal.SIGKILL)
        successor(process.pid, "learner 1", victim)
        works_on(folder, "learner0/agent_steps", "learner1/agent_steps")
        told = stopped(process, folder)
    assert (told["status"], told["restarts"], told["policy_lag"]) == ("stopped", 1, 1.0)
    assert rows(folder)[-1]["losses/policy_lag"] == 1.0
    # What a stop finds collected is learned from, before it is saved; what a kill finds is lost.
    first, second = (
        each.counters for each in checkpoint.load(checkpoint.find(folder).path).learners
    )
    assert first["updates"] == first["turns"] > 0
    assert second["turns"] - second["updates"] in (0, 1)
    more = told["agent_steps"] + 2000
    again = ["--resume", folder, "--env-id", "tests.support.crashing:unhurried", "--quiet"]
    ended = run(*again, "--total-steps", more)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert summary(folder)["policy_lag"] == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gossip", "allreduce"])
def test_in_lock_step_it_is_repeated_to_the_bit(tmp_path: Path, method: str) -> None:
    """With two simulators and parts that take turns, on however busy a machine."""
    found = []
    for name in ("first", "second"):
        folder = tmp_path / name
        words = [*PIPELINE, "--sync", "--method", method, "--env-id", "CartPole-v1", "--seed", 3]
        words += ["--learners", 2, "--num-envs", 4, "--simulator-workers", 2, "--env-splits", 2]
        ended = run(*words, "--threads", 1, "--total-steps", 4000, "--quiet", "--run-dir", folder)
        assert ended.returncode == 0, ended.stderr
        found.append(checkpoint.load(checkpoint.find(folder).path))
    for mine, theirs in zip(*(each.learners for each in found), strict=True):
        assert mine.counters == theirs.counters
        assert mine.counters["turns"] == mine.counters["updates"]
        for name, values in mine.parameters.items():
            assert (values == theirs.parameters[name]).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "point", ["collector.half", "learner.updated", "learner.mixed", "learner.counted"]
)
@pytest.mark.parametrize("more", [[], ["--sync"], ["--method", "allreduce"]], ids=str)
def test_a_run_survives_a_death_at(
    point: str, more: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(failpoints.VARIABLE, f"{point}:40@learner 1")
    ended = run(*SHORT, *PIPELINE, *more, "--run-dir", tmp_path / "run")
    assert ended.returncode == 0, ended.stderr
    assert summary(tmp_path / "run")["restarts"] > 0
    is_whole(tmp_path / "run")


def test_what_does_not_go_with_it_is_one_line(tmp_path: Path) -> None:
    ended = run("--pipeline", "--env-id", "CartPole-v1", "--quiet", "--run-dir", tmp_path / "run")
    assert (ended.returncode, ended.stderr) == (
        2,
        "galamp: --pipeline: acting would be an update behind learning, and --algorithm a2c "
        "assumes that the policy that acted is the one that learns; leave it out, or take "
        "--algorithm vtrace, which corrects for that\n",
    )
    assert not (tmp_path / "run").exists()
