"""Every setting of a run, written once: default, unit, range, and one line of meaning.

Frozen dataclasses, one per component; a component receives only its own section. The command line
(`cli.py`) is generated from the fields, and `config.json` in a run folder is their JSON form. No
other galamp module but `errors` is imported here, so every process can afford it.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from galamp.errors import UserError, did_you_mean

MOST_CHARACTERS_SHOWN = 60

AUTO = 0
"""Stands for "choose for me" where a count is expected (`auto` on the command line)."""


@dataclass(frozen=True)
class Option:
    """What is known of one setting besides its type and default."""

    help: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    registry: str = ""
    names: tuple[str, ...] = ()
    auto: bool = False

    @property
    def choices(self) -> tuple[str, ...]:
        """The names that are allowed; empty where any value in range is."""
        if not self.registry:
            return self.names
        module, _, table = self.registry.partition(":")
        return (*self.names, *getattr(importlib.import_module(module), table))


def option(
    default: Any,
    help: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    registry: str = "",
    names: tuple[str, ...] = (),
    auto: bool = False,
) -> Any:
    """Declare a setting: a dataclass field that carries its `Option`.

    `low` and `high` are inclusive; `names` and the keys of `registry` (`module:TABLE`, looked up
    when asked for) are the choices; `auto` allows the word `auto` (stored as `AUTO`).
    """
    known = Option(help, unit, low, high, registry, names, auto)
    return field(default=default, metadata={"option": known})


@dataclass(frozen=True)
class EnvironmentConfig:
    """Which environment, and under which evaluation protocol."""

    env_id: str = option(
        "ALE/Breakout-v5",
        "environment: an Atari game, a Gymnasium id, or package.module:factory",
    )
    num_envs: int = option(16, "simulators per learner", low=1, high=4096)
    protocol: str = option(
        "classic",
        "Atari protocol that the settings below start from",
        registry="galamp.environments.protocols:PROTOCOLS",
    )
    sticky_actions: float | None = option(
        None, "probability that the emulator repeats the last action", low=0.0, high=0.99
    )
    noop_max: int | None = option(
        None, "most no-op frames at the start of an episode", unit="frames", low=0, high=1000
    )
    frame_skip: int | None = option(
        None, "emulator frames per agent step", unit="frames", low=1, high=60
    )
    frame_stack: int | None = option(
        None, "observations that the agent sees at once", unit="frames", low=1, high=16
    )
    max_frames: int | None = option(
        None, "an episode is cut after so many emulator frames", unit="frames", low=1
    )
    full_action_space: bool | None = option(None, "offer all 18 actions in every game")
    life_loss_ends: bool | None = option(None, "a lost life ends the return for training")
    clip_rewards: bool | None = option(
        None, "train on rewards clipped to [-1, 1]; scores are never clipped"
    )


@dataclass(frozen=True)
class AlgorithmConfig:
    """A2C as the GALA paper runs it (Assran et al. 2019, appendix)."""

    algorithm: str = option("a2c", "learning algorithm", registry="galamp.algorithms:ALGORITHMS")
    num_steps: int = option(
        5, "rollout length T between two updates", unit="agent steps", low=1, high=4096
    )
    learning_rate: float | None = option(
        None, "step size (default: 7e-4 times the square root of --learners)", low=0.0, high=10.0
    )
    gamma: float = option(0.99, "discount factor", low=0.0, high=1.0)
    ent_coef: float = option(0.01, "weight of the entropy bonus", low=0.0, high=100.0)
    vf_coef: float = option(0.5, "weight of the value loss", low=0.0, high=100.0)
    max_grad_norm: float = option(0.5, "gradients are clipped to this L2 norm", low=0.0)
    rmsprop_alpha: float = option(0.99, "RMSprop smoothing constant", low=0.0, high=1.0)
    rmsprop_eps: float = option(1e-5, "RMSprop term in the denominator", low=0.0, high=1.0)
    rmsprop_initial: float = option(
        1.0,
        "mean square that RMSprop starts from; from 0, PyTorch's, the first steps are ten times "
        "as large and can leave the network dead",
        low=0.0,
        high=1e6,
    )


@dataclass(frozen=True)
class ModelConfig:
    """The actor-critic network."""

    network: str = option(
        "auto",
        "network: the paper's (gala), Nature's (nature) or a perceptron (mlp); "
        "auto takes gala for images, mlp for vectors",
        names=("auto", "gala", "nature", "mlp"),
    )


@dataclass(frozen=True)
class GossipConfig:
    """Who exchanges parameters with whom, and how far apart learners may run."""

    topology: str = option("ring", "gossip graph", registry="galamp.gossip.topologies:TOPOLOGIES")
    sync: bool = option(False, "lock-step rounds: repeatable, but everyone waits for the slowest")
    max_staleness: int = option(
        8, "a learner waits once it has gone so many rounds without mixing", unit="rounds", low=1
    )


@dataclass(frozen=True)
class ResourceConfig:
    """Processes, cores and devices."""

    learners: int = option(AUTO, "actor-learners", low=1, high=1024, auto=True)
    device: str = option("auto", "where learners compute: auto, cpu, cuda, or a list cuda:0,cuda:1")
    simulator_workers: int = option(
        AUTO, "simulator processes per learner", low=1, high=256, auto=True
    )
    batches: int = option(
        AUTO,
        "parts of a learner's simulators that take turns: one is simulated, another inferred",
        low=1,
        high=16,
        auto=True,
    )
    threads: int = option(AUTO, "compute threads per learner", low=1, high=256, auto=True)
    pin: bool = option(True, "bind each learner and its simulators to their own CPU cores")
    hang_after_s: float = option(
        30.0, "a process without progress for so long is taken to hang", unit="s", low=1.0
    )


@dataclass(frozen=True)
class ReportConfig:
    """What is written down, and how often."""

    name: str = option("", "label in the run folder's name (default: the topology)")
    run_dir: str = option("", "run folder (default: runs/<env>__<name>__s<seed>__<time>)")
    log_every_s: float = option(2.0, "interval between rows of metrics.jsonl", unit="s", low=0.05)
    checkpoint_every_s: float = option(60.0, "interval between checkpoints", unit="s", low=0.5)
    quiet: bool = option(False, "show nothing while running")
    json: bool = option(False, "print the summary as JSON on standard output at the end")
    keep_checkpoints: int = option(
        3, "newest checkpoints to keep besides the best", low=2, high=1000
    )


@dataclass(frozen=True)
class RunConfig:
    """One training run."""

    seed: int = option(1, "seed of everything random", low=0, high=2**31 - 1)
    total_steps: int = option(
        10_000_000, "length of the run over all learners", unit="agent steps", low=1
    )
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    gossip: GossipConfig = field(default_factory=GossipConfig)
    resources: ResourceConfig = field(default_factory=ResourceConfig)
    report: ReportConfig = field(default_factory=ReportConfig)


@dataclass(frozen=True)
class Setting:
    """One leaf of a config: where it lives, its type, and its `Option`."""

    section: str
    name: str
    kind: type
    optional: bool
    default: Any
    option: Option

    @property
    def flag(self) -> str:
        """The long option on the command line."""
        return "--" + self.name.replace("_", "-")


def settings(config: type = RunConfig, section: str = "") -> Iterator[Setting]:
    """Yield every leaf setting of `config`, sections in order of declaration."""
    hints = typing.get_type_hints(config)
    for leaf in dataclasses.fields(config):
        hint = hints[leaf.name]
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            yield from settings(hint, leaf.name)
            continue
        optional = isinstance(hint, types.UnionType)
        kind = (
            next(k for k in typing.get_args(hint) if k is not types.NoneType) if optional else hint
        )
        yield Setting(section, leaf.name, kind, optional, leaf.default, leaf.metadata["option"])


def check(setting: Setting, value: Any) -> Any:
    """Return `value` in the setting's type.

    Raises:
        UserError: the value has the wrong type or lies outside the range or choices.
    """
    known = setting.option
    if value is None and setting.optional:
        return None
    if known.auto and (value == "auto" or (type(value) is int and value == AUTO)):
        return AUTO
    value = _convert(setting, value)
    if known.choices and value not in known.choices:
        raise UserError(
            f"{setting.flag} {_shown(value)}: expected one of {', '.join(known.choices)}"
            f"{did_you_mean(str(value), known.choices)}"
        )
    low, high = known.low, known.high
    if (low is not None and value < low) or (high is not None and value > high):
        raise UserError(f"{setting.flag} {_shown(value)}: expected {allowed(setting)}")
    return value


def _convert(setting: Setting, value: Any) -> Any:
    wrong = UserError(f"{setting.flag} {_shown(value)}: expected {allowed(setting)}")
    if setting.kind is bool or isinstance(value, bool):
        if setting.kind is bool and isinstance(value, bool):
            return value
        raise wrong
    if setting.kind is str:
        if isinstance(value, str):
            return value
        raise wrong
    try:
        return _whole(str(value)) if setting.kind is int else _finite(str(value))
    except ValueError:
        raise wrong from None


def _whole(text: str) -> int:
    """Return a whole number; `1e6` and `2.0` are such."""
    try:
        return int(text)
    except ValueError:
        number = _finite(text)
        if not number.is_integer():
            raise
        return int(number)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _shown(value: Any) -> str:
    """Return what came in a form that fits into one line."""
    try:
        text = str(value)
    except ValueError:  # a whole number of thousands of digits
        return "a huge number"
    if len(text) > MOST_CHARACTERS_SHOWN:
        text = text[:MOST_CHARACTERS_SHOWN] + "..."
    return text if text.isprintable() and text.strip() else repr(text)


def allowed(setting: Setting) -> str:
    """Say in words what a setting accepts, such as `a whole number from 1 to 4096`."""
    known = setting.option
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[
        setting.kind
    ]
    low, high = known.low, known.high
    if low is not None and high is not None:
        words += f" from {_exact(low)} to {_exact(high)}"
    elif low is not None:
        words += f" of at least {_exact(low)}"
    if known.unit:
        words += f" ({known.unit})"
    return words + (" or auto" if known.auto else "")


def _exact(limit: float) -> str:
    return str(limit) if isinstance(limit, int) else f"{limit:g}"


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Return the JSON form of a config: nested plain dictionaries."""
    return dataclasses.asdict(config)


def from_dict(values: dict[str, Any]) -> RunConfig:
    """Build a config from its JSON form; what is missing takes its default.

    Raises:
        UserError: an unknown section or setting, or a value out of range.
    """
    known = {(setting.section, setting.name): setting for setting in settings()}
    flat: dict[tuple[str, str], Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update({(key, name): leaf for name, leaf in value.items()})
        else:
            flat[("", key)] = value
    for section, name in flat:
        if (section, name) not in known:
            full = f"{section}.{name}" if section else name
            names = (f"{s}.{n}" if s else n for s, n in known)
            raise UserError(f"unknown setting {_shown(full)}{did_you_mean(full, names)}")
    return from_settings({key: check(known[key], value) for key, value in flat.items()})


def from_settings(values: dict[tuple[str, str], Any]) -> RunConfig:
    """Build a config from checked values keyed by (section, name)."""
    sections: dict[str, dict[str, Any]] = {}
    for (section, name), value in values.items():
        sections.setdefault(section, {})[name] = value
    top = sections.pop("", {})
    kinds = typing.get_type_hints(RunConfig)
    return RunConfig(**top, **{name: kinds[name](**leaves) for name, leaves in sections.items()})
