"""Actors: the policy's part of collecting a rollout, on a CPU in shared memory, on a GPU on a copy.

    row of the ring --act--> actions --> ring            every step, for a batch of environments
    slot of the ring --rollout--> Rollout --> update     at the end

Runs in the learner. An observation is copied to the GPU once: when it is acted on. It stays there
for the update. Actions and outcomes follow at the end, in one copy. All work goes through one
stream, in order; the host waits once for each batch of actions. The actions' log-probabilities, if
the algorithm keeps them, are written where they are computed and never leave the learner. With a
normaliser, observations and rewards are scaled on the way: the algorithm never sees others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from galamp.algorithms.base import Acted, Algorithm, Rollout
from galamp.algorithms.cuda_graphs import Graphs, Launch, finish, page_locked
from galamp.algorithms.forward import Place
from galamp.memory.rollouts import RolloutSlot
from galamp.workers.normaliser import Scaling


class Actor(ABC):
    """Acts on rows of the slots, [b, ...], and returns complete slots as rollouts."""

    @abstractmethod
    def observe(self, slot: int, step: int, envs: slice) -> None:
        """Load a row that is not acted on: the last one."""

    @abstractmethod
    def act(self, slot: int, step: int, envs: slice) -> npt.NDArray[Any]:
        """Return actions `[b, ...]` for row `step` of `envs`, valid until the next call."""

    @abstractmethod
    def rollout(self, slot: int, valid_mask: npt.NDArray[np.bool_]) -> Rollout:
        """Return the rollout; its `valid` is that of the simulators and `valid_mask` [T, B] bool.

        The rollout may be used until the first row of the next one is observed or acted on.
        """

    @abstractmethod
    def keep(self, rollout: Rollout) -> Rollout:
        """Return a complete rollout where the next one leaves it alone, until the next `keep`."""


class HostActor(Actor):
    """Acts on a CPU, directly on the simulators' shared memory.

    What acting computes is cached for the update, if it `caches`.
    """

    def __init__(
        self,
        slots: Sequence[RolloutSlot],
        algorithm: Algorithm,
        *,
        clip_rewards: bool,
        scaling: Scaling | None = None,
        caches: bool = True,
    ) -> None:
        self._algorithm, self._clip, self._caches = algorithm, clip_rewards, caches
        self._scaling = scaling
        self._normalised: list[Tensor] = []
        if scaling is not None and scaling.observations is not None:
            cpu = torch.device("cpu")
            self._normalised = [_observations(slot, scaling, cpu) for slot in slots]
        self._slots = [
            Rollout(**_tensors(slot), log_probs=_log_probs(slot, algorithm, torch.device("cpu")))
            for slot in slots
        ]

    def observe(self, slot: int, step: int, envs: slice) -> None:
        """See `Actor.observe`; without a normaliser the row stays in shared memory."""
        if self._scaling is not None:
            self._seen(slot, step, envs)

    def act(self, slot: int, step: int, envs: slice) -> npt.NDArray[Any]:
        """See `Actor.act`."""
        rows = self._slots[slot]
        observations = rows.observations[step, envs]
        if self._scaling is not None:
            observations = self._seen(slot, step, envs)
        place = Place(step if self._caches else 0, envs)
        acted = self._algorithm.act(observations, rows.first[step, envs], place)
        if rows.log_probs is not None:
            rows.log_probs[step, envs] = _kept(acted)
        actions: npt.NDArray[Any] = acted.actions.numpy()
        return actions

    def rollout(self, slot: int, valid_mask: npt.NDArray[np.bool_]) -> Rollout:
        """See `Actor.rollout`."""
        shared = self._slots[slot]
        rewards = shared.rewards.clamp(-1.0, 1.0) if self._clip else shared.rewards
        valid = shared.valid & torch.from_numpy(valid_mask)
        if self._scaling is None:
            return replace(shared, rewards=rewards, valid=valid)
        scaled = torch.empty_like(rewards)
        self._scaling.rewards(rewards.numpy(), scaled.numpy())
        observations = self._normalised[slot] if self._normalised else shared.observations
        return replace(shared, observations=observations, rewards=scaled, valid=valid)

    def keep(self, rollout: Rollout) -> Rollout:
        """Return the same: the ring has a slot more than rollouts that are in use."""
        return rollout

    def _seen(self, slot: int, step: int, envs: slice) -> Tensor:
        """Return a row as the network sees it; it is kept for the update."""
        raw = self._slots[slot].observations[step, envs]
        if not self._normalised:
            return raw
        assert self._scaling is not None
        assert self._scaling.observations is not None
        return self._scaling.observations.into(raw, self._normalised[slot][step, envs])


class DeviceActor(Actor):
    """Acts on a GPU, on one copy of a rollout; with CUDA graphs for batches that have `launches`.

    A slot is written again only after the next rollout was acted in, or the update on its rollout
    has ended, and both wait for the GPU. So the source of a copy does not change before the copy is
    complete.

    Attributes:
        filled: the rollout on the GPU, always in the same memory.
        learned: the rollout that is learned from: the same, or if it `copies`, a copy.
        launches: first environment of a batch -> launch that acts on that batch at row `_row`.
    """

    def __init__(
        self,
        slots: Sequence[RolloutSlot],
        algorithm: Algorithm,
        device: torch.device,
        *,
        clip_rewards: bool,
        scaling: Scaling | None = None,
        copies: bool = False,
    ) -> None:
        self._slots, self._algorithm, self._clip = slots, algorithm, clip_rewards
        self._scaling = scaling
        self._shared = [torch.from_numpy(slot.observations) for slot in slots]
        like = slots[0]
        self._outcomes_host = page_locked(_outcome_bytes(like), torch.uint8)
        self._outcomes = {
            name: part.numpy() for name, part in _outcomes(self._outcomes_host, like).items()
        }
        self._outcomes_gpu = torch.zeros_like(self._outcomes_host, device=device)
        self.filled = Rollout(
            observations=_observations(slots[0], scaling, device),
            **_outcomes(self._outcomes_gpu, like),
            log_probs=_log_probs(like, algorithm, device),
        )
        self.learned = self.filled.mapped(torch.clone) if copies else self.filled
        row = like.actions[0]
        envs = len(row)
        self._actions = page_locked(row.size, torch.from_numpy(row).dtype).view(row.shape)
        self._actions_host: npt.NDArray[Any] = self._actions.numpy()
        # What an act reads besides observations, in one copy: the row's number, and `first`.
        self._inputs = page_locked(ROW_BYTES + envs, torch.uint8)
        inputs = self._inputs.numpy()
        self._row_host, self._first_host = inputs[:ROW_BYTES].view(np.int64), inputs[ROW_BYTES:]
        self._inputs_gpu = torch.zeros_like(self._inputs, device=device)
        self._row = self._inputs_gpu[:ROW_BYTES].view(torch.int64)
        self._first = self._inputs_gpu[ROW_BYTES:].view(torch.bool)
        self.launches: dict[int, Launch] = {}

    def observe(self, slot: int, step: int, envs: slice) -> None:
        """Start the copy of a row; work that is started later in the stream sees it complete."""
        row = self.filled.observations[step, envs]
        raw = self._shared[slot][step, envs]
        if self._scaling is None or self._scaling.observations is None:
            row.copy_(raw, non_blocking=True)
        else:
            self._scaling.observations.into(raw, row)

    def act(self, slot: int, step: int, envs: slice) -> npt.NDArray[Any]:
        """See `Actor.act`; waits for the GPU once, for the actions."""
        self.observe(slot, step, envs)
        # The last act has read these: its actions have arrived.
        self._row_host[0] = step
        self._first_host[envs] = self._slots[slot].first[step, envs]
        launch = self.launches.get(envs.start)
        if launch is None:
            self._inputs_gpu.copy_(self._inputs, non_blocking=True)
            self._act_into(self.filled.observations[step, envs], Place(step, envs))
        else:
            launch()
        finish()
        return self._actions_host[envs]

    def rollout(self, slot: int, valid_mask: npt.NDArray[np.bool_]) -> Rollout:
        """See `Actor.rollout`; starts one copy, and does not wait."""
        # The actions come from the GPU, but to keep them there would need one kernel per act. They
        # are part of this one copy anyway, at no cost.
        host, outcome = self._outcomes, self._slots[slot]
        for name, values in host.items():
            np.copyto(values, getattr(outcome, name))
        if self._clip:
            np.clip(host["rewards"], -1.0, 1.0, out=host["rewards"])
        if self._scaling is not None:
            self._scaling.rewards(host["rewards"], host["rewards"])
        np.logical_and(outcome.valid, valid_mask, out=host["valid"])
        self._outcomes_gpu.copy_(self._outcomes_host, non_blocking=True)
        return self.filled

    def keep(self, rollout: Rollout) -> Rollout:
        """See `Actor.keep`; starts copies on the GPU, and does not wait."""
        for name, kept in vars(self.learned).items():
            if kept is not None:
                kept.copy_(getattr(rollout, name), non_blocking=True)
        return self.learned

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
        """Act on `envs` of the row whose number is in `_inputs`, so one graph serves all steps."""
        self._inputs_gpu.copy_(self._inputs, non_blocking=True)
        rows = self.filled.observations[:, envs].index_select(0, self._row)
        self._act_into(rows.squeeze(0), Place(self._row, envs))

    def _act_into(self, observations: Tensor, place: Place) -> None:
        """Act on [b, ...], and start the copy of the actions to the host."""
        envs = place.envs
        acted = self._algorithm.act(observations, self._first[envs], place)
        self._actions[envs].copy_(acted.actions, non_blocking=True)
        if self.filled.log_probs is not None:
            rows = self.filled.log_probs[:, envs]
            rows.index_copy_(0, self._row, _kept(acted).unsqueeze(0))


ROW_BYTES = 8
"""Of a row's number, int64."""
OUTCOMES = RolloutSlot._fields[1:]
"""Parts of a slot other than observations; those of larger numbers first, so all are aligned."""


def _outcomes(memory: Tensor, like: RolloutSlot) -> dict[str, Tensor]:
    """Return `OUTCOMES` as views of `memory`, one after the other, as `like` has them."""
    parts, end = {}, 0
    for name in OUTCOMES:
        array = getattr(like, name)
        start, end = end, end + array.nbytes
        dtype = torch.from_numpy(array).dtype
        parts[name] = memory[start:end].view(dtype).view(array.shape)
    return parts


def _outcome_bytes(like: RolloutSlot) -> int:
    return sum(getattr(like, name).nbytes for name in OUTCOMES)


def _observations(like: RolloutSlot, scaling: Scaling | None, device: torch.device) -> Tensor:
    """Return memory [T+1, B, ...] for observations as the network sees them."""
    normalised = scaling is not None and scaling.observations is not None
    dtype = torch.float32 if normalised else torch.from_numpy(like.observations).dtype
    return torch.zeros(like.observations.shape, dtype=dtype, device=device)


def _log_probs(like: RolloutSlot, algorithm: Algorithm, device: torch.device) -> Tensor | None:
    """Return memory [T, B] for the actions' log-probabilities, if `algorithm` keeps them."""
    if not algorithm.keeps_log_probs:
        return None
    return torch.zeros(like.rewards.shape, dtype=torch.float32, device=device)


def _kept(acted: Acted) -> Tensor:
    """Return the log-probabilities [b] of an algorithm that keeps them."""
    assert acted.log_probs is not None, "keeps_log_probs says that act returns them"
    return acted.log_probs


def _tensors(slot: RolloutSlot) -> dict[str, Tensor]:
    """Return the arrays of a slot as tensors of the same memory."""
    return {name: torch.from_numpy(array) for name, array in slot._asdict().items()}
