"""Forward pass of a recurrent network: one state per environment, kept from step to step.

    act: state [B, S], observations --> logits, the next state       at every agent step
    rollout, evaluate, outputs: the state at the rollout's start --> the whole sequence again

Runs in learners. A state is data, and never gossiped: it is kept over a gossip round, and zero for
the environments of a simulator that joins. The gradient goes back to the start of the rollout.
"""

from __future__ import annotations

import torch
from torch import Tensor

from galamp.algorithms.flat_parameters import FlatParameters
from galamp.algorithms.forward import ForwardPass, Outputs, Place, RolloutOutputs
from galamp.algorithms.networks.recurrent import RecurrentActorCritic, forgotten


class RecurrentForward(ForwardPass):
    """Forward pass from step to step for acting, and over a rollout for the update."""

    def __init__(
        self,
        model: RecurrentActorCritic,
        parameters: FlatParameters,
        envs: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Start with states of zero for `envs` environments; see `RecomputedForward`."""
        self._model, self._parameters, self._dtype = model, parameters, dtype
        self._states = parameters.data.new_zeros(envs, model.state_size)
        self._start = self._states.clone()

    def act(self, observations: Tensor, first: Tensor, place: Place | None) -> Tensor:
        """Return the logits; without a place, for first observations of episodes."""
        with torch.inference_mode(), self._autocast():
            if place is None:
                return self._model(observations)[0].float()  # type: ignore[no-any-return]
            states = self._states[place.envs]
            logits, _, following = self._model.step(observations, forgotten(states, first))
            states.copy_(following)
            return logits.float()

    def rollout(self, observations: Tensor, first: Tensor) -> RolloutOutputs:
        """Return the outputs of the rollout, with gradient; see `ForwardPass.rollout`."""
        with self._autocast():
            logits, values, states = self._model.sequence(
                observations[:-1], first[:-1], self._start
            )
            with torch.no_grad():
                _, bootstrap, _ = self._model.step(
                    observations[-1], forgotten(states.detach(), first[-1])
                )
        return RolloutOutputs(logits.float(), values.float(), bootstrap.float())

    def evaluate(self, observations: Tensor, first: Tensor) -> Outputs:
        """Return the outputs of the rollout and its last row; see `ForwardPass.evaluate`."""
        with torch.no_grad(), self._autocast():
            logits, values, _ = self._model.sequence(observations, first, self._start)
        return Outputs(logits.float(), values.float())

    def outputs(self, observations: Tensor, first: Tensor, envs: Tensor) -> Outputs:
        """Return the outputs of some environments, with gradient; see `ForwardPass.outputs`."""
        with self._autocast():
            logits, values, _ = self._model.sequence(observations, first, self._start[envs])
        return Outputs(logits.float(), values.float())

    @property
    def start(self) -> Tensor:
        """The states that the rollout to learn from has started with, [B, S], live."""
        return self._start

    def replay(self, observations: Tensor, first: Tensor, start: Tensor) -> Tensor:
        """Return the states after a rollout, by present parameters and without gradient, [n, S].

        Args:
            observations: [T, n, ...], those that were acted on.
            first: [T, n] bool.
            start: [n, S], the states that it started with.
        """
        with torch.no_grad(), self._autocast():
            states: Tensor = self._model.sequence(observations, first, start)[2]
        return states.float()

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass by autograd; see `ForwardPass.backward`."""
        self._parameters.zero_grad()
        torch.autograd.backward(loss)

    def discard(self) -> None:
        """Do nothing: states outlive an update."""

    def next_rollout(self) -> None:
        """Let the next rollout start from the states as they are now."""
        self._start.copy_(self._states)

    @property
    def memory(self) -> Tensor:
        """See `ForwardPass.memory`."""
        return self._states

    def start_from(self, states: Tensor) -> None:
        """See `ForwardPass.start_from`."""
        self._start.copy_(states)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self._states.device.type, self._dtype, enabled=self._dtype is not torch.float32
        )
