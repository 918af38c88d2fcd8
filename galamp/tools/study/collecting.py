"""What is kept of a run that has ended: its row.

    finished runs of a block --collect--> results/BLOCK.jsonl
    run folder --curve, evaluate, audit, parameters--> Row

Runs in `bin/study`, after the runs of a block. Nothing is written into the run folder.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from galamp.core.disk import finite
from galamp.core.errors import GalampError, UserError
from galamp.core.stop_config import StopConfig
from galamp.storage.attempts import last_attempt
from galamp.storage.run_logs import EPISODES
from galamp.tools.audit.audit import audit
from galamp.tools.audit.report import summary
from galamp.tools.compare.permutation import Numbers
from galamp.tools.compare.reaching import of_full_means
from galamp.tools.evaluation.config import EvaluationConfig
from galamp.tools.evaluation.report import evaluate
from galamp.tools.evaluation.table import Progress
from galamp.tools.evaluation.trained import MEAN, locate, read
from galamp.tools.plot.charts import curve
from galamp.tools.plot.metrics import SCORE
from galamp.tools.plot.runs import load as load_runs
from galamp.tools.run_folders.record import RunRecord, State, is_run, read_record, whole_number
from galamp.tools.study import plan, random_actions, resolved
from galamp.tools.study.rows import Row, add_row, read_rows
from galamp.tools.study.sharpness import sharpness
from galamp.tools.study.study import cell_of
from galamp.tools.sweep.ledger import Ledger
from galamp.tools.sweep.planned import PlannedRun
from galamp.training.stopping import BY_SCORE

CORRELATION = "gossip/gradient_correlation"
NOT_BEGUN = "not of this sweep (sweep.json does not have it); choose another --dir"
BEGUN_OTHERWISE = "begun with other settings than the file's now; choose another --dir"
WITHOUT_GOSSIP: dict[str, Any] = {"violations": None, "ball": None}


class Collected(NamedTuple):
    """What has come of the runs that have ended.

    Attributes:
        added: number of new rows.
        damaged: why there is no row of others, a line each.
    """

    added: int
    damaged: tuple[str, ...]


def collect(runs: Sequence[PlannedRun], block: plan.Block, folder: Path) -> Collected:
    """Add a row to a block's results for each of these runs that has finished and has none.

    The name of a run's folder does not tell its settings: only one that sweep.json says was begun
    with those of the run makes a row. A folder that makes none does not keep those after it from
    getting theirs.

    Args:
        runs: of the block.
        block: of the runs.
        folder: of the sweep.

    Raises:
        UserError: stored rows are damaged, or sweep.json is.
        OSError: the disk refuses a row.
    """
    added, damaged = 0, []
    begun = Ledger(folder, block.file).runs
    known = {(row.cell, row.hash) for row in read_rows(block.results)}
    for run in runs:
        path = folder / run.name
        if (cell_of(run), run.hash) in known or not is_run(path):
            continue
        if read_record(path).state is not State.FINISHED:
            continue
        entry = begun.get(run.name)
        if entry is None or entry.hash != run.hash:
            damaged.append(f"{path}: no row: {NOT_BEGUN if entry is None else BEGUN_OTHERWISE}")
            continue
        try:
            row = row_of(run, path, sharp=block.sharpness, commit=", ".join(entry.commits))
        except (GalampError, OSError) as error:
            damaged.append(f"{path}: no row: {error}")
            continue
        added += add_row(block.results, row)
    if block.name == "reference" and not random_actions.read():
        random_actions.write(random_actions.mean_scores())
    return Collected(added, tuple(damaged))


def row_of(planned: PlannedRun, folder: Path, *, sharp: bool = False, commit: str = "") -> Row:
    """Return the row of a run that has ended.

    Args:
        planned: what it was given.
        folder: of the run.
        sharp: whether to measure how the loss curves.
        commit: of the checkout that trained it.

    Raises:
        UserError, CheckpointError: the folder lacks something, or is damaged.
    """
    record, run = read_record(folder), load_runs([folder])[0]
    if not np.isfinite(run.history.column("global_step")).any():
        raise UserError(f"{folder}: has no rows of metrics")
    config = planned.config
    steps, returns = curve(run.history, SCORE, "steps")
    hours, _ = curve(run.history, SCORE, "hours")
    full = of_full_means(steps, returns, *curve(run.history, EPISODES, "steps"))
    reached_steps, reached_s = reached(steps, hours * 3600, full, record, config.stop)
    learners, method = config.resources.learners, config.gossip.method
    mean = mean_parameters(folder)
    final = _score(planned, folder, str(planned.seed % learners))
    _, correlation = curve(run.history, CORRELATION, "steps")
    starts, restarts = last_attempt(folder), whole_number(record.summary.get("restarts"))
    whole = (record.agent_steps or 0) >= config.total_steps  # when a score ends it, the clock tells
    repeats = config.gossip.sync and starts == 1 and not restarts and whole
    return Row(
        arm=planned.arm,
        game=plan.game_of(planned.env_id),
        seed=planned.seed,
        hash=planned.hash,
        galamp=_version(record),
        total_steps=config.total_steps,
        agent_steps=record.agent_steps or 0,
        wall_s=record.number("wall_s", "wall_s") or 0.0,
        curve=at_grid(steps, returns, config.total_steps),
        reached_steps=reached_steps,
        reached_s=reached_s,
        final=final,
        mean=_score(planned, folder, MEAN) if learners > 1 else final,
        **(_gossip(folder) if method == plan.GOSSIP and learners > 1 else WITHOUT_GOSSIP),
        norm=float(np.linalg.norm(mean)),
        parameters=hashlib.sha256(mean.tobytes()).hexdigest() if repeats else "",
        correlation=float(np.median(correlation)) if len(correlation) else None,
        sharpness=sharpness(planned, folder) if sharp else None,
        resolved=resolved.of_folder(folder),
        commit=commit,
        starts=starts,
        restarts=restarts,
        learners=_each_score(planned, folder, final) if method == plan.INDEPENDENT else None,
    )


def reached(
    steps: Numbers, seconds: Numbers, returns: Numbers, record: RunRecord, stop: StopConfig
) -> tuple[int | None, float | None]:
    """Return the agent steps and the training time at the score of Pong; None if it was not.

    A run that ended there may have no row of metrics with it: more episodes can have ended since.

    Args:
        steps: agent steps at the rows of its metrics.
        seconds: training time there.
        returns: mean return of 100 episodes there.
        record: of the run.
        stop: when it was to end.
    """
    rows = np.flatnonzero(returns >= plan.SCORE_OF_PONG)
    if len(rows):
        return int(steps[rows[0]]), float(seconds[rows[0]])
    high_enough = stop.stop_score is not None and stop.stop_score >= plan.SCORE_OF_PONG
    if high_enough and record.summary.get("ended_by") == BY_SCORE:
        return record.agent_steps, record.number("wall_s", "wall_s")
    return None, None


def at_grid(steps: Numbers, returns: Numbers, total_steps: int) -> tuple[float | None, ...]:
    """Return a curve at `plan.GRID_POINTS` equal distances up to `total_steps`.

    Between rows it is interpolated; before the first it is None, after the last it stays.
    """
    grid = total_steps * np.arange(1, plan.GRID_POINTS + 1) / plan.GRID_POINTS
    if not len(steps):
        return (None,) * plan.GRID_POINTS
    found = np.interp(grid, steps, returns)
    return tuple(
        None if at < steps[0] else round(float(value), 4)
        for at, value in zip(grid, found, strict=True)
    )


def mean_parameters(folder: Path) -> NDArray[np.float32]:
    """Return the mean of all learners' parameters at the end, as one vector."""
    parameters = read(locate(folder, "latest").path).parameters(MEAN)
    return np.concatenate([np.ravel(parameters[name]) for name in sorted(parameters)])


def _version(record: RunRecord) -> str:
    versions = record.summary.get("versions")
    return str(versions.get("galamp", "")) if isinstance(versions, dict) else ""


def _score(planned: PlannedRun, folder: Path, learner: str) -> float:
    """Return the mean score of whole games; the seeds of the games are those of no training."""
    with tempfile.TemporaryDirectory(prefix="galamp-study-") as place:
        config = EvaluationConfig(
            episodes=plan.EPISODES, learner=learner, which="latest", num_envs=plan.EPISODES,
            seed=planned.seed, quiet=True, env_id=planned.env_id, device="cpu",
            output=str(Path(place, "scores.json")),
        )  # fmt: skip
        report, _ = evaluate(folder, config, Progress(quiet=True, done=[0]))
    return float(report["results"][0]["mean"])


def _each_score(planned: PlannedRun, folder: Path, drawn: float) -> tuple[float, ...]:
    """Return the score of each learner, of which that of the drawn one is known."""
    learners = planned.config.resources.learners
    return tuple(
        drawn if rank == planned.seed % learners else _score(planned, folder, str(rank))
        for rank in range(learners)
    )


def _gossip(folder: Path) -> dict[str, Any]:
    """Return what the audit finds, by the fields of a row."""
    found: dict[str, Any] = finite(summary(folder, audit(folder, None)))
    to_mean = found["distances"]["to_mean"]
    return {
        "violations": found["violation_count"],
        "ball": to_mean["measured_median"],
        "certificate": to_mean["certificate_median"],
        "certified": found["certified"],
        "not_certified": found["not_certified"],
        "faults": found["fault_count"],
    }
