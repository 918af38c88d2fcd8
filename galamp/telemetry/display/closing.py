"""The last words on a run, for who has watched it.

summary --closing_line--> text
"""

from __future__ import annotations

from typing import Any


def closing_line(summary: dict[str, Any]) -> str:
    """Return what a person wants to know at the end: how it ended, and what to do next."""
    score = summary["mean_return_100"]
    words = f"{summary['status']}: {summary['agent_steps']:,} agent steps"
    if score is not None:
        words += f", mean score of the last 100 episodes {score:.2f}"
    after = "evaluate it: galamp eval"
    if summary["status"] != "finished":
        after = "go on: galamp run --resume"
    # A module is imported only for who names it: what is stored does not decide that.
    code = f" --env-id {summary['env_id']}" if ":" in summary["env_id"] else ""
    return f"{words}\n{after} {summary['run_dir']}{code}\n"
