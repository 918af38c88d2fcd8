"""Seeds of the spaces that environments sample from; Gymnasium seeds them from the clock.

    wrapper --> wrapper --> environment: each level's spaces, the innermost first --seed

Runs in simulator processes and in the probe, once an environment is made. A wrapper may have other
spaces than what it wraps, and the environment inside samples from its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium
from gymnasium.vector import VectorEnv, VectorWrapper

SPACES = ("observation_space", "action_space")
VECTOR_SPACES = (*SPACES, "single_observation_space", "single_action_space")


def seed_spaces(env: gymnasium.Env[Any, Any], seed: int) -> None:
    """Seed the spaces of an environment and of all that it wraps."""
    _seed(_levels(env), SPACES, seed)


def seed_vector_spaces(vector: VectorEnv[Any, Any, Any], seeds: Sequence[int]) -> None:
    """Seed a vector environment's own spaces by the first seed, and its environments' by theirs.

    Only environments in this process can be reached, by the attribute `envs`, as of
    `SyncVectorEnv`; those of `AsyncVectorEnv` cannot.
    """
    _seed(_levels(vector), VECTOR_SPACES, seeds[0])
    envs = getattr(vector.unwrapped, "envs", None)
    if not isinstance(envs, list | tuple):
        return
    for env, seed in zip(envs, seeds, strict=False):
        if isinstance(env, gymnasium.Env):
            seed_spaces(env, seed)


def _levels(env: Any) -> Iterator[Any]:
    """Yield an environment and what it wraps, the outermost first."""
    yield env
    while isinstance(env, gymnasium.Wrapper | VectorWrapper):
        env = env.env
        yield env


def _seed(levels: Iterator[Any], names: tuple[str, ...], seed: int) -> None:
    """Seed each level's spaces, the outermost last: it may hold inner ones, which it seeds, too."""
    spaces: dict[int, gymnasium.Space[Any]] = {}
    for level in levels:
        for name in names:
            space = getattr(level, name, None)
            if isinstance(space, gymnasium.Space):
                spaces.setdefault(id(space), space)
    for space in reversed(spaces.values()):
        space.seed(seed)
