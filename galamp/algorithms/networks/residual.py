"""Residual network of IMPALA (Espeholt et al. 2018, figure 3, right), without its LSTM.

Pure PyTorch; used in learners and in evaluation.
"""

from __future__ import annotations

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
from galamp.algorithms.networks.images import ImageLayout, image_layout

FILTERS = (16, 32, 32)
"""Of the three stages."""
HIDDEN_UNITS = 256
STAGE_GAIN = 1.0
"""No ReLU follows a stage's own convolution directly."""


def impala_resnet(
    observation_shape: tuple[int, ...], observation_dtype: str, num_actions: int
) -> ResidualActorCritic:
    """Return the residual network of IMPALA."""
    return ResidualActorCritic(image_layout(observation_shape), num_actions, observation_dtype)


class ResidualBlock(nn.Module):
    """x + conv(ReLU(conv(ReLU(x)))), both of 3 x 3."""

    def __init__(self, filters: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(filters, filters, 3, padding=1)
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, F, H, W] for [B, F, H, W]."""
        return x + self.conv2(self.conv1(x.relu()).relu_())  # type: ignore[no-any-return]


class Stage(nn.Module):
    """A convolution, a maximum over 3 x 3 pixels with stride 2, and two residual blocks."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, filters, 3, padding=1)
        self.block1, self.block2 = ResidualBlock(filters), ResidualBlock(filters)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, F, ceil(H / 2), ceil(W / 2)] for [B, C, H, W]."""
        x = F.max_pool2d(self.conv(x), 3, stride=2, padding=1)
        return self.block2(self.block1(x))  # type: ignore[no-any-return]


class ResidualActorCritic(ActorCritic):
    """Three stages and one linear layer, shared by the policy and value heads."""

    def __init__(self, layout: ImageLayout, num_actions: int, observation_dtype: str) -> None:
        """Allocate the layers; `build_model` fills them."""
        super().__init__(num_actions, observation_dtype)
        self.channels_first = layout.channels_first
        inputs = (layout.channels, *FILTERS)
        self.stages = nn.Sequential(*(Stage(a, b) for a, b in zip(inputs, FILTERS, strict=False)))
        height, width = layout.height, layout.width
        for _ in FILTERS:
            height, width = (height + 1) // 2, (width + 1) // 2
        self.hidden = nn.Linear(FILTERS[-1] * height * width, HIDDEN_UNITS)
        self.policy, self.value = nn.Linear(HIDDEN_UNITS, num_actions), nn.Linear(HIDDEN_UNITS, 1)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, A] and values [B] of images [B, C, H, W] or [B, H, W, C]."""
        x = observations if self.channels_first else observations.permute(0, 3, 1, 2)
        x = x.to(torch.float32, memory_format=torch.channels_last)
        if self.scale != 1.0:
            x = x * self.scale
        x = self.stages(x).relu_()
        x = self.hidden(x.permute(0, 2, 3, 1).flatten(1)).relu_()
        return head(self.policy, x), head(self.value, x).squeeze(-1)

    def output_rows(self) -> tuple[Rows, Rows]:
        """Return both heads; see `ActorCritic.output_rows`."""
        return Rows(self.policy, ALL), Rows(self.value, ALL)

    def initialise(self, generator: torch.Generator) -> None:
        """Fill every weight and bias; blocks are the identity at first (Goyal et al. 2017)."""
        for stage in self.stages:
            assert isinstance(stage, Stage)
            fill(stage.conv, STAGE_GAIN, generator)
            for block in (stage.block1, stage.block2):
                fill(block.conv1, HIDDEN_GAIN, generator)
                fill(block.conv2, 0.0, generator)
        fill(self.hidden, HIDDEN_GAIN, generator)
        fill(self.policy, POLICY_GAIN, generator)
        fill(self.value, VALUE_GAIN, generator)
