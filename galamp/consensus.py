"""How far apart the learners are: measured, and bounded by what they really mixed.

    Journals --follow--> Certificate, gossip.jsonl
    parameter slots --measure--> distances, next to the certificate's bounds --> ConsensusReading

Runs in the supervisor; it reads what the learners write, and tells them one thing: whether gossip
is wanted, where the run has a target for the distance.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np

from galamp.arena import Arena
from galamp.gossip.certificate import Bounds, Certificate
from galamp.gossip.exchange import GRADIENTS, averages_gradients
from galamp.gossip.journal import Journal
from galamp.gossip.measuring import Measured, mean_cosine, measure_distances
from galamp.gossip.mixing import VectorSlots
from galamp.gossip.publication import Publication
from galamp.gossip.radius import radius_per_update
from galamp.gossip.topologies.base import Topology
from galamp.shm import SharedArrays
from galamp.snapshot import ConsensusReading
from galamp.storage.gossiplog import GossipLog, Lost, Measurement, Rebase, Start


class ConsensusMonitor:
    """Measures distances now and then; with a `History`, says what they can be at most."""

    def __init__(self, arena: Arena, history: History | None) -> None:
        config = arena.plan.config.gossip
        self._control, self._history = arena.control, history
        self._size, self._target = arena.sketch.parameters, config.target_ball
        ranks = range(arena.count)
        self._slots = [VectorSlots(arena.arrays, rank) for rank in ranks]
        self._gradients = []
        if config.gradient_correlation:
            self._gradients = [VectorSlots(arena.arrays, rank, GRADIENTS) for rank in ranks]
        self._identical = averages_gradients(config)
        self.reading = ConsensusReading()

    def follow(self) -> None:
        """Take in what was published since the last call."""
        if self._history is not None:
            self._history.follow()

    def measure(self, wall_s: float, agent_steps: int) -> None:
        """Measure, certify, and say whether gossip is wanted."""
        measured = measure_distances(self._slots, self._size)
        # Learners that are one at every step are compared at the same step.
        if measured is None or (self._identical and len(set(measured.versions)) > 1):
            return
        bounds, radius = None, None
        if self._history is not None:
            bounds = self._history.measured(measured, wall_s, agent_steps)
            radius = self._history.radius
        cosine = mean_cosine(self._gradients, self._size) if self._gradients else None
        self.reading = reading_of(measured, bounds, radius, cosine)
        if self._target is not None:
            self._control.gossip_wanted = bool(measured.to_mean.max() > self._target)


def reading_of(
    measured: Measured, bounds: Bounds | None, radius: float | None, cosine: float | None
) -> ConsensusReading:
    """Return what people are shown of a measurement."""
    pairwise = float(measured.pairwise.max())
    bound = None if bounds is None else finite_or_none(float(bounds.pairwise.max()))
    return ConsensusReading(
        distances=tuple(measured.to_mean.tolist()),
        rms=float(np.sqrt(np.mean(measured.to_mean**2))),
        pairwise=pairwise,
        certificate=bound,
        ratio=pairwise / bound if bound else None,
        radius=radius,
        gradient_correlation=cosine,
    )


def finite_or_none(value: float) -> float | None:
    """Return a number, or None for one that is not finite."""
    return value if math.isfinite(value) else None


class History:
    """Who mixed what, from the learners' journals: into the certificate and into gossip.jsonl."""

    def __init__(
        self, arrays: SharedArrays, topology: Topology, log: GossipLog, *, lock_step: bool
    ) -> None:
        self._log = log
        ranks = range(topology.size)
        self._journals = [Journal(arrays, rank) for rank in ranks]
        self._pending = [deque[tuple[float, Publication]]() for _ in ranks]
        self._lives = [0] * topology.size
        self._certificate = Certificate(topology.size)
        self._ball = Ball(topology) if lock_step else None
        self._lines: list[dict[str, Any]] = []

    def begin(self, start: Start) -> None:
        """Note which start of the run this is, and how far apart the learners begin."""
        self._certificate.start(np.array(start.distances))
        self._lines.append(start.as_dict())

    @property
    def radius(self) -> float | None:
        """The ball's radius in theory; None where there is no theory, or not yet."""
        return None if self._ball is None else self._ball.radius

    def follow(self) -> None:
        """Take in all journals, in order of time: so little has to be kept of the past."""
        for rank in range(len(self._journals)):
            self._drain(rank)
        while heads := [(of[0][0], rank) for rank, of in enumerate(self._pending) if of]:
            self._take(min(heads)[1])
        self._flush()

    def measured(self, measured: Measured, wall_s: float, agent_steps: int) -> Bounds | None:
        """Note a measurement; returns the bounds for just those vectors, None if unknown."""
        for rank, number in enumerate(measured.numbers):
            self._take_until(rank, number)
        bounds = self._certificate.bounds(measured.numbers)
        if bounds is None:  # a vector is there before its entry, and stays if its learner dies
            return None
        certified = bounds if np.isfinite(bounds.pairwise).all() else None
        self._lines.append(
            Measurement(
                wall_s,
                agent_steps,
                measured.numbers,
                tuple(measured.to_mean.tolist()),
                float(measured.pairwise.max()),
                measured.norm,
                tuple(certified.to_mean.tolist()) if certified else None,
                float(certified.pairwise.max()) if certified else None,
                self.radius,
            ).as_dict()
        )
        self._know_anew(measured)
        self.follow()
        return certified

    def _drain(self, rank: int) -> None:
        publications, _ = self._journals[rank].drain()
        self._pending[rank].extend(publications)

    def _take_until(self, rank: int, number: int) -> None:
        """Take in publications of a learner up to a number that is known to be in its journal."""
        while self._certificate.newest(rank) < number:
            if not self._pending[rank]:
                self._drain(rank)
            if not self._pending[rank]:
                return
            self._take(rank)

    def _take(self, rank: int) -> None:
        """Take in a learner's next publication, after all that it mixed."""
        _, publication = self._pending[rank].popleft()
        for source in publication.mixed:
            self._take_until(source.peer, source.number)
        keeps, number = self._certificate.keeps, publication.number
        whole = keeps(rank, number - 1) and all(keeps(s.peer, s.number) for s in publication.mixed)
        if whole and publication.incarnation == self._lives[rank]:
            self._certificate.publish(publication)
            self._lines.append(publication.as_dict())
            if self._ball is not None:
                self._ball.take(publication)
        else:
            # A new life begins with a vector of its own, and what was lost may have been mixed.
            self._lives[rank] = publication.incarnation
            self._certificate.lose(rank, number)
            self._lines.append(Lost(rank, number).as_dict())

    def _know_anew(self, measured: Measured) -> None:
        """Place unknown vectors by their measured distance to a known one."""
        knows, vectors = self._certificate.knows, list(enumerate(measured.numbers))
        unknown = [vector for vector in vectors if not knows(*vector)]
        if not unknown:
            return
        anchor = next((vector for vector in vectors if knows(*vector)), vectors[0])
        if anchor in unknown:
            self._certificate.restart(*anchor)
            self._lines.append(Rebase(*anchor, anchor, 0.0).as_dict())
            unknown.remove(anchor)
        for vector in unknown:
            distance = float(measured.pairwise[vector[0], anchor[0]]) * (1 + 1e-5)
            self._certificate.rebase(*vector, *anchor, distance)
            self._lines.append(Rebase(*vector, anchor, distance).as_dict())

    def _flush(self) -> None:
        self._log.append(self._lines)
        self._lines = []


class Ball:
    """The theoretical radius for the greatest update of all learners together so far."""

    def __init__(self, topology: Topology) -> None:
        self._learners = topology.size
        self._per_update = radius_per_update(topology)
        self._rounds: dict[int, list[float]] = {}
        self._greatest = 0.0

    @property
    def radius(self) -> float | None:
        """Radius for the updates seen; None where theory gives none, or before a whole round."""
        if self._per_update is None or not self._greatest:
            return None
        return self._per_update * self._greatest

    def take(self, publication: Publication) -> None:
        """Take in an update; a round counts once it is whole."""
        lengths = self._rounds.setdefault(publication.round, [])
        lengths.append(publication.length)
        if len(lengths) == self._learners:
            self._greatest = max(self._greatest, math.hypot(*lengths))
            del self._rounds[publication.round]
