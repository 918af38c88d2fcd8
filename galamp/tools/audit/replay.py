"""Replay of recorded gossip: upper bounds of the distances between the learners' parameters.

Runs in the audit's process. It shares the record's format with the code that certified the run
during training, and none of its arithmetic, so that an error in either is detected.

    Start, Publication, Lost, Rebase --Replay--> Columns --> Bounds

Every vector is written as a sum of the learners' start vectors and of all updates since;
`coefficients` derives the bounds from it.
"""

from __future__ import annotations

from galamp.gossip.transport.publication import Publication
from galamp.storage.gossip_log import Lost, Rebase, Start
from galamp.tools.audit.coefficients import LIMIT_BYTES, Bounds, Columns

KEPT = 64
"""Number of newest vectors of each learner that later lines may refer to."""

WEIGHT_SLACK = 1e-6


class BadRecordError(Exception):
    """A line contradicts earlier ones, or refers to unknown vectors."""


class Replay:
    """The state after some lines of the record."""

    def __init__(self, kept: int = KEPT, limit_bytes: int = LIMIT_BYTES) -> None:
        self._kept, self._limit_bytes = kept, limit_bytes
        self.learners = 0
        """Number of learners in this start of the run; 0 before the first."""
        self._forced_before = 0

    @property
    def forced(self) -> int:
        """Number of updates that were dropped only because memory was full."""
        return self._forced_before + (self._columns.forced if self.learners else 0)

    def start(self, entry: Start) -> None:
        """Forget everything; number 0 of each learner is its start vector.

        It is unknown where learners may have adopted others': only a later line tells of those.
        """
        self._forced_before = self.forced
        self._entry = entry
        self.learners = entry.learners
        rows = entry.learners * self._kept
        self._columns = Columns(rows, entry, self._limit_bytes)
        self._newest = [0] * entry.learners
        self._number = [-1] * rows
        for learner in range(entry.learners):
            self._number[learner * self._kept] = 0
            if not entry.adopted:
                self._columns.start(learner * self._kept, learner)

    def publish(self, entry: Publication) -> None:
        """Mix, and add an update.

        Raises:
            BadRecordError: the vector is unknown from then on.
        """
        learner, number = entry.learner, entry.number
        self._check_learner(learner)
        newest = self._newest[learner]
        if number <= newest:
            raise BadRecordError(f"learner {learner} published {number} after {newest}")
        try:
            parts = self._parts(entry)
        except BadRecordError:
            self._set(learner, number, None, 0.0)
            raise
        self._set(learner, number, parts, entry.length)

    def lose(self, entry: Lost) -> None:
        """Mark a vector as unknown.

        Raises:
            BadRecordError: it is not newer than the earlier ones.
        """
        self._check_learner(entry.learner)
        newest = self._newest[entry.learner]
        if entry.number <= newest:
            raise BadRecordError(f"learner {entry.learner} lost {entry.number} after {newest}")
        self._set(entry.learner, entry.number, None, 0.0)

    def rebase(self, entry: Rebase) -> None:
        """Make a vector known again: it is the anchor plus an update as long as the distance.

        A vector that is its own anchor restarts the replay; no other vector is known then.

        Raises:
            BadRecordError: a vector is not recorded, or the anchor is itself unknown.
        """
        row = self._find(entry.learner, entry.number)
        anchor = self._find(*entry.anchor)
        if anchor == row:
            self._restart_from(row, entry.learner)
            return
        if not self._columns.known[anchor]:
            raise BadRecordError("rebased on vector ({}, {}), unknown itself".format(*entry.anchor))
        # A known vector keeps its description: both hold, and the older one needs no measurement.
        # Unless it is to be described anew: a bound over the history of a mirror only grows.
        if entry.anew or not self._columns.known[row]:
            self._columns.write(row, [(anchor, 1.0)], entry.distance)

    def _restart_from(self, row: int, learner: int) -> None:
        self._forced_before = self.forced
        nowhere = ((0.0,) * self.learners,) * self.learners
        entry = self._entry._replace(distances=nowhere)
        self._columns = Columns(len(self._number), entry, self._limit_bytes)
        self._columns.start(row, learner)

    def bounds(self, numbers: tuple[int, ...]) -> Bounds | None:
        """Return the bounds for vectors (r, numbers[r]); None where one of them is unknown.

        Raises:
            BadRecordError: a vector is not recorded, or there are more or fewer than learners.
        """
        if not 0 < len(numbers) == self.learners:
            raise BadRecordError(f"measured {len(numbers)} vectors of {self.learners} learners")
        return self._columns.bounds([self._find(*pair) for pair in enumerate(numbers)])

    def _parts(self, entry: Publication) -> list[tuple[int, float]] | None:
        """Return (row, weight) of the mixed vectors; None where some of them are unknown."""
        learner, before = entry.learner, entry.number - 1
        if self._newest[learner] != before:
            missing = self._newest[learner] + 1
            raise BadRecordError(f"learner {learner} published {entry.number} without {missing}")
        parts = [(self._find(learner, before), entry.own)]
        parts += [(self._find(peer, number), weight) for peer, number, weight in entry.mixed]
        total = sum(weight for _, weight in parts)
        if abs(total - 1.0) > WEIGHT_SLACK:
            raise BadRecordError(f"weights of learner {learner} sum to {total:.9g}, not 1")
        parts = [(row, weight / total) for row, weight in parts if weight > 0]
        known = self._columns.known
        return parts if all(known[row] for row, _ in parts) else None

    def _set(
        self, learner: int, number: int, parts: list[tuple[int, float]] | None, length: float
    ) -> None:
        row = learner * self._kept + number % self._kept
        if parts is None:
            self._columns.known[row] = False
        else:
            self._columns.write(row, parts, length)
        self._number[row] = number
        self._newest[learner] = number

    def _find(self, learner: int, number: int) -> int:
        self._check_learner(learner)
        row = learner * self._kept + number % self._kept
        if self._number[row] == number:
            return row
        why = "too old" if number <= self._newest[learner] - self._kept else "never recorded"
        raise BadRecordError(f"refers to vector ({learner}, {number}), {why}")

    def _check_learner(self, learner: int) -> None:
        if self.learners == 0:
            raise BadRecordError("comes before any start of the run")
        if learner >= self.learners:
            raise BadRecordError(f"learner {learner} of {self.learners}")
