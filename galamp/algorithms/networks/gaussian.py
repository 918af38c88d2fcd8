"""Networks for continuous actions: means from any of galamp's networks, and a free rest.

    observations --body--> means [B, k], values [B]
    log_std [k], the same for all observations --> outputs [B, 2k] = means, log-standard-deviations

Pure PyTorch; used in learners and in evaluation. The log-standard-deviations do not depend on the
observation and begin at 0, as in CleanRL and Stable-Baselines3.
"""

from __future__ import annotations

import copy
from typing import Self

import torch
from torch import Tensor, nn

from galamp.algorithms.networks.base import ActorCritic, Rows
from galamp.algorithms.networks.recurrent import RecurrentActorCritic


class WithLogStd(ActorCritic):
    """A network whose outputs are followed by parameters that no observation changes."""

    def __init__(self, body: ActorCritic, count: int) -> None:
        """Follow the outputs of `body` by `count` parameters."""
        super().__init__(body.num_actions + count, "float32")
        self.body = body
        self.log_std = nn.Parameter(torch.empty(count))

    def taking(self, observation_dtype: str, scale: float | None = None) -> Self:
        """See `ActorCritic.taking`."""
        other = copy.copy(self)
        other._modules = dict(self._modules)  # a copy of a module shares them otherwise
        other.body = self.body.taking(observation_dtype, scale)
        return other

    def input_layers(self) -> tuple[nn.Linear, ...]:
        """Return those of the body; see `ActorCritic.input_layers`."""
        return self.body.input_layers()

    def output_rows(self) -> tuple[Rows, Rows]:
        """Return those of the body; see `ActorCritic.output_rows`."""
        return self.body.output_rows()

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Return outputs [B, 2k] and values [B]; see `ActorCritic.forward`."""
        means, values = self.body(observations)
        return self._followed(means), values

    def _followed(self, means: Tensor) -> Tensor:
        return torch.cat((means, self.log_std.expand(len(means), -1)), -1)

    def initialise(self, generator: torch.Generator) -> None:
        """Fill every weight and bias; the standard deviations are 1."""
        self.body.initialise(generator)
        nn.init.zeros_(self.log_std)


class RecurrentWithLogStd(WithLogStd, RecurrentActorCritic):
    """The same for a recurrent network: its states are those of its body."""

    body: RecurrentActorCritic

    @property
    def cell(self) -> nn.GRUCell | nn.LSTMCell:  # type: ignore[override]
        """The body's cell."""
        return self.body.cell

    def features(self, observations: Tensor) -> Tensor:
        """See `RecurrentActorCritic.features`."""
        return self.body.features(observations)

    def outputs(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return outputs [N, 2k] and values [N]; see `RecurrentActorCritic.outputs`."""
        means, values = self.body.outputs(hidden)
        return self._followed(means), values


def with_log_std(body: ActorCritic, count: int) -> WithLogStd:
    """Return `body` with `count` parameters after its outputs, and the memory that it has."""
    kind = RecurrentWithLogStd if isinstance(body, RecurrentActorCritic) else WithLogStd
    return kind(body, count)
