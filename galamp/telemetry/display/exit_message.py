"""The line printed when a run ends.

summary --exit_message--> text
"""

from __future__ import annotations

from typing import Any

from galamp.core.sanitize import clean

CONDITIONS = ("max-time", "stop-score", "stop-when-flat")
"""What ends a run before its total of agent steps, by the names of the flags."""


def exit_message(summary: dict[str, Any]) -> str:
    """Return how the run ended, and the command to run next."""
    score = summary["mean_return_100"]
    words = f"{summary['status']}: {summary['agent_steps']:,} agent steps"
    if score is not None:
        words += f", mean score of the last 100 episodes {score:.2f}"
    early = summary.get("ended_by") in CONDITIONS
    if early:
        words += f"\nwhy: {clean(str(summary.get('reason')))}"
    # A module is imported only if the user names it; a stored name is not enough.
    code = f" --env-id {summary['env_id']}" if ":" in summary["env_id"] else ""
    run = f"{summary['run_dir']}{code}"
    evaluate, on = f"evaluate it: galamp eval {run}", f"go on: galamp run --resume {run}"
    if early and summary["status"] == "finished":
        return f"{words}\n{evaluate}\n{on} --{summary['ended_by']} none\n"
    return f"{words}\n{evaluate if summary['status'] == 'finished' else on}\n"
