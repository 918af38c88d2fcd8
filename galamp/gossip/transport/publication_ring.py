"""Publication ring: the records of one learner's publications, for the supervisor's certificate.

    learner --append, before it sends tokens--> PublicationRing --drain--> supervisor: certificate

One ring of entries per learner, with one writer, one reader and no lock. An entry is written after
the vector is complete and before its token is sent. So when an entry names a mixed vector, the
entry of that vector exists. The writer never waits: it overwrites entries that the reader has not
drained in time, and the reader counts them as lost.
"""

from __future__ import annotations

import time

import numpy as np

from galamp.core.failpoints import hit
from galamp.gossip.topologies.base import Topology
from galamp.gossip.transport.publication import Publication, Source
from galamp.memory.arrays import ArraySpec, SharedArrays, memory_fence

_FIXED, _PER_PEER = 10, 3
_RING_BYTES, _MIN_ENTRIES, _MAX_ENTRIES = 2**18, 64, 1024


class PublicationRing:
    """Ring of the publications of learner `rank`."""

    def __init__(self, arrays: SharedArrays, rank: int) -> None:
        self.rank = rank
        self._entries = arrays[f"publications{rank}"]
        self._head = arrays.words(f"publications{rank}.head")
        self._capacity = len(self._entries)
        self._tail = 0

    @staticmethod
    def specs(topology: Topology) -> list[ArraySpec]:
        """Return the arrays of all learners' rings."""
        width = _FIXED + _PER_PEER * topology.most_in_peers()
        entries = max(_MIN_ENTRIES, min(_MAX_ENTRIES, _RING_BYTES // (8 * width)))
        specs = []
        for rank in range(topology.size):
            specs.append(ArraySpec(f"publications{rank}", (entries, width), "float64"))
            specs.append(ArraySpec(f"publications{rank}.head", (1,), "int64"))
        return specs

    def append(self, publication: Publication) -> None:
        """Append an entry (learner only)."""
        *fixed, mixed, rounded, checksum = publication[1:]
        entry = self._entries[self._head[0] % self._capacity]
        values = [time.monotonic(), *fixed, rounded, checksum, len(mixed)]
        values += [value for source in mixed for value in source]
        entry[: len(values)] = values
        hit("ring.written")
        memory_fence()
        self._head[0] += 1
        hit("ring.counted")

    def drain(self) -> tuple[list[tuple[float, Publication]], int]:
        """Return the entries since the last call with their times, and the number of lost entries.

        The time is `time.monotonic()` at the write.
        """
        head = self._head[0]
        memory_fence()
        first = max(self._tail, head - self._capacity + 1)
        rows = self._entries[np.arange(first, head) % self._capacity]
        memory_fence()
        # During the copy the writer may have wrapped around and be writing the next entry.
        whole = max(first, self._head[0] - self._capacity + 1)
        lost, self._tail = min(whole, head) - self._tail, head
        return [self._publication(row) for row in rows[whole - first :].tolist()], lost

    def _publication(self, row: list[float]) -> tuple[float, Publication]:
        time_s, *whole, length, own, rounded, checksum, count = row[:_FIXED]
        end = _FIXED + _PER_PEER * int(count)
        mixed = tuple(
            Source(int(row[at]), int(row[at + 1]), row[at + 2])
            for at in range(_FIXED, end, _PER_PEER)
        )
        number, round_, version, incarnation = map(int, whole)
        fixed = self.rank, number, round_, version, incarnation
        return time_s, Publication(*fixed, length, own, mixed, rounded, int(checksum))
