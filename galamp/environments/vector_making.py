"""Making of vector environments: many at once, by a user's factory or by `gymnasium.make_vec`.

    name --making.find--> factory(num_envs=B, ...) or make_vec(id, num_envs=B, ...) --> VectorEnv

Runs in simulator processes and in the probe.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from galamp.core import keywords
from galamp.core.config import EnvironmentConfig
from galamp.core.errors import UserError
from galamp.environments.envpool import is_of_envpool, of_envpool
from galamp.environments.making import (
    OWN_OF_MAKE,
    Factory,
    check_space,
    creator_of,
    find,
    load_wrappers,
    refuse_lacking,
    refuse_unknown,
    refuse_window,
    wrapped,
)

OWN_OF_MAKE_VEC = (*OWN_OF_MAKE, "vectorization_mode", "vector_kwargs")
"""Arguments that `gymnasium.make_vec` and `gymnasium.make` take themselves."""

LISTS, ARRAYS = (
    ("gymnasium.vector.sync_vector_env", "gymnasium.vector.async_vector_env"),
    ("ale_py.vector_env",),
)
"""Modules of vector environments whose `reset` takes a seed per environment: as list, as array."""


def make_vector(
    env_id: str, config: EnvironmentConfig, seeds: Sequence[int], threads: int
) -> VectorEnv[Any, Any, Any]:
    """Return the vector environment of so many seeds, in its wrappers.

    A factory is called with `num_envs`; with `seed` and `num_threads` where it has arguments of
    these names; and with those of --env-kwargs.

    Raises:
        UserError: there is none, or it cannot be used.
    """
    found, arguments = find(env_id), keywords.values(config.env_kwargs)
    refuse_window(arguments)
    wrappers = load_wrappers(config.wrapper)
    if callable(found):
        made = _by_factory(env_id, config, found, arguments, seeds, threads)
    else:
        made = _by_id(env_id, config, found, arguments, len(seeds))
    vector = wrapped(wrappers, _checked(env_id, made), VectorEnv)
    return _of_size(env_id, _checked(env_id, vector), len(seeds))


def reset_seed(vector: VectorEnv[Any, Any, Any], seeds: list[int]) -> Any:
    """Return seeds as the `reset` of a vector environment takes them.

    Gymnasium promises one number for all; only of some it is known that they take one for each.
    """
    modules = {kind.__module__ for kind in type(vector.unwrapped).__mro__}
    if modules & set(LISTS):
        return list(seeds)
    if modules & set(ARRAYS):
        return np.asarray(seeds, np.int64)
    return None if is_of_envpool(vector.unwrapped) else seeds[0]


def _by_factory(
    env_id: str,
    config: EnvironmentConfig,
    factory: Factory,
    arguments: Mapping[str, Any],
    seeds: Sequence[int],
    threads: int,
) -> Any:
    if config.max_episode_steps is not None:
        raise UserError(
            f"--max-episode-steps: {env_id} makes a vector environment, which cuts its episodes "
            "itself: leave it out, or give the limit to the factory (--env-kwargs)"
        )
    takes = _parameters(factory)
    is_envpool = is_of_envpool(factory)
    if takes is not None and "num_envs" not in takes:
        raise UserError(
            f"{env_id}: --vector expects a function with the argument num_envs, that returns so "
            "many environments as one gymnasium.vector.VectorEnv"
        )
    ours: dict[str, Any] = {"num_envs": len(seeds)}
    for name, value in {
        "seed": list(seeds) if is_envpool else seeds[0],
        "num_threads": threads,
    }.items():
        if is_envpool or name in (takes or ()):
            ours[name] = value
    _refuse_ours(arguments, {"num_envs": "--num-envs", "seed": "--seed"}, ours)
    refuse_unknown(env_id, factory, arguments)
    refuse_lacking(env_id, factory, ours | dict(arguments))
    return of_envpool(factory(**ours | dict(arguments)))


def _by_id(
    env_id: str, config: EnvironmentConfig, name: str, arguments: Mapping[str, Any], count: int
) -> Any:
    """Return the vector environment that is registered as `name`, or copies of a single one."""
    spec = gymnasium.registry[name]
    _refuse_ours(arguments, {"num_envs": "--num-envs"}, {"num_envs": count})
    more = dict(arguments)
    if config.max_episode_steps is not None:
        own = more.get("max_episode_steps", spec.max_episode_steps)
        limits = [config.max_episode_steps, *([own] if own else [])]
        more["max_episode_steps"] = min(limits)
    by_copies = spec.vector_entry_point is None or "vectorization_mode" in arguments
    if arguments:
        point = spec.entry_point if by_copies else spec.vector_entry_point
        refuse_unknown(env_id, creator_of(point), arguments, OWN_OF_MAKE_VEC)
    if by_copies:
        more["disable_env_checker"] = True
    try:
        return gymnasium.make_vec(name, num_envs=count, **more)
    except gymnasium.error.Error as error:
        raise UserError(f"{env_id}: {' '.join(str(error).split())}") from error


def _refuse_ours(
    arguments: Mapping[str, Any], flags: Mapping[str, str], ours: Mapping[str, Any]
) -> None:
    """Raise UserError for an argument that galamp gives itself."""
    for name, flag in flags.items():
        if name in arguments and name in ours:
            raise UserError(
                f"--env-kwargs {name}: every simulator is given its own, by {flag}: leave it out"
            )


def _parameters(factory: Factory) -> set[str] | None:
    """Return the names of a factory's arguments; None if it takes any, or there is no telling."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return None
    return {each.name for each in parameters}


def _checked(env_id: str, vector: Any) -> VectorEnv[Any, Any, Any]:
    """Return `vector`, if it is a vector environment of Gymnasium's kind.

    Raises:
        UserError: it is not.
    """
    if not isinstance(vector, VectorEnv):
        instead = "leave out --vector" if isinstance(vector, gymnasium.Env) else "return one"
        raise UserError(
            f"{env_id}: --vector expects a gymnasium.vector.VectorEnv, the function returned "
            f"{type(vector).__name__}: {instead}"
        )
    check_space(env_id, vector, "single_observation_space")
    check_space(env_id, vector, "single_action_space")
    return vector


def _of_size(env_id: str, vector: VectorEnv[Any, Any, Any], count: int) -> VectorEnv[Any, Any, Any]:
    has = getattr(vector, "num_envs", None)
    if has != count:
        raise UserError(
            f"{env_id}: asked for num_envs={count} environments, the factory made {has}: make as "
            "many as it is asked for"
        )
    return vector
