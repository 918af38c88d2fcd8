"""What a sweep is made of: planned runs, each with all that it is given, and its command line.

    file of the sweep --cli.sweep_file--> Sweep: PlannedRun, ... --command--> words of `galamp run`

Plain values; nothing is started or read here.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from galamp.core.config import RunConfig
from galamp.core.settings import AUTO, Setting, duration_text, is_user_code, option, settings
from galamp.tools.sweep.space import Search

ENV_ID, SEED = ("environment", "env_id"), ("", "seed")
MAX_STALENESS = ("gossip", "max_staleness")
CPU = "cpu"
ARMS, SEEDS = "arms", "seeds"

Values = Mapping[tuple[str, str], Any]
"""Settings by section and name."""


@dataclass(frozen=True)
class SweepConfig:
    """The section `sweep` of a file, but for its lists and tables."""

    name: str = option("", "the folder is runs/NAME (default: the name of the file)")
    preset: str = option("", "preset below the settings of the file")
    order: str = option(
        ARMS,
        "what comes first: all runs of the first arm (arms), or the first "
        "seed of every arm and environment (seeds)",
        names=(ARMS, SEEDS),
    )
    jobs: int = option(AUTO, "runs at once (default: as many as have cores)", low=1, high=1024,
                       auto=True)  # fmt: skip
    cores: int = option(AUTO, "cores of each run (default: one per learner)", low=1, high=4096,
                        auto=True)  # fmt: skip
    gpus: int = option(1, "GPUs of each run, where it computes on them", low=1, high=64)
    runs_per_gpu: int = option(1, "runs that share a GPU", low=1, high=256)


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep.

    Attributes:
        name: of its folder; no other run of the sweep has it.
        arm: name of its settings; runs of an arm differ in environment and seed only.
        env_id: canonical name of its environment.
        values: all that it is given, seed and environment among it.
        config: the same as a config.
        cores: number of cores that it gets; 0: all.
    """

    name: str
    arm: str
    env_id: str
    seed: int
    values: Values
    config: RunConfig
    cores: int = 0

    @property
    def settings(self) -> dict[str, Any]:
        """What it is given as JSON values, by `section.name`."""
        named = {f"{section}.{name}".lstrip("."): value for (section, name), value in self._given()}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in named.items()}

    @property
    def hash(self) -> str:
        """Digest of what it is given, as 16 hexadecimal digits."""
        return digest(self.settings)

    @property
    def uses_gpus(self) -> bool:
        """Whether it computes on GPUs where there are some."""
        return self.config.resources.device != CPU

    def _given(self) -> list[tuple[tuple[str, str], Any]]:
        return sorted(self.values.items())


@dataclass(frozen=True)
class Sweep:
    """A sweep: its runs, in the order in which they start, and how they are packed.

    Of one with a `search`, the runs are what each trial is made of: they lack what it draws.
    """

    name: str
    config: SweepConfig
    runs: tuple[PlannedRun, ...]
    search: Search | None = None

    @property
    def arms(self) -> list[str]:
        """Names of its arms, in order."""
        return list(dict.fromkeys(run.arm for run in self.runs))

    @property
    def games(self) -> list[str]:
        """Its environments, in order."""
        return list(dict.fromkeys(run.env_id for run in self.runs))


def digest(values: Mapping[str, Any]) -> str:
    """Return the digest of settings, as 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def command(run: PlannedRun, folder: Path, *, resume: bool) -> list[str]:
    """Return the command line that trains `run` in `folder`, or goes on with it.

    A resumed run has its settings from its folder; code of the user's has to be named anew.
    """
    words = [sys.executable, "-m", "galamp", "run", "--quiet", "--on-hangup=stop"]
    if resume:
        return [*words, f"--resume={folder}", *flags(run, code_only=True)]
    return [*words, f"--run-dir={folder}", *flags(run)]


def own_code(config: RunConfig) -> Iterator[tuple[Setting, str]]:
    """Yield the settings that name code of the user's, and that name."""
    for setting in settings(config):
        for text in _texts(setting, config):
            in_environment = (setting.section, setting.name) == ENV_ID and ":" in text
            if in_environment or (setting.option.user_code and is_user_code(text)):
                yield setting, text


def _texts(setting: Setting, config: RunConfig) -> list[str]:
    section = getattr(config, setting.section) if setting.section else config
    value = getattr(section, setting.name)
    if isinstance(value, tuple):
        return list(value)
    if not isinstance(value, str):
        return []
    return value.split(",") if setting.option.several else [value]


def flags(run: PlannedRun, *, code_only: bool = False) -> Iterator[str]:
    """Yield what the run is given as flags; of `code_only`, what names code of the user's.

    A bound of staleness that a file has beside lock-step means nothing there, and is no flag.
    """
    code = {(setting.section, setting.name) for setting, _ in own_code(run.config)}
    idle = {MAX_STALENESS} if run.config.gossip.sync else set()
    for setting in settings(run.config):
        key = setting.section, setting.name
        if key in run.values and key not in idle and (key in code or not code_only):
            yield from words_of(setting, run.values[key])


def words_of(setting: Setting, value: Any) -> Iterator[str]:
    """Yield a setting as words of a command line."""
    if isinstance(value, tuple):
        yield from (f"{setting.flag}={text}" for text in value)
    elif isinstance(value, bool):
        yield setting.flag if value else setting.flag.replace("--", "--no-", 1)
    elif value is None:
        yield from [f"{setting.flag}={setting.option.none}"] if setting.option.none else []
    elif setting.option.auto and value == AUTO:
        return
    elif setting.option.duration:
        yield f"{setting.flag}={duration_text(value)}"
    else:
        yield f"{setting.flag}={value!r}" if isinstance(value, float) else f"{setting.flag}={value}"
