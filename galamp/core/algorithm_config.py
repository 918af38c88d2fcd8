"""The settings of learning algorithms: what all have, and how those of one are found by its name.

    name --algorithm_config--> galamp.algorithms.config_class --> its AlgorithmConfig at default

No torch here: the command line asks while it is parsed.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from galamp.core.errors import UserError
from galamp.core.settings import CLASS, check, option, settings

ALGORITHMS = "galamp.algorithms"
"""Where algorithms are looked up by name."""


def algorithm_option(name: str) -> Any:
    """Declare the setting that names the algorithm, with the name of the one whose config it is."""
    return option(
        name,
        "learning algorithm, or package.module:Class for one of yours; it has its own settings, "
        "see --help beside its name",
        registry=f"{ALGORITHMS}:ALGORITHMS",
        user_code=CLASS,
    )


def lr_schedule_option(default: str) -> Any:
    """Declare the setting that names the schedule of the learning rate, see `lr_factor`."""
    return option(
        default,
        "learning rate over the run, by the agent steps of all learners: constant, or falling to "
        "zero at --total-steps, by a line (linear) or half a cosine (cosine)",
        names=("constant", "linear", "cosine"),
    )


def max_grad_norm_option(default: float) -> Any:
    """Declare the setting of gradient clipping; to 0, every gradient would be 0."""
    return option(default, "gradients are clipped to this L2 norm", low=1e-9)


def lr_in_words(config: AlgorithmConfig, digits: int = 3) -> str:
    """Return the learning rate that a run begins with, and how it falls, as text."""
    schedule = getattr(config, "lr_schedule", "constant")  # one of the user's may have none
    falls = "" if schedule == "constant" else f", falling to 0 ({schedule})"
    return f"{config.learning_rate:.{digits}g}{falls}"


def lr_factor(schedule: str, progress: float) -> float:
    """Return the factor of the learning rate where `progress`, from 0 to 1, of a run is over."""
    if schedule == "linear":
        return 1.0 - progress
    return (1.0 + math.cos(math.pi * progress)) / 2.0 if schedule == "cosine" else 1.0


@dataclass(frozen=True)
class AlgorithmConfig:
    """Settings of every learning algorithm; a subclass has those of one besides, see `algorithms`.

    A field of the same name in a subclass takes the place of one here: another default or meaning.
    """

    gauges: ClassVar[Mapping[str, str]] = {"grad_norm": "L2 norm of the gradient before clipping"}
    """What an update measures: name of the metric -> one line of meaning. All have `grad_norm`."""

    outputs_are_values: ClassVar[bool] = False
    """Whether the network's outputs are values of actions, of which an agent takes the best.

    `--network auto` then takes one with layer normalisation where there is one.
    """

    corrects_lag: ClassVar[bool] = False
    """Whether an update corrects for a policy that acted and is not the one that learns.

    It then uses `Rollout.log_probs` for that, and draws no random numbers: `--pipeline` is for such
    algorithms.
    """

    algorithm: str = algorithm_option("a2c")
    num_steps: int = option(
        5, "rollout length T between two updates", unit="agent steps", low=1, high=4096
    )
    learning_rate: float | None = option(
        None, "step size (default: the algorithm's own, by --learners)", low=0.0, high=10.0
    )
    gamma: float = option(0.99, "discount factor", low=0.0, high=1.0)
    precision: str = option(
        "float32",
        "numbers that the network computes with; weights, gradients and gossip stay float32. bf16 "
        "is for GPUs, and for CPUs that have it (avx512_bf16): on others it is slower",
        names=("float32", "bf16"),
    )

    pipeline: bool = option(
        False,
        "act for the next rollout while the last one is learned from: actions are those of the "
        "policy before the last update, which the algorithm has to correct for (vtrace does). For "
        "learners whose cores, or GPU, are idle meanwhile; slower where all cores are busy",
    )

    def misfit(self, method: str) -> str:
        """Return why the settings do not go with a `--method`; empty: they do."""
        del method
        return ""

    @classmethod
    def default_learning_rate(cls, learners: int) -> float:
        """Return the step size of each of so many learners; every algorithm has its own rule."""
        raise NotImplementedError(f"{cls.__name__} has no default learning rate")


def algorithm_config(name: str = "a2c", asked: str | None = None) -> AlgorithmConfig:
    """Return the default settings of the algorithm `name`.

    Where `asked` is given, no module of the user's is imported but that of the algorithm `asked`:
    for others what every algorithm has stands in.

    Raises:
        UserError: there is no such algorithm, or it cannot be used.
    """
    if asked is not None and ":" in name and name != asked:
        return AlgorithmConfig(name)
    # Looked up when asked for, as registries are: nothing below may import what is above.
    kind = importlib.import_module(ALGORITHMS).config_class(name)
    return kind(name)  # type: ignore[no-any-return]


def algorithm_in(values: dict[str, Any], asked: str) -> AlgorithmConfig:
    """Return the default settings of the algorithm that a JSON form names.

    A name that can be none is refused when it is checked, with the others.
    """
    section = values.get("algorithm")
    name = section.get("algorithm") if isinstance(section, dict) else None
    setting = next(s for s in settings(AlgorithmConfig) if s.name == "algorithm")
    try:
        return algorithm_config(check(setting, name), asked)
    except UserError:
        if name == asked:
            raise
        return algorithm_config()
