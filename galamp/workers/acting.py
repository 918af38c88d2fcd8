"""The policy's half of collecting: on a CPU in the simulators' own memory, on a GPU on a copy.

    row of the ring --act--> actions --> ring                 every step, for a batch of lanes
    slot of the ring --rollout--> Rollout --> update          at the end

Runs in the learner. On a GPU an observation crosses the bus once: it is copied when it is acted on
and stays there for the update. Actions and outcomes follow in one piece, and so in one copy. All of
it goes through one stream, in order; the host waits once for each batch of actions.
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
    """Acts on rows of the slots, [b, ...], and hands over whole slots to be learned from."""

    @abstractmethod
    def observe(self, slot: int, step: int, envs: slice) -> None:
        """Take in a row that is not acted on: the last one."""

    @abstractmethod
    def act(self, slot: int, step: int, envs: slice) -> npt.NDArray[np.int64]:
        """Return actions `[b]` for row `step` of `envs`; they hold until the next call."""

    @abstractmethod
    def rollout(self, slot: int, valid_mask: npt.NDArray[np.bool_]) -> Rollout:
        """Return the rollout, valid where the simulators say so and it is `valid_mask`, [T, B].

        It holds until the next one's first row is seen or acted on.
        """


class HostActor(Actor):
    """Acts where the simulators write."""

    def __init__(
        self, slots: Sequence[RolloutSlot], algorithm: Algorithm, *, clip_rewards: bool
    ) -> None:
        self._algorithm, self._clip = algorithm, clip_rewards
        self._slots = [Rollout(**_tensors(slot)) for slot in slots]

    def observe(self, slot: int, step: int, envs: slice) -> None:
        """See `Actor.observe`: it is there."""

    def act(self, slot: int, step: int, envs: slice) -> npt.NDArray[np.int64]:
        """See `Actor.act`."""
        observations = self._slots[slot].observations[step, envs]
        actions: npt.NDArray[np.int64] = self._algorithm.act(
            observations, Place(step, envs)
        ).numpy()
        return actions

    def rollout(self, slot: int, valid_mask: npt.NDArray[np.bool_]) -> Rollout:
        """See `Actor.rollout`."""
        there = self._slots[slot]
        return Rollout(
            there.observations,
            there.actions,
            there.rewards.clamp(-1.0, 1.0) if self._clip else there.rewards,
            there.terminated,
            there.truncated,
            there.valid & torch.from_numpy(valid_mask),
        )


class DeviceActor(Actor):
    """Acts on a GPU, on one copy of a rollout; by recorded work where `launches` has it.

    A slot is written to again only after its rollout was learned from, and every update ends by
    waiting for the GPU: what is copied from is not changed before it has been copied.

    Attributes:
        filled: the rollout on the GPU, always in the same memory.
        launches: first lane of a batch -> what acts on that batch at row `_row`.
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
        self._here = page_locked(steps * envs * BYTES, torch.uint8)
        self._outcomes = Outcomes(*(part.numpy() for part in Outcomes.of(self._here, steps, envs)))
        self._there = torch.zeros_like(self._here, device=device)
        observations = torch.zeros_like(self._shared[0], device=device)
        self.filled = Rollout(observations, *Outcomes.of(self._there, steps, envs))
        self._actions = page_locked(envs, torch.int64)
        self._actions_here: npt.NDArray[np.int64] = self._actions.numpy()
        self._row = page_locked(1, torch.int64)
        self._row_here = self._row.numpy()
        self._row_there = torch.zeros_like(self._row, device=device)
        self.launches: dict[int, Launch] = {}

    def observe(self, slot: int, step: int, envs: slice) -> None:
        """Start the copy of a row; what is started later finds it done."""
        row = self.filled.observations[step, envs]
        row.copy_(self._shared[slot][step, envs], non_blocking=True)

    def act(self, slot: int, step: int, envs: slice) -> npt.NDArray[np.int64]:
        """See `Actor.act`; waits once, for the actions."""
        self.observe(slot, step, envs)
        launch = self.launches.get(envs.start)
        if launch is None:
            self._choose(self.filled.observations[step, envs], envs, Place(step, envs))
        else:
            self._row_here[0] = step  # the last launch has read it: its actions are there
            launch()
        finish()
        return self._actions_here[envs]

    def rollout(self, slot: int, valid_mask: npt.NDArray[np.bool_]) -> Rollout:
        """See `Actor.rollout`; starts one copy, and waits for nothing."""
        here, outcome = self._outcomes, self._slots[slot]
        # The actions were made on the GPU. Keeping them there would take a kernel for each act;
        # with these others, in one copy, they cost nothing.
        here.actions[:] = outcome.actions
        np.copyto(here.rewards, outcome.rewards)
        if self._clip:
            np.clip(here.rewards, -1.0, 1.0, out=here.rewards)
        here.terminated[:], here.truncated[:] = outcome.terminated, outcome.truncated
        np.logical_and(outcome.valid, valid_mask, out=here.valid)
        self._there.copy_(self._here, non_blocking=True)
        return self.filled

    def record(self, graphs: Graphs, batches: Sequence[slice]) -> dict[int, Launch]:
        """Return `launches` for batches of lanes, recorded.

        Raises:
            RuntimeError: see `Graphs.record`.
        """
        generator = self._algorithm.generator
        return {
            envs.start: graphs.record(partial(self._act_at_row, envs), generator)
            for envs in batches
        }

    def _act_at_row(self, envs: slice) -> None:
        """Act on `envs` of the row whose number stands in `_row`: one graph for every step."""
        self._row_there.copy_(self._row, non_blocking=True)
        rows = self.filled.observations[:, envs].index_select(0, self._row_there)
        self._choose(rows.squeeze(0), envs, None)

    def _choose(self, observations: Tensor, envs: slice, place: Place | None) -> None:
        """Act on [b, ...], and start the copy of the actions to where the host finds them."""
        actions = self._algorithm.act(observations, place)
        self._actions[envs].copy_(actions, non_blocking=True)


class Outcomes(NamedTuple):
    """What a rollout has besides its observations, each [T, B], one behind the other in memory."""

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
            begin, end = end, end + steps * envs * dtype.itemsize
            parts.append(memory[begin:end].view(dtype).view(steps, envs))
        return Outcomes(*parts)


DTYPES = (torch.int64, torch.float32, torch.bool, torch.bool, torch.bool)
"""Types of `Outcomes`, the largest first, so that each begins where its type may."""
BYTES = sum(dtype.itemsize for dtype in DTYPES)


def _tensors(slot: RolloutSlot) -> dict[str, Tensor]:
    """Return the arrays of a slot as tensors of the same memory."""
    return {name: torch.from_numpy(array) for name, array in slot._asdict().items()}
