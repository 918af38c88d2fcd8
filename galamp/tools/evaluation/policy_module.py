"""Policy module: a trained network and what normalises its observations, as one `nn.Module`.

    observations as the environment gives them --PolicyModule--> outputs [B, A], values [B]

Runs wherever a trained agent acts, in users' programs, and in what `galamp export` writes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from galamp.algorithms.networks.recurrent import RecurrentActorCritic
from galamp.core.normalisation import OBSERVATION_CLIP, Scales


class PolicyModule(nn.Module):
    """A policy and a value function of unscaled observations.

    Attributes:
        network: the training's network; scales bytes and images itself.
        state_size: numbers of an environment's state, S; 0 for a feedforward network.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, scales: Scales | None) -> None:
        """Take a network, whose parameters are shared, and the scales of its observations."""
        super().__init__()
        self.network = network
        self.state_size = network.state_size if isinstance(network, RecurrentActorCritic) else 0
        self._normalises = scales is not None and scales.chosen
        if scales is not None and scales.chosen:
            device = next(network.parameters()).device
            for name, numbers in (("mean", scales.mean), ("std", scales.std)):
                self.register_buffer(name, torch.from_numpy(numbers).to(device, torch.float32))
        self._takes_floats = scales is not None

    def forward(self, observations: Tensor, state: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return outputs [B, A] and values [B], float32; if recurrent also the next state.

        Args:
            observations: [B, *observation_shape], uint8 or float32, as the environment gives them.
            state: [B, S] float32, for a recurrent network: zero at the first observation of an
                episode, and for None.
        """
        inputs = self._normalised(observations)
        if not isinstance(self.network, RecurrentActorCritic):
            outputs, values = self.network(inputs)
            return outputs, values
        if state is None:
            state = inputs.new_zeros(inputs.shape[0], self.state_size, dtype=torch.float32)
        return self.network.step(inputs, state)

    def _normalised(self, observations: Tensor) -> Tensor:
        if not self._takes_floats:
            return observations
        inputs = observations.to(torch.float32)
        if not self._normalises:
            return inputs
        return ((inputs - self.mean) / self.std).clamp(-OBSERVATION_CLIP, OBSERVATION_CLIP)
