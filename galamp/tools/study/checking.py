"""Whether rows, files and rules agree: what a reader would have to believe otherwise.

Study, planned runs of all blocks --complaints--> lines; Study --to_come--> lines
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from galamp.tools.study import plan, published, resolved, tuning
from galamp.tools.study.rows import Row
from galamp.tools.study.study import Study, cell_of, misfit, to_be_tried
from galamp.tools.sweep.planned import PlannedRun


def complaints(study: Study, runs: Mapping[str, Sequence[PlannedRun]]) -> Iterator[str]:
    """Yield what does not agree, a line each."""
    yield from map(str, study.left_out)
    for name, of in runs.items():
        planned = {cell_of(run): run for run in of}
        for row in study.rows[name]:
            if run := planned.get(row.cell):
                yield from (f"{name}: {row.cell}: {line}" for line in _of_row(row, run))
    for name, tuned in plan.RATES.items():
        arms = {run.arm: run for run in runs[name]}
        yield from (f"{name}: {line}" for line in _of_rates(arms, tuned, study.chosen))
    yield from (f"tuning: {line}" for line in _of_names(runs["tuning"]))
    yield from (f"atari: {line}" for line in _of_published(runs["atari"]))
    seeds = {name: {run.seed for run in of} for name, of in runs.items()}
    apart = (*plan.NORMALISED, "pong")
    for name, others in (("tuning", ("reference", *apart)), ("reference", apart)):
        for other in others:
            if shared := seeds[name] & seeds[other]:
                yield f"{name} and {other}: both have seeds {sorted(shared)}"


def to_come(study: Study) -> Iterator[str]:
    """Yield tuned arms whose rate is not chosen yet, though rows rest on it, a line each."""
    for arm, counts in study.untried.items():
        rest = {
            block: sum(of.get(row.arm) == arm for row in study.rows[block])
            for block, of in plan.RATES.items()
        }
        told = ", ".join(f"{count} rows of {block}" for block, count in rest.items() if count)
        if told:
            yield f"{to_be_tried(arm, *counts)}; on its rate rest {told}"


def _of_rates(
    arms: Mapping[str, PlannedRun], tuned: Mapping[str, str], chosen: Mapping[str, float]
) -> Iterator[str]:
    """Yield arms that have another rate than tuning chose for them, or for whose they take.

    Args:
        arms: arm -> a run of it.
        tuned: arm -> the tuned arm whose rate it takes.
        chosen: tuned arm -> rate.
    """
    for arm, run in arms.items():
        rate = run.config.algorithm.learning_rate
        if arm not in tuned:
            yield f"{arm}: plan.py does not say whose learning rate it takes"
        elif tuned[arm] in chosen and rate != chosen[tuned[arm]]:
            yield misfit(arm, rate, chosen[tuned[arm]])


def _of_names(runs: Sequence[PlannedRun]) -> Iterator[str]:
    """Yield tuned arms whose name has another rate than their runs: the rule reads the name."""
    for arm, rate in {run.arm: run.config.algorithm.learning_rate for run in runs}.items():
        if tuning.split(arm)[1] != rate:
            yield f"{arm}: learning rate {rate}, which is not that of its name"


def _of_published(runs: Sequence[PlannedRun]) -> Iterator[str]:
    """Yield arms and games that stand beside no published score."""
    for arm in dict.fromkeys(run.arm for run in runs):
        if arm not in published.ALGORITHMS:
            yield f"{arm}: published.py has no score of it"
    for game in dict.fromkeys(plan.game_of(run.env_id) for run in runs):
        if game not in published.GAMES:
            yield f"{game}: published.py has no score of it"


def _of_row(row: Row, run: PlannedRun) -> Iterator[str]:
    """Yield what is wrong with a row that counts."""
    if changed := resolved.difference(row, run.config):
        yield changed
    came_there = run.config.stop.stop_score == plan.SCORE_OF_PONG and row.reached_s is not None
    if row.agent_steps < row.total_steps and not came_there:
        yield f"{row.agent_steps:,} of {row.total_steps:,} agent steps"
    if row.violations:
        yield f"{row.violations} violations of the certificate"
    if row.certified == 0:
        yield "no measurement has a certificate"
    if row.faults:
        yield f"{row.faults} faults of the gossip record"
    if row.restarts and not run.config.gossip.sync:
        yield f"{row.restarts} processes were restarted in its last start, by events.jsonl: why?"
    if run.config.gossip.sync and (not_once := interrupted(row)):
        yield f"in lock-step, but {not_once}: its bits cannot be repeated"


def interrupted(row: Row) -> str:
    """Return what a run went through that keeps one in lock-step from being repeated, or empty.

    Seeds hold the number of the start, and a restarted process goes on from its last saved state.
    """
    if (row.starts or 1) > 1:
        return f"started {row.starts} times"
    return f"restarted in part ({row.restarts} processes)" if row.restarts else ""
