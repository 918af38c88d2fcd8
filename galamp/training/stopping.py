"""Stop conditions: a run ends before its total of agent steps, by time or by its scores.

    Supervisor's loop --tick--> StopConditions: Recorder, clock --a condition is met--> finish

Runs in the supervisor. The time counts from the beginning of the command, over all attempts that
`galamp scale` starts; scores count over the whole run, what a resumed run brings included. In
lock-step the learners then end after one common turn, so what is saved is a state that the same
run would pass through without conditions; which one depends on the clock.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from galamp.core.settings import duration_text
from galamp.core.stop_config import StopConfig
from galamp.telemetry.recorder import Recorder
from galamp.telemetry.snapshot import EPISODES_IN_MEAN
from galamp.training.result import StopReason

if TYPE_CHECKING:
    from galamp.training.supervisor import Supervisor

BY_SCORE = "stop-score"
"""Kind of the reason of a run that `stop_score` ended: `ended_by` in summary.json."""


class StopConditions:
    """A callback of the supervisor (`supervisor.Callback`) that ends a run at the first one met."""

    def __init__(self, config: StopConfig) -> None:
        """Begin to count the time."""
        self._config, self._began_s = config, time.monotonic()

    def tick(self, supervisor: Supervisor) -> None:
        """End the run if a condition is met and nothing else ends it already."""
        recorder = supervisor.recorder
        limit_s = self._config.max_time
        if limit_s is not None:
            recorder.most_left_s = max(0.0, limit_s - (time.monotonic() - self._began_s))
        if recorder.status in ("starting", "running") and (reason := self.met(recorder)):
            recorder.log_event(f"{reason.text}: saving and stopping", kind="stop")
            supervisor.finish(reason)

    def met(self, recorder: Recorder) -> StopReason | None:
        """Return the condition that is met; None if the run is to go on."""
        return self._score(recorder) or self._flat(recorder) or self._time()

    def _score(self, recorder: Recorder) -> StopReason | None:
        wanted, mean = self._config.stop_score, recorder.episodes.full_mean_return
        if wanted is None or mean is None or mean < wanted:
            return None
        return StopReason(
            BY_SCORE,
            f"the mean score of {EPISODES_IN_MEAN} episodes, {mean:.2f}, has reached "
            f"--stop-score {wanted:g}",
        )

    def _flat(self, recorder: Recorder) -> StopReason | None:
        """Whether the best mean score is as old as the limit; it exists from 100 episodes on."""
        most, best = self._config.stop_when_flat, recorder.episodes.best
        if most is None or best is None:
            return None
        since = recorder.steps_since_best
        if since < most:
            return None
        return StopReason(
            "stop-when-flat",
            f"the best mean score, {best:.2f}, has not risen for {since:,} agent steps "
            f"(--stop-when-flat {most})",
        )

    def _time(self) -> StopReason | None:
        limit_s = self._config.max_time
        if limit_s is None or time.monotonic() - self._began_s < limit_s:
            return None
        return StopReason("max-time", f"--max-time {duration_text(limit_s)} is over")
