"""Environments: built by name, and described by a probe before a run starts.

Used by the parent (the probe finds the shapes) and by simulator processes. Emulators are imported
only when an environment is built, torch never; numpy with the first name that needs it, since the
command line looks up `protocols` and `names` here.

    parent                                   probe process
    start_probe(config)  ----- JSON ---->    probe: describe(config) tries one environment
    ... its own start-up ...
    finish_probe(...)    <---- JSON -----    EnvironmentSpec, or what is wrong
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from galamp.core.config import EnvironmentConfig
from galamp.environments.names import VECTOR, canonical_env_id, kind_of

if TYPE_CHECKING:
    from galamp.environments.base import (
        Environment,
        EnvironmentSpec,
        Episode,
        EpisodeCounter,
        Transition,
    )
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
"""Seeds of environments are below this: emulators store them as signed 32-bit integers."""


def __getattr__(name: str) -> object:
    """Import what needs numpy when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    probing = name in ("Probe", "finish_probe", "start_probe")
    module = "galamp.environments.probing" if probing else "galamp.environments.base"
    return getattr(importlib.import_module(module), name)


def make_environment(
    config: EnvironmentConfig,
    seeds: Sequence[int],
    *,
    threads: int = 1,
    progress: Callable[[], object] = lambda: None,
) -> Environment:
    """Build a batch of environments, one per seed.

    The course of an environment depends only on its seed and its actions, not on the other
    environments of the process, nor on `threads`.

    Args:
        config: names the environment and the protocol; `num_envs` is not read here.
        seeds: one per environment, from 0 to `SEED_LIMIT - 1`.
        threads: number of threads that the emulator may use.
        progress: called after each environment is made or reset, if that is done one by one.

    Raises:
        UserError: the environment does not exist, or cannot be used with this `config`.
    """
    if not seeds or not all(0 <= seed < SEED_LIMIT for seed in seeds):
        raise ValueError(f"seeds: expected one or more from 0 to {SEED_LIMIT - 1}, got {seeds}")
    env_id = canonical_env_id(config.env_id)
    path = VECTOR if config.vector else kind_of(env_id)
    module, _, name = path.partition(":")
    build = getattr(importlib.import_module(module), name)
    more = {"progress": progress} if build.shows_progress else {}
    environment: Environment = build(env_id, config, seeds, threads, **more)
    return environment


def describe(config: EnvironmentConfig) -> EnvironmentSpec:
    """Build one environment, reset it, take a step, and return its spec.

    A bad ROM ends the calling process, so the parent uses a probe process instead.

    Raises:
        UserError: as for `make_environment`.
        InvalidDataError: the environment has returned invalid data.
    """
    from galamp.environments.base import closing_quietly

    environment = make_environment(config, [0])
    with closing_quietly(environment):
        environment.reset()
        environment.step(environment.spec.actions.zeros(1))
        return environment.spec
