"""Result of a run that a program has started: how it ended, its scores, its folder.

    summary.json's values --result_of--> Result --load--> Agent

Runs in a user's program.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from galamp.cli.python.page import Curve, page

if TYPE_CHECKING:
    from galamp.tools.evaluation.agent import Agent


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        run_dir: the run folder, for `galamp.load`, `galamp eval`, `galamp plot` and so on.
        status: `finished`, or `stopped` by a signal or a limit of time.
        reason: why it ended, in a sentence.
        agent_steps: over all learners and attempts.
        score: mean score of the last 100 training episodes; None before the first.
        best_score: the best of these means; None before 100 episodes.
        wall_s: duration of the training, over all attempts.
        summary: all that summary.json holds.
        curve: (agent steps, score) of the run, as last seen.

    Example:
        >>> result = galamp.Result.of("runs/cartpole")
        >>> result.status, result.agent_steps >= 2000
        ('finished', True)
        >>> result.load().act([0.0, 0.1, 0.0, -0.1]) in (0, 1)
        True
    """

    run_dir: Path
    status: str
    reason: str
    agent_steps: int
    score: float | None
    best_score: float | None
    wall_s: float
    summary: Mapping[str, Any] = field(repr=False)
    curve: Curve = field(default=(), repr=False)

    @classmethod
    def of(cls, run: str | Path) -> Result:
        """Return the result of a run in a folder, which has ended.

        Raises:
            UserError: it is no run folder, or the run has not ended.
        """
        from galamp.core.disk import in_home
        from galamp.storage.links import follow
        from galamp.storage.run_status import not_running, summary_of

        folder = follow(in_home(run))
        summary = summary_of(folder)
        if summary is None:
            raise not_running(folder)
        return result_of(summary, folder)

    def load(self, **known: Any) -> Agent:
        """Return the trained agent; arguments are those of `galamp.load`."""
        from galamp.tools.evaluation.agent import load

        return load(self.run_dir, **known)

    def _repr_html_(self) -> str:
        """Return a small table and the curve, for notebooks."""
        rows = {
            "game": self.summary["env_id"],
            "run": str(self.run_dir),
            "ended": f"{self.status}: {self.reason}",
            "agent steps": f"{self.agent_steps:,}",
            "score": _number(self.score),
            "best score": _number(self.best_score),
            "agent steps/s": f"{self.summary['agent_steps_per_s']:,.0f}",
        }
        return page(rows, self.curve)


def result_of(summary: Mapping[str, Any], run_dir: Path, curve: Curve = ()) -> Result:
    """Return the result that a summary tells."""
    return Result(
        run_dir=run_dir,
        status=summary["status"],
        reason=summary.get("reason") or "",
        agent_steps=summary["agent_steps"],
        score=summary["mean_return_100"],
        best_score=summary["best_mean_return_100"],
        wall_s=summary["wall_s"],
        summary=summary,
        curve=curve,
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
