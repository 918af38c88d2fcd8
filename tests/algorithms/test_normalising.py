"""The same function in other scales: what is published, mixed and saved under a normaliser."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from galamp.algorithms.networks import build_model
from galamp.algorithms.normalising import (
    InputNormaliser,
    Layers,
    from_raw,
    layers_of,
    rescaled,
    to_raw,
)
from galamp.core.errors import UserError
from galamp.core.normalisation import NormaliserSpec, Scales

INPUTS, ACTIONS = 4, 3
MEANS = np.array([0.5, -20.0, 3.0, 100.0]).astype(np.float32).astype(np.float64)
STDS = np.array([0.03, 5.0, 1.0, 40.0]).astype(np.float32).astype(np.float64)
SCALED = Scales(True, MEANS, STDS, 7.5)
OTHER = Scales(True, MEANS + 0.5 * STDS, STDS * np.array([2.0, 0.5, 1.0, 3.0]), 0.25)
VECTORS = ("mlp", "mlp-layernorm", "mlp-gru", "mlp-lstm")
IMAGES = ("gala", "nature", "nature-layernorm", "nature-lstm", "impala-resnet")
BOTH = NormaliserSpec(INPUTS, True)


def model_of(network: str, seed: int = 1, *, free: int = 0) -> nn.Module:
    """A network as after some training: biases and heads are not near zero."""
    shape = (INPUTS,) if network in VECTORS else (4, 84, 84)
    model = build_model(
        network, shape, "float32", ACTIONS + free, seed=seed, state_independent=free
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def observations(count: int = 64) -> Tensor:
    draw = np.random.default_rng(2).normal(size=(count, INPUTS)) * STDS + MEANS
    return torch.from_numpy(draw.astype(np.float32))


def seen(scales: Scales, raw: Tensor) -> Tensor:
    normaliser = InputNormaliser(INPUTS, "cpu")
    normaliser.set(scales)
    return normaliser(raw)


def outputs(model: nn.Module, given: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        logits, values = model(given)
    return logits, values


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("free", [0, 2])
@pytest.mark.parametrize("network", VECTORS)
def test_a_network_is_the_same_function_in_all_scales(network: str, free: int) -> None:
    """In the scales of another learner, and of raw observations and scores."""
    model, raw = model_of(network, free=free), observations()
    layers = layers_of(model, network, BOTH)
    logits, values = outputs(model, seen(SCALED, raw))
    to_raw(layers, SCALED)
    found, scores = outputs(model, raw)
    close(found, logits)
    close(scores / SCALED.return_std, values)
    from_raw(layers, OTHER, SCALED)
    found, scores = outputs(model, seen(OTHER, raw))
    close(found, logits)
    close(scores * OTHER.return_std / SCALED.return_std, values)


@pytest.mark.parametrize("network", VECTORS)
def test_there_and_back_a_thousand_times(network: str) -> None:
    """As in so many turns: what rounding leaves does not add up to anything."""
    model, raw = model_of(network), observations()
    layers = layers_of(model, network, BOTH)
    before = outputs(model, seen(SCALED, raw))
    for _ in range(1000):
        to_raw(layers, SCALED)
        from_raw(layers, SCALED, SCALED)
    for mine, other in zip(outputs(model, seen(SCALED, raw)), before, strict=True):
        close(mine, other)


def test_the_mean_of_one_function_in_two_scales_is_that_function() -> None:
    """What gossip does; the mean of the weights as they are would be something else."""
    one, other, raw = model_of("mlp"), model_of("mlp"), observations()
    mine, theirs = (layers_of(model, "mlp", BOTH) for model in (one, other))
    logits, values = outputs(one, seen(SCALED, raw))
    to_raw(theirs, SCALED)
    from_raw(theirs, OTHER, SCALED)  # the other learner has the same function in its own scales
    wrong = averaged(one, other)
    assert (outputs(wrong, seen(SCALED, raw))[0] - logits).abs().max() > 0.1
    to_raw(mine, SCALED)
    to_raw(theirs, OTHER)
    mixed = averaged(one, other)
    from_raw(layers_of(mixed, "mlp", BOTH), SCALED, SCALED)
    for found, expected in zip(outputs(mixed, seen(SCALED, raw)), (logits, values), strict=True):
        close(found, expected)


def averaged(one: nn.Module, other: nn.Module) -> nn.Module:
    mixed = model_of("mlp")
    with torch.no_grad():
        for target, a, b in zip(
            mixed.parameters(), one.parameters(), other.parameters(), strict=True
        ):
            target.copy_((a + b) / 2)
    return mixed


@pytest.mark.parametrize("network", [*VECTORS, *IMAGES])
@pytest.mark.parametrize("action_values", [False, True])
def test_predicted_returns_stay_as_the_scale_changes(network: str, action_values: bool) -> None:
    """PopArt's preserving step; the other outputs do not change by a bit."""
    model = model_of(network)
    spec = NormaliserSpec(0, True)
    layers = layers_of(model, network, spec, action_values=action_values)
    given = observations() if network in VECTORS else torch.rand(2, 4, 84, 84)
    at = 0 if action_values else 1
    before = outputs(model, given)
    to_raw(layers, SCALED)
    from_raw(layers, OTHER, SCALED)
    after = outputs(model, given)
    close(after[at] * OTHER.return_std, before[at] * SCALED.return_std)
    torch.testing.assert_close(after[1 - at], before[1 - at], rtol=1e-6, atol=1e-6)


def test_values_learned_before_returns_varied_are_not_enlarged() -> None:
    model, given = model_of("mlp"), observations()
    layers = layers_of(model, "mlp", NormaliserSpec(0, True))
    unknown = replace(SCALED, return_std=1.0)
    _, before = outputs(model, given)
    from_raw(layers, replace(SCALED, return_std=0.01), unknown)
    close(outputs(model, given)[1], before)
    from_raw(layers, replace(SCALED, return_std=50.0), unknown)
    close(outputs(model, given)[1], before / 50.0)


def test_what_lay_beyond_the_clip_is_not_blown_up() -> None:
    """One that had hardly varied grows a thousand times: the clip had let through ten of them."""
    model = model_of("mlp")
    layers = layers_of(model, "mlp", NormaliserSpec(INPUTS, False))
    before = layers.inputs[0].weight.detach().clone()
    rare = replace(SCALED, std=SCALED.std * [1.0, 1e-3, 1.0, 1.0])
    to_raw(layers, rare)
    from_raw(layers, SCALED, rare)
    factors = layers.inputs[0].weight.detach() / before
    assert factors.mean(0).tolist() == pytest.approx([1.0, 10.0, 1.0, 1.0], rel=1e-5)


def test_observations_that_are_kept_come_to_other_scales() -> None:
    raw = observations()
    found = rescaled(seen(SCALED, raw), SCALED, OTHER)
    assert found.dtype is torch.float32
    close(found, seen(OTHER, raw))


def test_observations_are_clipped_and_of_any_type() -> None:
    scales = Scales(True, np.array([10.0, 0.0]), np.array([2.0, 0.5]), 1.0)
    normaliser = InputNormaliser(2, "cpu")
    given = torch.tensor([[12, 1], [250, 0]], dtype=torch.uint8)
    assert normaliser(given).tolist() == [[12.0, 1.0], [250.0, 0.0]], "raw until there are scales"
    normaliser.set(scales)
    assert normaliser(given).tolist() == [[1.0, 2.0], [10.0, 0.0]]
    assert normaliser(given).dtype is torch.float32


class Silent(nn.Module):
    """Tells nothing of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(INPUTS, 8)


class WithoutBias(Silent):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(INPUTS, 8, bias=False)

    def input_layers(self) -> tuple[nn.Linear, ...]:
        return (self.body,)


class Narrow(Silent):
    def input_layers(self) -> tuple[nn.Linear, ...]:
        return (nn.Linear(INPUTS - 1, 8),)


class Empty(Silent):
    def input_layers(self) -> tuple[nn.Linear, ...]:
        return ()


class Raising(Silent):
    def input_layers(self) -> tuple[nn.Linear, ...]:
        raise RuntimeError("not today")


@pytest.mark.parametrize(
    ("model", "spec", "words"),
    [
        (Silent(), NormaliserSpec(INPUTS, False), r"--norm-obs.*mine:it has no method input_la"),
        (Silent(), NormaliserSpec(0, True), r"--norm-reward.*mine:it has no method output_rows"),
        (WithoutBias(), NormaliserSpec(INPUTS, False), "with a bias, of 4 inputs"),
        (Narrow(), NormaliserSpec(INPUTS, False), "with a bias, of 4 inputs"),
        (Empty(), NormaliserSpec(INPUTS, False), "does not tell its first layers"),
        (Raising(), NormaliserSpec(INPUTS, False), "not today"),
    ],
)
def test_networks_that_do_not_tell_are_refused(
    model: nn.Module, spec: NormaliserSpec, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        layers_of(model, "mine:it", spec)


def test_nothing_is_asked_of_a_network_that_nothing_depends_on() -> None:
    assert layers_of(Silent(), "mine:it", NormaliserSpec(0, False)) == Layers((), None)
