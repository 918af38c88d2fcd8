"""Trained agents whose observations were normalised: which scales, and the same function."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import galamp
from galamp.algorithms.networks import build_model
from galamp.core.action_spec import DiscreteActions
from galamp.core.config import EnvironmentConfig, RunConfig, to_dict
from galamp.core.errors import CheckpointError
from galamp.core.moments import Moments
from galamp.core.normalisation import NormaliserSpec, Own, Saved, Scales
from galamp.storage import checkpoint as checkpoints
from galamp.storage.checkpoint import Checkpoint, Identity, LearnerState
from galamp.tools.evaluation.trained import MEAN, read

SPEC = NormaliserSpec(4, True)
CARTPOLE = Identity("CartPole-v1", "gymnasium: ...", (4,), DiscreteActions(2), "a2c", "mlp", ())


def data_of(rank: int, count: int = 2000) -> np.ndarray:
    """Each learner has seen something else."""
    return np.random.default_rng(rank).normal(
        [3.0 * rank, -5.0, 0.1, 40.0], [1, 2, 0.05, 9], (count, 4)
    )


def raw_outputs(rank: int, observations: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        logits: np.ndarray = model_of(rank)(torch.from_numpy(observations))[0].numpy()
    return logits


def model_of(rank: int) -> torch.nn.Module:
    model = build_model("mlp", (4,), "float32", 2, seed=rank)
    with torch.no_grad():
        dict(model.named_parameters())["policy.4.weight"].mul_(100.0)
        dict(model.named_parameters())["policy.0.weight"].mul_(0.05)
    return model


def saved_run(folder: Path, spoil: Callable[[np.ndarray], np.ndarray] = lambda kept: kept) -> Path:
    states, layout = [], ()
    for rank in range(2):
        named = dict(model_of(rank).named_parameters())
        layout = tuple((name, tuple(p.shape)) for name, p in named.items())
        own = Own(Moments.of(data_of(rank)), Moments.of(data_of(rank)[:, :1]))
        kept = spoil(Saved(own, Scales.of(own)).packed())
        parameters = {name: p.detach().numpy().copy() for name, p in named.items()}
        states.append(
            LearnerState(rank, parameters, {}, {"updates": 1}, np.zeros(16, np.uint8), kept)
        )
    config = RunConfig(
        environment=EnvironmentConfig("CartPole-v1", norm_obs=True, norm_reward=True)
    )
    identity = dataclasses.replace(CARTPOLE, layout=layout)
    content = Checkpoint(identity, to_dict(config), {"agent_steps": 7}, tuple(states))
    return checkpoints.save(folder, content)


def test_the_mean_has_the_scales_of_all_data_and_a_learner_its_own(tmp_path: Path) -> None:
    trained = read(saved_run(tmp_path / "c"))
    everything = np.concatenate([data_of(0), data_of(1)])
    for learner, data in ((MEAN, everything), (1, data_of(1))):
        scales = trained.scales(learner)
        assert scales is not None
        assert np.allclose(scales.mean, data.mean(0), rtol=1e-6)
        assert np.allclose(scales.std, np.sqrt(data.var(0) + 1e-8), rtol=1e-6)


@pytest.mark.parametrize("learner", [0, 1])
def test_an_agent_is_the_function_that_was_saved(tmp_path: Path, learner: int) -> None:
    """Parameters are of raw observations; within the clip the scales changes nothing."""
    path, given = saved_run(tmp_path / "c"), data_of(learner, 200).astype(np.float32)
    agent = galamp.load(path, learner=learner)
    logits = agent.logits(given)
    assert np.allclose(logits, raw_outputs(learner, given), rtol=1e-4, atol=1e-4)
    chosen = agent.act(given, greedy=True)
    assert np.array_equal(chosen, raw_outputs(learner, given).argmax(1))
    assert np.ptp(logits, axis=0).max() > 0.1, "they depend on the observations"


def test_what_lies_beyond_the_clip_counts_as_at_it(tmp_path: Path) -> None:
    agent = galamp.load(saved_run(tmp_path / "c"), learner=0)
    scales = read(agent.path, 0).scales(0)
    assert scales is not None
    edge = (scales.mean + 10.0 * scales.std).astype(np.float32)[None]
    far = edge + np.float32(1e4)
    assert np.allclose(agent.logits(far), agent.logits(edge), rtol=1e-4, atol=1e-4)


def test_observations_of_any_type_are_the_same_to_it(tmp_path: Path) -> None:
    agent = galamp.load(saved_run(tmp_path / "c"))
    given = np.random.default_rng(3).integers(0, 60, (100, 4))
    expected = agent.act(given.astype(np.float32), greedy=True)
    for dtype in (np.uint8, np.int64, np.float64):
        assert np.array_equal(agent.act(given.astype(dtype), greedy=True), expected), dtype


@pytest.mark.parametrize(
    "spoil", [lambda kept: kept[:0], lambda kept: kept[:-1], lambda kept: -kept]
)
def test_without_sound_statistics_there_is_no_agent(tmp_path: Path, spoil: Any) -> None:
    path = saved_run(tmp_path / "c", spoil)
    with pytest.raises(CheckpointError, match="no sound statistics of observations"):
        galamp.load(path)
