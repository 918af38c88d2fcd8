"""Memory of an agent whose network has one: a state per environment, kept between its acts.

Runs in evaluation and in users' programs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from galamp.algorithms.networks.recurrent import forgotten


class Memory:
    """States [S] of as many environments as there have been; zero for one that is new."""

    def __init__(self, size: int, device: torch.device) -> None:
        """Remember nothing yet of states of `size` values."""
        self._states = torch.zeros(0, size, device=device)

    def forget(self) -> None:
        """Forget every environment."""
        self._states = self._states[:0]

    def states(self, envs: Tensor, first: Tensor) -> Tensor:
        """Return states [B, S], zero where an episode begins.

        Args:
            envs: [B] int64, of which environments, each at most once.
            first: [B] bool, whose episode begins.
        """
        new = int(envs.max()) + 1 - len(self._states)
        if new > 0:
            empty = self._states.new_zeros(new, self._states.shape[1])
            self._states = torch.cat((self._states, empty))
        return forgotten(self._states[envs], first)

    def keep(self, envs: Tensor, states: Tensor) -> None:
        """Remember states [B, S] of environments [B]."""
        self._states[envs] = states
