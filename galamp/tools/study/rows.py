"""Rows: what is kept of each run, a line of JSON in the results of its block.

Row <--read_rows-- results/BLOCK.jsonl <--add_row-- collecting

A row has the digest of all settings that the run was given, so that a changed file is noticed, and
of all that it had, so that a changed default is; and of a run in lock-step the digest of its
parameters, so that whoever repeats it can compare bits. Rows that an older galamp wrote lack what
they have defaults for.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from galamp.core.decode import Limits, decode
from galamp.core.disk import read_limited
from galamp.core.errors import UserError
from galamp.core.json_values import DecodeError, json_object

MAX_BYTES = 2**26
LIMITS = Limits(items=100_000)


class Cell(NamedTuple):
    """Arm, game and seed: what tells the runs of a block apart."""

    arm: str
    game: str
    seed: int

    def __str__(self) -> str:
        return f"{self.arm} {self.game} {self.seed}"


@dataclass(frozen=True)
class Row:
    """One run that has ended.

    Attributes:
        arm, game, seed: its cell.
        hash: digest of its settings.
        galamp: version that trained it.
        total_steps: planned agent steps over all learners.
        agent_steps: made over all learners.
        wall_s: training time in seconds, of all starts, with that of their processes to begin.
        curve: mean returns of the last 100 training episodes at `plan.GRID_POINTS` equal distances
            over the planned agent steps, the last at their end; None before the first episodes.
        reached_steps: agent steps at the first row of metrics with a mean return of 100 episodes of
            `plan.SCORE_OF_PONG`, or None.
        reached_s: training time there.
        final: mean score of whole games at the end, by one learner that the seed draws.
        mean: the same by the mean of all learners.
        violations: of the certificate, found by the audit.
        ball: measured distance of the learners to their mean (root mean square), median over the
            run; None without gossip.
        norm: L2 norm of the mean of all parameters at the end.
        parameters: digest of the mean of all parameters after a whole run in lock-step, of one
            start, without a restart of a process; else empty: others cannot be repeated.
        correlation: cosine of two learners' gradients, mean over pairs, median over the run; None
            if it was not measured.
        sharpness: curvature of the loss at the end along the learners' differences from their
            mean, and along random directions; None where it is not asked for.
        resolved: digest of all settings that change what is learned, defaults among them; empty in
            older rows.
        commit: that of the checkout, of each start; with a plus where files differed from it.
        starts: how often the run was started.
        restarts: of its processes, in its last start.
        certificate: for `ball`, by the audit; median over the measurements that have one.
        certified, not_certified: measurements of distances with a certificate, and without.
        faults: reasons why the record of the gossip is incomplete, found by the audit.
        learners: each learner's own mean score, as `final`; of learners that do not gossip.
    """

    arm: str
    game: str
    seed: int
    hash: str
    galamp: str
    total_steps: int
    agent_steps: int
    wall_s: float
    curve: tuple[float | None, ...]
    reached_steps: int | None
    reached_s: float | None
    final: float | None
    mean: float | None
    violations: int | None
    ball: float | None
    norm: float
    parameters: str = ""
    correlation: float | None = None
    sharpness: tuple[float, float] | None = None
    resolved: str = ""
    commit: str = ""
    starts: int | None = None
    restarts: int | None = None
    certificate: float | None = None
    certified: int | None = None
    not_certified: int | None = None
    faults: int | None = None
    learners: tuple[float, ...] | None = None

    @property
    def cell(self) -> Cell:
        """Which run of its block it is."""
        return Cell(self.arm, self.game, self.seed)


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file, none if there is no file.

    Raises:
        UserError: it cannot be read, or a line is damaged.
    """
    try:
        text = read_limited(path, MAX_BYTES).decode()
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    return [_row(path, number, line) for number, line in enumerate(text.splitlines(), 1)]


def _row(path: Path, number: int, line: str) -> Row:
    try:
        return decode(Row, json_object(line), LIMITS)
    except DecodeError as error:
        raise UserError(f"{path}: line {number}: damaged: {error}") from None


def add_row(path: Path, row: Row) -> bool:
    """Add a row to a file, unless the file has one of the same cell and settings.

    Others may add rows at the same time.

    Returns:
        whether it was added.

    Raises:
        UserError: the file is damaged.
        OSError: the disk refuses it.
    """
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
        if any((each.cell, each.hash) == (row.cell, row.hash) for each in read_rows(path)):
            return False
        file.write(json.dumps(asdict(row)) + "\n")
    return True


def by_game(rows: Iterable[Row], arm: str) -> dict[str, list[Row]]:
    """Return the rows of an arm by game, both in order."""
    found: dict[str, list[Row]] = {}
    for row in sorted((row for row in rows if row.arm == arm), key=lambda row: row.cell):
        found.setdefault(row.game, []).append(row)
    return found
