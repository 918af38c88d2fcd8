"""The end of a search: its best trials, what they have drawn, and how to train the best one longer.

    Searcher.trials --search_results--> dict, as `--json` prints it --show_search--> tables

The score of a trial is the plain mean of its runs' scores, which are the means of the last 100
training episodes.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TextIO

from rich.text import Text

from galamp.core.config import from_settings
from galamp.core.sanitize import clean
from galamp.telemetry.display.console import plain_table, table_console
from galamp.telemetry.display.text import UNKNOWN, score
from galamp.tools.sweep.ledger import Ledger
from galamp.tools.sweep.planned import PlannedRun, Sweep, flags
from galamp.tools.sweep.results import of_run
from galamp.tools.sweep.search import OPEN, TOLD, Trial, amount

LONGER = 10
"""Times the steps of a trial that the best one is to be trained for."""
STEPS = ("", "total_steps")
MAX_ROWS, MAX_CHARTED = 10, 5
NOTE = (
    "Score of a trial: mean over its games and seeds of the mean score of the last 100 training "
    "episodes. The best of many trials was lucky, too: train it with other seeds."
)


def search_results(sweep: Sweep, ledger: Ledger, trials: Sequence[Trial]) -> dict[str, Any]:
    """Return what has come of all trials so far."""
    assert sweep.search is not None
    return {
        "sweep": sweep.name,
        "folder": str(ledger.folder),
        "search": {
            "trials": sweep.search.trials,
            "sampler_seed": sweep.search.sampler_seed,
            "ranges": {each.name: str(each) for each in sweep.search.ranges},
        },
        "trials": [_row(trial, ledger) for trial in trials],
        "best": [
            {
                "arm": trial.arm,
                "trial": trial.number,
                "score": trial.score,
                "settings": dict(trial.params),
                "command": longer(trial.runs[0]),
            }
            for trial in best_of_arms(sweep, trials)
        ],
    }


def show_search(result: dict[str, Any], file: TextIO, width: int | None = None) -> None:
    """Write the tables of `search_results`: of each arm the best trials, and what to do next."""
    console = table_console(file, width)
    arms = dict.fromkeys(row["arm"] for row in result["trials"])
    drawn = list(result["search"]["ranges"])
    for arm in arms:
        rows = [row for row in result["trials"] if row["arm"] == arm]
        best_first = sorted(rows, key=_order)
        table = plain_table(("trial", "score", *drawn, ""), text=(len(drawn) + 2,))
        for row in best_first[:MAX_ROWS]:
            values = [clean(amount(row["settings"][name])) for name in drawn]
            state = "" if row["state"] == TOLD else row["state"]
            table.add_row(str(row["trial"]), _score(row), *values, state)
        if len(arms) > 1:
            console.print(Text(clean(arm)))
        console.print(table)
        told = sum(row["state"] != OPEN for row in rows)
        more = f", {MAX_ROWS} are shown" if len(rows) > MAX_ROWS else ""
        console.print(Text(f"{told} of {result['search']['trials']} trials have ended{more}"))
    for best in result["best"]:
        of_arm = f" of {clean(best['arm'])}" if len(arms) > 1 else ""
        console.print(Text(f"The best one{of_arm}, {LONGER} times as long:"))
        console.print(Text(f"  {best['command']}"), soft_wrap=True)
    if result["best"]:
        console.print(Text(NOTE, "dim"))
    for row in result["trials"]:
        for run in row["runs"]:
            if run["failure"]:
                console.print(Text(f"{run['run']} failed: {clean(run['failure'])}"))


def best_of_arms(sweep: Sweep, trials: Sequence[Trial]) -> Iterator[Trial]:
    """Yield the best trial of each arm that has any."""
    for arm in sweep.arms:
        told = [trial for trial in trials if trial.arm == arm and trial.score is not None]
        if told:
            yield max(told, key=lambda trial: trial.score or 0.0)


def charted(sweep: Sweep, trials: Sequence[Trial]) -> Sweep:
    """Return the sweep of the best trials' runs, for their charts."""
    told = [trial for trial in trials if trial.score is not None]
    best = sorted(told, key=lambda trial: -(trial.score or 0.0))[:MAX_CHARTED]
    return replace(sweep, runs=tuple(run for trial in best for run in trial.runs))


def longer(run: PlannedRun) -> str:
    """Return the command that trains with the settings of `run` for longer."""
    values = {**run.values, STEPS: LONGER * run.config.total_steps}
    config = from_settings(values, type(run.config.algorithm))
    return shlex.join(["galamp", "run", *flags(replace(run, values=values, config=config))])


def _row(trial: Trial, ledger: Ledger) -> dict[str, Any]:
    return {
        "arm": trial.arm,
        "trial": trial.number,
        "state": trial.state,
        "score": trial.score,
        "settings": dict(trial.params),
        "runs": [of_run(run, ledger) for run in trial.runs],
    }


def _order(row: dict[str, Any]) -> tuple[bool, float, int]:
    known = row["score"] is not None
    return not known, -row["score"] if known else 0.0, row["trial"]


def _score(row: dict[str, Any]) -> str:
    return UNKNOWN if row["score"] is None else score(row["score"])
