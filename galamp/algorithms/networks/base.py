"""What the networks that come with galamp have in common.

Pure PyTorch; used in learners and in evaluation. Weights are orthogonal, biases zero. Gains:
sqrt(2) for hidden layers, 0.01 for the policy, 1 for the value.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

HIDDEN_GAIN, POLICY_GAIN, VALUE_GAIN = math.sqrt(2.0), 0.01, 1.0


class Rows(NamedTuple):
    """Some of a linear layer's outputs."""

    layer: nn.Linear
    rows: slice


ALL = slice(None)


class ActorCritic(nn.Module, ABC):
    """A policy and a value function over a discrete set of actions.

    Attributes:
        scale: factor that brings observations to the unit interval.
        takes_bytes: whether observations are uint8, which cannot be NaN.
    """

    def __init__(self, num_actions: int, observation_dtype: str) -> None:
        """Take the scale that goes with the type; `build_model` may set another."""
        super().__init__()
        self.num_actions = num_actions
        self.scale = usual_scale(observation_dtype)
        self.takes_bytes = observation_dtype == "uint8"

    def taking(self, observation_dtype: str, scale: float | None = None) -> Self:
        """Return this network for observations of another type; it shares every parameter.

        Args:
            observation_dtype: `uint8` or `float32`.
            scale: factor of these observations; None: the one that goes with the type.
        """
        other = copy.copy(self)
        other.scale = usual_scale(observation_dtype) if scale is None else scale
        other.takes_bytes = observation_dtype == "uint8"
        return other

    def vectors(self, observations: Tensor, inputs: int) -> Tensor:
        """Return observations [B, ...] of N = `inputs` numbers each as scaled float32 [B, N]."""
        x = observations.reshape(-1, inputs).to(torch.float32)
        return x if self.scale == 1.0 else x * self.scale

    @property
    def cached_forward(self) -> str:
        """`module:Class` of the `ForwardPass` for CPUs that keeps what acting computes, if any.

        The class takes `(model, steps, envs, dtype)` of rollouts [steps, envs].
        """
        return ""

    def input_layers(self) -> tuple[nn.Linear, ...]:
        """Return every layer that takes the observation itself; none if that is not a vector.

        With `--norm-obs` they are changed as the statistics of observations change.
        """
        return ()

    @abstractmethod
    def output_rows(self) -> tuple[Rows, Rows]:
        """Return what gives the policy's outputs, and what gives the values.

        With `--norm-reward` one of them is changed as the statistics of returns change.
        """

    @abstractmethod
    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Return outputs [B, A] and values [B] of `observations` [B, ...], uint8 or float32."""

    @abstractmethod
    def initialise(self, generator: torch.Generator) -> None:
        """Fill every weight and bias."""


def usual_scale(observation_dtype: str) -> float:
    """Return the factor for observations of this type whose spec gives none: 1/255 for bytes."""
    return 1.0 / 255.0 if observation_dtype == "uint8" else 1.0


def fill(layer: nn.Conv2d | nn.Linear, gain: float, generator: torch.Generator) -> None:
    """Fill a layer: orthogonal weights of that gain, biases of zero."""
    nn.init.orthogonal_(layer.weight, gain, generator=generator)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


def head(layer: nn.Linear, x: Tensor) -> Tensor:
    """Return a head's outputs for `x`, in the type of its parameters whatever PyTorch's autocast.

    Rounded to bfloat16, values near 100 would be multiples of 0.5.
    """
    device = x.device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return layer(x)  # type: ignore[no-any-return]
    with torch.autocast(device, enabled=False):
        return layer(x.to(layer.weight.dtype))  # type: ignore[no-any-return]
