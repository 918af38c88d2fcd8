"""What the network computed while a rollout was collected: an update goes back through it.

    act: observations [b, ...] --> logits [b, A]                  at every agent step
    outputs --> logits [T, B, A], values [T, B] --> losses        once per rollout
    backward: losses --> the flat gradient

Runs in learners. Parameters do not change while a rollout is collected, so what was computed for
acting is what the update would compute again: a tape that keeps it saves the update's forward pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from galamp.algorithms.flat_parameters import FlatParameters


class Place(NamedTuple):
    """Where in a rollout [T, B] some observations belong."""

    step: int
    envs: slice


class Outputs(NamedTuple):
    """What the network says of a rollout: logits [T, B, A] and values [T, B], with gradient."""

    logits: Tensor
    values: Tensor


class ForwardPass(ABC):
    """One rollout's way through the network, and back."""

    @abstractmethod
    def act(self, observations: Tensor, place: Place | None) -> Tensor:
        """Return logits [b, A] of observations [b, ...]; what is kept is kept at `place`."""

    @abstractmethod
    def values(self, observations: Tensor) -> Tensor:
        """Return values [B] of observations [B, ...], without gradient."""

    @abstractmethod
    def outputs(self, observations: Tensor) -> Outputs:
        """Return what the network says of all observations [T, B, ...] of the rollout.

        The parameters must be those that `act` saw.
        """

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Set the flat gradient to that of `loss` [], a function of the last `outputs`."""

    @abstractmethod
    def forget(self) -> None:
        """The parameters have changed: nothing that was kept is true any more."""


class RecomputedForward(ForwardPass):
    """Keeps nothing: the update computes the forward pass again, as one batch. For any network.

    Where another type than float32 is asked for, PyTorch's autocast chooses what is computed in it.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: FlatParameters,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Go through `model`, whose gradients are those of `parameters`, in `dtype`."""
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
        """Compute everything again, with gradient; see `ForwardPass.outputs`."""
        steps, envs = observations.shape[:2]
        logits, values = self._pass(observations.flatten(0, 1))
        return Outputs(logits.view(steps, envs, -1), values.view(steps, envs))

    def backward(self, loss: Tensor) -> None:
        """Go back by autograd; see `ForwardPass.backward`."""
        self._parameters.zero_grad()
        torch.autograd.backward(loss)

    def forget(self) -> None:
        """Nothing was kept."""

    def _pass(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, A] and values [B], float32."""
        if self._dtype is torch.float32:
            return self._model(observations)  # type: ignore[no-any-return]
        with torch.autocast(observations.device.type, self._dtype):
            logits, values = self._model(observations)
        return logits.float(), values.float()
