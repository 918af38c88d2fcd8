"""Forward pass that keeps the outputs of acting, for algorithms that evaluate a rollout first.

    act: observations --> outputs --> cache [T, B]      at every agent step
    evaluate: the cache, and what it lacks              once per rollout, before the first step

Runs in learners on CPUs. PPO and PQN need the outputs of the policy that acted for the whole
rollout, before they change it. Acting has computed them, but for the last row. The minibatches are
computed anew, by changed parameters, so their activations are not kept.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from galamp.algorithms.flat_parameters import FlatParameters
from galamp.algorithms.forward import Outputs, Place, RecomputedForward


class CachedOutputsForward(RecomputedForward):
    """Caches the outputs of one uint8 rollout, [T+1, B], until `discard`."""

    def __init__(
        self,
        model: nn.Module,
        parameters: FlatParameters,
        steps: int,
        envs: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Prepare for rollouts [steps, envs] of bytes: floats that no mask stops may be NaN."""
        super().__init__(model, parameters, dtype)
        self._cache: Outputs | None = None
        self._kept = torch.zeros(steps + 1, envs, dtype=torch.bool)

    def act(self, observations: Tensor, first: Tensor, place: Place | None) -> Tensor:
        """Return the logits and keep all outputs; see `ForwardPass.act`."""
        with torch.inference_mode():
            logits, values = self._pass(observations)
        if place is not None:
            self._put((place.step, place.envs), logits, values)
        return logits

    def evaluate(self, observations: Tensor, first: Tensor) -> Outputs:
        """Return the kept outputs, after computing missing ones; see `ForwardPass.evaluate`.

        The last row is computed every time: the next acting does not replace it, as it does others.
        Observations of another shape than the rollout's are computed, and nothing is kept.
        """
        if observations.shape[:2] != self._kept.shape:
            return super().evaluate(observations, first)
        missing = ~self._kept
        missing[-1] = True
        found = super().evaluate(observations[missing].unsqueeze(0), first[missing])
        self._put(missing, found.logits[0], found.values[0])
        assert self._cache is not None
        return Outputs(self._cache.logits.clone(), self._cache.values.clone())

    def discard(self) -> None:
        """Discard the outputs; see `ForwardPass.discard`."""
        self._kept.fill_(False)

    def _put(
        self, where: Tensor | tuple[int | Tensor, slice], logits: Tensor, values: Tensor
    ) -> None:
        """Keep logits [n, A] and values [n] of some places in the rollout."""
        if self._cache is None:
            with torch.inference_mode(mode=False):  # normal tensors, that may be written anywhere
                cells = self._kept.shape
                self._cache = Outputs(torch.zeros(*cells, logits.shape[-1]), torch.zeros(cells))
        self._cache.logits[where], self._cache.values[where] = logits, values
        self._kept[where] = True
