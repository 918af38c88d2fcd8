"""Whether rows, files and rules agree: what a reader would have to believe otherwise.

Study, planned runs of all blocks --complaints--> lines
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from galamp.tools.study import plan, resolved, tuning
from galamp.tools.study.rows import Row
from galamp.tools.study.study import Study, cell_of
from galamp.tools.sweep.planned import PlannedRun

TUNED = ("reference", "robustness", "efficiency")
"""Blocks whose learning rates are those that tuning chose."""


def complaints(study: Study, runs: Mapping[str, Sequence[PlannedRun]]) -> Iterator[str]:
    """Yield what does not agree, a line each."""
    yield from map(str, study.left_out)
    for name, of in runs.items():
        planned = {cell_of(run): run for run in of}
        for row in study.rows[name]:
            if run := planned.get(row.cell):
                yield from (f"{name}: {row.cell}: {line}" for line in _of_row(row, run))
    rates = tuning.chosen(study.rows["tuning"])
    for name in TUNED:
        yield from (f"{name}: {line}" for line in tuning.misfits(rates, runs[name]))
    seeds = {name: {run.seed for run in of} for name, of in runs.items()}
    apart = (*plan.NORMALISED, "pong")
    for name, others in (("tuning", ("reference", *apart)), ("reference", apart)):
        for other in others:
            if shared := seeds[name] & seeds[other]:
                yield f"{name} and {other}: both have seeds {sorted(shared)}"


def _of_row(row: Row, run: PlannedRun) -> Iterator[str]:
    """Yield what is wrong with a row that counts."""
    if row.resolved and row.resolved != resolved.of_config(run.config):
        yield (
            "the file's settings mean something else now: a default has changed, or there is a "
            f"new one, since {row.commit or 'an unknown commit'}"
        )
    came_there = run.config.stop.stop_score == plan.SCORE_OF_PONG and row.reached_s is not None
    if row.agent_steps < row.total_steps and not came_there:
        yield f"{row.agent_steps:,} of {row.total_steps:,} agent steps"
    if row.violations:
        yield f"{row.violations} violations of the certificate"
    if row.certified == 0:
        yield "no measurement has a certificate"
    if row.faults:
        yield f"{row.faults} faults of the gossip record"
    if run.config.gossip.sync and (not_once := interrupted(row)):
        yield f"in lock-step, but {not_once}: its bits cannot be repeated"


def interrupted(row: Row) -> str:
    """Return what a run went through that keeps one in lock-step from being repeated, or empty.

    Seeds hold the number of the start, and a restarted process goes on from its last saved state.
    """
    if (row.starts or 1) > 1:
        return f"started {row.starts} times"
    return f"restarted in part ({row.restarts} processes)" if row.restarts else ""
