"""What a learner builds: a network that sees observations as the environment's spec says."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from galamp.algorithms.a2c_config import A2CConfig
from galamp.algorithms.networks import build_model
from galamp.core.action_spec import ActionSpec, DiscreteActions
from galamp.core.box_actions import BoxActions
from galamp.environments.base import EnvironmentSpec
from galamp.workers.building import build_algorithm


@pytest.mark.parametrize("actions", [DiscreteActions(3), BoxActions((-1.0,), (1.0,))], ids=str)
@pytest.mark.parametrize("scale", [None, 1.0, 1 / 16])
def test_the_network_has_the_scale_of_the_environment(
    actions: ActionSpec, scale: float | None
) -> None:
    spec = EnvironmentSpec(
        "tests:Toy", (4,), "uint8", actions, (), 1, False, "toy", observation_scale=scale
    )
    algorithm: Any = build_algorithm(
        A2CConfig(learning_rate=1e-3), "mlp", spec, device="cpu", model_seed=1, sampling_seed=1
    )
    outputs = algorithm.distribution.num_inputs
    free = algorithm.distribution.state_independent
    plain = build_model("mlp", (4,), "float32", outputs, seed=1, state_independent=free, scale=1.0)
    seen = torch.tensor([[1, 3, 5, 7], [200, 0, 9, 255]], dtype=torch.uint8)
    _, mine = algorithm._model(seen)
    torch.testing.assert_close(mine, plain(seen * spec.scale)[1])
