"""Forward pass of a rollout, for acting and for the update, and its backward pass.

    act: observations [b, ...] --> logits [b, A]                  at every agent step
    rollout --> logits [T, B, A], values [T, B] --> losses        once per rollout, or
    outputs --> logits [N, A], values [N] --> losses              once per minibatch
    backward: losses --> the flat gradient

Runs in learners. Parameters do not change while a rollout is collected. So the update needs the
same activations that acting has computed: a forward pass that is cached need not be recomputed.
With `--pipeline` another copy has acted, by older parameters: nothing is cached then.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from galamp.algorithms.flat_parameters import FlatParameters

EVALUATED_AT_ONCE = 512
"""Observations that one forward pass without gradient takes."""


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


class RolloutOutputs(NamedTuple):
    """Outputs of the network for a rollout: as `Outputs`, and the last values [B], without."""

    logits: Tensor
    values: Tensor
    bootstrap: Tensor


class ForwardPass(ABC):
    """Forward and backward pass of one rollout through the network.

    `first` is that of `Rollout` everywhere: where a recurrent network forgets.
    """

    @abstractmethod
    def act(self, observations: Tensor, first: Tensor, place: Place | None) -> Tensor:
        """Return logits [b, A] of observations [b, ...]; results may be cached at `place`."""

    @abstractmethod
    def rollout(self, observations: Tensor, first: Tensor) -> RolloutOutputs:
        """Return the network's outputs for all observations [T+1, B, ...] of the rollout.

        The parameters must be the same as in `act`, if it was called.
        """

    @abstractmethod
    def evaluate(self, observations: Tensor, first: Tensor) -> Outputs:
        """Return outputs for all observations [T+1, B, ...] of the rollout, without gradient."""

    @abstractmethod
    def outputs(self, observations: Tensor, first: Tensor, envs: Tensor) -> Outputs:
        """Return outputs for the first t rows of the rollout in some environments.

        Args:
            observations: [t, b, ...].
            first: [t, b] bool.
            envs: [b] int64, which environments; without meaning for a feedforward network,
                whose observations may come in any order.
        """

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Set the flat gradient to the gradient of `loss` [], a function of the last outputs."""

    @abstractmethod
    def discard(self) -> None:
        """Discard all cached results, because the parameters have changed."""

    def next_rollout(self) -> None:  # noqa: B027
        """Begin with the next rollout: the update on this one is complete."""

    @property
    def memory(self) -> Tensor | None:
        """States of a recurrent network as acting has left them, [B, S], live."""
        return None

    def start_from(self, states: Tensor) -> None:  # noqa: B027
        """Take `states` [B, S] for the start of the rollout, instead of those that acting left."""


class RecomputedForward(ForwardPass):
    """Forward pass without a cache: recomputed for the update, as one batch. For any network.

    For a type other than float32, PyTorch's autocast decides which operations use it; galamp's own
    networks compute their heads outside it, see `networks.base.head`.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: FlatParameters,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Compute `model` in `dtype`; `parameters` holds the gradients of `model`."""
        self._model, self._parameters, self._dtype = model, parameters, dtype

    def act(self, observations: Tensor, first: Tensor, place: Place | None) -> Tensor:
        """Return the logits; see `ForwardPass.act`."""
        with torch.inference_mode():
            return self._pass(observations)[0]

    def rollout(self, observations: Tensor, first: Tensor) -> RolloutOutputs:
        """Recompute the forward pass, with gradient; see `ForwardPass.rollout`."""
        with torch.no_grad():
            bootstrap = self._pass(observations[-1])[1]
        return RolloutOutputs(*self._rows(observations[:-1]), bootstrap)

    def evaluate(self, observations: Tensor, first: Tensor) -> Outputs:
        """Compute so many observations at a time; see `ForwardPass.evaluate`."""
        with torch.no_grad():
            some = torch.split(observations.flatten(0, 1), EVALUATED_AT_ONCE)
            found = [self._pass(each) for each in some]
        logits, values = (torch.cat(part) for part in zip(*found, strict=True))
        steps, envs = observations.shape[:2]
        return Outputs(logits.view(steps, envs, -1), values.view(steps, envs))

    def outputs(self, observations: Tensor, first: Tensor, envs: Tensor) -> Outputs:
        """Compute the forward pass, with gradient; see `ForwardPass.outputs`."""
        return self._rows(observations)

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass by autograd; see `ForwardPass.backward`."""
        self._parameters.zero_grad()
        torch.autograd.backward(loss)

    def discard(self) -> None:
        """Do nothing: there is no cache."""

    def _rows(self, observations: Tensor) -> Outputs:
        """Return the outputs for observations [t, b, ...] as one batch."""
        steps, envs = observations.shape[:2]
        logits, values = self._pass(observations.flatten(0, 1))
        return Outputs(logits.view(steps, envs, -1), values.view(steps, envs))

    def _pass(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, A] and values [B], float32."""
        if self._dtype is torch.float32:
            return self._model(observations)  # type: ignore[no-any-return]
        with torch.autocast(observations.device.type, self._dtype):
            logits, values = self._model(observations)
        return logits.float(), values.float()
