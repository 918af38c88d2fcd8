"""What displays tell of the evaluations while a run trains.

    eval.jsonl, or its evaluations as they are made --reading_of--> EvaluationReading --> Snapshot

Runs in the supervisor, and in commands that read a run folder.
"""

from __future__ import annotations

from collections.abc import Sequence

from galamp.storage.eval_log import Evaluation, best_of
from galamp.telemetry.snapshot import EvaluationReading


def reading_of(evaluations: Sequence[Evaluation]) -> EvaluationReading | None:
    """Return the newest of the evaluations that count, beside the best one; None of none."""
    best = best_of(evaluations)
    if best is None:
        return None
    last = evaluations[-1]
    return EvaluationReading(
        agent_steps=last.agent_steps,
        mean=last.mean,
        standard_error=last.standard_error,
        episodes=last.episodes,
        best=best.mean,
        best_at=best.agent_steps,
    )
