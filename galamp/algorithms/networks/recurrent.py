"""Recurrent networks: features, then a GRU (Cho et al. 2014) or LSTM cell, then the heads.

    observations [B, ...] --features--> [B, F] --cell, state [B, S]--> hidden [B, H] --> both heads

`nature-lstm` is that of CleanRL's `ppo_atari_lstm`: 512 features and a cell of 128. Pure PyTorch;
used in learners and in evaluation.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn

from galamp.algorithms.networks.base import (
    ALL,
    HIDDEN_GAIN,
    POLICY_GAIN,
    VALUE_GAIN,
    ActorCritic,
    Rows,
    fill,
    head,
)
from galamp.algorithms.networks.convolutional import (
    HIDDEN_UNITS,
    NATURE_FILTERS,
    ConvActorCritic,
)
from galamp.algorithms.networks.images import image_layout

CELL_UNITS = 128
MLP_UNITS = 64
CELL_GAIN = 1.0
FEATURES_AT_ONCE = 512
"""Observations whose features are computed at a time without gradient."""
CELLS: dict[str, type[nn.GRUCell] | type[nn.LSTMCell]] = {"gru": nn.GRUCell, "lstm": nn.LSTMCell}


def mlp_gru(
    observation_shape: tuple[int, ...], observation_dtype: str, num_actions: int
) -> RecurrentMlp:
    """Return a linear layer and a GRU cell, for vectors [N] or arrays of N numbers."""
    return RecurrentMlp(math.prod(observation_shape), num_actions, observation_dtype, "gru")


def mlp_lstm(
    observation_shape: tuple[int, ...], observation_dtype: str, num_actions: int
) -> RecurrentMlp:
    """Return a linear layer and an LSTM cell, for vectors [N] or arrays of N numbers."""
    return RecurrentMlp(math.prod(observation_shape), num_actions, observation_dtype, "lstm")


def nature_gru(
    observation_shape: tuple[int, ...], observation_dtype: str, num_actions: int
) -> RecurrentConv:
    """Return the network of Mnih et al. 2015 with a GRU cell."""
    return RecurrentConv(observation_shape, num_actions, observation_dtype, "gru")


def nature_lstm(
    observation_shape: tuple[int, ...], observation_dtype: str, num_actions: int
) -> RecurrentConv:
    """Return the network of Mnih et al. 2015 with an LSTM cell."""
    return RecurrentConv(observation_shape, num_actions, observation_dtype, "lstm")


class RecurrentActorCritic(ActorCritic):
    """A policy and a value function that remember an episode's earlier observations.

    A state is one vector [S] per environment: a GRU's hidden units, or an LSTM's hidden units and
    cell. It is zero at the first observation of an episode.
    """

    cell: nn.GRUCell | nn.LSTMCell

    @property
    def state_size(self) -> int:
        """Number of values of a state, S."""
        return self.cell.hidden_size * (2 if isinstance(self.cell, nn.LSTMCell) else 1)

    @abstractmethod
    def features(self, observations: Tensor) -> Tensor:
        """Return what the cell takes, [B, F], for observations [B, ...]."""

    @abstractmethod
    def outputs(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [N, A] and values [N] for the cell's hidden units [N, H]."""

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, A] and values [B] for the first observations of episodes."""
        state = observations.new_zeros(len(observations), self.state_size, dtype=torch.float32)
        logits, values, _ = self.step(observations, state)
        return logits, values

    def step(self, observations: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits [B, A], values [B] and the next state [B, S] of one step."""
        state = self._next(self.features(observations), state)
        return *self.outputs(state[:, : self.cell.hidden_size]), state

    def sequence(
        self, observations: Tensor, first: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `step` gives one after the other; features and heads are one batch each.

        Args:
            observations: [t, B, ...].
            first: [t, B] bool, where a state is zero.
            state: [B, S] before the first of these steps.

        Returns:
            logits [t, B, A], values [t, B], and the state [B, S] after the last step.
        """
        steps, envs = first.shape
        features = self._all_features(observations.flatten(0, 1)).view(steps, envs, -1)
        hidden = []
        for step in range(steps):
            state = self._next(features[step], forgotten(state, first[step]))
            hidden.append(state[:, : self.cell.hidden_size])
        logits, values = self.outputs(torch.cat(hidden))
        return logits.view(steps, envs, -1), values.view(steps, envs), state

    def _all_features(self, observations: Tensor) -> Tensor:
        """Return the features of [N, ...]; without gradient so many at a time, to save memory."""
        if torch.is_grad_enabled():
            return self.features(observations)
        some = torch.split(observations, FEATURES_AT_ONCE)
        return torch.cat([self.features(each) for each in some])

    def _next(self, features: Tensor, state: Tensor) -> Tensor:
        if isinstance(self.cell, nn.LSTMCell):
            hidden, cell = state.chunk(2, -1)
            return torch.cat(self.cell(features, (hidden, cell)), -1)
        return self.cell(features, state)  # type: ignore[no-any-return]

    def fill_cell(self, generator: torch.Generator) -> None:
        """Fill the cell: every gate's weights orthogonal by themselves, biases zero."""
        for weight in (self.cell.weight_ih, self.cell.weight_hh):
            for gate in torch.split(weight.detach(), self.cell.hidden_size):
                nn.init.orthogonal_(gate, CELL_GAIN, generator=generator)
        for bias in (self.cell.bias_ih, self.cell.bias_hh):
            nn.init.zeros_(bias)


class RecurrentMlp(RecurrentActorCritic):
    """One tanh layer and a cell, shared by the policy and value heads."""

    def __init__(self, inputs: int, num_actions: int, observation_dtype: str, cell: str) -> None:
        """Allocate the layers; `build_model` fills them."""
        super().__init__(num_actions, observation_dtype)
        self.hidden = nn.Linear(inputs, MLP_UNITS)
        self.cell = CELLS[cell](MLP_UNITS, CELL_UNITS)
        self.policy, self.value = nn.Linear(CELL_UNITS, num_actions), nn.Linear(CELL_UNITS, 1)

    def features(self, observations: Tensor) -> Tensor:
        """Return [B, 64] for vectors [B, N], or arrays of N numbers."""
        x = self.vectors(observations, self.hidden.in_features)
        return self.hidden(x).tanh()  # type: ignore[no-any-return]

    def outputs(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """See `RecurrentActorCritic.outputs`."""
        return head(self.policy, hidden), head(self.value, hidden).squeeze(-1)

    def input_layers(self) -> tuple[nn.Linear, ...]:
        """Return the first layer; see `ActorCritic.input_layers`."""
        return (self.hidden,)

    def output_rows(self) -> tuple[Rows, Rows]:
        """Return both heads; see `ActorCritic.output_rows`."""
        return Rows(self.policy, ALL), Rows(self.value, ALL)

    def initialise(self, generator: torch.Generator) -> None:
        """Fill every weight and bias."""
        fill(self.hidden, HIDDEN_GAIN, generator)
        self.fill_cell(generator)
        fill(self.policy, POLICY_GAIN, generator)
        fill(self.value, VALUE_GAIN, generator)


class RecurrentConv(RecurrentActorCritic, ConvActorCritic):
    """Three convolutions, one linear layer and a cell, shared by the policy and value heads."""

    def __init__(
        self,
        observation_shape: tuple[int, ...],
        num_actions: int,
        observation_dtype: str,
        cell: str,
    ) -> None:
        """Allocate the layers; `build_model` fills them."""
        layout = image_layout(observation_shape)
        ConvActorCritic.__init__(self, layout, NATURE_FILTERS, num_actions, observation_dtype)
        self.cell = CELLS[cell](HIDDEN_UNITS, CELL_UNITS)
        self.heads = nn.Linear(CELL_UNITS, num_actions + 1)

    @property
    def cached_forward(self) -> str:
        """None: what acting computes depends on the states."""
        return ""

    def features(self, observations: Tensor) -> Tensor:
        """Return [B, 512] for images."""
        return ConvActorCritic.features(self, observations)

    def outputs(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """See `RecurrentActorCritic.outputs`."""
        outputs = head(self.heads, hidden)
        return outputs[:, :-1], outputs[:, -1]

    def initialise(self, generator: torch.Generator) -> None:
        """Fill every weight and bias."""
        ConvActorCritic.initialise(self, generator)
        self.fill_cell(generator)


def forgotten(state: Tensor, first: Tensor) -> Tensor:
    """Return states [B, S] with zero where an observation is the first of its episode."""
    return state.masked_fill(first.unsqueeze(-1), 0.0)
