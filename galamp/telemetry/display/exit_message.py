"""Final report of a run on a terminal or in a log: how it ended, and what to do next.

summary, flags that name the user's own code again --exit_message--> text
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from galamp.core.sanitize import clean
from galamp.telemetry.display.text import count, duration

CONDITIONS = ("max-time", "stop-score", "stop-when-flat")
"""What ends a run before its total of agent steps, by the names of the flags."""
LABEL_WIDTH = 9


def exit_message(summary: dict[str, Any], for_eval: str = "", for_resume: str = "") -> str:
    """Return how the run ended, what it reached, where its files are, and the next commands.

    `for_eval` and `for_resume` are flags of these commands, each after a space: a module is
    imported only if the user names it, a stored name is not enough.
    """
    score = summary["mean_return_100"]
    words = f"{summary['status']}: {summary['agent_steps']:,} agent steps"
    if score is not None:
        words += f", mean score of the last 100 episodes {score:.2f}"
    early = summary.get("ended_by") in CONDITIONS
    if early:
        words += f"\nwhy: {clean(str(summary.get('reason')))}"
    for label, facts in _facts(summary):
        words += f"\n{label:<{LABEL_WIDTH}}{'   '.join(facts)}"
    run = shlex.quote(summary["run_dir"])
    evaluate = f"evaluate it: galamp eval {run}{for_eval}"
    on = f"go on: galamp run --resume {run}{for_resume}"
    look = f"look at it: galamp show {run}"
    if early and summary["status"] == "finished":
        return f"{words}\n{look}\n{evaluate}\n{on} --{summary['ended_by']} none\n"
    if summary["status"] == "finished":
        plot = f"draw it: galamp plot {run}"
        return f"{words}\n{look}\n{plot}\n{evaluate}\n"
    return f"{words}\n{look}\n{evaluate}\n{on}\n"


def _facts(summary: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Yield lines of facts: label, facts; those that the summary has."""
    wall_s, rate = summary.get("wall_s"), summary.get("agent_steps_per_s")
    facts = [] if wall_s is None else [duration(wall_s)]
    if (summary.get("start") or 1) > 1:
        facts.append(f"over {summary['start']} starts")
    if rate:
        facts.append(f"{count(rate)} agent steps/s")
    if restarts := summary.get("restarts"):
        facts.append(f"{restarts} restart{'s' if restarts > 1 else ''}")
    if facts:
        yield "time", facts
    where = f"{clean(summary['run_dir'])}/checkpoints/best"
    evaluation = summary.get("evaluation")
    best = summary.get("best_mean_return_100")
    if evaluation is not None:  # which chooses the checkpoint, then
        yield "best", [f"evaluation {evaluation['best']:.2f}", where]
    elif best is not None:  # of that moment there need not be a checkpoint
        yield "best", [f"mean score {best:.2f}", f"best checkpoint: {where}"]
    yield "files", [clean(summary["run_dir"])]
