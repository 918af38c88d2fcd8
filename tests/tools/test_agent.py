"""Agents in users' programs: `predict`, `logits`, `value`, `module`, `env`, and their text."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from gymnasium.utils.env_checker import check_env

import galamp
from galamp.algorithms.cached_conv import CachedConvForward
from galamp.algorithms.forward import Place
from galamp.core.action_spec import (
    ActionSpec,
    DiscreteActions,
    MultiBinaryActions,
    MultiDiscreteActions,
)
from galamp.core.box_actions import BoxActions
from galamp.core.config import SQUASH, EnvironmentConfig
from galamp.core.errors import UserError
from galamp.core.normalisation import Scales
from galamp.environments import describe, make_environment
from galamp.storage import checkpoint as checkpoints
from galamp.tools.evaluation import agent as agents
from galamp.tools.evaluation.trained import read
from galamp.tools.evaluation.trained_env import TrainedEnv, _action_space, _policys
from galamp.tools.evaluation.whole_games import whole_games
from tests.tools.test_evaluate import BREAKOUT, CARTPOLE, OBSERVATIONS, saved
from tests.tools.test_evaluate_normalised import data_of, saved_run
from tests.tools.test_memory import FIRST, LSTM, SEEN, VALUES, expected, with_loud_policy


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cartpole")
    saved(folder, CARTPOLE, 2, steps=1_234_567)
    return folder


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Describe environments in this process; the probe itself is tested with the environments."""
    monkeypatch.setattr(agents, "start_probe", lambda config: config)
    monkeypatch.setattr(agents, "finish_probe", describe)


# --- predict ---


def test_predict_gives_the_actions_of_act_for_a_batch_and_for_one(cartpole: Path) -> None:
    agent = galamp.load(cartpole)
    wanted = agent.act(OBSERVATIONS, greedy=True)
    actions, state = agent.predict(OBSERVATIONS, deterministic=True)
    assert state is None
    np.testing.assert_array_equal(actions, wanted)
    one, _ = agent.predict(OBSERVATIONS[0], deterministic=True)
    assert isinstance(one, np.ndarray)
    assert (one.shape, int(one)) == ((), np.asarray(wanted)[0])
    agent.seed(3)
    drawn, _ = agent.predict(OBSERVATIONS)
    agent.seed(3)
    np.testing.assert_array_equal(drawn, agent.act(OBSERVATIONS))


def test_predict_hands_the_memory_to_the_caller(tmp_path: Path) -> None:
    saved(tmp_path, LSTM, 2)
    agent = with_loud_policy(galamp.load(tmp_path))
    wanted, state = expected(agent), None
    for seen, first, actions in zip(SEEN, FIRST, wanted, strict=True):
        agent.act(SEEN[0, ::-1], first=True)  # what an agent itself remembers is nothing to it
        found, state = agent.predict(seen, state, episode_start=first, deterministic=True)
        np.testing.assert_array_equal(found, actions)
    assert state is not None
    assert [each.shape for each in state] == [(3, 256)]
    assert np.ptp(agent.logits(SEEN[0], state) - agent.logits(SEEN[0])) > 1e-3
    with pytest.raises(UserError, match=r"state of shape \[3, 256\]: expected \[2, 256\]"):
        agent.predict(SEEN[0, :2], state)


def test_stable_baselines3_evaluates_an_agent(cartpole: Path, at_once: None) -> None:
    pytest.importorskip("stable_baselines3", reason="Stable-Baselines3 is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from stable_baselines3.common.evaluation import evaluate_policy
        from stable_baselines3.common.monitor import Monitor

        agent = galamp.load(cartpole)
        agent_of_theirs: Any = agent
        returns, lengths = evaluate_policy(
            agent_of_theirs, Monitor(agent.env()), 4, return_episode_rewards=True
        )
    assert returns == lengths, "CartPole gives 1 for every step"
    assert len(set(returns)) > 1, "every episode has a start of its own"


# --- logits, value, module ---


def test_logits_values_and_module_are_the_network_s_own(cartpole: Path) -> None:
    agent = galamp.load(cartpole, learner=1)
    with torch.no_grad():
        outputs, values = agent.module(torch.from_numpy(OBSERVATIONS))
    np.testing.assert_array_equal(agent.logits(OBSERVATIONS), outputs)
    np.testing.assert_array_equal(agent.value(OBSERVATIONS), values)
    np.testing.assert_allclose(agent.logits(OBSERVATIONS[3]), outputs[3], atol=1e-6)
    assert agent.value(OBSERVATIONS[3]).shape == ()
    np.testing.assert_array_equal(agent.act(OBSERVATIONS, greedy=True), outputs.argmax(1))
    kept = read(agent.path, 1).parameters(1)
    for name, parameter in agent.module.network.named_parameters():
        np.testing.assert_array_equal(parameter.detach(), kept[name])


def test_the_module_is_the_forward_pass_by_hand_of_the_training(tmp_path: Path) -> None:
    saved(tmp_path, BREAKOUT, 1)
    agent = galamp.load(tmp_path)
    images = np.random.default_rng(1).integers(0, 256, (5, 4, 84, 84), np.uint8)
    network: Any = agent.module.network
    given = torch.from_numpy(images)
    by_hand = CachedConvForward(network, 1, 5)
    logits = by_hand.act(given, torch.zeros(5, dtype=torch.bool), Place(0, slice(0, 5)))
    np.testing.assert_allclose(agent.logits(images), logits, atol=1e-6)
    assert np.ptp(agent.logits(images), 0).max() > 1e-3


def test_the_module_normalises_as_the_agent_does(tmp_path: Path) -> None:
    path, given = saved_run(tmp_path / "c"), data_of(1, 50).astype(np.float32)
    agent = galamp.load(path, learner=1)
    scales = read(path, 1).scales(1)
    assert isinstance(scales, Scales)
    with torch.no_grad():
        outputs, _ = agent.module(torch.from_numpy(given))
        scaled = np.clip((given - scales.mean) / scales.std, -10, 10).astype(np.float32)
        wanted, _ = agent.module.network(torch.from_numpy(scaled))
    np.testing.assert_allclose(outputs, wanted, atol=1e-4)
    np.testing.assert_array_equal(agent.logits(given), outputs)
    assert {"mean", "std"} < set(agent.module.state_dict())


def test_values_of_actions_are_the_logits_and_the_best_the_value(tmp_path: Path) -> None:
    saved(tmp_path, VALUES, 1)
    agent = galamp.load(tmp_path)
    np.testing.assert_array_equal(agent.value(OBSERVATIONS), agent.logits(OBSERVATIONS).max(1))
    actions, _ = agent.predict(OBSERVATIONS)
    np.testing.assert_array_equal(actions, agent.logits(OBSERVATIONS).argmax(1))


def test_nothing_is_computed_for_no_observations(cartpole: Path) -> None:
    agent = galamp.load(cartpole)
    assert agent.logits(OBSERVATIONS[:0]).shape == (0, 2)
    assert agent.value(OBSERVATIONS[:0]).shape == (0,)
    assert agent.predict(OBSERVATIONS[:0])[0].shape == (0,)


# --- text ---


def test_its_text_tells_what_it_is(cartpole: Path) -> None:
    agent = galamp.load(cartpole)
    wanted = "CartPole-v1, a2c, mlp, mean of all learners, 1,234,567 agent steps, no score yet, "
    assert repr(agent) == f"Agent({wanted}{agent.path.name})"
    assert "learner 1" in repr(galamp.load(cartpole, learner=1))


def test_its_text_tells_the_score_and_the_best_checkpoint(tmp_path: Path) -> None:
    path = saved(tmp_path, CARTPOLE, 1, steps=5)
    content = checkpoints.load(path)
    progress = content.progress | {"mean_return_100": 312.437, "agent_steps": 6}
    best = checkpoints.save(path.parent, dataclasses.replace(content, progress=progress))
    checkpoints.point(path.parent, "best", best)
    agent = galamp.load(tmp_path)
    assert agent.score == 312.437
    assert repr(agent).endswith(f"6 agent steps, score 312.4 in training, {best.name} (best))")


# --- env ---


def test_its_environment_is_one_of_gymnasium_s(cartpole: Path, at_once: None) -> None:
    env = galamp.load(cartpole).env()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(env, skip_render_check=True)


def test_it_plays_the_games_of_the_training(cartpole: Path, at_once: None) -> None:
    """The same course as galamp's own environments of that seed, episode after episode."""
    env = galamp.load(cartpole).env(seed=7)
    other = make_environment(whole_games(EnvironmentConfig("CartPole-v1")), [7])
    seen, wanted = env.reset()[0], other.reset()[0]
    ends, random = 0, np.random.default_rng(0)
    for _ in range(120):
        np.testing.assert_array_equal(seen, wanted)
        action = random.integers(0, 2, 1)
        seen, reward, terminated, truncated, _ = env.step(action[0])
        step = other.step(action)
        np.testing.assert_array_equal(seen, step.observations[0])
        assert (reward, terminated) == (step.rewards[0], step.terminated[0])
        wanted = step.observations[0]
        if terminated or truncated:
            ends += 1
            seen, wanted = env.reset()[0], other.step(action).observations[0]
    assert ends > 1
    env.step(0)
    assert not np.array_equal(env.reset()[0], env.reset(seed=7)[0]), (
        "an episode is left for another"
    )
    assert np.array_equal(env.reset(seed=7)[0], galamp.load(cartpole).env(seed=7).reset()[0])
    env.close()


class Lives(gymnasium.Env[Any, Any]):
    """Rewards of 5, and nothing that ends a game."""

    observation_space, action_space = Box(-1.0, 1.0, (2,)), Discrete(2)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(2, np.float32), 5.0, False, False, {}


def test_rewards_are_true_and_in_training_clipped() -> None:
    config = EnvironmentConfig("tests.tools.test_agent:Lives", clip_rewards=True)
    for known, reward in ((config, 1.0), (whole_games(config), 5.0)):
        env = TrainedEnv(known, 0)
        env.reset()
        assert env.step(1)[1] == reward


def test_in_training_a_lost_life_ends_an_episode_and_the_game_goes_on(at_once: None) -> None:
    env = TrainedEnv(EnvironmentConfig("ALE/Breakout-v5"), 0)
    env.reset()
    ended = 0
    while ended < 2:
        observation, _, terminated, _, _ = env.step(1)  # FIRE
        if terminated:
            ended += 1
            again, _ = env.reset()
            assert np.array_equal(again[:3], observation[1:]), "frames of the same game"
    env.close()


@pytest.mark.parametrize(
    ("spec", "space"),
    [
        (DiscreteActions(3, -1), Discrete(3, start=-1)),
        (MultiDiscreteActions((2, 3)), MultiDiscrete([2, 3])),
        (
            MultiDiscreteActions((2, 3), (1, -4), (2, 1)),
            MultiDiscrete([[2], [3]], start=[[1], [-4]]),
        ),
        (MultiBinaryActions(4, (2, 2)), MultiBinary((2, 2))),
        (BoxActions((-1.0, 0.0), (1.0, 5.0)), Box(np.float32([-1, 0]), np.float32([1, 5]))),
    ],
)
def test_actions_come_as_the_environment_takes_them(
    spec: ActionSpec, space: gymnasium.Space[Any]
) -> None:
    assert _action_space(spec) == space
    drawn = spec.draw(np.random.default_rng(1), 20)
    for taken in spec.to_environment(drawn):
        assert space.contains(taken)
        again = _policys(spec, taken)
        spec.check(again, 1)
        np.testing.assert_array_equal(spec.to_environment(again)[0], taken)
    with pytest.raises(ValueError, match="expected one of"):
        _policys(spec, np.zeros(9))


def test_squashed_actions_are_not_squashed_once_more() -> None:
    env = TrainedEnv(EnvironmentConfig("tests.tools.test_agent:Pushed", action_bounds=SQUASH), 0)
    env.reset()
    assert env.step(np.float32([0.5]))[0][0] == 0.5


class Pushed(Lives):
    """The action is what one sees."""

    action_space = Box(-1.0, 1.0, (1,))

    def step(self, action: Any) -> Any:
        return np.float32([action[0], 0.0]), 0.0, False, False, {}
