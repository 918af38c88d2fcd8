"""What a learner asks of a learning algorithm: act, update, and show its whole learned state.

Runs in learners. Observations come in and actions go out at every agent step; once per rollout
the transitions come back and one optimiser step is taken.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from galamp.algorithms.cuda_graphs import Graphs
from galamp.algorithms.flat_parameters import FlatParameters
from galamp.algorithms.forward import Place
from galamp.core.algorithm_config import AlgorithmConfig


@dataclass(frozen=True)
class Rollout:
    """T agent steps of B environments, on the learner's device.

    Attributes:
        observations: [T+1, B, ...] uint8 or float32; `observations[t + 1]` is what the transition
            at t led to, also where an episode ended there.
        actions: [T, B] int64.
        rewards: [T, B] float32, as trained on.
        terminated: [T, B] bool; the return ends, there is nothing to bootstrap.
        truncated: [T, B] bool; the episode was cut, the return goes on in the value of
            `observations[t + 1]`.
        valid: [T, B] bool; False on a reset step and in a lane lost with a dead simulator. Such a
            transition is never trained on.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor


class Algorithm(ABC):
    """A learning algorithm with its network, optimiser and sampling randomness.

    Attributes:
        config_class: its settings, its gauges and its default learning rate; a frozen dataclass.
        parameters: the network's parameters and gradients as flat vectors.
        generator: randomness of action sampling, on the learner's device.
        version: optimiser steps taken so far.
    """

    config_class: ClassVar[type[AlgorithmConfig]]
    parameters: FlatParameters
    generator: torch.Generator
    version: int

    @abstractmethod
    def expect(self, steps: int, envs: int) -> None:
        """Make ready for rollouts [steps, lanes], so that acting may keep what updates need."""

    @abstractmethod
    def act(self, observations: Tensor, place: Place | None = None) -> Tensor:
        """Return sampled actions [B] int64 for observations [B, ...].

        `place` says which part of the next rollout they are; nothing is kept of others.
        """

    @abstractmethod
    def record(self, rollout: Rollout, graphs: Graphs, reduces: bool | None) -> None:
        """Have updates on `rollout` be launched as CUDA graphs from now on.

        They are those that are given this very object, whatever its tensors hold by then. Nothing
        that was learned changes.

        Args:
            rollout: with tensors on a GPU, none of its transitions valid yet.
            graphs: records the update.
            reduces: what `reduce` will return in these updates; None if there will be none.

        Raises:
            RuntimeError: it cannot be recorded; updates are as before.
        """

    @abstractmethod
    def update(
        self, rollout: Rollout, reduce: Callable[[], bool] | None = None
    ) -> dict[str, float]:
        """Take one optimiser step on the valid transitions and return its metrics.

        Once the gradient is there, before it is clipped and applied, `reduce` may change it; it
        returns whether the gradient is that of all learners now. If it is not, a rollout without
        a valid transition changes nothing and is not counted in `version`.

        Returns:
            A finite number for each of `config_class.gauges`, whatever the rollout; `grad_norm`
            alone may be infinite or NaN, which is counted as an overflow.
        """

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Return the live tensors that are the whole learned state; writing them restores it.

        They are `parameters` [P] and whatever else there is, float32, flat, none longer than P.

        To be written before the first step of a rollout only: what acting kept would be stale.
        """


def trainable(rollout: Rollout) -> Rollout:
    """Return `rollout` with nothing left that an invalid transition could pass on.

    Rewards, actions and flags of invalid transitions become neutral, so that not even a NaN in lost
    memory gets past the mask of the loss. A return that would run into an invalid transition is cut
    there, as by truncation: the observation before it is the last one known to be true.
    """
    valid = rollout.valid
    cut = rollout.truncated.clone()
    cut[:-1] |= ~valid[1:]
    return replace(
        rollout,
        observations=_without_unseen(rollout.observations, valid),
        actions=rollout.actions.masked_fill(~valid, 0),
        rewards=rollout.rewards.masked_fill(~valid, 0.0),
        terminated=rollout.terminated & valid,
        truncated=cut,
    )


def _without_unseen(observations: Tensor, valid: Tensor) -> Tensor:
    """Zero float observations that no valid transition touches; bytes are never NaN."""
    if not observations.is_floating_point():
        return observations
    none = torch.zeros_like(valid[:1])
    seen = torch.cat((valid, none)) | torch.cat((none, valid))
    unseen = ~seen.view(*seen.shape, *[1] * (observations.dim() - seen.dim()))
    return observations.masked_fill(unseen, 0.0)
