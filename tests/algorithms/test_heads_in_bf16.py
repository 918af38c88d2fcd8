"""Precision of the outputs where a network is computed in bfloat16: heads are float32 everywhere.

Outputs near 100, as returns of some hundred points are: bfloat16 has steps of 0.5 there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from galamp.algorithms import config_class, make_algorithm
from galamp.algorithms.actor_critic import ActorCriticAlgorithm
from galamp.algorithms.cached_conv import CachedConvForward
from galamp.algorithms.cached_outputs import CachedOutputsForward
from galamp.algorithms.forward import ForwardPass, Place, RecomputedForward
from galamp.algorithms.networks import IMAGE, NETWORKS, build_model
from galamp.algorithms.networks.base import ActorCritic, head
from galamp.algorithms.recurrent_forward import RecurrentForward
from galamp.core.action_spec import DiscreteActions

STEPS, ENVS, ACTIONS, NEAR = 3, 4, 3, 100.0
STEP = 0.5
"""Between neighbouring bfloat16 numbers near 100."""


def model_of(network: str, *, gaussian: bool = False) -> ActorCritic:
    """A network whose policy's outputs, if observations change them, and values are near 100."""
    shape = (4, 36, 36) if NETWORKS[network].dimensions == IMAGE else (5,)
    kind = "uint8" if len(shape) == 3 else "float32"
    free = ACTIONS if gaussian else 0
    model = build_model(network, shape, kind, ACTIONS + free, seed=1, state_independent=free)
    assert isinstance(model, ActorCritic)
    with torch.no_grad():
        for layer, rows in model.output_rows():
            layer.bias[rows] += NEAR
    return model


def observed(network: str) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    if NETWORKS[network].dimensions == IMAGE:
        size = (STEPS + 1, ENVS, 4, 36, 36)
        return torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    return torch.randn(STEPS + 1, ENVS, 5, generator=generator)


def forward_of(name: str, model: ActorCritic, precision: str, *, prepare: bool) -> ForwardPass:
    """The forward pass of an algorithm, with the cache that it has on a CPU or without."""
    config = config_class(name)(learning_rate=1e-3, precision=precision)
    algorithm = make_algorithm(
        config, model, actions=DiscreteActions(ACTIONS), device="cpu", seed=1
    )
    assert isinstance(algorithm, ActorCriticAlgorithm)
    if prepare:
        algorithm.prepare(STEPS, ENVS)
    return algorithm._forward


def computed(forward: ForwardPass, observations: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield all that a forward pass gives, by name."""
    first = torch.zeros(STEPS + 1, ENVS, dtype=torch.bool)
    envs = torch.arange(ENVS)
    yield "act without a place", forward.act(observations[0], first[0], None).clone()
    for step in range(STEPS):
        here = Place(step, slice(0, ENVS))
        yield f"act {step}", forward.act(observations[step], first[step], here).clone()
    for name, outputs in {
        "evaluate": forward.evaluate(observations, first),
        "rollout": forward.rollout(observations, first),
    }.items():
        yield from ((f"{name} {part}", each.detach()) for part, each in outputs._asdict().items())
    if not isinstance(forward, CachedConvForward):
        outputs = forward.outputs(observations, first, envs)
        yield from ((f"outputs {part}", each.detach()) for part, each in outputs._asdict().items())


def assert_heads_are_float32(rough: ForwardPass, exact: ForwardPass, observations: Tensor) -> None:
    both = zip(computed(rough, observations), computed(exact, observations), strict=True)
    for (name, found), (_, expected) in both:
        assert found.dtype is torch.float32, name
        assert not torch.equal(found, found.bfloat16().float()), name
        near = expected > NEAR / 2  # others are the log-standard-deviations
        assert near.any(), name
        assert float((found - expected)[near].abs().max()) < STEP / 4, name
        assert not torch.equal(found, expected), f"{name}: nothing is computed in bfloat16"


@pytest.mark.parametrize("gaussian", [False, True])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_has_heads_of_float32(network: str, gaussian: bool) -> None:
    rough, exact = (
        forward_of("a2c", model_of(network, gaussian=gaussian), precision, prepare=False)
        for precision in ("bf16", "float32")
    )
    assert isinstance(rough, RecomputedForward)
    assert_heads_are_float32(rough, exact, observed(network))


@pytest.mark.parametrize(
    ("algorithm", "network", "kind"),
    [
        ("a2c", "gala", CachedConvForward),
        ("vtrace", "nature", CachedConvForward),
        ("ppo", "nature", CachedOutputsForward),
        ("pqn", "nature-layernorm", CachedOutputsForward),
        ("a2c", "nature-lstm", RecurrentForward),
        ("vtrace", "mlp-gru", RecurrentForward),
        ("ppo", "mlp-lstm", RecurrentForward),
        ("pqn", "nature-gru", RecurrentForward),
    ],
)
def test_every_forward_pass_has_heads_of_float32(
    algorithm: str, network: str, kind: type[ForwardPass]
) -> None:
    rough, exact = (
        forward_of(algorithm, model_of(network), precision, prepare=True)
        for precision in ("bf16", "float32")
    )
    assert isinstance(rough, kind)
    assert_heads_are_float32(rough, exact, observed(network))


@pytest.mark.parametrize("network", NETWORKS)
def test_gradients_reach_every_weight_through_heads_of_float32(network: str) -> None:
    gradients = []
    for precision in ("bf16", "float32"):
        model = model_of(network)
        forward = forward_of("a2c", model, precision, prepare=True)
        observations = observed(network)
        first = torch.zeros(observations.shape[:2], dtype=torch.bool)
        outputs: Any = forward.rollout(observations, first)
        forward.backward(outputs.logits[..., 0].mean() + outputs.values.mean())
        gradients.append(torch.cat([each.grad.flatten() for each in model.parameters()]))
    assert float(torch.cosine_similarity(*gradients, 0)) > 0.98


def test_a_head_keeps_float64_and_devices_without_autocast() -> None:
    layer, x = torch.nn.Linear(3, 2, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head(layer, x), expected)
    assert head(layer.to("meta"), x.to("meta")).shape == (4, 2)


def test_a_head_is_traced_whole() -> None:
    """By PyTorch's compiler and its exporter, which follow code of Python."""
    model = model_of("mlp")
    x = observed("mlp")[0]
    expected = model(x)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)(x)
    exported = torch.export.export(model, (x,), strict=True).module()(x)
    for found in (compiled, exported):
        assert all(map(torch.equal, found, expected))
