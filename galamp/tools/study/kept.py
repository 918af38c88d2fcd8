"""Which stored rows count: those of planned runs, each once; all others are left out, and named.

    rows of a block, its planned runs --kept--> rows that count, LeftOut of the others

A file may have changed since a run was trained, and a run may have been trained twice: were such
rows counted, whoever runs the study could choose among results.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from galamp.tools.study.rows import Cell, Row
from galamp.tools.study.stable_baselines3 import PeerRun

NOT_PLANNED = "no run of the file"
OTHER_SETTINGS = "trained with other settings than the file's now"
TWICE = "there is an earlier row of it"


class LeftOut(NamedTuple):
    """A row that does not count.

    Attributes:
        block: in whose results it is.
        row: its cell, or what else names it.
        why: what is wrong with it.
    """

    block: str
    row: str
    why: str

    def __str__(self) -> str:
        return f"{self.block}: {self.row}: {self.why}"


def kept(
    block: str, rows: Iterable[Row], planned: Mapping[Cell, str]
) -> tuple[list[Row], list[LeftOut]]:
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
            out.append(LeftOut(block, str(row.cell), why))
        else:
            found[row.cell] = row
    return list(found.values()), out


def kept_peers(block: str, runs: Sequence[PeerRun]) -> tuple[list[PeerRun], list[LeftOut]]:
    """Return the runs of another library that count, the first of each seed, and the others."""
    found: dict[tuple[str, int], PeerRun] = {}
    out = []
    for run in runs:
        if (run.arm, run.seed) in found:
            out.append(LeftOut(block, f"{run.arm} {run.seed}", TWICE))
        else:
            found[run.arm, run.seed] = run
    return list(found.values()), out
