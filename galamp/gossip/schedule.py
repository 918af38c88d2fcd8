"""When a learner gossips: every so many updates, with a probability. Pure functions of the turn."""

from __future__ import annotations

import numpy as np

from galamp.core.config import GossipConfig


class Schedule:
    """Says of every turn (update) of learner `rank` whether a round of gossip follows it.

    In lock-step all learners toss the same coin, so that everyone takes part or nobody does.
    """

    def __init__(self, config: GossipConfig, seed: int, rank: int) -> None:
        self._every, self._probability = config.gossip_every, config.gossip_probability
        self._entropy = (seed, 0 if config.synchronous else 1 + rank)

    def due(self, turn: int) -> bool:
        """Whether turn `turn`, counted from 1, ends with gossip."""
        if turn % self._every:
            return False
        if self._probability >= 1.0:
            return True
        coin = np.random.default_rng((*self._entropy, turn)).random()
        return bool(coin < self._probability)
