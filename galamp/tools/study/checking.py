"""Whether rows, files and rules agree: what a reader would have to believe otherwise.

Study, planned runs of all blocks --complaints--> lines
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from galamp.tools.study import plan, tuning
from galamp.tools.study.report import Study
from galamp.tools.study.rows import Cell
from galamp.tools.sweep.planned import PlannedRun

TUNED = ("reference", "robustness", "efficiency")
"""Blocks whose learning rates are those that tuning chose."""


def complaints(study: Study, runs: Mapping[str, Sequence[PlannedRun]]) -> Iterator[str]:
    """Yield what does not agree, a line each."""
    for name, of in runs.items():
        hashes = {Cell(run.arm, plan.game_of(run.env_id), run.seed): run.hash for run in of}
        yield from (f"{name}: {line}" for line in _of_rows(study, name, hashes))
    rates = tuning.chosen(study.rows["tuning"])
    for name in TUNED:
        yield from (f"{name}: {line}" for line in tuning.misfits(rates, runs[name]))
    seeds = {name: {run.seed for run in of} for name, of in runs.items()}
    for name in ("tuning", "reference"):
        for other in (*plan.NORMALISED, "pong"):
            if shared := seeds[name] & seeds[other]:
                yield f"{name} and {other}: both have seeds {sorted(shared)}"


def _of_rows(study: Study, block: str, hashes: Mapping[Cell, str]) -> Iterator[str]:
    rows = study.rows[block]
    for cell, count in Counter(row.cell for row in rows).items():
        if count > 1:
            yield f"{cell}: {count} rows"
    for row in rows:
        if row.cell not in hashes:
            yield f"{row.cell}: a row, but no run of the file"
        elif row.hash != hashes[row.cell]:
            yield f"{row.cell}: trained with other settings than the file's now ({row.hash})"
        if row.agent_steps < row.total_steps:
            yield f"{row.cell}: {row.agent_steps:,} of {row.total_steps:,} agent steps"
        if row.violations:
            yield f"{row.cell}: {row.violations} violations of the certificate"
