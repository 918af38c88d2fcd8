"""Two small perceptrons for vector observations, and for any others as vectors.

Pure PyTorch; used in learners and in evaluation.
"""

from __future__ import annotations

import math

import torch
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

MLP_UNITS = 64


def mlp(
    observation_shape: tuple[int, ...], observation_dtype: str, num_actions: int
) -> MlpActorCritic:
    """Return the perceptrons for vectors [N], or for arrays of N numbers in all."""
    return MlpActorCritic(math.prod(observation_shape), num_actions, observation_dtype)


class MlpActorCritic(ActorCritic):
    """Two separate perceptrons of two tanh layers: one for the policy, one for the value."""

    def __init__(self, inputs: int, num_actions: int, observation_dtype: str) -> None:
        """Allocate the layers; `build_model` fills them."""
        super().__init__(num_actions, observation_dtype)
        self.inputs = inputs
        self.policy = _perceptron(inputs, num_actions)
        self.value = _perceptron(inputs, 1)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, A] and values [B] of vectors [B, N], or arrays of N numbers."""
        x = self.vectors(observations, self.inputs)
        return _through(self.policy, x), _through(self.value, x).squeeze(-1)

    def input_layers(self) -> tuple[nn.Linear, ...]:
        """Return the first layers of both; see `ActorCritic.input_layers`."""
        return _linear(self.policy)[0], _linear(self.value)[0]

    def output_rows(self) -> tuple[Rows, Rows]:
        """Return the last layers of both; see `ActorCritic.output_rows`."""
        return Rows(_linear(self.policy)[-1], ALL), Rows(_linear(self.value)[-1], ALL)

    def initialise(self, generator: torch.Generator) -> None:
        """Fill every weight and bias."""
        for trunk, gain in ((self.policy, POLICY_GAIN), (self.value, VALUE_GAIN)):
            *hidden, last = _linear(trunk)
            for layer in hidden:
                fill(layer, HIDDEN_GAIN, generator)
            fill(last, gain, generator)


def _through(trunk: nn.Sequential, x: Tensor) -> Tensor:
    """Return what the trunk gives for `x`; its last layer is a head."""
    *hidden, last = trunk
    assert isinstance(last, nn.Linear)
    for layer in hidden:
        x = layer(x)
    return head(last, x)


def _linear(trunk: nn.Sequential) -> list[nn.Linear]:
    return [layer for layer in trunk if isinstance(layer, nn.Linear)]


def _perceptron(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, MLP_UNITS),
        nn.Tanh(),
        nn.Linear(MLP_UNITS, MLP_UNITS),
        nn.Tanh(),
        nn.Linear(MLP_UNITS, outputs),
    )
