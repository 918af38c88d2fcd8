"""Workload of a run: what decides how many agent steps a second a machine can do.

    RunConfig, Machine --workload--> the key of a measured rate in storage.rate_cache

Runs in the parent.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

import galamp
from galamp.core.config import RunConfig
from galamp.core.machine.machine import Machine, machine_id, processor_name
from galamp.environments.names import canonical_env_id

COST_OF_A_STEP = (
    "algorithm", "num_steps", "precision", "update_epochs", "num_minibatches",
    "updates_per_rollout", "pipeline",
)  # fmt: skip
"""Settings of an algorithm, where it has them, that change what an agent step costs."""


def workload(config: RunConfig, machine: Machine) -> dict[str, Any]:
    """Return the cache key: machine, versions, and the settings that change the cost of a step."""
    resources = asdict(config.resources)
    for name in ("learners", "start_timeout_s", "hang_after_s", "max_restarts"):
        del resources[name]
    environment, algorithm = config.environment, config.algorithm
    return {
        "machine": [machine_id(), processor_name(), len(machine.cores), cards(machine)],
        "quota": machine.quota if machine.throttled else None,
        "versions": [galamp.__version__, torch.__version__],
        "environment": asdict(environment) | {"env_id": canonical_env_id(environment.env_id)},
        "algorithm": [getattr(algorithm, name, None) for name in COST_OF_A_STEP],
        "network": config.model.network,
        "gossip": asdict(config.gossip),
        "resources": resources,
    }


def cards(machine: Machine) -> list[str]:
    """Return the names of a machine's GPUs; the device name for one that was not tried."""
    return [gpu.name or gpu.device for gpu in machine.gpus]
