"""What a learner trains: a network for the environment, and the algorithm around it.

    settings, network's name, EnvironmentSpec --build_algorithm--> Algorithm

Runs in learners, and in the supervisor, which looks at one without training it.
"""

from __future__ import annotations

from galamp.algorithms import make_algorithm
from galamp.algorithms.base import Algorithm
from galamp.algorithms.distributions import make_distribution
from galamp.algorithms.networks import build_model
from galamp.core.algorithm_config import AlgorithmConfig
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
    distribution = make_distribution(environment.actions)
    model = build_model(
        network,
        environment.observation_shape,
        environment.observation_dtype,
        distribution.num_inputs,
        seed=model_seed,
        state_independent=distribution.state_independent,
        scale=environment.observation_scale,
    )
    return make_algorithm(
        config, model, actions=environment.actions, device=device, seed=sampling_seed
    )
