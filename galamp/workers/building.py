"""What a learner trains: a network for the environment, and the algorithm around it.

    settings, network's name, EnvironmentSpec --build_algorithm--> Algorithm
    the same with what is normalised --build_normalised--> Algorithm, Layers of its network

Runs in learners, and in the supervisor, which checks one without training it.
"""

from __future__ import annotations

from torch import nn

from galamp.algorithms import make_algorithm
from galamp.algorithms.base import Algorithm
from galamp.algorithms.distributions import make_distribution
from galamp.algorithms.networks import build_model
from galamp.algorithms.normalising import Layers, layers_of
from galamp.core.algorithm_config import AlgorithmConfig
from galamp.core.errors import UserError
from galamp.core.normalisation import NormaliserSpec
from galamp.environments.base import EnvironmentSpec


def build_algorithm(
    config: AlgorithmConfig,
    network: str,
    environment: EnvironmentSpec,
    *,
    device: str,
    model_seed: int,
    sampling_seed: int,
) -> Algorithm:
    """Build the network and the algorithm; the same `model_seed` gives the same parameters.

    Raises:
        UserError: the network does not fit the observations, or the algorithm not the actions.
    """
    scale = environment.observation_scale
    model = _model(network, environment, environment.observation_dtype, scale, model_seed)
    return make_algorithm(
        config, model, actions=environment.actions, device=device, seed=sampling_seed
    )


def build_normalised(
    config: AlgorithmConfig,
    network: str,
    environment: EnvironmentSpec,
    spec: NormaliserSpec,
    *,
    device: str,
    model_seed: int,
    sampling_seed: int,
) -> tuple[Algorithm, Layers]:
    """Build the network and the algorithm, and find what of the network is normalised.

    Raises:
        UserError: see `build_algorithm`; or what is to be normalised cannot be.
    """
    shape = list(environment.observation_shape)
    if spec.inputs and len(shape) != 1:
        raise UserError(
            f"--norm-obs: observations of shape {shape} are no vectors: expected vectors [N]; "
            "images are scaled by their bounds, leave it out"
        )
    dtype = seen_dtype(environment.observation_dtype, spec)
    scale = None if spec.inputs else environment.observation_scale
    model = _model(network, environment, dtype, scale, model_seed)
    algorithm = make_algorithm(
        config, model, actions=environment.actions, device=device, seed=sampling_seed
    )
    layers = layers_of(model, network, spec, action_values=algorithm.learns_action_values)
    return algorithm, layers


def seen_dtype(observation_dtype: str, spec: NormaliserSpec | None) -> str:
    """Return the type of what the network takes: normalised observations are float32."""
    return "float32" if spec is not None and spec.inputs else observation_dtype


def _model(
    network: str, environment: EnvironmentSpec, dtype: str, scale: float | None, seed: int
) -> nn.Module:
    distribution = make_distribution(environment.actions)
    return build_model(
        network,
        environment.observation_shape,
        dtype,
        distribution.num_inputs,
        seed=seed,
        state_independent=distribution.state_independent,
        scale=scale,
    )
