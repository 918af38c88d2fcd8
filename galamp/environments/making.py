"""Making of Gymnasium environments: by id or by a user's factory, with arguments and wrappers.

    name --find--> factory or id --+ --env-kwargs--> env --+ --wrapper, ...--> env or VectorEnv

Runs in simulator processes and in the probe. What a user has written wrongly is told in one line.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import VectorEnv
from gymnasium.wrappers import TimeLimit

from galamp.core import keywords, user_code
from galamp.core.config import EnvironmentConfig
from galamp.core.errors import UserError, did_you_mean
from galamp.core.settings import CLASS
from galamp.environments.checks import PORTED, is_old_gym

NAMES = "package.module:factory or package:EnvId-v0"

Env = gymnasium.Env[Any, Any]
Factory = Callable[..., Any]
"""Builds an environment, or many; the result of a user's is not checked yet."""

OWN_OF_MAKE = ("max_episode_steps",)
"""Arguments that `gymnasium.make` takes itself."""

WINDOW = "human"
"""The render mode that shows every environment in a window."""


def how_made(config: EnvironmentConfig) -> str:
    """Return for a protocol how environments are made, each part after a comma."""
    parts = [f"with {text}" for text in config.env_kwargs]
    parts += [f"wrapped in {name}" for name in config.wrapper]
    return "".join(f", {part}" for part in [*(["vector"] if config.vector else []), *parts])


def maker(env_id: str, config: EnvironmentConfig, skip: int) -> Callable[[], Env]:
    """Return a function that builds one environment, with its arguments and wrappers.

    Its episodes are cut after `max_episode_steps` agent steps of `skip` frames, and by the
    environment's own limit.

    Raises:
        UserError: there is no such environment, argument or wrapper.
    """
    found, arguments = find(env_id), keywords.values(config.env_kwargs)
    refuse_window(arguments)
    if callable(found):
        refuse_unknown(env_id, found, arguments)
        refuse_lacking(env_id, found, arguments)
    elif arguments:
        creator = creator_of(gymnasium.registry[found].entry_point)
        refuse_unknown(env_id, creator, arguments, OWN_OF_MAKE)
    wrappers = load_wrappers(config.wrapper)

    def make() -> Env:
        made = found(**arguments) if callable(found) else _by_id(env_id, found, arguments)
        env = checked(env_id, wrapped(wrappers, checked(env_id, made), gymnasium.Env))
        if config.max_episode_steps is None:
            return env
        return TimeLimit(env, config.max_episode_steps * skip)

    return make


def find(env_id: str) -> Factory | str:
    """Return what builds one environment: a user's factory, or the id that is registered.

    `module:name` is a factory in that module if it exists, else an id that the import of the module
    has registered, as in Gymnasium.

    Raises:
        UserError: there is none.
    """
    module_name, colon, name = env_id.partition(":")
    if not colon:
        return env_id
    module = user_code.imported(env_id, module_name, NAMES)
    factory = user_code.attribute(module, name)
    if callable(factory):
        return factory  # type: ignore[no-any-return]
    if name in gymnasium.registry:
        return name
    user_code.refuse_namesake(env_id, module_name)
    if all(map(str.isidentifier, name.split("."))):
        near = did_you_mean(name, user_code.callables(module), cutoff=user_code.NEAR_ENOUGH)
        raise UserError(
            f"{env_id}: {module_name} has no function {name!r}{near}, and its import has not "
            "registered an environment of that name"
        )
    near = did_you_mean(name, gymnasium.registry, cutoff=user_code.NEAR_ENOUGH)
    raise UserError(f"{env_id}: importing {module_name} has registered no environment {name}{near}")


def load_wrappers(names: Iterable[str]) -> list[tuple[str, Factory]]:
    """Return the wrappers with their names, the innermost first.

    Raises:
        UserError: there is no such class, or it takes more than the environment.
    """
    expected = f"{CLASS} of a wrapper"
    loaded = []
    for name in names:
        wrap = user_code.load(f"--wrapper {name}", name, expected, noun="class")
        if lacking := _lacking(wrap, None):
            raise UserError(
                f"--wrapper {name}: {lacking}, and gets the environment alone: derive a class of "
                "your own that gives it the rest"
            )
        loaded.append((name, wrap))
    return loaded


def wrapped(wrappers: list[tuple[str, Factory]], env: Any, kind: type) -> Any:
    """Return an environment in its wrappers.

    Raises:
        UserError: one of them does not return a `kind`.
    """
    for name, wrap in wrappers:
        with user_code.mistakes_told(f"--wrapper {name}", gymnasium):
            env = wrap(env)
        if not isinstance(env, kind):
            raise UserError(
                f"--wrapper {name}: expected a class that makes one {kind.__name__} of another, it "
                f"returned {type(env).__name__}"
            )
    return env


def refuse_window(arguments: Mapping[str, Any]) -> None:
    """Raise UserError for a window in every simulator; other render modes show nothing."""
    if arguments.get("render_mode") == WINDOW:
        raise UserError(
            f"--env-kwargs render_mode={WINDOW}: would open a window for every environment: "
            "expected rgb_array, or leave it out"
        )


def refuse_unknown(
    env_id: str, creator: Factory | None, arguments: Mapping[str, Any], own: Iterable[str] = ()
) -> None:
    """Raise UserError for an argument that the environment does not take.

    Args:
        env_id: the environment, for the message.
        creator: what takes the arguments; None if unknown.
        arguments: those given.
        own: arguments that Gymnasium takes itself.
    """
    if creator is None:
        return
    try:
        parameters = inspect.signature(creator).parameters.values()
    except (TypeError, ValueError):  # such as classes written in C
        return
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    known = [each.name for each in parameters if each.kind in named]
    for name in arguments:
        if name not in (*known, *own):
            near = did_you_mean(name, known)
            takes = ", ".join(known)[:200] if known else "none at all"
            raise UserError(
                f"--env-kwargs {name}: {env_id} has no such argument{near}: it has {takes}"
            )


def refuse_lacking(env_id: str, factory: Factory, arguments: Mapping[str, Any]) -> None:
    """Raise UserError for a factory that needs more arguments than it would get."""
    if lacking := _lacking(factory, **arguments):
        raise UserError(f"{env_id}: {lacking}: give the factory what it needs by --env-kwargs")


def checked(env_id: str, env: Any) -> Env:
    """Return `env`, if it is a Gymnasium environment.

    Raises:
        UserError: it is not.
    """
    if isinstance(env, VectorEnv):
        raise UserError(
            f"{env_id}: expected a function that returns one gymnasium.Env, it returned "
            f"{type(env).__name__}, which is many: add --vector"
        )
    if not isinstance(env, gymnasium.Env):
        if is_old_gym(env):
            raise UserError(_old_gym(env_id))
        raise UserError(
            f"{env_id}: expected a function that returns a gymnasium.Env, "
            f"it returned {type(env).__name__}"
        )
    check_space(env_id, env, "observation_space")
    check_space(env_id, env, "action_space")
    return env


def check_space(env_id: str, env: Any, name: str) -> None:
    """Raise UserError unless the space of that name is one of Gymnasium's."""
    space = getattr(env, name, None)
    if space is None:
        raise UserError(f"{env_id}: the environment has no {name}: set it in its __init__")
    if not isinstance(space, gymnasium.Space):
        kind = f"{type(space).__module__}.{type(space).__name__}"
        raise UserError(f"{env_id}: {name} is a {kind}: expected one of gymnasium.spaces")


def _lacking(creator: Factory, *given: object, **arguments: object) -> str:
    """Return in words which argument a function lacks beside those given; empty: none."""
    try:
        inspect.signature(creator).bind(*given, **arguments)
    except TypeError as error:
        return str(error)
    except ValueError:  # it tells nothing
        pass
    return ""


def _by_id(env_id: str, name: str, arguments: Mapping[str, Any]) -> Any:
    """Return the environment that is registered as `name`."""
    try:
        return gymnasium.make(name, disable_env_checker=True, **arguments)
    except gymnasium.error.Error as error:
        raise UserError(f"{env_id}: {' '.join(str(error).split())}") from error
    except TypeError as error:
        if str(error).startswith("Gym is incompatible with Gymnasium"):
            raise UserError(_old_gym(env_id)) from error
        raise


def creator_of(point: Factory | str | None) -> Factory | None:
    """Return what a registered entry point stands for."""
    return load_env_creator(point) if isinstance(point, str) else point


def _old_gym(env_id: str) -> str:
    return f"{env_id}: the environment is one of the old Gym API (package gym): {PORTED}"
