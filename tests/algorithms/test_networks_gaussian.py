"""Networks for continuous actions: means from a network, standard deviations of their own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from galamp.algorithms import make_algorithm
from galamp.algorithms.a2c import A2C
from galamp.algorithms.a2c_config import A2CConfig
from galamp.algorithms.cached_conv import CachedConvForward
from galamp.algorithms.flat_parameters import FlatParameters
from galamp.algorithms.forward import Place, RecomputedForward
from galamp.algorithms.networks import bare_model, build_model, taking
from galamp.core.action_spec import ActionSpec, MultiDiscreteActions
from galamp.core.box_actions import BoxActions
from tests.contracts.algorithm import acted
from tests.support.on_devices import rollout

K = 2
TASKS = {"mlp": ((4,), "float32"), "gala": ((4, 36, 36), "uint8")}


@pytest.mark.parametrize("network", TASKS)
def test_standard_deviations_begin_at_one_and_depend_on_no_observation(network: str) -> None:
    shape, dtype = TASKS[network]
    model = build_model(network, shape, dtype, 2 * K, seed=1, state_independent=K)
    plain = build_model(network, shape, dtype, K, seed=1)
    seen = (torch.rand(3, *shape) * 255).to(getattr(torch, dtype))
    outputs, values = model(seen)
    means, expected = plain(seen)
    assert torch.equal(outputs, torch.cat((means, torch.zeros(3, K)), 1))
    assert torch.equal(values, expected)
    dict(model.named_parameters())["log_std"].data.fill_(0.5)
    assert (model(seen)[0][:, K:] == 0.5).all()


@pytest.mark.parametrize("network", TASKS)
def test_a_bare_one_has_the_same_parameters_and_another_type_shares_them(network: str) -> None:
    shape, dtype = TASKS[network]
    model = build_model(network, shape, dtype, 2 * K, seed=1, state_independent=K)
    bare = bare_model(network, shape, dtype, 2 * K, state_independent=K)
    layout = [(name, each.shape) for name, each in model.named_parameters()]
    assert [(name, each.shape) for name, each in bare.named_parameters()] == layout
    other = "float32" if dtype == "uint8" else "uint8"
    twin = taking(model, network, shape, other, 2 * K)
    pixels = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    ours, theirs = (model, twin) if dtype == "uint8" else (twin, model)
    torch.testing.assert_close(ours(pixels)[0], theirs(pixels / 255)[0])
    for mine, its in zip(model.parameters(), twin.parameters(), strict=True):
        assert mine is its


@pytest.mark.parametrize("network", TASKS)
def test_the_scale_of_observations_reaches_the_network_within(network: str) -> None:
    shape, dtype = TASKS[network]
    model = build_model(network, shape, dtype, 2 * K, seed=1, state_independent=K, scale=1 / 16)
    plain = build_model(network, shape, "float32", K, seed=1, scale=1.0)
    pixels = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    seen = pixels.to(getattr(torch, dtype))
    torch.testing.assert_close(model(seen)[1], plain(pixels / 16)[1], rtol=1e-4, atol=1e-5)
    other = "float32" if dtype == "uint8" else "uint8"
    twin = taking(model, network, shape, other, 2 * K, 1 / 8)(pixels.to(getattr(torch, other)))
    torch.testing.assert_close(twin[1], plain(pixels / 8)[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(seen)[1], plain(pixels / 16)[1], rtol=1e-4, atol=1e-5)


def test_the_mean_of_parameters_has_the_mean_of_log_standard_deviations() -> None:
    """What gossip averages is the flat vector, and they are in it."""
    models = [
        build_model("mlp", (4,), "float32", 2 * K, seed=1, state_independent=K) for _ in range(2)
    ]
    vectors = [FlatParameters(model, "cpu") for model in models]
    for model, value in zip(models, (-1.0, 2.0), strict=True):
        dict(model.named_parameters())["log_std"].data.fill_(value)
    vectors[0].data.add_(vectors[1].data).mul_(0.5)
    assert (models[0](torch.zeros(1, 4))[0][:, K:] == 0.5).all()


def a2c(network: str, actions: ActionSpec, outputs: int, free: int = 0) -> A2C:
    shape, dtype = TASKS[network]
    model = build_model(network, shape, dtype, outputs, seed=1, state_independent=free)
    config = A2CConfig(learning_rate=1e-3)
    algorithm = make_algorithm(config, model, actions=actions, device="cpu", seed=1)
    assert isinstance(algorithm, A2C)
    return algorithm


def test_continuous_actions_are_learned_by_autograd_and_dials_by_the_kept_activations() -> None:
    levers = a2c("gala", BoxActions((-1.0,) * K, (1.0,) * K), 2 * K, K)
    levers.prepare(5, 4)
    assert isinstance(levers._forward, RecomputedForward)
    kept, plain = (a2c("gala", MultiDiscreteActions((2, 3)), 5) for _ in range(2))
    kept.prepare(5, 4)
    assert isinstance(kept._forward, CachedConvForward)
    one = rollout("mlp", 1)
    images = torch.randint(0, 256, (6, 4, 4, 36, 36), dtype=torch.uint8)
    drawn = []
    for step in range(5):
        both = [acted(each, images[step], Place(step, slice(0, 4))) for each in (kept, plain)]
        assert torch.equal(*both)
        drawn.append(both[0])
    changed = replace(one, observations=images, actions=torch.stack(drawn))
    assert kept.update(changed) == pytest.approx(plain.update(changed), rel=1e-4, abs=1e-6)
    torch.testing.assert_close(kept.parameters.grad, plain.parameters.grad, rtol=1e-4, atol=1e-6)
