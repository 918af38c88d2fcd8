"""Networks with layer normalisation before every ReLU, as PQN needs them (Gallici et al. 2024).

`nature-layernorm` is Mnih et al.'s of 2015, `mlp-layernorm` a perceptron of 120 and 84 units, both
as CleanRL has them for PQN; `minatar-layernorm` is `minatar`. Layer normalisation keeps no running
statistics: nothing but parameters is gossiped. Pure PyTorch; used in learners and in evaluation.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from galamp.algorithms.networks.base import (
    ALL,
    HIDDEN_GAIN,
    POLICY_GAIN,
    VALUE_GAIN,
    ActorCritic,
    Rows,
    fill,
    head,
)
from galamp.algorithms.networks.convolutional import (
    HIDDEN_UNITS,
    NATURE_FILTERS,
    ConvActorCritic,
)
from galamp.algorithms.networks.images import ImageLayout, image_layout
from galamp.algorithms.networks.minatar import MinAtarActorCritic

MLP_UNITS = (120, 84)


def nature_layernorm(
    observation_shape: tuple[int, ...], observation_dtype: str, num_actions: int
) -> LayerNormConvActorCritic:
    """Return the network of Mnih et al. 2015 with layer normalisation."""
    return LayerNormConvActorCritic(image_layout(observation_shape), num_actions, observation_dtype)


def minatar_layernorm(
    observation_shape: tuple[int, ...], observation_dtype: str, num_actions: int
) -> LayerNormMinAtarActorCritic:
    """Return the network for small images with layer normalisation."""
    layout = image_layout(observation_shape)
    return LayerNormMinAtarActorCritic(layout, num_actions, observation_dtype)


def mlp_layernorm(
    observation_shape: tuple[int, ...], observation_dtype: str, num_actions: int
) -> LayerNormMlpActorCritic:
    """Return the perceptron for vectors [N], or for arrays of N numbers in all."""
    return LayerNormMlpActorCritic(math.prod(observation_shape), num_actions, observation_dtype)


class LayerNormConvActorCritic(ConvActorCritic):
    """Three convolutions and one linear layer, each normalised over all of one image's outputs.

    Activations stay channels-last, so a scale and a shift of a convolution are [H, W, C].
    """

    def __init__(self, layout: ImageLayout, num_actions: int, observation_dtype: str) -> None:
        """Allocate the layers; `build_model` fills them."""
        super().__init__(layout, NATURE_FILTERS, num_actions, observation_dtype)
        height, width = layout.height, layout.width
        norms = []
        for layer in (self.conv1, self.conv2, self.conv3):
            kernel, stride = layer.kernel_size[0], layer.stride[0]
            height, width = ((side - kernel) // stride + 1 for side in (height, width))
            norms.append(nn.LayerNorm([height, width, layer.out_channels]))
        self.norm1, self.norm2, self.norm3 = norms
        self.norm4 = nn.LayerNorm(HIDDEN_UNITS)

    @property
    def cached_forward(self) -> str:
        """None: the way back by hand knows no normalisation."""
        return ""

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, A] and values [B] of images [B, C, H, W] or [B, H, W, C]."""
        x = self._channels_last(observations)
        x = F.conv2d(x, self.scaled_weight(), self.conv1.bias, self.conv1.stride)
        x = self.conv2(_normalised(x, self.norm1))
        x = self.conv3(_normalised(x, self.norm2))
        x = _normalised(x, self.norm3).permute(0, 2, 3, 1).flatten(1)
        x = self.norm4(self.hidden(x)).relu_()
        outputs = head(self.heads, x)
        return outputs[:, :-1], outputs[:, -1]

    def initialise(self, generator: torch.Generator) -> None:
        """Fill every weight and bias."""
        super().initialise(generator)
        for norm in (self.norm1, self.norm2, self.norm3, self.norm4):
            _fill_norm(norm)


class LayerNormMinAtarActorCritic(MinAtarActorCritic):
    """A convolution and a linear layer, each normalised over all of one image's outputs."""

    def __init__(self, layout: ImageLayout, num_actions: int, observation_dtype: str) -> None:
        """Allocate the layers; `build_model` fills them."""
        super().__init__(layout, num_actions, observation_dtype)
        self.norm1 = nn.LayerNorm(list(self.filtered))
        self.norm2 = nn.LayerNorm(self.hidden.out_features)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, A] and values [B] of images [B, C, H, W] or [B, H, W, C]."""
        x = self.norm1(self.convolved(observations)).relu_()
        x = self.norm2(self.hidden(x.flatten(1))).relu_()
        outputs = head(self.heads, x)
        return outputs[:, :-1], outputs[:, -1]

    def initialise(self, generator: torch.Generator) -> None:
        """Fill every weight and bias."""
        super().initialise(generator)
        _fill_norm(self.norm1)
        _fill_norm(self.norm2)


class LayerNormMlpActorCritic(ActorCritic):
    """Two linear layers, each normalised, shared by the policy and value heads."""

    def __init__(self, inputs: int, num_actions: int, observation_dtype: str) -> None:
        """Allocate the layers; `build_model` fills them."""
        super().__init__(num_actions, observation_dtype)
        first, second = MLP_UNITS
        self.hidden1, self.norm1 = nn.Linear(inputs, first), nn.LayerNorm(first)
        self.hidden2, self.norm2 = nn.Linear(first, second), nn.LayerNorm(second)
        self.policy, self.value = nn.Linear(second, num_actions), nn.Linear(second, 1)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, A] and values [B] of vectors [B, N], or arrays of N numbers."""
        x = self.vectors(observations, self.hidden1.in_features)
        x = self.norm1(self.hidden1(x)).relu_()
        x = self.norm2(self.hidden2(x)).relu_()
        return head(self.policy, x), head(self.value, x).squeeze(-1)

    def input_layers(self) -> tuple[nn.Linear, ...]:
        """Return the first layer; see `ActorCritic.input_layers`."""
        return (self.hidden1,)

    def output_rows(self) -> tuple[Rows, Rows]:
        """Return both heads; see `ActorCritic.output_rows`."""
        return Rows(self.policy, ALL), Rows(self.value, ALL)

    def initialise(self, generator: torch.Generator) -> None:
        """Fill every weight and bias."""
        fill(self.hidden1, HIDDEN_GAIN, generator)
        fill(self.hidden2, HIDDEN_GAIN, generator)
        fill(self.policy, POLICY_GAIN, generator)
        fill(self.value, VALUE_GAIN, generator)
        _fill_norm(self.norm1)
        _fill_norm(self.norm2)


def _normalised(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Return ReLU(norm) of images [B, C, H, W], channels-last in memory."""
    return norm(x.permute(0, 2, 3, 1)).relu_().permute(0, 3, 1, 2)  # type: ignore[no-any-return]


def _fill_norm(norm: nn.LayerNorm) -> None:
    nn.init.ones_(norm.weight)
    nn.init.zeros_(norm.bias)
