"""Which stored rows count: those of planned runs, each once; all others are left out, and named.

    rows of a block, its planned runs --kept--> rows that count, a RowNote of each other

A file may have changed since a run was trained, and a run may have been trained twice: were such
rows counted, whoever runs the study could choose among results.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from galamp.tools.study import plan
from galamp.tools.study.pong_rates import ArmRate
from galamp.tools.study.rows import Cell, Row
from galamp.tools.study.stable_baselines3 import PeerRun, is_whole

NOT_PLANNED = "no run of the file"
OTHER_SETTINGS = "trained with other settings than the file's now"
TWICE = "there is an earlier row of it"
CUT_SHORT = f"ended below +{plan.SCORE_OF_PONG:g} before {plan.PEER_STEPS:,} agent steps"


class RowNote(NamedTuple):
    """A stored row, and what is to be known of it.

    Attributes:
        block: in whose results it is.
        row: its cell, or what else names it.
        why: why it does not count, or is to be read with care.
    """

    block: str
    row: str
    why: str

    def __str__(self) -> str:
        return f"{self.block}: {self.row}: {self.why}"


def kept(
    block: str, rows: Iterable[Row], planned: Mapping[Cell, str]
) -> tuple[list[Row], list[RowNote]]:
    """Return the rows that count, and those that do not.

    Args:
        block: name of the block.
        rows: in the order in which they were stored.
        planned: cell -> digest of the settings of its run.
    """
    found: dict[Cell, Row] = {}
    out = []
    for row in rows:
        why = ""
        if row.cell not in planned:
            why = NOT_PLANNED
        elif row.hash != planned[row.cell]:
            why = f"{OTHER_SETTINGS} ({row.hash})"
        elif row.cell in found:
            why = TWICE
        if why:
            out.append(RowNote(block, str(row.cell), why))
        else:
            found[row.cell] = row
    return list(found.values()), out


def kept_peers(block: str, runs: Sequence[PeerRun]) -> tuple[list[PeerRun], list[RowNote]]:
    """Return the runs of another library that count, and the others.

    Of each seed the first counts that was not cut short.
    """
    found: dict[tuple[str, int], PeerRun] = {}
    out = []
    for run in runs:
        why = TWICE if (run.arm, run.seed) in found else "" if is_whole(run) else CUT_SHORT
        if why:
            out.append(RowNote(block, f"{run.arm} {run.seed}", why))
        else:
            found[run.arm, run.seed] = run
    return list(found.values()), out


def unkept_rates(block: str, rates: Sequence[ArmRate], planned: Mapping[str, str]) -> list[RowNote]:
    """Return the measured rates of arms that do not count.

    Args:
        block: name of the block.
        rates: as they were measured.
        planned: arm -> digest of the settings of the run that is measured.
    """
    return [
        RowNote(block, f"agent steps per second of {rate.arm}", why)
        for rate in rates
        if (why := _why_not(rate, planned))
    ]


def _why_not(rate: ArmRate, planned: Mapping[str, str]) -> str:
    if rate.arm not in planned:
        return NOT_PLANNED
    return "" if rate.hash == planned[rate.arm] else f"{OTHER_SETTINGS} ({rate.hash})"
