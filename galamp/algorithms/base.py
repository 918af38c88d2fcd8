"""Base class of learning algorithms: act, update, and give access to the learned state.

Runs in learners. At every agent step observations come in and actions go out; once per rollout its
transitions come in, and the algorithm takes one optimiser step.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from galamp.algorithms.cuda_graphs import Graphs
from galamp.algorithms.flat_parameters import FlatParameters
from galamp.algorithms.forward import Place
from galamp.core.algorithm_config import AlgorithmConfig


class Acted(NamedTuple):
    """Actions of B environments, and how probable they were.

    Attributes:
        actions: [B] int64, or [B, k] int64 or float32, as they go into the rollout.
        log_probs: [B] float32, log-probabilities of the actions under the policy that drew them;
            None where the algorithm does not keep them.
    """

    actions: Tensor
    log_probs: Tensor | None = None


@dataclass(frozen=True)
class Rollout:
    """Rollout: T agent steps of B environments, on the learner's device.

    Attributes:
        observations: [T+1, B, ...] uint8 or float32; `observations[t + 1]` is the result of the
            transition at t, even if an episode ended there.
        actions: [T, B] int64 for discrete actions; [T, B, k] int64 or float32 for others, see
            `ActionSpec`.
        rewards: [T, B] float32, as used for training.
        terminated: [T, B] bool; the return ends here, without a bootstrap.
        truncated: [T, B] bool; the episode was cut here: the return is bootstrapped from the value
            of `observations[t + 1]`.
        valid: [T, B] bool, the valid mask; False on a reset step, and where a simulator has died or
            was late. Such a transition is never trained on.
        first: [T+1, B] bool; `observations[t]` is the first of its episode, or the first that the
            policy sees of a simulator that has just arrived, or has missed steps. What a policy
            remembers of an environment is forgotten there. Without meaning where all is invalid.
        log_probs: [T, B] float32, log-probabilities of the actions under the policy that drew them,
            as `act` returned them; None where the algorithm does not keep them.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor
    first: Tensor
    log_probs: Tensor | None = None

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Rollout:
        """Return the rollout with `change` of every tensor, such as a copy on another device."""
        changed: dict[str, Any] = {
            name: None if tensor is None else change(tensor) for name, tensor in vars(self).items()
        }
        return replace(self, **changed)

    def of(self, envs: Tensor) -> Rollout:
        """Return a copy of the rollout with some environments only, [b] int64."""
        return self.mapped(lambda tensor: tensor[:, envs])


class Algorithm(ABC):
    """Learning algorithm with its network, its optimiser and its random generator.

    Attributes:
        config_class: its settings, its gauges and its default learning rate; a frozen dataclass.
        heartbeat: called now and then in an update that may take seconds; the learner sets it.
        keeps_log_probs: whether `act` returns log-probabilities, for `Rollout.log_probs`.
        parameters: the network's parameters and gradients as flat vectors.
        generator: random generator of action sampling, on the learner's device.
        learning_rate: of the next optimiser step; NaN where the algorithm does not tell.
        version: number of optimiser steps so far.
    """

    config_class: ClassVar[type[AlgorithmConfig]]
    heartbeat: Callable[[], None] = staticmethod(lambda: None)
    keeps_log_probs: ClassVar[bool] = False
    parameters: FlatParameters
    generator: torch.Generator
    learning_rate: float = math.nan
    version: int

    @property
    def learns_action_values(self) -> bool:
        """Whether the network's outputs for the policy are values of actions, as in Q-learning.

        They predict returns then; the value head does otherwise.
        """
        return self.config_class.outputs_are_values

    @property
    def memory(self) -> Tensor | None:
        """What acting remembers of each environment, [B, S], live; None if it is nothing."""
        return None

    def remember(self, memory: Tensor) -> None:  # noqa: B027
        """Take `memory` [B, S] as what was remembered at the start of the next update's rollout.

        For rollouts that another copy of the algorithm has acted in, with `--pipeline`.
        """

    def follow(self, learner: Algorithm) -> None:
        """Act by the parameters that `learner` has now, which is of the same kind and network."""
        self.parameters.data.copy_(learner.parameters.data)

    @property
    def reductions(self) -> int:
        """Number of times that an update calls `reduce`: the same for every rollout."""
        return 1

    def schedule(self, agent_steps: int, total_steps: int) -> None:  # noqa: B027
        """Set what changes in the course of a run, such as the step size, before each rollout.

        Args:
            agent_steps: of all learners so far, so that every learner is at the same point.
            total_steps: at which the run ends; more than `agent_steps`, or as many.
        """

    def rescale(self, change: Callable[[Tensor], Tensor]) -> None:  # noqa: B027
        """Take other scales of observations from now on: the network is in them already.

        Called before a rollout, with `--norm-obs`. `change` returns observations [..., N] of
        earlier rollouts in the new scales; it is for what an algorithm keeps of them.
        """

    def discard(self) -> None:  # noqa: B027
        """Begin with the next rollout: nothing is learned from the last one."""

    @abstractmethod
    def prepare(self, steps: int, envs: int) -> None:
        """Prepare for rollouts [T, B] = [steps, envs]; acting may then cache results."""

    @abstractmethod
    def act(self, observations: Tensor, first: Tensor, place: Place | None = None) -> Acted:
        """Return sampled actions for B observations.

        On a GPU, acting may be recorded as a CUDA graph: it then must not wait, nor make decisions
        by what tensors contain.

        Args:
            observations: [B, ...].
            first: [B] bool, as in `Rollout.first`; for policies that remember.
            place: their place in the next rollout; without it, acting caches nothing.
        """

    @abstractmethod
    def record(self, rollout: Rollout, graphs: Graphs, reduces: bool | None) -> None:
        """Record updates on `rollout` as CUDA graphs, which are used from now on.

        They are used for updates on this same object, with whatever its tensors then contain. The
        learned state does not change.

        Args:
            rollout: has tensors on a GPU, and no valid transition yet.
            graphs: records the update.
            reduces: what `reduce` will return in these updates; None if there is no `reduce`.

        Raises:
            RuntimeError: the update cannot be recorded; updates work as before.
        """

    @abstractmethod
    def update(
        self, rollout: Rollout, reduce: Callable[[], bool] | None = None
    ) -> dict[str, float]:
        """Take one optimiser step on the valid transitions and return its metrics.

        `reduce` is called when the gradient is computed, before it is clipped and applied. It may
        change the gradient, and returns whether it is the mean over all learners now. If it is not,
        a rollout without a valid transition changes nothing and is not counted in `version`.

        Returns:
            A finite number for each of `config_class.gauges`, whatever the rollout; `grad_norm`
            alone may be infinite or NaN, which is counted as an overflow.
        """

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Return the live tensors of the whole learned state; writing to them restores a state.

        They are `parameters` [P] and whatever else there is, float32, flat, none longer than P.

        To be written before the first step of a rollout only: what acting kept would be stale.
        """


def trainable(rollout: Rollout) -> Rollout:
    """Return `rollout` without any effect of its invalid transitions.

    Rewards, actions, log-probabilities and flags of invalid transitions become neutral, so that not
    even a NaN in them can pass the valid mask of the loss. A return is cut before an invalid
    transition, as by truncation: the observation before it is the last valid one.
    """
    valid, actions, log_probs = rollout.valid, rollout.actions, rollout.log_probs
    cut = rollout.truncated.clone()
    cut[:-1] |= ~valid[1:]
    return replace(
        rollout,
        observations=_without_unseen(rollout.observations, valid),
        actions=actions.masked_fill(~_over(valid, actions), 0),
        rewards=rollout.rewards.masked_fill(~valid, 0.0),
        terminated=rollout.terminated & valid,
        truncated=cut,
        log_probs=None if log_probs is None else log_probs.masked_fill(~valid, 0.0),
    )


def _without_unseen(observations: Tensor, valid: Tensor) -> Tensor:
    """Set float observations without a valid transition to zero; bytes cannot be NaN."""
    if not observations.is_floating_point():
        return observations
    none = torch.zeros_like(valid[:1])
    seen = torch.cat((valid, none)) | torch.cat((none, valid))
    return observations.masked_fill(~_over(seen, observations), 0.0)


def _over(mask: Tensor, values: Tensor) -> Tensor:
    """Return a mask [T, B] as one for values [T, B, ...]."""
    return mask.view(*mask.shape, *[1] * (values.dim() - mask.dim()))
