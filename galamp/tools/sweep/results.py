"""What a sweep has come to, as plain values: each run, each arm and environment, comparisons.

    Sweep, run folders --results--> dict, as `--json` prints it --text_report--> tables

Scores are the means of the last 100 training episodes; over seeds, their interquartile mean (that
of four or more leaves out the best and the worst quarter) with a stratified bootstrap interval, as
in `galamp compare`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from galamp.storage.eval_log import best_of, read_evaluations
from galamp.tools.compare.comparison import compare_groups
from galamp.tools.compare.statistics import iqm, iqm_interval
from galamp.tools.plot.groups import Group
from galamp.tools.plot.runs import Run, load
from galamp.tools.run_folders.record import is_run, read_record
from galamp.tools.sweep.ledger import Entry, Ledger
from galamp.tools.sweep.planned import PlannedRun, Sweep

WAITING = "waiting"
"""State of a run that was not begun."""


def results(sweep: Sweep, ledger: Ledger) -> dict[str, Any]:
    """Return what has come of all runs so far."""
    runs = [of_run(run, ledger) for run in sweep.runs]
    groups = groups_of(sweep, ledger)
    compared = compare_groups(groups, sweep.games) if len(groups) > 1 else None
    pairs = compared["at_equal"]["steps"]["pairs"] if compared else []
    return {
        "sweep": sweep.name,
        "folder": str(ledger.folder),
        "runs": runs,
        "arms": _arms(sweep, runs),
        "at_equal_steps": compared["at_equal"]["steps"] if compared else None,
        "statements": [pair["statement"] for pair in pairs if pair["improvement"]],
        "notes": compared["notes"] if compared else [],
    }


def groups_of(sweep: Sweep, ledger: Ledger, env_id: str | None = None) -> list[Group]:
    """Return the arms as groups of runs that were begun; of one environment, if it is named."""
    begun = [
        run
        for run in sweep.runs
        if is_run(ledger.path(run)) and env_id in (None, run.env_id)
    ]  # fmt: skip
    loaded = zip(begun, load(map(ledger.path, begun)), strict=True)
    of_arms: dict[str, list[Run]] = {}
    for planned, run in loaded:
        of_arms.setdefault(planned.arm, []).append(run)
    return [Group(arm, arm, tuple(of_arms[arm])) for arm in sweep.arms if arm in of_arms]


def of_run(run: PlannedRun, ledger: Ledger) -> dict[str, Any]:
    """Return what has come of a run so far."""
    path, known = ledger.path(run), ledger.runs.get(run.name)
    values: dict[str, Any] = {
        "run": run.name,
        "arm": run.arm,
        "env_id": run.env_id,
        "seed": run.seed,
        "hash": run.hash,
        "state": WAITING,
        "failure": known.failure if known else "",
    }
    if not is_run(path):
        return values | _nothing(known)
    record, best = read_record(path), best_of(read_evaluations(path))
    return values | {
        "state": str(record.state),
        "agent_steps": record.agent_steps,
        "wall_s": record.number("wall_s", "wall_s"),
        "score": record.score,
        "eval": None if best is None else best.mean,
    }


def _nothing(known: Entry | None) -> dict[str, Any]:
    """Return the figures of a run without a folder, which may have failed before it had one."""
    state = {"state": "failed"} if known and known.exit_code else {}
    return {"agent_steps": None, "wall_s": None, "score": None, "eval": None, **state}


def _arms(sweep: Sweep, runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each environment and arm that has runs."""
    rows = []
    for env_id in sweep.games:
        for arm in sweep.arms:
            of = [run for run in runs if (run["arm"], run["env_id"]) == (arm, env_id)]
            if of:
                rows.append({"env_id": env_id, "arm": arm, **_row(of)})
    return rows


def _row(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    states = [run["state"] for run in runs]
    return {
        "states": {state: states.count(state) for state in dict.fromkeys(states)},
        "score": _aggregate(run["score"] for run in runs),
        "eval": _aggregate(run["eval"] for run in runs),
        "agent_steps": _median(run["agent_steps"] for run in runs),
        "wall_s": _median(run["wall_s"] for run in runs),
    }


def _aggregate(numbers: Iterable[float | None]) -> dict[str, Any] | None:
    """Return the interquartile mean over seeds, and its interval; None without any number."""
    known = np.array([number for number in numbers if number is not None], dtype=float)
    if not len(known):
        return None
    interval = iqm_interval([known]) if len(known) > 1 else None
    return {"iqm": float(iqm(known)), "interval": interval, "seeds": len(known)}


def _median(numbers: Iterable[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return float(np.median(known)) if known else None
