"""Learning algorithms by name, imported on use. Pure PyTorch; runs in learners."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from galamp.core.config import AlgorithmConfig
from galamp.core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import torch
    from torch import nn

    from galamp.algorithms.base import Algorithm

ALGORITHMS = {"a2c": "galamp.algorithms.a2c:A2C"}
"""Name -> "module:Class"; the class takes the arguments of `make_algorithm`."""


def make_algorithm(
    config: AlgorithmConfig, model: nn.Module, *, device: torch.device | str, seed: int
) -> Algorithm:
    """Make the algorithm that `config` names, which moves `model` to `device` and trains it.

    Args:
        config: settings with the learning rate resolved.
        model: network to train; its parameters become views of one flat vector.
        device: where the algorithm computes.
        seed: seed of action sampling.

    Raises:
        ValueError: the learning rate is still None.
        UserError: an unknown algorithm.
    """
    if config.learning_rate is None:
        raise ValueError("learning_rate is None: resolve it before making an algorithm")
    if config.algorithm not in ALGORITHMS:
        raise UserError(
            f"--algorithm {config.algorithm}: expected one of {', '.join(ALGORITHMS)}"
            f"{did_you_mean(config.algorithm, ALGORITHMS)}"
        )
    module, name = ALGORITHMS[config.algorithm].split(":")
    algorithm: Algorithm = getattr(importlib.import_module(module), name)(
        config, model, device=device, seed=seed
    )
    return algorithm
