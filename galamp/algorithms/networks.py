"""The actor-critic networks: observations in, policy logits and state values out.

Used in learners (acting and updating) and in evaluation. Three networks: the GALA paper's
convolutional one (Assran et al. 2019), the one of Mnih et al. 2015 (twice the filters in the third
layer), and two small perceptrons for vector observations.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from galamp.core.config import MOST_CHANNELS
from galamp.core.errors import UserError, did_you_mean

THIRD_LAYER_FILTERS = {"gala": 32, "nature": 64}
NETWORKS = ("auto", *THIRD_LAYER_FILTERS, "mlp")
CONVOLUTIONS = ((32, 8, 4), (64, 4, 2))
"""Filters, kernel side and stride of the layers that both convolutional networks share."""
THIRD_KERNEL = 3
HIDDEN_UNITS = 512
MLP_UNITS = 64
HIDDEN_GAIN, POLICY_GAIN, VALUE_GAIN = math.sqrt(2.0), 0.01, 1.0
CHANNELS_LAST = (1, 3, 4)
SMALLEST_IMAGE = 36
"""Pixels a side below which the third convolution has nothing to see: ((3 - 1) 2 + 4 - 1) 4 + 8."""


class ImageLayout(NamedTuple):
    """How an image observation of three dimensions is to be read."""

    channels: int
    height: int
    width: int
    channels_first: bool


class ActorCritic(nn.Module, ABC):
    """A policy and a value function over a discrete set of actions."""

    def __init__(self, num_actions: int, observation_dtype: str) -> None:
        """Remember the scale that brings observations to the unit interval."""
        super().__init__()
        self.num_actions = num_actions
        self.scale = _scale(observation_dtype)

    def taking(self, observation_dtype: str) -> Self:
        """Return this network for observations of another type; it shares every parameter."""
        other = copy.copy(self)
        other.scale = _scale(observation_dtype)
        return other

    @abstractmethod
    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, A] and values [B] of `observations` [B, ...], uint8 or float32."""

    @abstractmethod
    def initialise(self, generator: torch.Generator) -> None:
        """Fill every weight and bias."""


class ConvActorCritic(ActorCritic):
    """Three convolutions and one linear layer, shared by the policy and value heads.

    Both heads are one linear layer of A + 1 outputs, the value last. Activations stay
    channels-last, so the linear layer takes its inputs in the order height, width, channel.
    """

    def __init__(
        self, layout: ImageLayout, third_filters: int, num_actions: int, observation_dtype: str
    ) -> None:
        """Allocate the layers; `build_model` fills them."""
        super().__init__(num_actions, observation_dtype)
        self.channels_first = layout.channels_first
        self.image_size = layout.height, layout.width
        (first, kernel1, stride1), (second, kernel2, stride2) = CONVOLUTIONS
        self.conv1 = nn.Conv2d(layout.channels, first, kernel1, stride1)
        self.conv2 = nn.Conv2d(first, second, kernel2, stride2)
        self.conv3 = nn.Conv2d(second, third_filters, THIRD_KERNEL)
        sides = [_third_side(side) for side in (layout.height, layout.width)]
        self.hidden = nn.Linear(third_filters * math.prod(sides), HIDDEN_UNITS)
        self.heads = nn.Linear(HIDDEN_UNITS, num_actions + 1)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, A] and values [B] of images [B, C, H, W] or [B, H, W, C]."""
        x = self._channels_last(observations)
        x = F.conv2d(x, self.scaled_weight(), self.conv1.bias, self.conv1.stride).relu_()
        x = self.conv2(x).relu_()
        x = self.conv3(x).relu_()
        x = self.hidden(x.permute(0, 2, 3, 1).flatten(1)).relu_()
        outputs = self.heads(x)
        return outputs[:, :-1], outputs[:, -1]

    def initialise(self, generator: torch.Generator) -> None:
        """Fill every weight and bias; the two heads differ in gain."""
        for layer in (self.conv1, self.conv2, self.conv3, self.hidden):
            _fill(layer, HIDDEN_GAIN, generator)
        nn.init.zeros_(self.heads.bias)
        weight = self.heads.weight.detach()
        nn.init.orthogonal_(weight[:-1], POLICY_GAIN, generator=generator)
        nn.init.orthogonal_(weight[-1:], VALUE_GAIN, generator=generator)

    def _channels_last(self, observations: Tensor) -> Tensor:
        """Return float32 images [B, C, H, W] whose channels lie next to each other in memory."""
        if not self.channels_first:
            return observations.permute(0, 3, 1, 2).to(torch.float32)
        if observations.device.type != "cpu":
            return observations.to(torch.float32, memory_format=torch.channels_last)
        count, channels, height, width = observations.shape
        images = torch.empty(count, height, width, channels, dtype=torch.float32)
        self.channels_last_into(observations, images)
        return images.permute(0, 3, 1, 2)

    def channels_last_into(self, observations: Tensor, images: Tensor) -> None:
        """Write observations [B, ...] into `images` [B, H, W, C] float32, on a CPU."""
        if not self.channels_first:
            images.copy_(observations)
            return
        # PyTorch's own conversion to channels-last takes two to four times as long.
        for to, channel in zip(images.unbind(-1), observations.unbind(1), strict=True):
            to.copy_(channel)

    def scaled_weight(self) -> Tensor:
        """Return the first layer's weight for pixels as they come.

        Scaling the few weights is cheaper than scaling every pixel.
        """
        return self.conv1.weight if self.scale == 1.0 else self.conv1.weight * self.scale


class MlpActorCritic(ActorCritic):
    """Two separate perceptrons of two tanh layers: one for the policy, one for the value."""

    def __init__(self, inputs: int, num_actions: int, observation_dtype: str) -> None:
        """Allocate the layers; `build_model` fills them."""
        super().__init__(num_actions, observation_dtype)
        self.policy = _perceptron(inputs, num_actions)
        self.value = _perceptron(inputs, 1)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, A] and values [B] of vectors [B, N]."""
        x = observations.to(torch.float32)
        if self.scale != 1.0:
            x = x * self.scale
        return self.policy(x), self.value(x).squeeze(-1)

    def initialise(self, generator: torch.Generator) -> None:
        """Fill every weight and bias."""
        for trunk, gain in ((self.policy, POLICY_GAIN), (self.value, VALUE_GAIN)):
            *hidden, head = (layer for layer in trunk if isinstance(layer, nn.Linear))
            for layer in hidden:
                _fill(layer, HIDDEN_GAIN, generator)
            _fill(head, gain, generator)


def build_model(
    network: str,
    observation_shape: tuple[int, ...],
    observation_dtype: str,
    num_actions: int,
    *,
    seed: int,
) -> ActorCritic:
    """Make a network with orthogonal weights and zero biases, on the CPU.

    Gains: sqrt(2) for hidden layers, 0.01 for the policy, 1 for the value. The same arguments give
    the same bits; the global random state is neither read nor moved.

    Args:
        network: one of `NETWORKS`; see `resolve_network`.
        observation_shape: one observation's shape, without the batch.
        observation_dtype: `uint8` (scaled by 1/255) or `float32` (taken as it is).
        num_actions: number of discrete actions A.
        seed: seed of the initial weights.

    Raises:
        UserError: the network does not fit the observations.
    """
    # Layers fill themselves from the global random state before `initialise` fills them again.
    with torch.random.fork_rng(devices=[]):
        model = _layers(network, observation_shape, observation_dtype, num_actions)
    with _one_thread():
        model.initialise(torch.Generator().manual_seed(seed))
    return model


def bare_model(
    network: str, observation_shape: tuple[int, ...], observation_dtype: str, num_actions: int
) -> ActorCritic:
    """Make a network whose parameters have shapes and no values, and take no memory.

    However large it is, its shapes can be looked at; `to_empty` then gives it memory.

    Args and errors are those of `build_model`.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return _layers(network, observation_shape, observation_dtype, num_actions)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: the QR decomposition's bits depend on how many there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _layers(
    network: str, observation_shape: tuple[int, ...], observation_dtype: str, num_actions: int
) -> ActorCritic:
    if observation_dtype not in ("uint8", "float32"):
        raise UserError(
            f"observations of {observation_dtype} are not supported: expected uint8 or float32; "
            "convert them in the environment"
        )
    network = resolve_network(network, observation_shape)
    if network == "mlp":
        return MlpActorCritic(observation_shape[0], num_actions, observation_dtype)
    layout = _image_layout(observation_shape)
    return ConvActorCritic(layout, THIRD_LAYER_FILTERS[network], num_actions, observation_dtype)


def _scale(observation_dtype: str) -> float:
    """Return what brings observations of this type to the unit interval."""
    return 1.0 / 255.0 if observation_dtype == "uint8" else 1.0


def resolve_network(network: str, observation_shape: tuple[int, ...]) -> str:
    """Return `gala`, `nature` or `mlp` for `network`, where `auto` chooses by the observations.

    Images are [C, H, W] with C up to 16, or [H, W, C] with C of 1, 3 or 4.

    Raises:
        UserError: an unknown network, or one that cannot take observations of this shape.
    """
    shape, rank = list(observation_shape), len(observation_shape)
    if network not in NETWORKS:
        raise UserError(
            f"--network {network}: expected one of {', '.join(NETWORKS)}"
            f"{did_you_mean(network, NETWORKS)}"
        )
    if rank not in (1, 3):
        raise UserError(
            f"observations of shape {shape} are not supported: expected a vector [N] or an image "
            "[C, H, W] or [H, W, C]; flatten or stack them in the environment"
        )
    if network == "auto":
        network = "gala" if rank == 3 else "mlp"
    if (rank == 1) != (network == "mlp"):
        fitting = "mlp" if rank == 1 else "gala or nature"
        raise UserError(
            f"--network {network} cannot take observations of shape {shape}: use {fitting}, or auto"
        )
    if rank == 3:
        _image_layout(observation_shape)
    return network


def _image_layout(shape: tuple[int, ...]) -> ImageLayout:
    """Read a shape of three dimensions; no shape fits both forms, for C is below the least H."""
    if shape[0] <= MOST_CHANNELS:
        layout = ImageLayout(shape[0], shape[1], shape[2], channels_first=True)
    elif shape[2] in CHANNELS_LAST:
        layout = ImageLayout(shape[2], shape[0], shape[1], channels_first=False)
    else:
        raise UserError(
            f"images of shape {list(shape)} are not supported: expected [C, H, W] with C up to "
            f"{MOST_CHANNELS}, or [H, W, C] with C of 1, 3 or 4"
        )
    if min(layout.height, layout.width) < SMALLEST_IMAGE:
        raise UserError(
            f"images of {layout.height} x {layout.width} pixels are too small for convolutions: "
            f"expected at least {SMALLEST_IMAGE} x {SMALLEST_IMAGE}; enlarge them, or flatten them "
            "for mlp"
        )
    return layout


def _third_side(side: int) -> int:
    """Return the side in pixels of what the third convolution gives for an image of `side`."""
    for _, kernel, stride in CONVOLUTIONS:
        side = (side - kernel) // stride + 1
    return side - THIRD_KERNEL + 1


def _perceptron(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, MLP_UNITS),
        nn.Tanh(),
        nn.Linear(MLP_UNITS, MLP_UNITS),
        nn.Tanh(),
        nn.Linear(MLP_UNITS, outputs),
    )


def _fill(layer: nn.Conv2d | nn.Linear, gain: float, generator: torch.Generator) -> None:
    nn.init.orthogonal_(layer.weight, gain, generator=generator)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
