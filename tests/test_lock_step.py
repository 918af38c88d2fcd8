"""Lock-step gossip between real processes equals one process, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from galamp.config import AlgorithmConfig, EnvironmentConfig, RunConfig
from galamp.storage import checkpoint
from tests.engine import run
from tests.reference import ring_weights, train_in_lock_step

CASES = [
    ("CartPole-v1", 3, 4, 1, 40),
    ("CartPole-v1", 2, 4, 3, 20),
    ("ALE/Breakout-v5", 2, 4, 2, 12),
]


@pytest.mark.parametrize(("env_id", "learners", "lanes", "workers", "rounds"), CASES)
def test_equals_one_process(
    tmp_path: Path, env_id: str, learners: int, lanes: int, workers: int, rounds: int
) -> None:
    rate = 7e-4 * learners**0.5
    config = RunConfig(
        seed=11,
        environment=EnvironmentConfig(env_id=env_id, num_envs=lanes),
        algorithm=AlgorithmConfig(learning_rate=rate),
    )
    total = rounds * config.algorithm.num_steps * lanes * learners
    folder = tmp_path / "run"
    arguments = ["--env-id", env_id, "--learners", learners, "--num-envs", lanes, "--sync"]
    arguments += ["--seed", config.seed, "--total-steps", total, "--threads", 1, "--batches", 1]
    ended = run(*arguments, "--simulator-workers", workers, "--quiet", "--run-dir", folder)
    assert ended.returncode == 0, ended.stderr
    saved = checkpoint.load(folder / "checkpoints" / "latest")

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        reference = train_in_lock_step(config, ring_weights(learners), rounds)
    finally:
        torch.set_num_threads(threads)

    vectors = []
    for learner, expected in zip(saved.learners, reference, strict=True):
        for name, value in expected.algorithm.parameters.named().items():
            assert np.array_equal(learner.parameters[name], value.numpy()), (learner.rank, name)
        state = expected.algorithm.state()["square_average"].numpy()
        assert np.array_equal(learner.optimizer["square_average"], state)
        assert np.array_equal(learner.generator, expected.algorithm.generator.get_state().numpy())
        assert learner.counters["updates"] == learner.counters["mixes"] == rounds
        vectors.append(np.concatenate([v.ravel() for v in learner.parameters.values()]))
    # Two learners that average with each other are one after every round; three are not.
    assert np.array_equal(vectors[0], vectors[1]) == (learners == 2)
