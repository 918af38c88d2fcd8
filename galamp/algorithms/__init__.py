"""Learning algorithms by name, each loaded when asked for. Pure PyTorch; runs in learners.

    --algorithm a2c ----------------> ALGORITHMS --config_class--> A2CConfig    no torch yet
    --algorithm package.module:Class --> the class itself        --> its `config_class`
    config --make_algorithm--> the algorithm                                    in a learner

Importing this package loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

from galamp.core import user_code
from galamp.core.algorithm_config import AlgorithmConfig
from galamp.core.config import RunConfig
from galamp.core.errors import UserError, did_you_mean
from galamp.core.settings import CLASS, settings

if TYPE_CHECKING:
    import torch
    from torch import nn

    from galamp.algorithms.base import Algorithm
    from galamp.core.action_spec import ActionSpec


class Row(NamedTuple):
    """Where an algorithm of galamp's own is, as "module:Class" twice.

    The settings are read before anything starts, so the first module must not import torch.
    """

    config: str
    algorithm: str


ALGORITHMS = {
    "a2c": Row("galamp.algorithms.a2c_config:A2CConfig", "galamp.algorithms.a2c:A2C"),
    "vtrace": Row(
        "galamp.algorithms.vtrace_config:VTraceConfig", "galamp.algorithms.vtrace:VTrace"
    ),
    "ppo": Row("galamp.algorithms.ppo_config:PPOConfig", "galamp.algorithms.ppo:PPO"),
    "pqn": Row("galamp.algorithms.pqn_config:PQNConfig", "galamp.algorithms.pqn:PQN"),
}
"""Name -> where its settings are and where the class is, which takes what `make_algorithm` does."""


def config_class(name: str) -> type[AlgorithmConfig]:
    """Return the class of the settings of the algorithm `name`; a module of the user's is imported.

    Raises:
        UserError: there is no such algorithm, or its settings cannot be used.
    """
    if ":" not in name:
        found: type[AlgorithmConfig] = _look_up(_row(name).config)
        return found
    kind = getattr(_users(name), "config_class", None)
    if not (isinstance(kind, type) and issubclass(kind, AlgorithmConfig)):
        raise UserError(
            f"--algorithm {name}: expected a class of algorithms with its settings as "
            "config_class, a subclass of galamp.core.algorithm_config.AlgorithmConfig; give it one"
        )
    _check_settings(name, kind)
    return kind


def gives_values(name: str) -> bool:
    """Whether an algorithm of galamp's own trains a network to give values of actions."""
    return name in ALGORITHMS and config_class(name).outputs_are_values


def own_settings(kind: type[AlgorithmConfig]) -> list[str]:
    """Return the names of the settings that one kind of algorithm has besides everyone's."""
    shared = {setting.name for setting in settings(AlgorithmConfig)}
    return [setting.name for setting in settings(kind) if setting.name not in shared]


def flags_of_others(name: str) -> dict[str, str]:
    """Return the flags that others have and `name` has not: flag -> the first such algorithm."""
    mine = {setting.flag for setting in settings(config_class(name))}
    return {
        setting.flag: other
        for other in reversed(ALGORITHMS)
        for setting in settings(config_class(other))
        if setting.flag not in mine
    }


def check_lag(algorithm: AlgorithmConfig) -> None:
    """Check that an algorithm corrects for a policy that acts ahead of learning, if one does.

    Raises:
        UserError: it does not.
    """
    if algorithm.pipeline and not algorithm.corrects_lag:
        others = " or ".join(name for name in ALGORITHMS if config_class(name).corrects_lag)
        raise UserError(
            f"--pipeline: acting would be an update behind learning, and --algorithm "
            f"{algorithm.algorithm} assumes that the policy that acted is the one that learns; "
            f"leave it out, or take --algorithm {others}, which corrects for that"
        )


def make_algorithm(
    config: AlgorithmConfig,
    model: nn.Module,
    *,
    actions: ActionSpec,
    device: torch.device | str,
    seed: int,
) -> Algorithm:
    """Make the algorithm that `config` names, which moves `model` to `device` and trains it.

    Args:
        config: settings with the learning rate resolved.
        model: network to train; its parameters become views of one flat vector.
        actions: the environment's actions; an algorithm refuses those that it cannot learn.
        device: where the algorithm computes.
        seed: seed of action sampling.

    Raises:
        ValueError: the learning rate is still None.
        UserError: an unknown algorithm, or one that is not for such actions.
    """
    if config.learning_rate is None:
        raise ValueError("learning_rate is None: resolve it before making an algorithm")
    name = config.algorithm
    kind = _users(name) if ":" in name else _look_up(_row(name).algorithm)
    algorithm: Algorithm = kind(config, model, actions=actions, device=device, seed=seed)
    return algorithm


def _row(name: str) -> Row:
    if name not in ALGORITHMS:
        raise UserError(
            f"--algorithm {name}: expected one of {', '.join(ALGORITHMS)}, or {CLASS} for "
            f"one of yours{did_you_mean(name, ALGORITHMS)}"
        )
    return ALGORITHMS[name]


def _look_up(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _users(name: str) -> Any:
    """Return a class of the user's.

    Raises:
        UserError: there is no such module or class, or importing it fails.
    """
    return user_code.load(f"--algorithm {name}", name, CLASS, user_code.is_class, noun="class")


def _check_settings(name: str, kind: type[AlgorithmConfig]) -> None:
    """Raise UserError for settings of the user's that no run could have."""
    taken = {setting.name for setting in settings(RunConfig) if setting.section != "algorithm"}
    try:
        own = own_settings(kind)
        kind(name)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"--algorithm {name}: expected every field of {kind.__name__} to be declared by "
            f"galamp.core.settings.option in a frozen dataclass ({error}); declare it so"
        ) from None
    for setting in own:
        if setting in taken:
            raise UserError(
                f"--algorithm {name}: its setting {setting} has the name of one that every run "
                "has; give it another"
            )
    if "grad_norm" not in kind.gauges:
        raise UserError(f"--algorithm {name}: {kind.__name__}.gauges lacks grad_norm; add it")
