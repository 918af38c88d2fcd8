"""Consensus: distances between the learners, measured, and bounded by what they really mixed.

    PublicationRings --follow--> Certificate, gossip.jsonl
    parameter slots --measure--> distances, next to the certificate's bounds --> ConsensusReading

Runs in the supervisor. It reads what the learners write. It writes one flag for them: whether
gossip is wanted, where the run has a target for the distance.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from galamp.gossip.consensus.certificate import Bounds, Certificate
from galamp.gossip.consensus.distances import DistanceMeter, Measured
from galamp.gossip.consensus.theoretical_radius import TheoreticalRadius
from galamp.gossip.exchange import GRADIENTS, PARAMETERS, averages_gradients
from galamp.gossip.topologies.base import Topology
from galamp.gossip.transport.parameter_slots import ParameterSlots
from galamp.gossip.transport.publication import Publication
from galamp.gossip.transport.publication_ring import PublicationRing
from galamp.memory.arrays import SharedArrays
from galamp.storage.gossip_log import GossipLog, Lost, Measurement, Rebase, Start
from galamp.supervision.layout import RunLayout
from galamp.telemetry.mixed_edges import MixedEdges
from galamp.telemetry.snapshot import ConsensusReading, EdgeSnapshot

FOLLOW_S, CATCH_UP_S = 0.1, 0.3
"""Longest time per call that certifying may keep the supervisor from its other work."""
MAX_PENDING = 4096
"""Entries of a learner that wait in the supervisor; further ones stay in the learner's ring."""
MAX_EDGES = 256
"""Edges that are shown; of more, the oldest."""
MAX_LINES = 20_000
"""Lines that are kept while the disk refuses them."""


class ConsensusMonitor:
    """Measures distances at intervals; with a `History`, also gives upper bounds of them."""

    def __init__(self, run_layout: RunLayout, history: History | None) -> None:
        config = run_layout.plan.config.gossip
        self._control, self._history = run_layout.control, history
        self._target = config.target_ball
        self._meter = self._make_meter(run_layout, PARAMETERS)
        self._gradients = None
        if config.gradient_correlation:
            self._gradients = self._make_meter(run_layout, GRADIENTS)
        self._identical = averages_gradients(config)
        self._certified: tuple[float, float] | None = None
        self.reading = ConsensusReading()

    @staticmethod
    def _make_meter(run_layout: RunLayout, name: str) -> DistanceMeter:
        every = range(run_layout.topology.size if name == PARAMETERS else run_layout.count)
        slots = [ParameterSlots(run_layout.arrays, rank, name) for rank in every]
        return DistanceMeter(slots, run_layout.sketch.parameters)

    def follow(self) -> None:
        """Process the publications since the last call."""
        if self._history is not None:
            self._history.follow()

    @property
    def has_ages(self) -> bool:
        """Whether it is recorded what is mixed."""
        return self._history is not None

    def edges(self) -> tuple[EdgeSnapshot, ...]:
        """Return the edges over which something was mixed; of very many the oldest."""
        edges = self._history.edges() if self._history is not None else []
        if len(edges) > MAX_EDGES:
            edges = sorted(edges, key=lambda edge: -edge.age)[:MAX_EDGES]
        return tuple(edges)

    def measure(self, wall_s: float, agent_steps: int) -> None:
        """Measure, certify, and set whether gossip is wanted."""
        measured = self._meter.distances()
        # Learners whose parameters are identical at every step are compared at the same step.
        if measured is None or (self._identical and len(set(measured.versions)) > 1):
            return
        bounds, radius = None, None
        if self._history is not None:
            bounds = self._history.measured(measured, wall_s, agent_steps)
            radius = self._history.radius
            # Mostly there are none only because an entry is not there yet.
            if bounds is None and self._history.has_unknown:
                self._history.rebase_unknown(*self._meter.recent())
        cosine = self._gradients.mean_cosine() if self._gradients else None
        self.reading = self._with_last(reading_of(measured, bounds, radius, cosine), wall_s)
        if self._target is not None:
            self._control.gossip_enabled = bool(measured.to_mean.max() > self._target)

    def _with_last(self, reading: ConsensusReading, wall_s: float) -> ConsensusReading:
        """Return a reading with the newest certificate that there was."""
        if reading.certificate is not None:
            self._certified = wall_s, reading.certificate
        if self._certified is None:
            return reading
        then_s, last = self._certified
        return replace(reading, last_certificate=last, last_certificate_age_s=wall_s - then_s)


def reading_of(
    measured: Measured, bounds: Bounds | None, radius: float | None, cosine: float | None
) -> ConsensusReading:
    """Return a measurement as the values that are shown."""
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
    """Gossip history of the learners: fed into the certificate and written to gossip.jsonl.

    It has gaps where learners publish faster than it can follow, or the disk refuses: the vectors
    after a gap are unknown until they are measured.
    """

    def __init__(
        self,
        arrays: SharedArrays,
        topology: Topology,
        log: GossipLog,
        log_event: Callable[[str], None],
        *,
        with_radius: bool,
        mirrors: range = range(0),
    ) -> None:
        """Set up.

        Args:
            arrays: the learners' shared memory.
            topology: the gossip graph.
            log: file that it writes to.
            log_event: takes a line for the user.
            with_radius: whether the learners' rounds are those that theory is about.
            mirrors: learners of other nodes.
        """
        self._mirrors = mirrors
        self._log, self._log_event = log, log_event
        self._gap_reported = self._loss_reported = False
        ranks = range(topology.size)
        self._publication_rings = [PublicationRing(arrays, rank) for rank in ranks]
        self._pending = [deque[tuple[float, Publication]]() for _ in ranks]
        self._reached = [0] * topology.size
        """Number of each learner's last processed publication, or of the one in progress."""
        self._incarnations = [0] * topology.size
        self._edges = MixedEdges()
        self._certificate = Certificate(topology.size)
        self._theory = TheoreticalRadius(topology) if with_radius else None
        self._lines: list[dict[str, Any]] = []
        self._start: list[dict[str, Any]] = []
        """The line of this start of the run."""

    def start(self, start: Start) -> None:
        """Record which start of the run this is, and the first distances between the learners.

        Where they may adopt others' vectors before they publish, their first publications are of
        unknown vectors, which `rebase_unknown` locates, as those of the mirrors are.
        """
        self._certificate.start(np.array(start.distances), known=not start.adopted)
        self._start = [start.as_dict()]
        self._lines += self._start

    @property
    def radius(self) -> float | None:
        """Theoretical radius; None where theory gives none, or not yet."""
        return None if self._theory is None else self._theory.radius

    @property
    def has_unknown(self) -> bool:
        """Whether a vector that can still be mixed has to be located by `rebase_unknown`."""
        return self._certificate.has_unknown()

    def edges(self) -> list[EdgeSnapshot]:
        """Return the edges over which something was mixed, by what was fetched so far."""
        return self._edges.reading()

    def follow(self) -> None:
        """Process the rings in order of time, so that few old vectors have to be kept."""
        until_s = time.monotonic() + FOLLOW_S
        for rank in range(len(self._publication_rings)):
            self._drain(rank)
        while heads := [(of[0][0], rank) for rank, of in enumerate(self._pending) if of]:
            self._process_next(min(heads)[1])
            if time.monotonic() > until_s:
                break
        self._flush()

    def measured(self, measured: Measured, wall_s: float, agent_steps: int) -> Bounds | None:
        """Record a measurement; returns the bounds for exactly these vectors, None if unknown."""
        until_s = time.monotonic() + CATCH_UP_S
        for rank, number in enumerate(measured.numbers):
            self._process_until(rank, number, until_s)
        bounds = self._certificate.bounds(measured.numbers)
        if bounds is None:  # a vector is published before its entry, and stays if its learner dies
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
        if certified is not None:
            self._place_mirrors(measured)
        self.follow()
        return certified

    def _place_mirrors(self, measured: Measured) -> None:
        """Describe the vectors of other nodes' learners by their distance to the first one here.

        What they mix there is not recorded here: by their own updates alone, bounds only grow.
        """
        anchor = 0, measured.numbers[0]
        for rank in self._mirrors:
            vector, distance = (rank, measured.numbers[rank]), float(measured.pairwise[rank, 0])
            self._certificate.rebase(*vector, *anchor, distance * (1 + 1e-5))
            line = Rebase(*vector, anchor, distance * (1 + 1e-5), anew=True)
            self._lines.append(line.as_dict())

    def rebase_unknown(
        self, vectors: Sequence[tuple[int, int]], pairwise: npt.NDArray[np.float64]
    ) -> None:
        """Locate unknown vectors (learner, number) by their distance to a known one.

        If none is known, the certificate restarts from the first.
        """
        until_s = time.monotonic() + CATCH_UP_S
        for vector in vectors:
            self._process_until(*vector, until_s)
        kept = [at for at, vector in enumerate(vectors) if self._certificate.is_kept(*vector)]
        known = [at for at in kept if self._certificate.is_known(*vectors[at])]
        if not kept or len(known) == len(kept):
            return
        if not known:
            known = kept[:1]
            self._certificate.restart(*vectors[known[0]])
            self._lines.append(Rebase(*vectors[known[0]], vectors[known[0]], 0.0).as_dict())
        anchor = vectors[known[0]]
        for at in kept:
            if at not in known:
                distance = float(pairwise[at, known[0]]) * (1 + 1e-5)
                self._certificate.rebase(*vectors[at], *anchor, distance)
                self._lines.append(Rebase(*vectors[at], anchor, distance).as_dict())

    def _drain(self, rank: int) -> None:
        """Fetch a learner's entries, unless enough are pending already."""
        if len(self._pending[rank]) > MAX_PENDING:
            return
        publications, lost = self._publication_rings[rank].drain()
        self._pending[rank].extend(publications)
        self._edges.add([publication for _, publication in publications])
        if lost and not self._gap_reported:
            self._gap_reported = True
            self._log_event(
                "learners gossip faster than it can be certified: there are gaps "
                "(--no-certificate saves the work, --gossip-every lessens it)"
            )

    def _process_until(self, rank: int, number: int, until_s: float) -> None:
        """Process publications of a learner up to a number that is known to be in its ring."""
        while self._reached[rank] < number and time.monotonic() < until_s:
            if not self._pending[rank]:
                self._drain(rank)
            if not self._pending[rank]:
                return
            self._process_next(rank)

    def _process_next(self, rank: int) -> None:
        """Process a learner's next publication, after all publications that it mixed.

        Publications in a gap before it are lost and are not waited for.
        """
        _, publication = self._pending[rank].popleft()
        self._reached[rank] = publication.number
        for source in publication.mixed:
            self._process_until(source.peer, source.number, math.inf)
        is_kept, number = self._certificate.is_kept, publication.number
        whole = is_kept(rank, number - 1) and all(
            is_kept(s.peer, s.number) for s in publication.mixed
        )
        if whole and publication.incarnation == self._incarnations[rank]:
            self._certificate.publish(publication)
            self._lines.append(publication.as_dict())
            if self._theory is not None:
                self._theory.receive(publication)
        else:
            # A new incarnation starts from its own vector, and may have mixed a lost one.
            self._incarnations[rank] = publication.incarnation
            self._certificate.add_unknown(rank, number)
            self._lines.append(Lost(rank, number).as_dict())
            if self._theory is not None:
                self._theory.lose(publication)

    def _flush(self) -> None:
        """Write the lines, or keep them if the disk refuses; too many of them become a gap."""
        if self._log.append(self._lines):
            self._lines = []
        elif self._log.is_gone:
            self._begin_anew()
        elif len(self._lines) > MAX_LINES:
            self._lines = [line for line in self._lines if line["kind"] == "start"]
            self._certificate.reset()

    def _begin_anew(self) -> None:
        """Begin the file again, which somebody has taken away: all vectors so far are lost."""
        if not self._loss_reported:
            self._loss_reported = True
            self._log_event(
                "gossip.jsonl was removed, moved or emptied: it begins again, with a gap"
            )
        self._certificate.reset()
        self._lines = list(self._start)
        if self._log.append(self._lines):
            self._lines = []
