"""Whole games played by an agent, and the statistics of their scores.

    Environment --observations--> act --actions--> Environment; finished games --> Score

Runs in evaluation. Numpy only: the caller provides the policy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galamp.environments.base import Environment, EpisodeCounter
from galamp.environments.failures import failures_reported
from galamp.tools.evaluation.references import Reference

Act = Callable[[NDArray[Any], NDArray[np.bool_], NDArray[np.int64]], NDArray[Any]]
"""Observations `[b, ...]`, whether they are the first of their episode `[b]`, and of which
environments `[b]`, to a policy's actions `[b, ...]`."""


@dataclass(frozen=True)
class Game:
    """A whole game: its true return, its length in agent steps, whether a limit cut it short."""

    ret: float
    length: int
    truncated: bool


@dataclass(frozen=True)
class Score:
    """Statistics of a number of games; None where undefined.

    Attributes:
        mean: mean true return.
        standard_error: of the mean: `std` over the square root of the number of games.
        std: sample standard deviation, with n - 1 in the denominator.
        mean_length: in agent steps.
        truncated: games that a limit cut short.
        human_normalised_percent: 100 (mean - random) / (human - random).
    """

    episodes: int
    mean: float | None
    median: float | None
    standard_error: float | None
    std: float | None
    min: float | None
    max: float | None
    mean_length: float | None
    truncated: int
    human_normalised_percent: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return dataclasses.asdict(self)


def quotas(episodes: int, num_envs: int) -> NDArray[np.int64]:
    """Return how many games each environment plays, `[num_envs]`: they differ by one at most."""
    envs = np.arange(num_envs)
    return (episodes // num_envs + (envs < episodes % num_envs)).astype(np.int64)


def play(
    environment: Environment,
    act: Act,
    episodes: int,
    on_game: Callable[[Game], None],
    stepped: Callable[[int], None] = lambda envs: None,
) -> list[Game]:
    """Play `episodes` whole games and return them, environment by environment.

    Each environment plays a fixed number of games, and finished ones wait for the others. Taking
    the first games that finish in any environment would prefer short ones: one with a long game
    finishes none while its neighbours finish several, and in most games short means a low score.

    Args:
        environment: B environments with `life_loss_ends` off, so that games are whole.
        act: chooses the actions of those that still play.
        episodes: number of games over all environments.
        on_game: called with each finished game.
        stepped: called after each agent step with the number of environments that play.

    Raises:
        GalampError: the environment raised an error.
    """
    left = quotas(episodes, environment.num_envs)
    games: list[list[Game]] = [[] for _ in left]
    counter = EpisodeCounter(environment.num_envs)
    env_id = environment.spec.env_id
    with failures_reported(env_id):
        observations = environment.reset()
    cut, first = (np.zeros(environment.num_envs, np.bool_) for _ in range(2))
    first[:] = True
    while (playing := left > 0).any():
        actions = environment.spec.actions.zeros(environment.num_envs)
        envs = np.flatnonzero(playing)
        seen = observations if len(envs) == len(playing) else observations[envs]
        actions[envs] = act(seen, first[envs], envs)
        with failures_reported(env_id):
            step = environment.step(actions)
        # The counter returns an episode one step after the step that ended it, or with that step.
        before, cut = cut, step.truncated & ~step.terminated
        told = before if step.ended is None else cut
        for episode in counter.update(step):
            if playing[episode.env_index]:
                game = Game(episode.ret, episode.length, bool(told[episode.env_index]))
                games[episode.env_index].append(game)
                left[episode.env_index] -= 1
                on_game(game)
        observations, first = step.observations, step.begins
        stepped(int(playing.sum()))
    return [game for env_index in games for game in env_index]


def score(games: Sequence[Game], reference: Reference | None) -> Score:
    """Return the statistics of one game or more."""
    returns = np.array([game.ret for game in games], np.float64)
    mean, count = float(returns.mean()), len(games)
    std = float(returns.std(ddof=1)) if count > 1 else float("nan")
    normalised = reference.human_normalised(mean) if reference else float("nan")
    return Score(
        episodes=count,
        mean=_finite(mean),
        median=_finite(float(np.median(returns))),
        standard_error=_finite(std / count**0.5),
        std=_finite(std),
        min=_finite(float(returns.min())),
        max=_finite(float(returns.max())),
        mean_length=_finite(float(np.mean([game.length for game in games]))),
        truncated=sum(game.truncated for game in games),
        human_normalised_percent=_finite(normalised),
    )


def _finite(value: float) -> float | None:
    """Return None for a value that JSON cannot express."""
    return value if np.isfinite(value) else None
