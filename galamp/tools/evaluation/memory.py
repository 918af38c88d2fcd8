"""Memory of an agent whose network has one: a state per environment, kept between its acts.

Runs in evaluation and in users' programs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from galamp.algorithms.networks.recurrent import RecurrentActorCritic, forgotten


class Memory:
    """States [S] of as many environments as there have been; zero for one that is new."""

    def __init__(self, size: int, device: torch.device) -> None:
        """Remember nothing yet of states of `size` values."""
        self._states = torch.zeros(0, size, device=device)

    def forget(self) -> None:
        """Forget every environment."""
        self._states = self._states[:0]

    def outputs(
        self, model: RecurrentActorCritic, observations: Tensor, first: Tensor, envs: Tensor
    ) -> Tensor:
        """Return the policy's outputs [B, A], and remember the observations.

        Args:
            model: the network.
            observations: [B, ...].
            first: [B] bool, whose episode begins.
            envs: [B] int64, which environments they are of, each at most once.
        """
        new = int(envs.max()) + 1 - len(self._states)
        if new > 0:
            empty = self._states.new_zeros(new, self._states.shape[1])
            self._states = torch.cat((self._states, empty))
        outputs, _, states = model.step(observations, forgotten(self._states[envs], first))
        self._states[envs] = states
        return outputs
