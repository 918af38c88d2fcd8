"""Forward pass of a rollout, for acting and for the update, and its backward pass.

    act: observations [b, ...] --> logits [b, A]                  at every agent step
    outputs --> logits [T, B, A], values [T, B] --> losses        once per rollout
    backward: losses --> the flat gradient

Runs in learners. Parameters do not change while a rollout is collected. So the update needs the
same activations that acting has computed: a forward pass that is cached need not be recomputed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from galamp.algorithms.flat_parameters import FlatParameters


class Place(NamedTuple):
    """Place of some observations in a rollout [T, B].

    In a recorded CUDA graph, which serves every step, `step` is a tensor [1] int64 on the GPU.
    """

    step: int | Tensor
    envs: slice


class Outputs(NamedTuple):
    """Outputs of the network for a rollout: logits [T, B, A] and values [T, B], with gradient."""

    logits: Tensor
    values: Tensor


class ForwardPass(ABC):
    """Forward and backward pass of one rollout through the network."""

    @abstractmethod
    def act(self, observations: Tensor, place: Place | None) -> Tensor:
        """Return logits [b, A] of observations [b, ...]; results may be cached at `place`."""

    @abstractmethod
    def values(self, observations: Tensor) -> Tensor:
        """Return values [B] of observations [B, ...], without gradient."""

    @abstractmethod
    def outputs(self, observations: Tensor) -> Outputs:
        """Return the network's outputs for all observations [T, B, ...] of the rollout.

        The parameters must be the same as in `act`.
        """

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Set the flat gradient to the gradient of `loss` [], a function of the last `outputs`."""

    @abstractmethod
    def discard(self) -> None:
        """Discard all cached results, because the parameters have changed."""


class RecomputedForward(ForwardPass):
    """Forward pass without a cache: recomputed for the update, as one batch. For any network.

    For a type other than float32, PyTorch's autocast decides which operations use it.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: FlatParameters,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Compute `model` in `dtype`; `parameters` holds the gradients of `model`."""
        self._model, self._parameters, self._dtype = model, parameters, dtype

    def act(self, observations: Tensor, place: Place | None) -> Tensor:
        """Return the logits; see `ForwardPass.act`."""
        with torch.inference_mode():
            return self._pass(observations)[0]

    def values(self, observations: Tensor) -> Tensor:
        """Return the values; see `ForwardPass.values`."""
        with torch.no_grad():
            return self._pass(observations)[1]

    def outputs(self, observations: Tensor) -> Outputs:
        """Recompute the forward pass, with gradient; see `ForwardPass.outputs`."""
        steps, envs = observations.shape[:2]
        logits, values = self._pass(observations.flatten(0, 1))
        return Outputs(logits.view(steps, envs, -1), values.view(steps, envs))

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass by autograd; see `ForwardPass.backward`."""
        self._parameters.zero_grad()
        torch.autograd.backward(loss)

    def discard(self) -> None:
        """Do nothing: there is no cache."""

    def _pass(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, A] and values [B], float32."""
        if self._dtype is torch.float32:
            return self._model(observations)  # type: ignore[no-any-return]
        with torch.autocast(observations.device.type, self._dtype):
            logits, values = self._model(observations)
        return logits.float(), values.float()
