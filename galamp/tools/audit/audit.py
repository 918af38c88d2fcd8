"""Audit of a run: no measured distance may exceed the bound that the gossip record proves.

Runs in the process of `galamp audit`, which only reads the run.

    gossip.jsonl --read_gossip--> entries --Replay--> bounds --compared with measurements-->
        Audit: counts, violations, faults of the record, one row of `Series` per measurement

A measured distance m violates a certificate c when

    m > c (1 + 1e-5) + 1e-6 ||mean||.

The allowance is for float32. Parameters are rounded to a relative 6e-8 at every mix and update;
mixing shrinks old rounding errors together with old disagreement, so a few roundings of the
parameters' norm remain, for averages of up to a hundred vectors. Norms themselves are sums with a
relative error below 1e-5. "Ratio" is m over the right-hand side: above 1 exactly where there is a
violation.

Both certificates are compared with the measurements: the one recomputed here from the record alone,
and the one that the run itself has recorded.
"""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from galamp.core.errors import UserError
from galamp.gossip.transport.publication import Publication
from galamp.storage.gossip_log import (
    GOSSIP,
    Damaged,
    Entry,
    Lost,
    Measurement,
    Rebase,
    Start,
    read_gossip,
)
from galamp.tools.audit.coefficients import Bounds
from galamp.tools.audit.influence import Influence
from galamp.tools.audit.replay import BadRecordError, Replay

RELATIVE = 1e-5
OF_NORM = 1e-6
MAX_KEPT = 1000
"""Number of violations and faults that are kept; further ones are only counted."""

LINES_PER_REPORT = 20_000


class Violation(NamedTuple):
    """A measured distance above a certificate; `learner` is None for the greatest pairwise one."""

    line: int
    start: int
    wall_s: float
    global_step: int
    learner: int | None
    measured: float
    certificate: float
    by: str
    """Source of the certificate: `recomputed` here, `recorded` by the run, or `both` (then the
    number is the recomputed one)."""


class Fault(NamedTuple):
    """A reason why the record is incomplete, and its line."""

    line: int
    wrong: str


class Point(NamedTuple):
    """A measurement and its certificates, NaN where unknown; means are over learners.

    Attributes:
        start: which start of the run, counting from 0 in the order of the record.
        wall_s: training time over all starts of the run, in seconds.
        step: agent steps.
        pairwise: the greatest measured distance between two learners.
        pairwise_bound: recomputed certificate for it.
        pairwise_recorded: the run's own.
        pairwise_ratio: measured over recomputed.
        to_mean: root mean square of the measured distances to the mean.
        to_mean_bound: the same of the recomputed certificates.
        to_mean_recorded: the same of the run's own.
        to_mean_ratio: the greatest over learners of measured over recomputed.
        radius: theoretical radius, as recorded.
    """

    start: float
    wall_s: float
    step: float
    pairwise: float
    pairwise_bound: float
    pairwise_recorded: float
    pairwise_ratio: float
    to_mean: float
    to_mean_bound: float
    to_mean_recorded: float
    to_mean_ratio: float
    radius: float


class Series:
    """All measurements, as columns of float64: 96 bytes each."""

    def __init__(self) -> None:
        self._values = array("d")

    def add(self, point: Point) -> None:
        """Add a measurement."""
        self._values.extend(point)

    def __len__(self) -> int:
        return len(self._values) // len(Point._fields)

    def column(self, name: str) -> NDArray[np.float64]:
        """Return [measurements] of one field of `Point`."""
        table = np.asarray(self._values).reshape(-1, len(Point._fields))
        found: NDArray[np.float64] = table[:, Point._fields.index(name)].copy()
        return found


class Audit:
    """Checks the entries of a record in order, and collects the results."""

    def __init__(self, replay: Replay | None = None) -> None:
        self.replay = replay or Replay()
        self.influence = Influence()
        self.series = Series()
        self.topology = ""
        self.sync = False
        self.starts = self.publications = self.mixes = self.messages = 0
        self.lost = self.rebased = self.certified = self.recorded = 0
        self.rounded, self.most_rounded = 0, 0.0
        """Vectors that were rounded on their way from another machine, and the greatest error."""
        self.violations: list[Violation] = []
        self.violation_count = 0
        self.faults: list[Fault] = []
        self.fault_count = 0

    @property
    def passed(self) -> bool:
        """Whether the record is complete, and no measurement exceeds a certificate."""
        return not self.violation_count and not self.fault_count

    def check(self, line: int, entry: Entry | Damaged) -> None:
        """Check one entry; `line` is its line number, for the report."""
        try:
            match entry:
                case Publication():
                    self._publication(entry)
                case Measurement():
                    self._measurement(line, entry)
                case Start():
                    self._start(entry)
                case Lost():
                    self.lost += 1
                    self.replay.lose(entry)
                    self.influence.lose(entry)
                case Rebase():
                    self.rebased += 1
                    self.replay.rebase(entry)
                    self.influence.rebase(entry)
                case Damaged():
                    self.fault(line, entry.wrong)
        except BadRecordError as error:
            self.fault(line, str(error))

    def fault(self, line: int, wrong: str) -> None:
        """Add a reason why the record is incomplete."""
        self.fault_count += 1
        if len(self.faults) < MAX_KEPT:
            self.faults.append(Fault(line, wrong))

    def _start(self, entry: Start) -> None:
        self.starts += 1
        self.topology, self.sync = entry.topology, entry.sync
        self.replay.start(entry)
        self.influence.start(entry)

    def _publication(self, entry: Publication) -> None:
        self.publications += 1
        self.mixes += bool(entry.mixed)
        self.messages += len(entry.mixed)
        self.rounded += entry.rounded > 0.0
        self.most_rounded = max(self.most_rounded, entry.rounded)
        self.replay.publish(entry)
        self.influence.publish(entry)

    def _measurement(self, line: int, entry: Measurement) -> None:
        try:
            bounds = self.replay.bounds(entry.numbers)
        except BadRecordError as error:
            bounds = None
            self.fault(line, str(error))
        recorded = _recorded(entry)
        self.certified += bounds is not None
        self.recorded += recorded is not None
        for violation in _violations(line, self.starts, entry, bounds, recorded):
            self.violation_count += 1
            if len(self.violations) < MAX_KEPT:
                self.violations.append(violation)
        self.series.add(_point(self.starts - 1, entry, bounds, recorded))


def audit(run: Path, report: Callable[[int, int], None] | None = None) -> Audit:
    """Replay the record of the run in this folder, which may still be running.

    Args:
        run: run folder.
        report: called at intervals with the lines read and the measurements among them.

    Raises:
        UserError: the folder has no record.
    """
    path = run / GOSSIP
    if not os.path.isdir(run):
        raise UserError(f"{run}: no such run folder")
    if not os.path.isfile(path):
        raise UserError(
            f"{run}: has no {GOSSIP}, which runs with more than one learner record (and not with "
            "--no-certificate); audit such a run"
        )
    found = Audit()
    line = 0
    try:
        for line, entry in enumerate(read_gossip(path), 1):
            found.check(line, entry)
            if report is not None and line % LINES_PER_REPORT == 0:
                report(line, len(found.series))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if line == 0:
        found.fault(1, "empty: expected a start of the run")
    return found


def allowance(certificate: float, norm: float) -> float:
    """Return the greatest measured distance that is no violation of a certificate."""
    return certificate * (1 + RELATIVE) + OF_NORM * norm


def _ratio(measured: float, certificate: float, norm: float) -> float:
    limit = allowance(certificate, norm)
    return measured / limit if limit > 0 else (math.inf if measured > 0 else 0.0)


def _recorded(entry: Measurement) -> Bounds | None:
    if entry.certificate is None or entry.certificate_pairwise is None:
        return None
    return Bounds(np.array(entry.certificate), entry.certificate_pairwise)


def _violations(
    line: int, start: int, entry: Measurement, bounds: Bounds | None, recorded: Bounds | None
) -> Iterator[Violation]:
    known = {"recomputed": bounds, "recorded": recorded}
    certified = {by: [*b.to_mean.tolist(), b.pairwise] for by, b in known.items() if b is not None}
    measured: list[tuple[int | None, float]] = [*enumerate(entry.distances), (None, entry.pairwise)]
    for index, (learner, distance) in enumerate(measured):
        over = {
            by: each[index]
            for by, each in certified.items()
            if distance > allowance(each[index], entry.norm)
        }
        if over:
            by, certificate = next(iter(over.items()))
            by = "both" if len(over) > 1 else by
            where = (line, start, entry.wall_s, entry.global_step, learner)
            yield Violation(*where, distance, certificate, by)


def _point(start: int, entry: Measurement, bounds: Bounds | None, recorded: Bounds | None) -> Point:
    unknown = Bounds(np.array([math.nan]), math.nan)
    proven, own = bounds or unknown, recorded or unknown
    pairwise_ratio = to_mean_ratio = math.nan
    if bounds is not None:
        pairwise_ratio = _ratio(entry.pairwise, bounds.pairwise, entry.norm)
        pairs = zip(entry.distances, bounds.to_mean.tolist(), strict=True)
        to_mean_ratio = max(_ratio(m, c, entry.norm) for m, c in pairs)
    return Point(
        start,
        entry.wall_s,
        entry.global_step,
        entry.pairwise,
        proven.pairwise,
        own.pairwise,
        pairwise_ratio,
        _rms(np.array(entry.distances)),
        _rms(proven.to_mean),
        _rms(own.to_mean),
        to_mean_ratio,
        math.nan if entry.radius is None else entry.radius,
    )


def _rms(values: NDArray[np.float64]) -> float:
    return math.sqrt(float(np.mean(values * values))) if len(values) else 0.0
