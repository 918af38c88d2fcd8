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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galamp.core.disk import finite
from galamp.tools.audit.audit import audit
from galamp.tools.audit.report import summary
from galamp.tools.evaluation.config import EvaluationConfig
from galamp.tools.evaluation.report import evaluate
from galamp.tools.evaluation.table import Progress
from galamp.tools.evaluation.trained import MEAN, locate, read
from galamp.tools.plot.charts import curve
from galamp.tools.plot.metrics import SCORE
from galamp.tools.plot.runs import load as load_runs
from galamp.tools.run_folders.record import State, is_run, read_record
from galamp.tools.study import plan, random_actions
from galamp.tools.study.rows import Row, add_row
from galamp.tools.study.sharpness import sharpness
from galamp.tools.sweep.planned import PlannedRun

GOSSIP = "gossip"
CORRELATION = "gossip/gradient_correlation"


def collect(runs: Sequence[PlannedRun], block: plan.Block, folder: Path) -> int:
    """Add a row to a block's results for each of these runs that has finished; returns how many.

    Args:
        runs: without a row so far.
        block: of the runs.
        folder: of the sweep.

    Raises:
        UserError, CheckpointError: a run's folder lacks something, or is damaged.
        OSError: the disk refuses a row.
    """
    added = 0
    for run in runs:
        path = folder / run.name
        if is_run(path) and read_record(path).state is State.FINISHED:
            add_row(block.results, row_of(run, path, sharp=block.sharpness))
            added += 1
    if block.name == "reference" and not random_actions.read():
        random_actions.write(random_actions.mean_scores())
    return added


def row_of(planned: PlannedRun, folder: Path, *, sharp: bool = False) -> Row:
    """Return the row of a run that has ended.

    Args:
        planned: what it was given.
        folder: of the run.
        sharp: whether to measure how the loss curves.

    Raises:
        UserError, CheckpointError: the folder lacks something, or is damaged.
    """
    record, run = read_record(folder), load_runs([folder])[0]
    config = planned.config
    steps, returns = curve(run.history, SCORE, "steps")
    hours, _ = curve(run.history, SCORE, "hours")
    reached = np.flatnonzero(returns >= plan.SCORE_OF_PONG)
    learners = config.resources.learners
    mean = mean_parameters(folder)
    gossip = _gossip(folder) if config.gossip.method == GOSSIP and learners > 1 else None
    final = _score(planned, folder, str(planned.seed % learners))
    _, correlation = curve(run.history, CORRELATION, "steps")
    return Row(
        arm=planned.arm,
        game=plan.game_of(planned.env_id),
        seed=planned.seed,
        hash=planned.hash,
        galamp=str(record.summary.get("versions", {}).get("galamp", "")),
        total_steps=config.total_steps,
        agent_steps=record.agent_steps or 0,
        wall_s=record.number("wall_s", "wall_s") or 0.0,
        curve=at_grid(steps, returns, config.total_steps),
        reached_steps=int(steps[reached[0]]) if len(reached) else None,
        reached_s=float(hours[reached[0]] * 3600) if len(reached) else None,
        final=final,
        mean=_score(planned, folder, MEAN) if learners > 1 else final,
        violations=None if gossip is None else gossip["violation_count"],
        ball=None if gossip is None else gossip["distances"]["to_mean"]["measured_median"],
        norm=float(np.linalg.norm(mean)),
        parameters=hashlib.sha256(mean.tobytes()).hexdigest() if config.gossip.sync else "",
        correlation=float(np.median(correlation)) if len(correlation) else None,
        sharpness=sharpness(planned, folder) if sharp else None,
    )


def at_grid(
    steps: NDArray[np.float64], returns: NDArray[np.float64], total_steps: int
) -> tuple[float | None, ...]:
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


def _gossip(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = finite(summary(folder, audit(folder, None)))
    return found
