"""Ages of the edges of the gossip graph: rounds since a learner last mixed from each of its peers.

    Publication, ... --MixedEdges--> EdgeSnapshot, ...

Runs in the supervisor, which fetches publications anyway. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from galamp.gossip.transport.publication import Publication
from galamp.telemetry.snapshot import EdgeSnapshot


class MixedEdges:
    """The newest mix over each edge, and how many there were."""

    def __init__(self) -> None:
        self._rounds: dict[int, int] = {}
        """Round of each learner's newest publication."""
        self._last: dict[tuple[int, int], tuple[int, int, float]] = {}
        """(receiver, sender) -> round of the last mix, number of mixes, weight of the last."""

    def add(self, publications: Sequence[Publication]) -> None:
        """Add publications of one learner, in order."""
        for publication in publications:
            self._rounds[publication.learner] = publication.round
            for source in publication.mixed:
                edge = publication.learner, source.peer
                mixes = self._last[edge][1] if edge in self._last else 0
                self._last[edge] = publication.round, mixes + 1, source.weight

    def reading(self) -> list[EdgeSnapshot]:
        """Return the edges, by receiver and sender."""
        return [
            EdgeSnapshot(sender, receiver, max(0, self._rounds[receiver] - round_), mixes, weight)
            for (receiver, sender), (round_, mixes, weight) in sorted(self._last.items())
        ]
