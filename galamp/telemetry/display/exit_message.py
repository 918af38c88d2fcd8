"""The line printed when a run ends.

summary --exit_message--> text
"""

from __future__ import annotations

from typing import Any


def exit_message(summary: dict[str, Any]) -> str:
    """Return how the run ended, and the command to run next."""
    score = summary["mean_return_100"]
    words = f"{summary['status']}: {summary['agent_steps']:,} agent steps"
    if score is not None:
        words += f", mean score of the last 100 episodes {score:.2f}"
    after = "evaluate it: galamp eval"
    if summary["status"] != "finished":
        after = "go on: galamp run --resume"
    # A module is imported only if the user names it; a stored name is not enough.
    code = f" --env-id {summary['env_id']}" if ":" in summary["env_id"] else ""
    return f"{words}\n{after} {summary['run_dir']}{code}\n"
