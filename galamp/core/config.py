"""Every setting of a run, written once: default, unit, range, and one line of meaning.

Frozen dataclasses, one per component; a component receives only its own section. The command line
(`cli/run.py`) is generated from the fields, and `config.json` in a run folder is their JSON form.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from typing import Any

from galamp.core.algorithm_config import AlgorithmConfig, algorithm_config, algorithm_in
from galamp.core.cluster_config import ClusterConfig
from galamp.core.environment_config import ACTION_BOUNDS as ACTION_BOUNDS
from galamp.core.environment_config import CLIP as CLIP
from galamp.core.environment_config import MAX_CHANNELS as MAX_CHANNELS
from galamp.core.environment_config import SQUASH as SQUASH
from galamp.core.environment_config import EnvironmentConfig as EnvironmentConfig
from galamp.core.errors import UserError, did_you_mean
from galamp.core.eval_config import EvalConfig
from galamp.core.gossip_config import GossipConfig as GossipConfig
from galamp.core.older_configs import up_to_date
from galamp.core.settings import (
    AUTO,
    CLASS,
    FACTORY,
    Setting,
    check,
    option,
    settings,
    shown,
)
from galamp.core.stop_config import StopConfig


@dataclass(frozen=True)
class ModelConfig:
    """The actor-critic network."""

    network: str = option(
        "auto",
        "network: the paper's (gala), Nature's (nature), MinAtar's for small images (minatar), a "
        "perceptron (mlp), or one of your own, package.module:factory; auto takes gala for images "
        "from 36 x 36 pixels, minatar for smaller ones, mlp for all else; for pqn "
        "nature-layernorm, minatar-layernorm and mlp-layernorm",
        registry="galamp.algorithms.networks:NETWORKS",
        names=("auto",),
        user_code=FACTORY,
    )


@dataclass(frozen=True)
class ResourceConfig:
    """Processes, cores and devices."""

    learners: int = option(
        AUTO,
        "actor-learners; auto tries which number is quickest here, once (default: one per core, at "
        "most 8; on GPUs one each)",
        low=1,
        high=1024,
        auto=True,
    )
    device: str = option("auto", "where learners compute: auto, cpu, cuda, or a list cuda:0,cuda:1")
    graphs: bool = option(
        True,
        "have GPUs act and learn by CUDA graphs, recorded once; without, every kernel is launched "
        "by itself, which takes longer",
    )
    simulator_workers: int = option(
        AUTO,
        "simulators per learner: processes that step its environments",
        low=1,
        high=256,
        auto=True,
    )
    env_splits: int = option(
        AUTO,
        "parts of a learner's environments that take turns: one steps while the policy acts for "
        "another",
        low=1,
        high=16,
        auto=True,
    )
    threads: int = option(
        AUTO,
        "compute threads per learner; with another number, sums differ in their last bits",
        low=1,
        high=256,
        auto=True,
    )
    pin: bool = option(True, "bind each learner and its simulators to their own CPU cores")
    nice: int = option(
        5,
        "niceness of learners and simulators: from 0, a full share of cores that other programs "
        "use too, to 19, the least",
        low=0,
        high=19,
    )
    start_timeout_s: float = option(
        120.0,
        "an environment may take so long to start: to be made, reset and stepped once",
        unit="s",
        low=1.0,
    )
    hang_after_s: float = option(
        10.0,
        "a process without progress for so long is taken to hang: it is ended and started anew",
        unit="s",
        low=1.0,
    )
    max_restarts: int = option(
        10,
        "restarts of one process within ten minutes before it is given up; 0 ends the run at the "
        "first failure",
        low=0,
        high=10**6,
    )


@dataclass(frozen=True)
class ReportConfig:
    """What is written down, and how often."""

    name: str = option("", "label in the run folder's name (default: graph or method, learners)")
    run_dir: str = option("", "run folder (default: runs/<env>__<name>__s<seed>__<time>)")
    sinks: str = option(
        "jsonl,monitor",
        "where metrics go: metrics.jsonl in any case, monitor files of all episodes, TensorBoard "
        "(the extra galamp[tensorboard]), Weights & Biases (wandb; the extra galamp[wandb]), or "
        "classes of your own, with commas between them",
        registry="galamp.telemetry.sinks:SINKS",
        user_code=CLASS,
        several=True,
    )
    wandb_project: str = option(
        "galamp", "project at Weights & Biases; given, it tracks the run there, as --track does"
    )
    log_every_s: float = option(2.0, "interval between rows of metrics.jsonl", unit="s", low=0.05)
    checkpoint_every_s: float = option(60.0, "interval between checkpoints", unit="s", low=0.5)
    quiet: bool = option(False, "show nothing while running", stored=False)
    json: bool = option(
        False, "print the summary as JSON on standard output at the end", stored=False
    )
    on_hangup: str = option(
        "detach",
        "when the terminal is closed: train on, for galamp attach to show (detach), or save and "
        "stop (stop); under nohup nothing changes either way",
        names=("detach", "stop"),
        stored=False,
    )
    keep_checkpoints: int = option(
        3, "newest checkpoints to keep besides the best", low=2, high=1000
    )


@dataclass(frozen=True)
class RunConfig:
    """One training run."""

    seed: int = option(1, "seed of everything random", low=0, high=2**31 - 1)
    total_steps: int = option(
        10_000_000, "length of the run over all learners", unit="agent steps", low=1, high=10**15
    )
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    algorithm: AlgorithmConfig = field(default_factory=algorithm_config)
    model: ModelConfig = field(default_factory=ModelConfig)
    gossip: GossipConfig = field(default_factory=GossipConfig)
    resources: ResourceConfig = field(default_factory=ResourceConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    evaluation: EvalConfig = field(default_factory=EvalConfig)
    report: ReportConfig = field(default_factory=ReportConfig)


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Return the JSON form of a config, without what is the caller's: nested dictionaries."""
    values = dataclasses.asdict(config)
    for setting in settings(config):
        if not setting.option.stored:
            del values[setting.section][setting.name]
        elif setting.option.texts:
            values[setting.section][setting.name] = list(values[setting.section][setting.name])
    return values


def from_dict(values: dict[str, Any], asked: str = "") -> RunConfig:
    """Build a config from its JSON form; what is missing takes its default.

    What an older galamp has written is taken as it was meant, see `older_configs`. The settings of
    an algorithm of the user's are left out, unless it is the one that is `asked` for now: no module
    is imported because `values` name it.

    Raises:
        UserError: an unknown section or setting, or a value out of range.
    """
    algorithm = algorithm_in(values, asked)
    known = {
        (setting.section, setting.name): setting
        for setting in settings(RunConfig(algorithm=algorithm))
    }
    flat: dict[tuple[str, str], Any] = {}
    for key, value in up_to_date(values, known).items():
        if isinstance(value, dict):
            flat.update({(key, name): leaf for name, leaf in value.items()})
        else:
            flat[("", key)] = value
    if type(algorithm) is AlgorithmConfig:  # of its settings nothing is known but its name
        kept = ("algorithm", "algorithm")
        flat = {key: value for key, value in flat.items() if key == kept or key[0] != kept[0]}
    for section, name in flat:
        if (section, name) not in known:
            full = f"{section}.{name}" if section else name
            names = (f"{s}.{n}" if s else n for s, n in known)
            raise UserError(f"unknown setting {shown(full)}{did_you_mean(full, names)}")
    checked = {key: check(known[key], value) for key, value in flat.items()}
    return from_settings(checked, type(algorithm))


def from_settings(
    values: dict[tuple[str, str], Any], algorithm: type[AlgorithmConfig]
) -> RunConfig:
    """Build a config from checked values keyed by (section, name), for one kind of algorithm."""
    sections: dict[str, dict[str, Any]] = {"algorithm": {}}
    for (section, name), value in values.items():
        sections.setdefault(section, {})[name] = value
    top = sections.pop("", {})
    kinds = typing.get_type_hints(RunConfig) | {"algorithm": algorithm}
    return RunConfig(**top, **{name: kinds[name](**leaves) for name, leaves in sections.items()})


def value_in(config: RunConfig, setting: Setting) -> Any:
    """Return the value that a setting has in a config."""
    section = getattr(config, setting.section) if setting.section else config
    return getattr(section, setting.name)
