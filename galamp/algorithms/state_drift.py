"""Staleness of a recurrent network's states, from one rollout to the next.

    rollout k --acting--> kept states, from which rollout k + 1 starts
      '--update, gossip round--> new parameters --replay--> the same states by these

The distance of both is what recurrent replay calls staleness (Kapturowski et al. 2019, R2D2): how
far the states that a rollout starts from are from those that its own parameters would have given.
An update adds to it, and so does a gossip round. Runs in learners.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from galamp.algorithms.base import Rollout
from galamp.algorithms.recurrent_forward import RecurrentForward

MAX_ENVS = 8
"""Environments whose last rollout is kept and replayed: the first ones. Images take memory."""


class Replayable(NamedTuple):
    """Rollout of n environments, and the states that it started from."""

    observations: Tensor
    first: Tensor
    start: Tensor
    complete: Tensor
    """[n] bool: those whose states are kept, and have acted at every step of their episodes."""


class StateDrift:
    """Keeps the last rollout of some environments, and replays it by present parameters."""

    def __init__(self, forward: RecurrentForward) -> None:
        self._forward = forward
        self._last: Replayable | None = None

    def measure(self) -> Tensor:
        """Return the mean L2 distance per environment, []; 0 where no rollout is kept.

        Call it before the update on a rollout, when its parameters are still those that acted.
        """
        now = self._forward.start
        if self._last is None:
            return now.new_zeros(())
        observations, first, start, complete = self._last
        replayed = self._forward.replay(observations, first, start)
        distances: Tensor = torch.linalg.vector_norm(replayed - now[: len(replayed)], dim=-1)
        mean: Tensor = (distances * complete).sum() / complete.sum().clamp(min=1)
        return mean

    def keep(self, rollout: Rollout) -> None:
        """Keep a rollout, whose update has not begun."""
        some = slice(0, MAX_ENVS)
        valid, first = rollout.valid[:, some], rollout.first[:, some]
        # A step that resets is invalid, and the state is forgotten after it, here and in a replay.
        # What begins an episode in the next rollout starts that from zero, whatever is kept.
        acted = valid[:-1] | (first[1:-1] & valid[1:])
        self._last = Replayable(
            rollout.observations[:-1, some].clone(),
            first[:-1].clone(),
            self._forward.start[some].clone(),
            acted.all(0) & valid[-1] & ~first[-1],
        )

    def rescale(self, change: Callable[[Tensor], Tensor]) -> None:
        """See `Algorithm.rescale`."""
        if self._last is not None:
            self._last = self._last._replace(observations=change(self._last.observations))
