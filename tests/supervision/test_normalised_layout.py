"""What a run with a normaliser has in shared memory, and which runs can have one."""

from __future__ import annotations

from typing import Any

import pytest

from galamp.core.action_spec import DiscreteActions
from galamp.core.config import from_dict
from galamp.core.errors import UserError
from galamp.core.machine.machine import plain_machine
from galamp.core.normalisation import NormaliserSpec
from galamp.environments.base import EnvironmentSpec
from galamp.gossip.topologies import make_topology
from galamp.supervision.layout import ModelSketch, array_specs, sketch_model
from galamp.supervision.plan import Plan, make_plan

SHAPES = {"vector": (4,), "image": (4, 84, 84)}
NEW = {"moments0", "moments0.header", "moments1", "moments1.header"}
GAUGES = {"metrics.gauge.norm_count", "metrics.gauge.return_std"}


def sketched(observations: str, dtype: str = "float32", **settings: Any) -> tuple[Plan, Any, Any]:
    """Return a plan of two learners, the environment, and what is made of its network."""
    network = settings.pop("network", "auto")
    algorithm = settings.pop("algorithm", "a2c")
    config = from_dict(
        {
            "environment": {"env_id": "ALE/Pong-v5", **settings},
            "algorithm": {"algorithm": algorithm, "gamma": 0.9},
            "model": {"network": network},
            "resources": {"learners": 2, "simulator_workers": 2, "device": "cpu"},
        }
    )
    plan = make_plan(config, plain_machine(range(4), 0, 2**20))
    environment = EnvironmentSpec(
        "ALE/Pong-v5", SHAPES[observations], dtype, DiscreteActions(2), (), 4, True, "classic"
    )
    return plan, environment, sketch_model(plan, environment)


def arrays(plan: Plan, environment: EnvironmentSpec, sketch: ModelSketch) -> dict[str, int]:
    specs = array_specs(plan, make_topology("ring", 2), environment, sketch)
    return {spec.name: spec.size_bytes for spec in specs}


def test_without_the_flags_nothing_is_there() -> None:
    plan, environment, sketch = sketched("vector")
    assert sketch.normaliser is None
    found = arrays(plan, environment, sketch)
    assert not (NEW | GAUGES) & found.keys()
    assert found["state0.normaliser"] == 0


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_vectors_of_any_type_can_be_normalised(dtype: str) -> None:
    plan, environment, sketch = sketched("vector", dtype, norm_obs=True, norm_reward=True)
    assert sketch.normaliser == NormaliserSpec(4, True, 0.9)
    found = arrays(plan, environment, sketch)
    assert found.keys() >= (NEW | GAUGES)
    assert found["moments0"] == 2 * 8 * sketch.normaliser.own_size


@pytest.mark.parametrize("network", ["gala", "nature-lstm", "impala-resnet"])
def test_rewards_can_be_normalised_with_images(network: str) -> None:
    _, _, sketch = sketched("image", "uint8", norm_reward=True, network=network)
    assert sketch.normaliser == NormaliserSpec(0, True, 0.9)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"observations": "image", "dtype": "uint8", "norm_obs": True},
            "--norm-obs: observations of shape [4, 84, 84] are no vectors",
        ),
        (
            {
                "observations": "vector",
                "norm_reward": True,
                "network": "tests.support.networks:Toy",
            },
            "--norm-reward: network tests.support.networks:Toy has no method output_rows()",
        ),
    ],
)
def test_what_cannot_be_is_one_line(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as caught:
        sketched(**settings)
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)
