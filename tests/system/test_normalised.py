"""Normalised observations and rewards in real runs: learned with, killed, resumed, evaluated."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import galamp
from galamp.algorithms.networks import build_model
from galamp.core.normalisation import NormaliserSpec, Saved, scales_of_all
from galamp.storage import checkpoint
from galamp.storage.checkpoint import Checkpoint
from tests.support.command_lines import parsed
from tests.support.engine import also, run, started, summary, titled, training, wait_for
from tests.support.engine import galamp as command
from tests.support.in_process import planned, train_in_process
from tests.support.scenarios import rows
from tests.system.test_lock_step import PIPELINE, Case, referred

BOTH = ("--norm-obs", "--norm-reward")
CARTPOLE = NormaliserSpec(4, True)
PPO = ["--algorithm", "ppo", "--learners", 2, "--num-envs", 4, "--threads", 1, "--quiet"]


def saved_in(folder: Path) -> Checkpoint:
    return checkpoint.load(folder / "checkpoints" / "latest")


def statistics(found: Checkpoint, spec: NormaliserSpec = CARTPOLE) -> list[Saved]:
    return [Saved.unpacked(learner.normaliser, spec) for learner in found.learners]


@pytest.mark.parametrize("method", ["gossip", "allreduce"])
def test_lock_step_equals_one_process_with_a_list_of_all_data(tmp_path: Path, method: str) -> None:
    """To what float32 leaves: here means are merged, there taken of everything at once."""
    flags = ("--sync",) if method == "gossip" else ("--method", method)
    case = Case(3, 24, (*flags, *BOTH))
    ended = run(*case.words, "--quiet", "--run-dir", tmp_path / "run")
    assert ended.returncode == 0, ended.stderr
    found = saved_in(tmp_path / "run")
    reference = referred(case, planned(parsed(*case.words)).config)
    data = [learner.normaliser for learner in reference]
    for learner, own, expected in zip(found.learners, statistics(found), reference, strict=True):
        plain = np.array(expected.normaliser.observations)
        assert own.own.observations.count == own.own.returns.count == len(plain)
        assert np.allclose(own.own.observations.mean, plain.mean(0), rtol=1e-9)
        assert np.allclose(own.own.observations.variance, plain.var(0), rtol=1e-9)
        for name, value in expected.algorithm.parameters.named().items():
            assert np.allclose(learner.parameters[name], value.numpy(), rtol=1e-3, atol=1e-4), name
        assert 0 < learner.counters["updates"] == expected.algorithm.version < 40
    scales = [own.scales.packed() for own in statistics(found)]
    assert np.array_equal(scales[0], scales[1])
    assert np.array_equal(scales[0], scales[2])
    assert scales[0][0] == 1.0
    assert len({len(each.observations) for each in data}) > 1
    vectors = [
        np.concatenate([value.ravel() for value in learner.parameters.values()])
        for learner in found.learners
    ]
    same = [np.array_equal(vectors[0], vector) for vector in vectors[1:]]
    assert all(same) if method == "allreduce" else not any(same)


def test_a_pipeline_learns_in_the_scales_of_each_rollout() -> None:
    """Which the policy that acts meanwhile has no more."""
    case = Case(2, 28, (*PIPELINE, *BOTH), envs=8)
    plan = planned(parsed(*case.words))
    learners, reference = train_in_process(plan), referred(case, plan.config)
    for learner, expected in zip(learners, reference, strict=True):
        assert learner.status["turns"] == case.turns
        assert 10 < learner.status["updates"] == expected.algorithm.version < case.turns
        found, plain = learner.algorithm.parameters.data, expected.algorithm.parameters.data
        assert torch.allclose(found, plain, rtol=1e-3, atol=1e-4)


def test_a_run_is_trained_resumed_and_evaluated(tmp_path: Path) -> None:
    folder, spec = tmp_path / "run", NormaliserSpec(3, True)
    words = [*PPO, *BOTH, "--env-id", "Pendulum-v1", "--num-steps", 64, "--log-every-s", 0.1]
    ended = run(*words, "--total-steps", 4000, "--run-dir", folder)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert min(summary(folder)["mixes_per_learner"]) > 0
    before = statistics(saved_in(folder), spec)
    row = rows(folder)[-1]
    assert 0 < row["losses/norm_count"] <= 4512
    assert row["losses/return_std"] > 1.0

    changed = run("--resume", folder, "--no-norm-obs")
    told = "galamp: --norm-obs: the run was begun with it, and goes on so; leave it out\n"
    assert (changed.returncode, told in changed.stderr) == (2, True)
    again = run("--resume", folder, "--total-steps", 6000, "--quiet")
    assert (again.returncode, again.stderr, summary(folder)["start"]) == (0, "", 2)
    found = saved_in(folder)
    after = statistics(found, spec)
    for old, new in zip(before, after, strict=True):
        assert new.own.count > old.own.count > 0
    assert sum(each.own.count for each in after) <= found.progress["agent_steps"]

    played = command("eval", folder, "--episodes", 2, "--json", "--quiet")
    assert (played.returncode, played.stderr) == (0, "")
    assert json.loads(played.stdout)["results"][0]["learner"] == "mean"
    _check_agent(folder, found, scales_of_all(after, spec).mean)


def _check_agent(folder: Path, found: Checkpoint, mean: np.ndarray) -> None:
    """The agent is the function of raw observations that the mean of the parameters is."""
    model = build_model("mlp", (3,), "float32", 2, seed=1, state_independent=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = [learner.parameters[name] for learner in found.learners]
            parameter.copy_(torch.from_numpy(np.mean(values, axis=0)))
    observations = np.random.default_rng(1).normal(mean, 0.3, (50, 3)).astype(np.float32)
    expected = model(torch.from_numpy(observations))[0][:, :1].detach().numpy()
    agent = galamp.load(folder)
    assert np.allclose(agent.policy_actions(observations, greedy=True), expected, atol=1e-5)
    far = np.array([[1e6, -1e6, 1e6]], np.float32)
    assert abs(agent.policy_actions(far, greedy=True)).max() < 100.0, "clipped, as in training"


def test_a_killed_learner_counts_on_from_where_its_rank_was(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = [*PPO, *BOTH, "--env-id", "CartPole-v1", "--total-steps", 10**9, "--run-dir", folder]
    with started(*words, "--log-every-s", 0.1) as process:
        wait_for(lambda: training(folder), "training")
        wait_for(lambda: counted(folder)[-1:] > [2000.0], "statistics of some data")
        (victim,) = titled(process.pid, "learner 0")
        before = counted(folder)[-1]
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: rows(folder)[-1]["charts/restarts"] > 0, "the restart")
        wait_for(lambda: counted(folder)[-1] > before + 2000.0, "more data")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    found = saved_in(folder)
    counts = [saved.own.count for saved in statistics(found)]
    steps = [learner.counters["agent_steps"] for learner in found.learners]
    assert all(0 < count <= step for count, step in zip(counts, steps, strict=True))
    # Had either begun again, a thousand of its data would be missing; steps of resets are.
    assert sum(counts) > 0.85 * sum(steps)


def counted(folder: Path) -> list[float]:
    return [row["losses/norm_count"] for row in rows(folder) if "losses/norm_count" in row]


@pytest.mark.parametrize("algorithm", ["pqn", also("vtrace")])
def test_a_network_of_the_users_that_tells_is_normalised(tmp_path: Path, algorithm: str) -> None:
    """With action values in its policy's outputs, too."""
    folder, network = tmp_path / "run", "tests.support.networks:Telling"
    words = ["--env-id", "CartPole-v1", "--network", network, "--algorithm", algorithm, *BOTH]
    words += ["--learners", 2, "--num-envs", 4, "--num-steps", 32, "--total-steps", 1500, "--sync"]
    ended = run(*words, "--quiet", "--run-dir", folder)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert min(summary(folder)["mixes_per_learner"]) > 0
    agent = galamp.load(folder, network=network)
    assert agent.act(np.zeros((3, 4), np.float32)).shape == (3,)  # type: ignore[union-attr]


def test_what_cannot_be_normalised_is_one_line(tmp_path: Path) -> None:
    network = "tests.support.networks:Toy"
    words = ["--env-id", "CartPole-v1", "--norm-obs", "--network", network, "--learners", 1]
    refused = run(*words, "--run-dir", tmp_path / "run", "--quiet")
    told = f"galamp: --norm-obs: network {network} has no method input_layers(), which tells"
    assert (refused.returncode, refused.stderr.startswith(told)) == (2, True), refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()
