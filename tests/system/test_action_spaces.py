"""Environments with actions of every kind: trained, evaluated, and loaded, by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import galamp
from tests.support import toys
from tests.support.engine import also, run, summary
from tests.support.engine import galamp as galamp_command

TOYS = "tests.support.toys:"
RANDOM = {"Counted": 10 / 3, "Dials": 25 / 6, "Switches": 5.0}
"""Mean return of random play in ten steps: the share of parts that it gets right."""


def trained(folder: Path, env_id: str, *more: object, steps: int = 4000) -> None:
    """Train two learners in lock-step, so that the outcome follows from the seed."""
    done = run(
        "--env-id", env_id, "--learners", 2, "--num-envs", 4, "--total-steps", steps, "--sync",
        "--threads", 1, "--env-splits", 1, "--device", "cpu", "--quiet", "--run-dir", folder,
        "--learning-rate", 0.003, "--rmsprop-initial", 0, *more,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert summary(folder)["status"] == "finished"


def score(folder: Path, *more: object, episodes: int = 20) -> float:
    played = galamp_command("eval", folder, "--episodes", episodes, "--json", "--seed", 1, *more)
    assert played.returncode == 0, played.stderr
    (agent,) = json.loads(played.stdout)["results"]
    return float(agent["mean"])


@pytest.mark.parametrize("toy", [also("Counted"), "Dials", also("Switches")])
def test_it_learns_which_action_pays(toy: str, tmp_path: Path) -> None:
    folder, env_id = tmp_path / "run", TOYS + toy
    trained(folder, env_id)
    assert score(folder, "--env-id", env_id) > 0.5 * (RANDOM[toy] + 10)
    agent = galamp.load(folder, env_id=env_id)
    assert agent.spec.actions == agent.identity.actions
    space = getattr(toys, toy).action_space
    observations = np.eye(2, dtype=np.float32)
    together = np.asarray(agent.act(observations, greedy=True))
    assert together.shape == (2, *space.shape)
    for row, observation in zip(together, observations, strict=True):
        alone = agent.act(observation, greedy=True)
        assert space.contains(np.asarray(alone, space.dtype))
        np.testing.assert_array_equal(alone, row)


@pytest.mark.parametrize("bounds", [also("clip"), "squash"])
def test_levers_are_moved_within_their_bounds(bounds: str, tmp_path: Path) -> None:
    """The toy refuses whatever is not; random play, clipped, has a mean return below 2."""
    folder, env_id = tmp_path / "run", TOYS + "Levers"
    trained(folder, env_id, "--action-bounds", bounds)
    assert score(folder, "--env-id", env_id, "--greedy") > 6.0
    actions = galamp.load(folder).act(np.eye(2, dtype=np.float32))
    assert toys.Levers.action_space.contains(np.asarray(actions)[0])


def test_a_pendulum_is_trained_and_evaluated(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    trained(folder, "Pendulum-v1", steps=2000)
    assert -2000 < score(folder, episodes=2) < 0
    resumed = run("--resume", folder, "--total-steps", 3000, "--quiet")
    assert resumed.returncode == 0, resumed.stderr
    refused = run("--resume", folder, "--action-bounds", "squash", "--quiet")
    assert refused.returncode == 2


@pytest.mark.parametrize(
    ("env_id", "more", "line"),
    [
        (
            "tests.support.misbehaving:TwoActions",
            (),
            "galamp: tests.support.misbehaving:TwoActions: actions in Dict('a': Discrete(2)) "
            "cannot be trained: expected Discrete, MultiDiscrete, MultiBinary, or a Box of floats; "
            "convert them in a wrapper\n",
        ),
        (
            "CartPole-v1",
            ("--action-bounds", "squash"),
            "galamp: --action-bounds squash: only for Box actions, and CartPole-v1 takes 2 "
            "actions; leave it out\n",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(
    env_id: str, more: tuple[str, ...], line: str, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    refused = run("--env-id", env_id, "--run-dir", folder, "--quiet", *more)
    assert (refused.returncode, refused.stderr) == (2, line)
    assert not folder.exists()
