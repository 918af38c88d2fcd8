"""The kept activations against a second forward pass, and against autograd."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from galamp.algorithms import make_algorithm
from galamp.algorithms.a2c import A2C
from galamp.algorithms.a2c_config import A2CConfig
from galamp.algorithms.base import Rollout
from galamp.algorithms.cached_conv import CachedConvForward
from galamp.algorithms.forward import Place, RecomputedForward
from galamp.algorithms.networks import build_model
from galamp.core.action_spec import DiscreteActions
from tests.contracts.algorithm import ACTIONS, acted, random_rollout
from tests.support.engine import also

STEPS, ENVS = 5, 8
SHAPES = [(4, 36, 36), (44, 52, 3), (4, 84, 84)]
TOLERANCE = {"rtol": 1e-4, "atol": 1e-6}
"""Float32 sums taken in another order; measured here: relative errors of 1e-5 and less."""


def make(
    shape: tuple[int, ...],
    network: str = "gala",
    *,
    keeps: bool,
    precision: str = "float32",
    scale: float | None = None,
) -> A2C:
    model = build_model(network, shape, "uint8", ACTIONS, seed=1, scale=scale)
    config = A2CConfig(learning_rate=7e-4, rmsprop_initial=0.0, precision=precision)
    algorithm = make_algorithm(
        config, model, actions=DiscreteActions(ACTIONS), device="cpu", seed=1
    )
    assert isinstance(algorithm, A2C)
    if keeps:
        algorithm.prepare(STEPS, ENVS)
    return algorithm


def rollout_of(shape: tuple[int, ...], seed: int) -> Rollout:
    generator = torch.Generator().manual_seed(seed)
    size = (STEPS + 1, ENVS, *shape)
    images = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    return dataclasses.replace(random_rollout(seed), observations=images)


def act_on(algorithm: A2C, rollout: Rollout, parts: list[slice]) -> Tensor:
    """Act on the whole rollout in parts, as a learner does; returns the actions [T, B]."""
    rows = []
    for step in range(STEPS):
        seen = rollout.observations[step]
        rows.append(torch.cat([acted(algorithm, seen[part], Place(step, part)) for part in parts]))
    return torch.stack(rows)


HALVES = [slice(0, 3), slice(3, ENVS)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("network", "parts"),
    [
        ("gala", [slice(None)]),
        ("nature", HALVES),
        also("gala", HALVES),
        also("nature", [slice(None)]),
    ],
)
def test_learns_as_by_autograd(shape: tuple[int, ...], parts: list[slice], network: str) -> None:
    kept, plain = make(shape, network, keeps=True), make(shape, network, keeps=False)
    assert isinstance(kept._forward, CachedConvForward)
    assert isinstance(plain._forward, RecomputedForward)
    for seed in range(3):
        rollout = rollout_of(shape, seed)
        actions = act_on(kept, rollout, parts)
        assert torch.equal(actions, act_on(plain, rollout, parts))
        rollout = dataclasses.replace(rollout, actions=actions)
        first, second = kept.update(rollout), plain.update(rollout)
        assert first == pytest.approx(second, rel=1e-4, abs=1e-6)
        torch.testing.assert_close(kept.parameters.grad, plain.parameters.grad, **TOLERANCE)
        plain.parameters.data.copy_(kept.parameters.data)
        plain.state()["square_average"].copy_(kept.state()["square_average"])


def test_learns_from_bits_as_by_autograd() -> None:
    """Bytes from 0 to 1, which are not scaled."""
    kept, plain = (make((4, 36, 36), keeps=each, scale=1.0) for each in (True, False))
    assert isinstance(kept._forward, CachedConvForward)
    rollout = rollout_of((4, 36, 36), 1)
    rollout = dataclasses.replace(rollout, observations=rollout.observations % 2)
    rollout = dataclasses.replace(rollout, actions=act_on(kept, rollout, HALVES))
    assert kept.update(rollout) == pytest.approx(plain.update(rollout), rel=1e-4, abs=1e-6)
    torch.testing.assert_close(kept.parameters.grad, plain.parameters.grad, **TOLERANCE)


@pytest.mark.parametrize("keeps", [True, False])
def test_bf16_is_near_float32(keeps: bool) -> None:
    """Eight bits of precision: 1/256 per number, and rectifiers near zero that close or open.

    On images of pure noise PyTorch's own autocast is 12 % off, the kept activations as much.
    """
    exact = make(SHAPES[0], keeps=False)
    rough = make(SHAPES[0], keeps=keeps, precision="bf16")
    rollout = rollout_of(SHAPES[0], 1)
    for one in (exact, rough):
        act_on(one, rollout, HALVES)
    expected, found = exact.update(rollout), rough.update(rollout)
    assert found == pytest.approx(expected, rel=0.03, abs=0.003)
    true, near = exact.parameters.grad, rough.parameters.grad
    assert near.dtype is torch.float32
    assert 1e-4 < float((near - true).norm() / true.norm()) < 0.2
    assert float(torch.cosine_similarity(near, true, 0)) > 0.98
    assert rough.parameters.data.dtype is torch.float32


def test_what_acting_did_not_see_is_computed() -> None:
    shape = SHAPES[0]
    whole, half = make(shape, keeps=True), make(shape, keeps=True)
    rollout = rollout_of(shape, 1)
    act_on(whole, rollout, [slice(None)])
    for step in (0, 3):
        acted(half, rollout.observations[step], Place(step, slice(None)))
    acted(half, rollout.observations[1, :2], Place(1, slice(0, 2)))
    assert half.update(rollout) == pytest.approx(whole.update(rollout), rel=1e-5)
    torch.testing.assert_close(half.parameters.grad, whole.parameters.grad, **TOLERANCE)


def test_nothing_is_kept_over_an_update_or_of_another_place() -> None:
    shape = SHAPES[0]
    used, fresh = make(shape, keeps=True), make(shape, keeps=True)
    act_on(used, rollout_of(shape, 1), [slice(None)])
    used.update(rollout_of(shape, 1))
    fresh.update(rollout_of(shape, 1))
    acted(used, rollout_of(shape, 3).observations[0])
    assert used.update(rollout_of(shape, 2)) == pytest.approx(fresh.update(rollout_of(shape, 2)))


def test_an_update_that_is_left_can_be_taken_again() -> None:
    class LeaveError(Exception):
        pass

    def leave() -> bool:
        raise LeaveError

    algorithm, twin = make(SHAPES[0], keeps=True), make(SHAPES[0], keeps=True)
    rollout = rollout_of(SHAPES[0], 1)
    for one in (algorithm, twin):
        act_on(one, rollout, [slice(None)])
    with pytest.raises(LeaveError):
        algorithm.update(rollout, leave)
    assert algorithm.update(rollout) == twin.update(rollout)
    assert torch.equal(algorithm.parameters.data, twin.parameters.data)


def test_floats_that_may_be_lost_are_left_to_autograd() -> None:
    model = build_model("gala", (4, 36, 36), "float32", ACTIONS, seed=1)
    algorithm = make_algorithm(
        A2CConfig(learning_rate=1e-3), model, actions=DiscreteActions(ACTIONS), device="cpu", seed=1
    )
    assert isinstance(algorithm, A2C)
    algorithm.prepare(STEPS, ENVS)
    assert isinstance(algorithm._forward, RecomputedForward)
