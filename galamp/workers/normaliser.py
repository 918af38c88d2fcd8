"""Normaliser of one learner: statistics of its own data, pooled with all others', and its scales.

    slot of the ring --count--> own moments --publish--> MomentSlots r
    MomentSlots of all --start_turn--> scales, parameters in them --> collect, update
    parameters in them --end_turn--> raw again

Runs in learners with `--norm-obs` or `--norm-reward`. Between `start_turn` and `end_turn`, that is
while a rollout is played and learned from, the scales stay the same. In lock-step they are those of
all data up to the turn before, for which all wait, so that all have the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from galamp.algorithms.normalising import InputNormaliser, Layers, from_raw, to_raw
from galamp.core.moments import Moments
from galamp.core.normalisation import REWARD_CLIP, Known, NormaliserSpec, Own, Saved, Scales
from galamp.memory.arrays import SharedArrays, Wakeup
from galamp.memory.control import ControlBlock
from galamp.memory.moment_slots import MomentSlots
from galamp.memory.rollouts import RolloutSlot

POLL_S = 0.05
"""Longest sleep in the wait for others' statistics."""

Floats = npt.NDArray[np.float64]


class Scaling:
    """What an actor does to what comes from simulators.

    Attributes:
        observations: normalises them; None if they stay as they are.
        return_std: rewards are divided by it; None if they stay as they are.
    """

    def __init__(self, spec: NormaliserSpec, device: torch.device | str) -> None:
        """Change nothing, until `set`."""
        self.observations = InputNormaliser(spec.inputs, device) if spec.inputs else None
        self.return_std = 1.0 if spec.rewards else None

    def set(self, scales: Scales) -> None:
        """Scale by these from now on."""
        if self.observations is not None:
            self.observations.set(scales)
        if self.return_std is not None:
            self.return_std = scales.return_std

    def rewards(self, rewards: npt.NDArray[np.float32], out: npt.NDArray[np.float32]) -> None:
        """Write scaled rewards to `out`, which may be the same."""
        if self.return_std is None:
            np.copyto(out, rewards)
        else:
            np.divide(rewards, np.float32(self.return_std), out=out)
            np.clip(out, -REWARD_CLIP, REWARD_CLIP, out=out)


class Returns:
    """Running discounted returns of B environments, as in Stable-Baselines3's `VecNormalize`."""

    def __init__(self, envs: int, gamma: float) -> None:
        """Start with returns of zero."""
        self._returns = np.zeros(envs)
        self._gamma = gamma

    def of(
        self,
        rewards: npt.NDArray[np.float32],
        ended: npt.NDArray[np.bool_],
        valid: npt.NDArray[np.bool_],
    ) -> Floats:
        """Return the returns [K, 1] at all valid transitions of [T, B]; `ended` begins anew."""
        found = []
        for reward, end, good in zip(rewards, ended, valid, strict=True):
            self._returns = self._gamma * self._returns + np.where(good, reward, 0.0)
            found.append(self._returns[good])
            self._returns[end | ~good] = 0.0
        return np.concatenate(found)[:, np.newaxis]


@dataclass(frozen=True)
class Pool:
    """Where the statistics of all learners lie, and how their newest are awaited.

    Attributes:
        arrays: hold the slots.
        ranks: of which data are pooled, this learner's own among them.
        synchronous: whether all wait for one another's statistics of the turn before.
    """

    arrays: SharedArrays
    rank: int
    ranks: Sequence[int]
    synchronous: bool
    wakeups: Sequence[Wakeup]
    idle: Callable[[], None]


class Normaliser:
    """Statistics and scales of one learner.

    Attributes:
        scaling: of observations and rewards, for its actor.
        scales: those of this rollout, or of the last one.
    """

    def __init__(
        self,
        spec: NormaliserSpec,
        pool: Pool,
        layers: Layers,
        *,
        envs: int,
        device: torch.device | str,
        clip_rewards: bool,
    ) -> None:
        self._spec, self._pool, self._layers = spec, pool, layers
        self._clip_rewards = clip_rewards
        self._control = ControlBlock(pool.arrays)
        self._slots = {rank: MomentSlots(pool.arrays, rank) for rank in pool.ranks}
        self._returns = Returns(envs, spec.gamma)
        self._known = Known(spec)
        self._entered: Scales | None = None
        self._adopted = False
        """Whether the network is trained, raw, and there are no scales: yet, or any more."""
        self.scaling = Scaling(spec, device)
        self.scales = Scales.raw(spec.inputs)

    @property
    def own(self) -> Own:
        """The moments of this learner's own data."""
        return self._known.of(self._pool.rank)

    def start_turn(self, turn: int) -> bool:
        """Start turn `turn`: take the scales of all data, and express the network in them.

        Returns whether there are enough data to learn. Before, the network stays as it is.

        Raises:
            StopRun: the run is over.
        """
        before, self.scales = self.scales, self._newest_scales(turn)
        # The network was raw, another learner's too. Initial weights are not: they are for the
        # first scales. Scales that others' data have chosen go where none of these are pooled.
        if before.chosen and not self.scales.chosen:
            self._adopted = True
        elif before.chosen:
            from_raw(self._layers, self.scales, before)
        elif self._adopted and self.scales.chosen:
            from_raw(self._layers, self.scales, self.scales)
            self._adopted = False
        self._entered = self.scales if self.scales.chosen else None
        self.scaling.set(self.scales)
        return self.scales.chosen

    def enter(self, scales: Scales) -> None:
        """Express the network in the scales of an earlier rollout, to learn from it."""
        self.end_turn()
        from_raw(self._layers, scales, scales)
        self._entered = scales

    def end_turn(self) -> None:
        """Express the network in raw scales."""
        if self._entered is not None:
            to_raw(self._layers, self._entered)
            self._entered = None

    def count(self, slot: RolloutSlot, valid_mask: npt.NDArray[np.bool_]) -> None:
        """Count what a rollout has brought: observations that were acted on, and rewards."""
        valid = slot.valid & valid_mask
        observations, returns = self.own.observations, self.own.returns
        if self._spec.inputs:
            new = Moments.of(slot.observations[:-1][valid].reshape(-1, self._spec.inputs))
            observations = observations.merged(new)
        if self._spec.rewards:
            rewards = np.clip(slot.rewards, -1.0, 1.0) if self._clip_rewards else slot.rewards
            ended = slot.terminated | slot.truncated
            returns = returns.merged(Moments.of(self._returns.of(rewards, ended, valid)))
        self._known.hear(self._pool.rank, Own(observations, returns))

    def publish(self, turn: int) -> None:
        """Publish the own moments after `turn` turns."""
        pool = self._pool
        incarnation = self._control.incarnation(pool.rank)
        self._slots[pool.rank].publish(self.own.packed(), incarnation=incarnation, turn=turn)
        for rank in pool.ranks if pool.synchronous else ():
            pool.wakeups[rank].signal()

    def gauges(self) -> dict[str, float]:
        """Return what is reported; see `NORMALISER_GAUGES`."""
        return {"norm_count": self._known.pooled().count, "return_std": self.scales.return_std}

    def saved(self) -> Floats:
        """Return all that is saved, [saved_size]."""
        return Saved(self.own, self.scales, self._adopted).packed()

    def restore(self, saved: Floats) -> None:
        """Continue from what was saved, or from what this rank has published since."""
        found = Saved.unpacked(saved, self._spec)
        self.scales, self._adopted = found.scales, found.adopted
        self._known.hear(self._pool.rank, found.own)
        if not self._pool.synchronous:
            self._hear(self._pool.ranks)

    def rejoin(self) -> None:
        """Take the scales of all data for a network that others have published."""
        self._hear(self._others())
        self.scales = Scales.of(self._known.pooled())
        self._adopted = not self.scales.chosen

    def _newest_scales(self, turn: int) -> Scales:
        """Return the scales of all data that are pooled now.

        None are chosen, though some were, where what is pooled has become too little: for a learner
        that was added without edges, or without the moments of one that is dead.
        """
        if self._pool.synchronous:
            self._await(turn)
        else:
            self._hear(self._others())
        return Scales.of(self._known.pooled())

    def _hear(self, ranks: Sequence[int]) -> None:
        """Take the newest published moments."""
        for rank in ranks:
            packed = self._slots[rank].newest()
            if packed is not None:
                self._known.hear(rank, Own.unpacked(packed, self._spec))

    def _await(self, turn: int) -> None:
        """Wait for the moments of every live learner after `turn` turns, and take them.

        Raises:
            StopRun: the run is over.
        """
        for rank in self._others():
            while (found := self._of_turn(rank, turn)) is None and self._control.alive(rank):
                self._pool.idle()
                self._pool.wakeups[self._pool.rank].wait(POLL_S)
            if found is not None:
                self._known.hear(rank, found)

    def _others(self) -> list[int]:
        return [rank for rank in self._pool.ranks if rank != self._pool.rank]

    def _of_turn(self, rank: int, turn: int) -> Own | None:
        packed = self._slots[rank].of_turn(turn, self._control.incarnation(rank))
        return None if packed is None else Own.unpacked(packed, self._spec)
