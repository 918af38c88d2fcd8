"""Radius of the ball in which theory has the learners, by the updates that they have made.

publications --receive, lose--> largest update of a whole round --radius-->
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from galamp.gossip.consensus.radius import radius_per_update
from galamp.gossip.topologies.base import Topology
from galamp.gossip.transport.publication import Publication


class TheoreticalRadius:
    """Theoretical radius for the largest update so far, as root mean square over the learners.

    It bounds the vectors as they are published.
    """

    def __init__(self, topology: Topology) -> None:
        self._learners = topology.size
        self._per_update = radius_per_update(topology)
        self._rounds: dict[int, npt.NDArray[np.float64]] = {}
        self._latest = [0] * topology.size
        self._greatest = 0.0

    @property
    def radius(self) -> float | None:
        """Radius for the updates so far; None where theory gives none, or before a whole round."""
        if self._per_update is None or not self._greatest:
            return None
        return (self._per_update + 1.0) * self._greatest

    def receive(self, publication: Publication) -> None:
        """Add an update; a round counts once all learners have passed it."""
        self._lengths(publication)[publication.learner] += publication.length
        self._advance(publication)

    def lose(self, publication: Publication) -> None:
        """Add an update that is not fully known: it follows a gap or starts a new incarnation.

        Its round does not count. An incarnation may start in a round that an earlier one had passed
        already, as after a rollback in lock-step: repeated updates must not be added to the earlier
        ones.
        """
        for round_, lengths in self._rounds.items():
            if round_ > publication.round:
                lengths[publication.learner] = 0.0
        self._lengths(publication)[publication.learner] = np.nan
        self._advance(publication)

    def _lengths(self, publication: Publication) -> npt.NDArray[np.float64]:
        return self._rounds.setdefault(publication.round, np.zeros(self._learners))

    def _advance(self, publication: Publication) -> None:
        self._latest[publication.learner] = publication.round
        for past in [each for each in self._rounds if each < min(self._latest)]:
            rms = float(np.sqrt(np.mean(self._rounds.pop(past) ** 2)))
            if math.isfinite(rms):
                self._greatest = max(self._greatest, rms)
