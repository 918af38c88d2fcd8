"""Update by minibatches: epochs over one rollout, and one step of Adam for each minibatch.

    Rollout [T, B] --_evaluated--> parts [T, B] --epochs x minibatches: _losses--> steps

Runs in learners. A subclass says what is computed once per rollout, and the losses of a minibatch.
A gossip round comes between two updates, never within one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from galamp.algorithms.actor_critic import ActorCriticAlgorithm
from galamp.algorithms.adam import FlatAdam
from galamp.algorithms.base import Rollout, trainable
from galamp.algorithms.cuda_graphs import Graphs
from galamp.algorithms.forward import Outputs
from galamp.algorithms.minibatch_config import MinibatchConfig
from galamp.algorithms.minibatches import minibatches
from galamp.algorithms.recurrent_forward import RecurrentForward
from galamp.core.action_spec import ActionSpec


class Steps(NamedTuple):
    """What the steps on one rollout have given.

    Attributes:
        once: what `_evaluated` has returned, [T, B, ...] each.
        measured: means of what `_losses` measured, [epochs, m].
        grad_norm: the largest of all minibatches, [].
        is_mean: whether gradients were means over all learners.
    """

    once: Sequence[Tensor]
    measured: Tensor
    grad_norm: Tensor
    is_mean: bool


class MinibatchAlgorithm(ActorCriticAlgorithm):
    """Algorithm that takes many steps of Adam, or RAdam, on each rollout."""

    measures: ClassVar[tuple[str, ...]]
    """Metrics that `_found` returns, in order; a subclass may add others to what it returns."""
    learns_at_once = False
    rectified: ClassVar[bool] = False
    """Whether steps are RAdam's."""

    def __init__(
        self,
        config: MinibatchConfig,
        model: nn.Module,
        *,
        actions: ActionSpec,
        device: torch.device | str,
        seed: int,
    ) -> None:
        """Move `model` to `device`; see `make_algorithm`."""
        super().__init__(config, model, actions=actions, device=device, seed=seed)
        self._minibatch = config
        self._num_minibatches = config.num_minibatches
        self._optimiser = FlatAdam(self.parameters, eps=config.adam_eps, rectified=self.rectified)

    @property
    def reductions(self) -> int:
        """Number of times that `update` calls `reduce`."""
        return self._minibatch.update_epochs * self._num_minibatches

    def prepare(self, steps: int, envs: int) -> None:
        """Prepare for rollouts [T, B] = [steps, envs]: no minibatch may be empty."""
        super().prepare(steps, envs)
        self._num_minibatches = min(
            self._minibatch.num_minibatches, envs if self._has_memory else steps * envs
        )

    @property
    def _has_memory(self) -> bool:
        return isinstance(self._forward, RecurrentForward)

    def record(self, rollout: Rollout, graphs: Graphs, reduces: bool | None) -> None:
        """Record nothing: minibatches are drawn anew, and their kernels launched, each time."""

    def update(
        self, rollout: Rollout, reduce: Callable[[], bool] | None = None
    ) -> dict[str, float]:
        """Take one optimiser step for every minibatch of every epoch; see `Algorithm.update`."""
        rollout = trainable(rollout)
        steps = self._steps_on(rollout, reduce)
        found = self._found(rollout, steps)
        # The only point where the host waits for the device, but for what ends an update early.
        *numbers, transitions = torch.stack((*found, rollout.valid.sum())).tolist()
        self.version += transitions > 0 or steps.is_mean
        return dict(zip(self.measures, numbers, strict=True))

    def _steps_on(self, rollout: Rollout, reduce: Callable[[], bool] | None) -> Steps:
        """Take the steps."""
        known = self._minibatch
        once = self._evaluated(rollout)
        parts = (rollout.observations[:-1], rollout.first[:-1], rollout.valid, *once)
        epochs: list[Tensor] = []
        norms: list[Tensor] = []
        is_mean = False
        for _ in range(known.update_epochs):
            losses: list[Tensor] = []
            for part, envs in minibatches(
                parts, self._num_minibatches, self.generator, whole_envs=self._has_memory
            ):
                observations, first, valid, *others = part
                outputs = self._forward.outputs(observations, first, envs)
                total, *measured = self._losses(outputs, valid, *others)
                self._forward.backward(total)
                is_mean = reduce is not None and reduce()
                norms.append(self._step(valid.any() | is_mean))
                losses.append(torch.stack(measured).detach())
                self.heartbeat()
            epochs.append(torch.stack(losses).mean(0))
            if not is_mean and self._ends_after(epochs[-1]):
                break
        self._forward.next_rollout()
        return Steps(once, torch.stack(epochs), torch.stack(norms).max(), is_mean)

    @abstractmethod
    def _evaluated(self, rollout: Rollout) -> Sequence[Tensor]:
        """Return what the losses need besides the rollout, [T, B, ...] each, without gradient."""

    @abstractmethod
    def _losses(self, outputs: Outputs, valid: Tensor, *parts: Tensor) -> Sequence[Tensor]:
        """Return the loss [] of a minibatch, and whatever is measured, each [].

        Args:
            outputs: of the network, [t, n, ...] each, with gradient.
            valid: [t, n] bool.
            parts: what `_evaluated` has returned, [t, n, ...] each.
        """

    @abstractmethod
    def _found(self, rollout: Rollout, steps: Steps) -> Sequence[Tensor]:
        """Return the metrics, each [], in the order of `measures`."""

    def _ends_after(self, measured: Tensor) -> bool:
        """Whether an epoch with these means [m] of what `_losses` measured is the last one."""
        del measured
        return False

    def _step(self, active: Tensor) -> Tensor:
        """Take one step along the gradient; return its norm before clipping."""
        norm = self._optimiser.step(active, self._minibatch.max_grad_norm, self.learning_rate)
        self._forward.discard()
        return norm

    def state(self) -> dict[str, Tensor]:
        """Return the parameters [P] and Adam's moments [P] and steps [1], live."""
        return {"parameters": self.parameters.data, **self._optimiser.state()}
