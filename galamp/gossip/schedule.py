"""Gossip schedule: every so many turns, with a probability. A pure function of the turn."""

from __future__ import annotations

import numpy as np

from galamp.core.config import GossipConfig


class Schedule:
    """Decides for every turn (update) of learner `rank` whether a gossip round follows it.

    Ranks are counted over all nodes. Synchronous learners draw the same random number, so all
    gossip after a turn or none does.
    """

    def __init__(self, config: GossipConfig, seed: int, rank: int) -> None:
        self._every, self._probability = config.gossip_every, config.gossip_probability
        self._entropy = (seed, 0 if config.synchronous else 1 + rank)

    def due(self, turn: int) -> bool:
        """Whether turn `turn`, counted from 1, ends with a gossip round."""
        if turn % self._every:
            return False
        if self._probability >= 1.0:
            return True
        drawn = np.random.default_rng((*self._entropy, turn)).random()
        return bool(drawn < self._probability)
