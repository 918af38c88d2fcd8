"""Actors: the policy's part of collecting a rollout, on a CPU in shared memory, on a GPU on a copy.

    row of the ring --act--> actions --> ring            every step, for a batch of environments
    slot of the ring --rollout--> Rollout --> update     at the end

Runs in the learner. An observation is copied to the GPU once: when it is acted on. It stays there
for the update. Actions and outcomes follow at the end, in one copy. All work goes through one
stream, in order; the host waits once for each batch of actions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from galamp.algorithms.base import Algorithm, Rollout
from galamp.algorithms.cuda_graphs import Graphs, Launch, finish, page_locked
from galamp.algorithms.forward import Place
from galamp.memory.rollouts import RolloutSlot


class Actor(ABC):
    """Acts on rows of the slots, [b, ...], and returns complete slots as rollouts."""

    @abstractmethod
    def observe(self, slot: int, step: int, envs: slice) -> None:
        """Load a row that is not acted on: the last one."""

    @abstractmethod
    def act(self, slot: int, step: int, envs: slice) -> npt.NDArray[np.int64]:
        """Return actions `[b]` for row `step` of `envs`; they are valid until the next call."""

    @abstractmethod
    def rollout(self, slot: int, valid_mask: npt.NDArray[np.bool_]) -> Rollout:
        """Return the rollout; its `valid` is that of the simulators and `valid_mask` [T, B] bool.

        The rollout may be used until the first row of the next one is observed or acted on.
        """


class HostActor(Actor):
    """Acts on a CPU, directly on the simulators' shared memory."""

    def __init__(
        self, slots: Sequence[RolloutSlot], algorithm: Algorithm, *, clip_rewards: bool
    ) -> None:
        self._algorithm, self._clip = algorithm, clip_rewards
        self._slots = [Rollout(**_tensors(slot)) for slot in slots]

    def observe(self, slot: int, step: int, envs: slice) -> None:
        """See `Actor.observe`; nothing to do, the row is in shared memory."""

    def act(self, slot: int, step: int, envs: slice) -> npt.NDArray[np.int64]:
        """See `Actor.act`."""
        observations = self._slots[slot].observations[step, envs]
        actions: npt.NDArray[np.int64] = self._algorithm.act(
            observations, Place(step, envs)
        ).numpy()
        return actions

    def rollout(self, slot: int, valid_mask: npt.NDArray[np.bool_]) -> Rollout:
        """See `Actor.rollout`."""
        shared = self._slots[slot]
        return Rollout(
            shared.observations,
            shared.actions,
            shared.rewards.clamp(-1.0, 1.0) if self._clip else shared.rewards,
            shared.terminated,
            shared.truncated,
            shared.valid & torch.from_numpy(valid_mask),
        )


class DeviceActor(Actor):
    """Acts on a GPU, on one copy of a rollout; with CUDA graphs for batches that have `launches`.

    A slot is written again only after the update on its rollout, and every update ends with a wait
    for the GPU. So the source of a copy does not change before the copy is complete.

    Attributes:
        filled: the rollout on the GPU, always in the same memory.
        launches: first environment of a batch -> launch that acts on that batch at row `_row`.
    """

    def __init__(
        self,
        slots: Sequence[RolloutSlot],
        algorithm: Algorithm,
        device: torch.device,
        *,
        clip_rewards: bool,
    ) -> None:
        self._slots, self._algorithm, self._clip = slots, algorithm, clip_rewards
        steps, envs = slots[0].rewards.shape
        self._shared = [torch.from_numpy(slot.observations) for slot in slots]
        self._outcomes_host = page_locked(steps * envs * BYTES, torch.uint8)
        self._outcomes = Outcomes(
            *(part.numpy() for part in Outcomes.of(self._outcomes_host, steps, envs))
        )
        self._outcomes_gpu = torch.zeros_like(self._outcomes_host, device=device)
        observations = torch.zeros_like(self._shared[0], device=device)
        self.filled = Rollout(observations, *Outcomes.of(self._outcomes_gpu, steps, envs))
        self._actions = page_locked(envs, torch.int64)
        self._actions_host: npt.NDArray[np.int64] = self._actions.numpy()
        self._row = page_locked(1, torch.int64)
        self._row_host = self._row.numpy()
        self._row_gpu = torch.zeros_like(self._row, device=device)
        self.launches: dict[int, Launch] = {}

    def observe(self, slot: int, step: int, envs: slice) -> None:
        """Start the copy of a row; work that is started later in the stream sees it complete."""
        row = self.filled.observations[step, envs]
        row.copy_(self._shared[slot][step, envs], non_blocking=True)

    def act(self, slot: int, step: int, envs: slice) -> npt.NDArray[np.int64]:
        """See `Actor.act`; waits for the GPU once, for the actions."""
        self.observe(slot, step, envs)
        launch = self.launches.get(envs.start)
        if launch is None:
            self._act_into(self.filled.observations[step, envs], envs, Place(step, envs))
        else:
            self._row_host[0] = step  # the last launch has read it: its actions have arrived
            launch()
        finish()
        return self._actions_host[envs]

    def rollout(self, slot: int, valid_mask: npt.NDArray[np.bool_]) -> Rollout:
        """See `Actor.rollout`; starts one copy, and does not wait."""
        host, outcome = self._outcomes, self._slots[slot]
        # The actions come from the GPU, but to keep them there would need one kernel per act. They
        # are part of this one copy anyway, at no cost.
        host.actions[:] = outcome.actions
        np.copyto(host.rewards, outcome.rewards)
        if self._clip:
            np.clip(host.rewards, -1.0, 1.0, out=host.rewards)
        host.terminated[:], host.truncated[:] = outcome.terminated, outcome.truncated
        np.logical_and(outcome.valid, valid_mask, out=host.valid)
        self._outcomes_gpu.copy_(self._outcomes_host, non_blocking=True)
        return self.filled

    def record(self, graphs: Graphs, batches: Sequence[slice]) -> dict[int, Launch]:
        """Record and return `launches` for batches of environments.

        Raises:
            RuntimeError: see `Graphs.record`.
        """
        generator = self._algorithm.generator
        return {
            envs.start: graphs.record(partial(self._act_at_row, envs), generator)
            for envs in batches
        }

    def _act_at_row(self, envs: slice) -> None:
        """Act on `envs` of the row whose number is in `_row`, so one graph serves all steps."""
        self._row_gpu.copy_(self._row, non_blocking=True)
        rows = self.filled.observations[:, envs].index_select(0, self._row_gpu)
        self._act_into(rows.squeeze(0), envs, None)

    def _act_into(self, observations: Tensor, envs: slice, place: Place | None) -> None:
        """Act on [b, ...], and start the copy of the actions to the host."""
        actions = self._algorithm.act(observations, place)
        self._actions[envs].copy_(actions, non_blocking=True)


class Outcomes(NamedTuple):
    """Parts of a rollout other than observations, each [T, B], one after the other in memory."""

    actions: Any
    rewards: Any
    terminated: Any
    truncated: Any
    valid: Any

    @staticmethod
    def of(memory: Tensor, steps: int, envs: int) -> Outcomes:
        """Return the parts of `memory`, [T B BYTES] uint8, as views in their own types."""
        parts, end = [], 0
        for dtype in DTYPES:
            start, end = end, end + steps * envs * dtype.itemsize
            parts.append(memory[start:end].view(dtype).view(steps, envs))
        return Outcomes(*parts)


DTYPES = (torch.int64, torch.float32, torch.bool, torch.bool, torch.bool)
"""Types of `Outcomes`, the largest first, so that each part is aligned for its type."""
BYTES = sum(dtype.itemsize for dtype in DTYPES)


def _tensors(slot: RolloutSlot) -> dict[str, Tensor]:
    """Return the arrays of a slot as tensors of the same memory."""
    return {name: torch.from_numpy(array) for name, array in slot._asdict().items()}
