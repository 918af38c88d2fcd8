"""What can be done with a run next, as commands.

RunRecord --next_steps--> [(command, what it does), ...]
"""

from __future__ import annotations

import shlex
from pathlib import Path

from galamp.storage.checkpoint import has_any
from galamp.storage.gossip_log import GOSSIP
from galamp.storage.own_code import own_code_flags
from galamp.storage.run_folder import CHECKPOINTS
from galamp.tools.run_folders.record import RunRecord, State


def next_steps(record: RunRecord) -> list[tuple[str, str]]:
    """Return commands, the most useful first, each with what it does."""
    run = shlex.quote(str(record.path))
    some, everything = own_code_flags(record.config)
    if record.state is State.RUNNING:
        return [
            (f"galamp attach {run}", "watch it"),
            (f"galamp scale {run} --learners N", "have it go on with more learners, or fewer"),
        ]
    if record.state is State.ELSEWHERE:
        return [(f"galamp attach {run}", "watch it, on its own machine")]
    if not _has_checkpoint(record.path):
        return [(f"galamp prune {run} --whole", "see what removing it would free")]
    resume = (f"galamp run --resume {run}{everything}{_further(record)}", "go on with it")
    evaluate = (f"galamp eval {run}{some}", "play whole games and score them")
    steps = [evaluate, resume] if record.state is State.FINISHED else [resume, evaluate]
    steps.append((f"galamp play {run}{some}", "watch it play, in the terminal"))
    if (record.path / GOSSIP).is_file():
        steps.append((f"galamp audit {run}", "recompute the bounds on its learners' distances"))
    steps.append((f"galamp prune {run}", "see what its older checkpoints take"))
    return steps


def _further(record: RunRecord) -> str:
    """Return the flag without which a finished run would end at once again."""
    if record.state is not State.FINISHED:
        return ""
    ended_by = record.summary.get("ended_by")
    if ended_by in ("stop-score", "stop-when-flat"):
        return f" --{ended_by} none"
    return f" --total-steps {2 * (record.total_steps or record.agent_steps or 0)}"


def _has_checkpoint(run: Path) -> bool:
    try:
        return has_any(run / CHECKPOINTS)
    except OSError:
        return False
