"""Networks and flat parameters: initial bits, literal forward passes, views, saving."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from galamp.algorithms.flat_parameters import FlatParameters
from galamp.algorithms.networks import (
    NETWORKS,
    VECTOR,
    bare_model,
    build_model,
    check_network_asked,
    networks_for,
    resolve_network,
    taking,
)
from galamp.algorithms.networks.base import ActorCritic
from galamp.algorithms.networks.checks import check_model, check_network
from galamp.algorithms.networks.convolutional import ConvActorCritic
from galamp.algorithms.networks.images import ImageLayout, image_layout
from galamp.algorithms.networks.minatar import MinAtarActorCritic
from galamp.algorithms.networks.perceptron import MlpActorCritic
from galamp.core.errors import CheckpointError, UserError


def images(count: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)


def conv_model(network: str = "gala", *shape: int, dtype: str = "uint8") -> ConvActorCritic:
    model = build_model(network, shape or (4, 84, 84), dtype, 6, seed=1)
    assert isinstance(model, ConvActorCritic)
    return model


def literal_forward(model: ConvActorCritic, scaled: Tensor) -> tuple[Tensor, Tensor]:
    """Plain NCHW layers on images [B, C, H, W] already scaled."""
    x = F.relu(F.conv2d(scaled, model.conv1.weight.contiguous(), model.conv1.bias, 4))
    x = F.relu(F.conv2d(x.contiguous(), model.conv2.weight.contiguous(), model.conv2.bias, 2))
    x = F.relu(F.conv2d(x.contiguous(), model.conv3.weight.contiguous(), model.conv3.bias, 1))
    x = F.relu(
        F.linear(x.movedim(1, 3).reshape(len(x), -1), model.hidden.weight, model.hidden.bias)
    )
    policy = F.linear(x, model.heads.weight[:-1], model.heads.bias[:-1])
    value = F.linear(x, model.heads.weight[-1:], model.heads.bias[-1:])
    return policy, value[:, 0]


# Building


@pytest.mark.parametrize(
    ("network", "filters", "features"), [("gala", 32, 1568), ("nature", 64, 3136)]
)
def test_convolutional_networks_have_the_published_sizes(
    network: str, filters: int, features: int
) -> None:
    model = conv_model(network)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert shapes == {
        "conv1.weight": (32, 4, 8, 8),
        "conv1.bias": (32,),
        "conv2.weight": (64, 32, 4, 4),
        "conv2.bias": (64,),
        "conv3.weight": (filters, 64, 3, 3),
        "conv3.bias": (filters,),
        "hidden.weight": (512, features),
        "hidden.bias": (512,),
        "heads.weight": (7, 512),
        "heads.bias": (7,),
    }


def assert_orthogonal(weight: Tensor, gain: float) -> None:
    matrix = weight.detach().flatten(1).to(torch.float64)
    if len(matrix) > matrix.shape[1]:
        matrix = matrix.T
    expected = gain**2 * torch.eye(len(matrix), dtype=torch.float64)
    torch.testing.assert_close(matrix @ matrix.T, expected, atol=1e-5 * gain**2, rtol=0)


@pytest.mark.real
def test_convolutional_network_starts_orthogonal() -> None:
    model = conv_model()
    for layer in (model.conv1, model.conv2, model.conv3, model.hidden):
        assert_orthogonal(layer.weight, math.sqrt(2))
    assert_orthogonal(model.heads.weight[:-1], 0.01)
    assert_orthogonal(model.heads.weight[-1:], 1.0)
    assert all(not p.any() for name, p in model.named_parameters() if name.endswith("bias"))


def test_perceptron_starts_orthogonal_with_separate_trunks() -> None:
    model = build_model("mlp", (4,), "float32", 2, seed=1)
    assert isinstance(model, MlpActorCritic)
    gains = [math.sqrt(2), math.sqrt(2)]
    for trunk, head in ((model.policy, 0.01), (model.value, 1.0)):
        layers = [layer for layer in trunk if isinstance(layer, nn.Linear)]
        for layer, gain in zip(layers, [*gains, head], strict=True):
            assert_orthogonal(layer.weight, gain)
            assert not layer.bias.any()
    weights = dict(model.named_parameters())
    assert not torch.equal(weights["policy.2.weight"], weights["value.2.weight"])


@pytest.mark.parametrize(("network", "shape"), [("gala", (4, 36, 36)), ("mlp", (5,))])
def test_same_seed_gives_the_same_bits_whatever_the_threads(
    network: str, shape: tuple[int, ...]
) -> None:
    def parameters(seed: int) -> Tensor:
        model = build_model(network, shape, "uint8", 6, seed=seed)
        return nn.utils.parameters_to_vector(model.parameters())

    before, threads = torch.get_rng_state(), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        first = parameters(1)
        torch.set_num_threads(2)
        second = parameters(1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(first, second)
    assert not torch.equal(first, parameters(2))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("network", "shape"),
    [("gala", (4, 36, 36)), ("nature", (40, 36, 3)), ("minatar", (6, 10, 10)), ("mlp", (5,))],
)
def test_a_bare_model_has_the_same_shapes_and_no_values(
    network: str, shape: tuple[int, ...]
) -> None:
    whole = dict(build_model(network, shape, "uint8", 6, seed=1).named_parameters())
    before = torch.get_rng_state()
    bare = dict(bare_model(network, shape, "uint8", 6).named_parameters())
    assert torch.equal(torch.get_rng_state(), before)
    assert list(bare) == list(whole)
    for name, parameter in bare.items():
        assert (parameter.shape, parameter.is_meta) == (whole[name].shape, True)
    assert not any(each.is_meta for each in whole.values())
    with pytest.raises(UserError, match="cannot take observations"):
        bare_model(network, (4, 4) if network != "mlp" else (4, 36, 36), "uint8", 6)


def test_a_network_takes_another_type_with_the_same_parameters() -> None:
    model = conv_model("gala", 4, 36, 36)
    frames = images(3, 4, 36, 36)
    other = model.taking("float32")
    assert (model.scale, other.scale, type(other)) == (1 / 255, 1.0, ConvActorCritic)
    for mine, shared in zip(model.parameters(), other.parameters(), strict=True):
        assert mine is shared
    with torch.no_grad():
        for mine, shared in zip(model(frames), other(frames / 255), strict=True):
            torch.testing.assert_close(mine, shared)
        assert torch.equal(other.taking("uint8")(frames)[0], model(frames)[0])
    half = model.taking("float32", 0.5)
    assert (half.scale, half.takes_bytes, model.takes_bytes) == (0.5, False, True)


@pytest.mark.parametrize(
    ("network", "shape", "expected"),
    [
        ("auto", (4, 84, 84), "gala"),
        ("auto", (84, 84, 3), "gala"),
        ("auto", (16, 36, 36), "gala"),
        ("auto", (48, 36, 40), "gala"),
        ("auto", (4, 35, 84), "minatar"),
        ("auto", (10, 10, 10), "minatar"),
        ("auto", (20, 3, 3), "minatar"),
        ("auto", (3, 2, 9), "mlp"),
        ("auto", (8,), "mlp"),
        ("auto", (4, 4), "mlp"),
        ("auto", (), "mlp"),
        ("auto", (2, 3, 4, 5), "mlp"),
        ("minatar", (4, 84, 84), "minatar"),
        ("nature", (4, 84, 84), "nature"),
        ("impala-resnet", (3, 2, 9), "impala-resnet"),
        ("nature-lstm", (36, 40, 3), "nature-lstm"),
        ("mlp", (8,), "mlp"),
        ("mlp", (3, 2, 9), "mlp"),
        ("mlp-gru", (2, 3, 4, 5), "mlp-gru"),
    ],
)
def test_network_is_resolved(network: str, shape: tuple[int, ...], expected: str) -> None:
    assert resolve_network(network, shape) == expected


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((4, 84, 84), "nature-layernorm"),
        ((8,), "mlp-layernorm"),
        ((3, 2, 9), "mlp-layernorm"),
        ((4, 10, 10), "minatar-layernorm"),
    ],
)
def test_values_of_actions_are_from_normalised_layers(
    shape: tuple[int, ...], expected: str
) -> None:
    """As PQN was published."""
    assert resolve_network("auto", shape, values=True) == expected
    assert resolve_network("mlp", (8,), values=True) == "mlp"


@pytest.mark.parametrize(
    ("network", "shape", "message"),
    [
        ("gala", (8,), "use mlp"),
        ("mlp", (4, 84, 84), "use gala or nature or minatar or .*nature-lstm, or auto"),
        (
            "gala",
            (4, 35, 84),
            r"least 36 x 36 pixels\): use minatar or minatar-layernorm or impala-resnet, or auto",
        ),
        ("nature", (84, 35, 3), "at least 36 x 36"),
        ("nature-layernorm", (4, 36, 35), "at least 36 x 36"),
        ("nature-gru", (4, 35, 36), "at least 36 x 36"),
        ("nature-lstm", (35, 36, 3), "at least 36 x 36"),
        ("minatar", (3, 2, 9), r"shape \[3, 2, 9\] .*at least 3 x 3 pixels\): use mlp or"),
        ("minatar", (8, 8), "use mlp or .*mlp-layernorm, or auto"),
        ("impala-resnet", (8,), "use mlp or"),
        ("mlp-lstm", (4, 10, 10), "use minatar or minatar-layernorm or impala-resnet, or auto"),
        ("galla", (4, 84, 84), "did you mean gala"),
    ],
)
def test_mismatch_is_the_users_error(network: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_network(network, shape)


def test_unsupported_dtype_is_the_users_error() -> None:
    with pytest.raises(UserError, match="float64"):
        build_model("mlp", (4,), "float64", 2, seed=1)


# Forward


@pytest.mark.parametrize("shape", [(4, 84, 84), (1, 36, 36), (3, 41, 60)])
@pytest.mark.parametrize("flat", [False, True])
def test_forward_and_backward_equal_plain_layers(shape: tuple[int, ...], flat: bool) -> None:
    model = conv_model("gala", *shape)
    if flat:
        FlatParameters(model, "cpu")
    batch = images(3, *shape)
    weights = torch.randn(3, 7, generator=torch.Generator().manual_seed(1))

    def gradients(outputs: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        loss = (torch.cat((outputs[0], outputs[1].unsqueeze(1)), 1) * weights).sum()
        return torch.autograd.grad(loss, list(model.parameters()))

    outputs = model(batch)
    expected = literal_forward(model, batch.to(torch.float32) / 255)
    assert outputs[0].shape == (3, 6)
    assert outputs[1].shape == (3,)
    for mine, theirs in zip(outputs, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(gradients(outputs), gradients(expected), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


def test_both_image_layouts_give_the_same() -> None:
    first, last = conv_model("gala", 3, 40, 50), conv_model("gala", 40, 50, 3)
    batch = images(2, 3, 40, 50)
    for left, right in zip(first(batch), last(batch.permute(0, 2, 3, 1)), strict=True):
        torch.testing.assert_close(left, right)


def test_float_observations_are_not_scaled() -> None:
    bytes_model, float_model = conv_model(), conv_model(dtype="float32")
    batch = images(2, 4, 84, 84)
    scaled = batch.to(torch.float32) / 255
    for left, right in zip(bytes_model(batch), float_model(scaled), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def test_perceptron_scales_bytes() -> None:
    bytes_model = build_model("mlp", (9,), "uint8", 3, seed=1)
    float_model = build_model("mlp", (9,), "float32", 3, seed=1)
    batch = images(4, 9)
    logits, values = bytes_model(batch)
    assert logits.shape == (4, 3)
    assert values.shape == (4,)
    torch.testing.assert_close(values, float_model(batch / 255)[1])


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        ("gala", (3, 36, 36)),
        ("nature-layernorm", (3, 37, 44)),
        ("nature-gru", (40, 36, 3)),
        ("nature-lstm", (3, 36, 36)),
        ("impala-resnet", (3, 9, 11)),
        ("impala-resnet", (20, 9, 3)),
        ("minatar", (3, 9, 11)),
        ("minatar-layernorm", (9, 11, 3)),
        ("mlp", (9,)),
        ("mlp-layernorm", (3, 4)),
        ("mlp-gru", (9,)),
        ("mlp-lstm", (2, 3, 2, 1)),
    ],
)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_observations_are_scaled_by_the_factor_that_is_given(
    network: str, shape: tuple[int, ...], dtype: str
) -> None:
    scaling = build_model(network, shape, dtype, 3, seed=1, scale=1 / 16)
    plain = build_model(network, shape, "float32", 3, seed=1, scale=1.0)
    for parameter in (*scaling.parameters(), *plain.parameters()):
        if parameter.dim() == 1:  # without, layer normalisation undoes any scale
            parameter.data.copy_(torch.linspace(-1, 1, len(parameter)))
    batch = images(2, *shape).to(getattr(torch, dtype))
    unscaled = plain(batch.to(torch.float32))[1]
    for mine, theirs in zip(scaling(batch), plain(batch / 16), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(scaling(batch)[1], unscaled, rtol=1e-3)
    other = "float32" if dtype == "uint8" else "uint8"
    twin = taking(scaling, network, shape, other, 3, 1 / 8)
    eighth = twin(batch.to(getattr(torch, other)))
    for mine, theirs in zip(eighth, plain(batch / 8), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", networks_for(VECTOR))
def test_perceptrons_take_any_shape_as_a_vector(network: str) -> None:
    flat = build_model(network, (12,), "float32", 3, seed=1)
    batch = images(5, 3, 4)
    for shape in ((3, 4), (2, 3, 2, 1)):
        model = build_model(network, shape, "float32", 3, seed=1)
        mine = model(batch.reshape(5, *shape))
        assert torch.equal(mine[0], flat(batch.reshape(5, 12))[0])
    assert build_model(network, (), "float32", 3, seed=1)(torch.zeros(5))[1].shape == (5,)


@pytest.mark.parametrize("network", ["minatar", "minatar-layernorm"])
@pytest.mark.parametrize("layout", [(4, 10, 10), (20, 9, 3)])
def test_minatar_network_equals_plain_layers(network: str, layout: tuple[int, ...]) -> None:
    """Against convolution as a sum over patches; (20, 9, 3) has its channels last."""
    model = build_model(network, layout, "uint8", 6, seed=1)
    assert isinstance(model, MinAtarActorCritic)
    assert not model.cached_forward
    batch = images(3, *layout)
    x = (batch if layout[0] == 4 else batch.permute(0, 3, 1, 2)).to(torch.float64) / 255
    rows, columns = x.shape[2] - 2, x.shape[3] - 2
    filters = model.conv.weight.detach().to(torch.float64).flatten(1)
    patches = [
        x[:, :, i : i + 3, j : j + 3].flatten(1) @ filters.T
        for i in range(rows)
        for j in range(columns)
    ]
    x = literal_norm(torch.stack(patches, -1).flatten(1), network).relu()
    assert model.hidden.weight.shape == (128, 16 * rows * columns)
    x = literal_norm(x @ model.hidden.weight.detach().to(torch.float64).T, network).relu()
    outputs = x @ model.heads.weight.detach().to(torch.float64).T
    logits, values = model(batch)
    torch.testing.assert_close(logits.to(torch.float64), outputs[:, :6], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(values.to(torch.float64), outputs[:, 6], rtol=1e-4, atol=1e-5)
    for layer in (model.conv, model.hidden):
        assert_orthogonal(layer.weight, math.sqrt(2))


def test_the_residual_network_has_the_published_sizes() -> None:
    """Espeholt et al. 2018, figure 3, right: 15 convolutions and one layer of 256 units."""
    model = build_model("impala-resnet", (4, 84, 84), "uint8", 6, seed=1)
    expected, channels = {}, 4
    for stage, filters in enumerate((16, 32, 32)):
        name = f"stages.{stage}."
        expected |= {
            f"{name}conv.weight": (filters, channels, 3, 3),
            f"{name}conv.bias": (filters,),
        }
        for conv in ("block1.conv1", "block1.conv2", "block2.conv1", "block2.conv2"):
            expected[f"{name}{conv}.weight"] = (filters, filters, 3, 3)
            expected[f"{name}{conv}.bias"] = (filters,)
        channels = filters
    expected |= {"hidden.weight": (256, 32 * 11 * 11), "hidden.bias": (256,)}
    expected |= {"policy.weight": (6, 256), "policy.bias": (6,)}
    expected |= {"value.weight": (1, 256), "value.bias": (1,)}
    assert {n: tuple(p.shape) for n, p in model.named_parameters()} == expected
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_091_031


@pytest.mark.parametrize("layout", [(4, 20, 9), (20, 9, 3)])
def test_residual_network_equals_plain_layers(layout: tuple[int, ...]) -> None:
    """With blocks that are not the identity, as they are at first."""
    model = build_model("impala-resnet", layout, "uint8", 6, seed=1)
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    weights = dict(model.named_parameters())
    batch = images(3, *layout)

    def conv(x: Tensor, name: str) -> Tensor:
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)

    x = (batch if layout[0] == 4 else batch.permute(0, 3, 1, 2)).to(torch.float32) / 255
    for stage in range(3):
        x = conv(x, f"stages.{stage}.conv")
        x = F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=-math.inf), 3, 2)
        for block in (f"stages.{stage}.block1", f"stages.{stage}.block2"):
            x = x + conv(F.relu(conv(F.relu(x), f"{block}.conv1")), f"{block}.conv2")
    x = F.relu(x).permute(0, 2, 3, 1).reshape(3, -1)
    x = F.relu(F.linear(x, weights["hidden.weight"], weights["hidden.bias"]))
    for mine, name in zip(model(batch), ("policy", "value"), strict=True):
        expected = F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])
        torch.testing.assert_close(mine, expected.view_as(mine), rtol=1e-4, atol=1e-4)


def literal_norm(x: Tensor, network: str) -> Tensor:
    """Return rows with mean 0 and variance 1, if the network's name asks for it."""
    if not network.endswith("layernorm"):
        return x
    variance, mean = torch.var_mean(x, 1, correction=0, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt()


# Flat parameters


@pytest.fixture
def model() -> ActorCritic:
    return conv_model("gala", 4, 40, 40)


def test_flat_vector_keeps_values_and_has_no_holes(model: ActorCritic) -> None:
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    flat = FlatParameters(model, "cpu")
    end = 0
    for (name, shape, offset), (known, parameter) in zip(
        flat.layout(), model.named_parameters(), strict=True
    ):
        assert (name, shape, offset) == (known, tuple(parameter.shape), end)
        assert torch.equal(parameter, before[name])
        stored = before[name].movedim(1, 3) if len(shape) == 4 else before[name]
        end += parameter.numel()
        assert torch.equal(flat.data[offset:end], stored.flatten())
    assert flat.data.shape == flat.grad.shape == (end,)


def test_convolution_weights_are_channels_last_views(model: ActorCritic) -> None:
    flat = FlatParameters(model, "cpu")
    start, stop = flat.data.data_ptr(), flat.data.data_ptr() + flat.data.nbytes
    for parameter in model.parameters():
        assert start <= parameter.data_ptr() < stop
        if parameter.dim() == 4:
            assert parameter.is_contiguous(memory_format=torch.channels_last)


def test_writing_the_vector_changes_the_network(model: ActorCritic) -> None:
    flat = FlatParameters(model, "cpu")
    batch = images(2, 4, 40, 40)
    assert model(batch)[1].any()
    flat.data.zero_()
    assert not model(batch)[1].any()


def test_backward_adds_into_the_given_gradients(model: ActorCritic) -> None:
    def loss() -> Tensor:
        logits, values = model(images(3, 4, 40, 40))
        total: Tensor = logits.square().sum() + values.sum()
        return total

    expected = torch.autograd.grad(loss(), list(model.parameters()))
    flat = FlatParameters(model, "cpu")
    kept = [parameter.grad for parameter in model.parameters()]
    for passes in (1, 2):
        torch.autograd.backward(loss())
        for (name, _, offset), parameter, grad, view in zip(
            flat.layout(), model.parameters(), expected, kept, strict=True
        ):
            assert view is not None
            assert parameter.grad is view, name
            assert view.stride() == parameter.stride()
            assert view.data_ptr() == flat.grad[offset:].data_ptr()
            torch.testing.assert_close(parameter.grad, passes * grad)
    assert flat.grad.any()
    flat.zero_grad()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_named_parameters_are_copies_that_load_again(model: ActorCritic) -> None:
    flat = FlatParameters(model, "cpu")
    saved = flat.named()
    for name, parameter in model.named_parameters():
        assert torch.equal(saved[name], parameter)
        assert saved[name].is_contiguous()
    before = flat.data.clone()
    flat.data.add_(1.0)
    assert all(not torch.equal(saved[n], p) for n, p in model.named_parameters())
    flat.load_named(saved)
    assert torch.equal(flat.data, before)


def test_parameters_that_do_not_fit_are_refused_whole(model: ActorCritic) -> None:
    flat = FlatParameters(model, "cpu")
    before = flat.data.clone()
    values = {name: torch.zeros_like(value) for name, value in flat.named().items()}
    del values["conv1.bias"]
    values["extra"] = torch.zeros(1)
    values["heads.weight"] = torch.zeros(5, 512)
    values["heads.bias"] = values["heads.bias"].double()
    with pytest.raises(CheckpointError) as caught:
        flat.load_named(values)
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "conv1.bias is missing",
        "extra is unknown",
        "heads.weight: expected float32 [7, 512], got float32 [5, 512]",
        "heads.bias: expected float32 [7], got float64 [7]",
    ):
        assert part in message
    assert torch.equal(flat.data, before)


def test_buffers_are_refused() -> None:
    with pytest.raises(AssertionError, match="buffers"):
        FlatParameters(nn.BatchNorm1d(3), "cpu")


# Networks of the user's


USERS = "tests.support.networks:"
TASK = (4,), "float32", 3


@pytest.mark.parametrize("name", ["Toy", "drawing"])
@pytest.mark.parametrize("shape", [(4,), (2, 3), (4, 36, 36)])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_network_of_the_users_follows_from_the_seed(
    name: str, shape: tuple[int, ...], dtype: str
) -> None:
    def parameters(seed: int) -> Tensor:
        model = build_model(USERS + name, shape, dtype, 3, seed=seed)
        return nn.utils.parameters_to_vector(model.parameters())

    state = (
        torch.get_rng_state(),
        random.getstate(),
        np.random.get_state(legacy=False)["state"]["key"].tolist(),
    )
    first = parameters(1)
    torch.rand(3)
    after = (
        torch.get_rng_state(),
        random.getstate(),
        np.random.get_state(legacy=False)["state"]["key"].tolist(),
    )
    torch.set_rng_state(state[0])
    np.random.normal(size=3)
    assert torch.equal(first, parameters(1))
    assert not torch.equal(first, parameters(2))
    assert state[1:] == after[1:]
    assert torch.equal(torch.get_rng_state(), state[0])
    assert resolve_network(USERS + name, shape) == USERS + name
    check_network(USERS + name, shape, dtype, 3, seed=1)


def test_a_network_of_the_users_takes_another_type_with_the_same_parameters() -> None:
    model = build_model(USERS + "Toy", (6,), "uint8", 3, seed=1)
    FlatParameters(model, "cpu")
    other = taking(model, USERS + "Toy", (6,), "float32", 3)
    batch = images(5, 6)
    with torch.no_grad():
        for mine, theirs in zip(model(batch), other(batch / 255), strict=True):
            torch.testing.assert_close(mine, theirs)
    for parameter, shared in zip(model.parameters(), other.parameters(), strict=True):
        assert parameter.data_ptr() == shared.data_ptr()


def test_a_network_of_the_users_is_told_the_scale_if_it_asks() -> None:
    for dtype, given, scale in (
        ("uint8", None, 1 / 255),
        ("float32", None, 1.0),
        ("uint8", 1.0, 1.0),
    ):
        model = build_model(USERS + "Scaled", (4,), dtype, 3, seed=1, scale=given)
        assert model.scale == scale


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("tests.support.networks:wide", r"returned float32 \[2, 6\] and .*: expected logits float"),
        ("tests.support.networks:column", r"and float32 \[2, 1\]: expected .* values float32 \[2"),
        ("tests.support.networks:squeezed", r"\[1, 4\] forward returned .* and float32 \[\]: exp"),
        ("tests.support.networks:alone", r"forward returned float32 \[2, 3\]: expected"),
        ("tests.support.networks:nothing", "forward returned None: expected"),
        ("tests.support.networks:double", r"returned float64 \[2, 3\] and"),
        ("tests.support.networks:nan", "returned NaN or infinity: expected finite"),
        ("tests.support.networks:detached", "has no gradient: .* leave out detach and no_grad"),
        ("tests.support.networks:dropped", "two things for the same observations: .* no dropout"),
        ("tests.support.networks:WithBuffer", "the buffer norm.running_mean would be neither"),
        ("tests.support.networks:Frozen", "the parameter value.bias is not trained"),
        ("tests.support.networks:Half", "the parameter short is float16 on cpu: expected float32"),
        ("tests.support.networks:Lazy", "the parameter lazy.weight has no shape yet"),
        ("tests.support.networks:Named", "the parameter a/b.weight has a name that checkpoints"),
        ("tests.support.networks:empty", "no parameters: expected some to train"),
        ("tests.support.networks:unseeded", "two calls have given different weights"),
        ("tests.support.networks:raising", r"raised ValueError: no idea at all .*networks.py:\d"),
        ("tests.support.networks:leaving", r"raised SystemExit: enough .*networks.py:\d"),
        ("tests.support.networks:FailingForward", "raised RuntimeError: mat1 .* in forward"),
        ("tests.support.networks:without_arguments", "raised TypeError: without_arguments"),
        ("tests.support.networks:table", "returns a torch.nn.Module, it returned dict"),
        ("tests.support.networks:a_number", "no function 'a_number'"),
        ("tests.support.networks:Toys", "no function .Toys. .did you mean Toy"),
        ("tests.support.broken_module:Toy", "raised ModuleNotFoundError: .*broken_module.py:3"),
        ("tests.nothing:make", "cannot import tests.nothing .*is it installed, or in this folder"),
    ],
)
def test_what_is_no_network_is_told_in_one_line(name: str, told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        check_network(name, *TASK, seed=1)
    (line,) = caught.value.problems
    assert line.startswith(f"--network {name}: ")
    assert "\n" not in line
    assert ("raised" in line) == ("Traceback" in caught.value.details)


def test_networks_that_come_with_galamp_are_by_name_what_they_are() -> None:
    for name, known in NETWORKS.items():
        shape = (8,) if known.dimensions == 1 else (4, *[known.smallest] * 2)
        check_model(name, build_model(name, shape, "uint8", 3, seed=1), shape, "uint8", 3)


def test_only_own_networks_have_a_way_back_written_by_hand() -> None:
    assert conv_model().cached_forward
    assert not conv_model(dtype="float32").cached_forward
    assert build_model("gala", (4, 84, 84), "uint8", 6, seed=1, scale=1.0).cached_forward
    assert not hasattr(build_model(USERS + "Toy", (4,), "float32", 2, seed=1), "cached_forward")


@pytest.mark.parametrize(
    ("stored", "asked", "told"),
    [
        ("my:make", "", "the run wants to run your code my:make: .*, add --network my:make"),
        ("my:make", "gala", "--network gala: the run is of my:make; name that"),
        ("my:make", "my:other", "--network my:other: the run is of my:make; name that"),
        ("gala", "my:make", "--network my:make: the run is of gala; name that"),
        ("my:make; rm -rf ~", "", "network 'my:make; rm -rf ~': expected package.module:factory"),
    ],
)
def test_only_the_user_has_a_module_imported(stored: str, asked: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        check_network_asked(stored, asked, "the run")
    for name in ("gala", "my:make"):
        check_network_asked(name, name, "the run")
    check_network_asked("auto", "", "the run")
    check_network_asked("gala", "nature", "the run")  # a checkpoint's identity refuses it


@pytest.mark.parametrize("shape", [(18, 4, 4), (20, 3, 3), (64, 1, 1)])
def test_many_channels_of_a_small_image_come_first(shape: tuple[int, int, int]) -> None:
    assert image_layout(shape) == ImageLayout(*shape, channels_first=True)
