"""`bin/study`: how the loss curves between learners, and along random directions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch

from galamp.algorithms.networks import build_model
from galamp.tools.evaluation.policy_module import PolicyModule
from galamp.tools.study import sharpness

if TYPE_CHECKING:
    from galamp.tools.evaluation.agent import Agent


@pytest.mark.parametrize("length", [0.1, 3.0])
def test_the_curvature_of_a_parabola_is_its_own_in_every_direction(length: float) -> None:
    """x A x / 2 has the second derivative d A d along a unit vector d; a slope adds nothing."""
    matrix = torch.diag(torch.tensor([2.0, -1.0, 5.0], dtype=torch.float64))
    centre, slope = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([7.0, -3.0, 1.0]).double()
    for unit in torch.eye(3, dtype=torch.float64):
        found = sharpness.curvature(
            lambda x: float(x @ matrix @ x / 2 + slope @ x), centre, length * unit
        )
        assert found == pytest.approx(float(unit @ matrix @ unit))


def loss_of(network: str, shape: tuple[int, ...], dtype: str) -> tuple[Any, torch.Tensor, float]:
    """The loss of a batch, the parameters, and the loss there as float32 computes it."""
    module = PolicyModule(build_model(network, shape, dtype, 3, seed=1), None)
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand((32, *shape), generator=generator)
    batch = sharpness.Batch(
        pixels if dtype == "float32" else (255 * pixels).byte(),
        torch.randint(3, (32,), generator=generator),
        *torch.randn((2, 32), generator=generator),
    )
    centre = torch.nn.utils.parameters_to_vector(module.parameters()).detach()
    with torch.no_grad():
        single = sharpness.loss_of(module, batch, 0.5, 0.01)
    return sharpness.loss_around(module, batch, 0.5, 0.01), centre.double(), single


@pytest.mark.parametrize(
    ("network", "shape", "dtype"),
    [("mlp", (4,), "float32"), ("minatar", (10, 10, 4), "float32"), ("gala", (4, 84, 84), "uint8")],
)
def test_the_loss_is_computed_in_float64_whatever_the_network(
    network: str, shape: tuple[int, ...], dtype: str
) -> None:
    """A step of 1e-9 of the parameters is seen, which float32 has no digits for."""
    loss, centre, single = loss_of(network, shape, dtype)
    assert loss(centre) == pytest.approx(single, rel=1e-5)
    slopes = [(loss((1 + step) * centre) - loss(centre)) / step for step in (1e-9, 1e-7)]
    assert slopes[0] == pytest.approx(slopes[1], rel=1e-3)
    assert slopes[0] != 0.0


def test_curvature_is_no_rounding_where_learners_hardly_differ() -> None:
    loss, centre, _ = loss_of("mlp", (4,), "float32")
    step = torch.randn(len(centre), generator=torch.Generator().manual_seed(2)).double()
    step *= 1e-3 / step.norm()
    found = sharpness.curvature(loss, centre, step)
    assert found == pytest.approx(sharpness.curvature(loss, centre, 10 * step), rel=0.01)

    def single(vector: torch.Tensor) -> float:
        return float(np.float32(loss(vector)))

    assert sharpness.curvature(single, centre, step) != pytest.approx(found, rel=0.5)


def test_returns_end_with_the_episode_and_go_on_at_a_cut() -> None:
    """Rewards 1, 2, 4, 8, 16: an episode of three that ends, one that is cut, and the last step."""
    agent = StandIn([(1, False, False), (2, False, False), (4, True, False),
                     (8, False, True), (16, False, False)])  # fmt: skip
    batch = sharpness.played(cast("Agent", agent), 1, 5, 0.5)
    assert batch.returns.tolist() == [1 + 1 + 1, 2 + 2, 4, 8 + 50, 16 + 50]
    assert batch.advantages.tolist() == [each - 10 for each in batch.returns.tolist()]
    assert batch.actions.tolist() == [1] * 5
    assert batch.observations[:, 0].tolist() == [0, 1, 2, 0, 0], "the first one of each episode"


class StandIn:
    """An agent and its environment: what happens is known, and every value 100 (in a batch 10)."""

    def __init__(self, script: list[tuple[int, bool, bool]]) -> None:
        self._script, self._at = iter(script), 0

    def env(self, **_: object) -> StandIn:
        return self

    def reset(self) -> tuple[list[float], dict[str, Any]]:
        self._at = 0
        return [0.0], {}

    def step(self, _: int) -> tuple[list[float], float, bool, bool, dict[str, Any]]:
        reward, terminated, truncated = next(self._script)
        self._at += 1
        return [float(self._at)], reward, terminated, truncated, {}

    def act(self, _: object) -> int:
        return 1

    def value(self, _: object) -> float:
        return 100.0

    def module(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(len(batch), 2), torch.full((len(batch),), 10.0)

    def close(self) -> None:
        pass
