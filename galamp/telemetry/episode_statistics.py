"""Episode statistics: true scores and lengths of the episodes that have ended, and their best mean.

    every ended episode --add--> the last 100 --mean_return--> the best mean, and when it was
    progress --> checkpoint --resume_from--> the next start of the run

Runs in the supervisor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from galamp.telemetry.snapshot import EPISODES_IN_MEAN


class EpisodeStatistics:
    """Of the training episodes of all learners.

    Attributes:
        count: number of episodes, over all starts.
        best: highest mean of 100 true scores; None before there were 100.
        best_at: agent steps at which that was.
    """

    def __init__(self) -> None:
        self.count = 0
        self.best: float | None = None
        self.best_at = 0
        self._scores: deque[float] = deque(maxlen=EPISODES_IN_MEAN)
        self._lengths: deque[int] = deque(maxlen=EPISODES_IN_MEAN)

    @property
    def mean_return(self) -> float | None:
        """Mean true score of the last 100 episodes, None before the first."""
        return float(np.mean(self._scores)) if self._scores else None

    @property
    def full_mean_return(self) -> float | None:
        """Mean true score of the last 100 episodes, None before there are 100."""
        return self.mean_return if len(self._scores) == EPISODES_IN_MEAN else None

    @property
    def mean_length(self) -> float | None:
        """Mean length of the last 100 episodes, in agent steps, None before the first."""
        return float(np.mean(self._lengths)) if self._lengths else None

    def add(self, score: float, length: int, agent_steps: int) -> None:
        """Add an episode, which has ended after so many agent steps of the run."""
        self._scores.append(score)
        self._lengths.append(length)
        self.count += 1
        mean = self.full_mean_return
        if mean is not None and (self.best is None or mean > self.best):
            self.best, self.best_at = mean, agent_steps

    def progress(self) -> dict[str, Any]:
        """Return what a checkpoint stores of it."""
        return {
            "episodes": self.count,
            "mean_return_100": self.mean_return,
            "best_mean_return_100": self.best,
            "best_at_agent_steps": self.best_at,
            "last_returns": list(self._scores),
            "last_lengths": list(self._lengths),
        }

    def resume_from(self, progress: Mapping[str, Any]) -> None:
        """Continue from the progress of a checkpoint."""
        self.count = int(progress["episodes"])
        self.best = progress["best_mean_return_100"]
        self.best_at = _best_at(progress)
        self._scores.extend(progress["last_returns"])
        self._lengths.extend(progress["last_lengths"])


def _best_at(progress: Mapping[str, Any]) -> int:
    """Return the agent steps at which a run had its best mean score.

    A checkpoint of an older galamp, or of somebody else, may lack them: then they count anew.
    """
    found, done = progress.get("best_at_agent_steps"), int(progress["agent_steps"])
    return found if type(found) is int and 0 <= found <= done else done
