"""The small convolutional network for small images, as MinAtar's (Young and Tian 2019).

One convolution of 16 filters of 3 x 3 and one layer of 128 units, with ReLU. Pure PyTorch; used in
learners and in evaluation.
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

FILTERS, KERNEL = 16, 3
HIDDEN_UNITS = 128


def minatar(
    observation_shape: tuple[int, ...], observation_dtype: str, num_actions: int
) -> MinAtarActorCritic:
    """Return the network for images of at least 3 x 3 pixels."""
    return MinAtarActorCritic(image_layout(observation_shape), num_actions, observation_dtype)


class MinAtarActorCritic(ActorCritic):
    """A convolution and a linear layer, shared by the policy and value heads.

    Both heads are one linear layer of A + 1 outputs, the value last.

    Attributes:
        filtered: shape of the convolution's outputs of one image, [filters, height, width].
    """

    def __init__(self, layout: ImageLayout, num_actions: int, observation_dtype: str) -> None:
        """Allocate the layers; `build_model` fills them."""
        super().__init__(num_actions, observation_dtype)
        self.channels_first = layout.channels_first
        self.conv = nn.Conv2d(layout.channels, FILTERS, KERNEL)
        self.filtered = (FILTERS, layout.height - KERNEL + 1, layout.width - KERNEL + 1)
        self.hidden = nn.Linear(math.prod(self.filtered), HIDDEN_UNITS)
        self.heads = nn.Linear(HIDDEN_UNITS, num_actions + 1)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, A] and values [B] of images [B, C, H, W] or [B, H, W, C]."""
        x = self.convolved(observations).relu_()
        x = self.hidden(x.flatten(1)).relu_()
        outputs = head(self.heads, x)
        return outputs[:, :-1], outputs[:, -1]

    def convolved(self, observations: Tensor) -> Tensor:
        """Return the convolution's outputs [B, *filtered] of images, before any ReLU."""
        x = observations if self.channels_first else observations.permute(0, 3, 1, 2)
        # Scaling the few weights is cheaper than scaling every pixel.
        weight = self.conv.weight if self.scale == 1.0 else self.conv.weight * self.scale
        return F.conv2d(x.to(torch.float32), weight, self.conv.bias)

    def output_rows(self) -> tuple[Rows, Rows]:
        """Return the parts of the one layer of both heads; see `ActorCritic.output_rows`."""
        return Rows(self.heads, slice(-1)), Rows(self.heads, slice(-1, None))

    def initialise(self, generator: torch.Generator) -> None:
        """Fill every weight and bias; the two heads differ in gain."""
        for layer in (self.conv, self.hidden):
            fill(layer, HIDDEN_GAIN, generator)
        nn.init.zeros_(self.heads.bias)
        weight = self.heads.weight.detach()
        nn.init.orthogonal_(weight[:-1], POLICY_GAIN, generator=generator)
        nn.init.orthogonal_(weight[-1:], VALUE_GAIN, generator=generator)
