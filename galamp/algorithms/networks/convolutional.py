"""Convolutional networks: the GALA paper's (Assran et al. 2019), and Mnih et al.'s of 2015.

They differ in the third layer's filters. Pure PyTorch; used in learners and in evaluation.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from galamp.algorithms.networks.base import (
    HIDDEN_GAIN,
    POLICY_GAIN,
    VALUE_GAIN,
    ActorCritic,
    Rows,
    fill,
    head,
)
from galamp.algorithms.networks.images import ImageLayout, image_layout

GALA_FILTERS, NATURE_FILTERS = 32, 64
"""Of the third layer."""
CONVOLUTIONS = ((32, 8, 4), (64, 4, 2))
"""Filters, kernel side and stride of the layers that both networks share."""
THIRD_KERNEL = 3
HIDDEN_UNITS = 512


def gala(
    observation_shape: tuple[int, ...], observation_dtype: str, num_actions: int
) -> ConvActorCritic:
    """Return the network of the GALA paper."""
    layout = image_layout(observation_shape)
    return ConvActorCritic(layout, GALA_FILTERS, num_actions, observation_dtype)


def nature(
    observation_shape: tuple[int, ...], observation_dtype: str, num_actions: int
) -> ConvActorCritic:
    """Return the network of Mnih et al. 2015."""
    layout = image_layout(observation_shape)
    return ConvActorCritic(layout, NATURE_FILTERS, num_actions, observation_dtype)


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

    @property
    def cached_forward(self) -> str:
        """The way back that is written by hand, for bytes; see `ActorCritic.cached_forward`."""
        return "galamp.algorithms.cached_conv:CachedConvForward" if self.takes_bytes else ""

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, A] and values [B] of images [B, C, H, W] or [B, H, W, C]."""
        outputs = head(self.heads, self.features(observations))
        return outputs[:, :-1], outputs[:, -1]

    def features(self, observations: Tensor) -> Tensor:
        """Return what the heads take, [B, 512]."""
        x = self._channels_last(observations)
        x = F.conv2d(x, self.scaled_weight(), self.conv1.bias, self.conv1.stride).relu_()
        x = self.conv2(x).relu_()
        x = self.conv3(x).relu_()
        return self.hidden(x.permute(0, 2, 3, 1).flatten(1)).relu_()  # type: ignore[no-any-return]

    def output_rows(self) -> tuple[Rows, Rows]:
        """Return the parts of the one layer of both heads; see `ActorCritic.output_rows`."""
        return Rows(self.heads, slice(-1)), Rows(self.heads, slice(-1, None))

    def initialise(self, generator: torch.Generator) -> None:
        """Fill every weight and bias; the two heads differ in gain."""
        for layer in (self.conv1, self.conv2, self.conv3, self.hidden):
            fill(layer, HIDDEN_GAIN, generator)
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


def _third_side(side: int) -> int:
    """Return the side in pixels of what the third convolution gives for an image of `side`."""
    for _, kernel, stride in CONVOLUTIONS:
        side = (side - kernel) // stride + 1
    return side - THIRD_KERNEL + 1
