"""Environments: built by their name, and described before anything is started.

Used by the parent (the probe that finds the shapes) and by simulator processes. Emulators are
imported only when a lane is built, torch never.

    parent                                   throw-away process
    start_probe(config)  ----- JSON ---->    probe: describe(config) tries one lane
    ... its own start-up ...
    finish_probe(...)    <---- JSON -----    EnvironmentSpec, or what is wrong
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence

import numpy as np

from galamp.core.config import EnvironmentConfig
from galamp.environments.base import (
    Environment,
    EnvironmentSpec,
    Episode,
    EpisodeCounter,
    Transition,
    closing_quietly,
)
from galamp.environments.names import ENVIRONMENTS, canonical_env_id
from galamp.environments.probing import Probe, finish_probe, start_probe

__all__ = [
    "Environment",
    "EnvironmentSpec",
    "Episode",
    "EpisodeCounter",
    "Probe",
    "Transition",
    "describe",
    "finish_probe",
    "make_environment",
    "start_probe",
]


SEED_LIMIT = 2**31
"""Seeds of lanes lie below this: emulators keep them in 32 bits with a sign."""


def make_environment(
    config: EnvironmentConfig,
    seeds: Sequence[int],
    *,
    threads: int = 1,
    progress: Callable[[], object] = lambda: None,
) -> Environment:
    """Build an environment with one lane per seed.

    A lane's course depends on its seed and its actions only, not on which other lanes it shares a
    process with, nor on `threads`.

    Args:
        config: names the environment and the protocol; `num_envs` is not read here.
        seeds: one per lane, from 0 to `SEED_LIMIT - 1`.
        threads: threads that the emulator may use.
        progress: called whenever a lane was made or reset, where that is done one by one.

    Raises:
        UserError: no such environment, or one that cannot be used as `config` says.
    """
    if not seeds or not all(0 <= seed < SEED_LIMIT for seed in seeds):
        raise ValueError(f"seeds: expected one or more from 0 to {SEED_LIMIT - 1}, got {seeds}")
    env_id = canonical_env_id(config.env_id)
    path = next(path for start, path in ENVIRONMENTS.items() if env_id.startswith(start))
    module, _, name = path.partition(":")
    build = getattr(importlib.import_module(module), name)
    more = {"progress": progress} if build.shows_progress else {}
    environment: Environment = build(env_id, config, seeds, threads, **more)
    return environment


def describe(config: EnvironmentConfig) -> EnvironmentSpec:
    """Build one lane, reset it, take a step, and return what it is.

    A bad ROM ends the process that calls this: the parent asks a probe instead.

    Raises:
        UserError: as for `make_environment`.
        InvalidDataError: the environment has returned what cannot be used.
    """
    environment = make_environment(config, [0])
    with closing_quietly(environment):
        environment.reset()
        environment.step(np.zeros(1, np.int64))
        return environment.spec
