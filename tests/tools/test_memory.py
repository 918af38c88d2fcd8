"""Agents whose network is recurrent, or gives values of actions."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from galamp.algorithms.networks.recurrent import RecurrentActorCritic
from galamp.core.action_spec import DiscreteActions
from galamp.core.config import EnvironmentConfig
from galamp.environments import make_environment
from galamp.tools.evaluation.agent import Agent, load
from galamp.tools.evaluation.playing import play
from tests.tools.test_evaluate import CARTPOLE, saved

LSTM = dataclasses.replace(CARTPOLE, network="mlp-lstm", algorithm="ppo")
VALUES = dataclasses.replace(CARTPOLE, network="mlp-layernorm", algorithm="pqn")
SEEN = np.random.default_rng(5).normal(size=(6, 3, 4)).astype(np.float32)
FIRST = np.zeros((6, 3), np.bool_)
FIRST[0], FIRST[3, 1] = True, True


def with_loud_policy(agent: Agent) -> Agent:
    """Initial policies are all but uniform: let choices differ."""
    model = agent.module.network
    assert isinstance(model, RecurrentActorCritic)
    with torch.no_grad():
        model.policy.weight.mul_(300.0)
    return agent


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    saved(tmp_path, LSTM, 2)
    return with_loud_policy(load(tmp_path))


def expected(agent: Agent) -> NDArray[np.int64]:
    """Greedy actions [T, B] of the network over the whole sequence."""
    model = agent.module.network
    with torch.no_grad():
        state = torch.zeros(3, model.state_size)
        outputs = model.sequence(torch.from_numpy(SEEN), torch.from_numpy(FIRST), state)[0]
    return outputs.argmax(-1).numpy()


def test_it_remembers_each_environment_and_forgets_where_an_episode_begins(agent: Agent) -> None:
    actions = [
        agent.act(seen, greedy=True, first=first) for seen, first in zip(SEEN, FIRST, strict=True)
    ]
    wanted = expected(agent)
    assert len(set(wanted.flatten().tolist())) == 2
    np.testing.assert_array_equal(actions, wanted)
    agent.reset()
    again = [agent.act(seen, greedy=True, first=False) for seen in SEEN[:3]]
    np.testing.assert_array_equal(again, wanted[:3])


def test_environments_are_told_apart_whoever_is_asked_for(agent: Agent) -> None:
    wanted = expected(agent)
    for step in range(6):
        for envs in (np.array([2]), np.array([1, 0])):
            actions = agent.policy_actions(
                SEEN[step, envs], greedy=True, first=FIRST[step, envs], envs=envs
            )
            np.testing.assert_array_equal(actions, wanted[step, envs])


def test_games_are_played_with_the_flags_of_their_episodes(agent: Agent) -> None:
    seen: list[tuple[list[int], list[bool]]] = []

    def act(
        observations: NDArray[np.float32], first: NDArray[np.bool_], envs: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        seen.append((envs.tolist(), first.tolist()))
        return agent.policy_actions(observations, first=first, envs=envs)

    environment = make_environment(EnvironmentConfig("CartPole-v1"), [1, 2], threads=1)
    games = play(environment, act, 4, lambda game: None)
    environment.close()
    assert seen[0] == ([0, 1], [True, True])
    begun = [sum(f for e, f in zip(envs, first, strict=True) if e == 0) for envs, first in seen]
    # The first observation of either game, and none after the last one.
    assert sum(begun) == 2
    assert len(games) == 4


@pytest.mark.parametrize(
    ("algorithm", "values", "takes_the_best"),
    [("pqn", False, True), ("mine:Own", True, True), ("mine:Own", False, False)],
)
def test_an_agent_of_values_takes_the_best(
    tmp_path: Path, algorithm: str, values: bool, takes_the_best: bool
) -> None:
    """Of galamp's own by its name, as older checkpoints have it; of the user's by what it says."""
    known = dataclasses.replace(VALUES, algorithm=algorithm, outputs_are_values=values)
    saved(tmp_path, known, 1)
    agent = load(tmp_path)
    seen = SEEN.reshape(-1, 4)
    drawn, best = agent.act(seen), agent.act(seen, greedy=True)
    assert np.array_equal(drawn, best) == takes_the_best
    assert isinstance(agent.identity.actions, DiscreteActions)
