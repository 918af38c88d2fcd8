"""One learner as the recorder has read it: its rates and shares over the last seconds, its scores.

    StatusRow --sample, several times a second--> LearnerReading --> LearnerSnapshot, Facts

Runs in the supervisor; it only reads what the learner writes.
"""

from __future__ import annotations

import time
from collections import deque

import numpy as np
import numpy.typing as npt

from galamp.core.throughput import ThroughputMeter
from galamp.memory.status import Phase, StatusRow
from galamp.telemetry.snapshot import EPISODES_IN_MEAN, WorkerState

RATE_WINDOW_S = 10.0
_LEARNER_PHASES = {
    "collect": (Phase.COLLECT,),
    "infer": (Phase.INFER,),
    "update": (Phase.UPDATE,),
    "gossip": (Phase.GOSSIP,),
    "other": (Phase.OTHER,),
}


class LearnerReading:
    """Earlier readings of one learner, from which its rates are computed."""

    def __init__(self, row: StatusRow) -> None:
        self.row = row
        self.scores: deque[float] = deque(maxlen=EPISODES_IN_MEAN)
        self.episodes = 0
        self.state = WorkerState.STARTING
        self._steps, self._phases = ThroughputMeter(RATE_WINDOW_S), ThroughputMeter(RATE_WINDOW_S)
        self.start_afresh()

    def start_afresh(self) -> None:
        """Measure rates from now on: the row's counts so far are of an earlier start."""
        self._steps.restart()
        self._phases.restart()
        self._updates_before = self.row["updates"]
        self.sample(time.monotonic())

    def sample(self, now_s: float) -> None:
        """Record counts and phase times, for the rates over the last `RATE_WINDOW_S`."""
        self._steps.add(now_s, self.row["agent_steps"])
        self._phases.add(now_s, self.row.phase_s())

    @property
    def updates(self) -> int:
        """Updates since this start of the run."""
        return self.row["updates"] - self._updates_before

    def rate(self) -> float:
        """Return agent steps per second over the window."""
        return self._steps.rate

    def phase_shares(self) -> dict[str, float]:
        """Return the share of each phase over the window."""
        return shares_of(self._phases.gain)


def shares_of(spent: npt.NDArray[np.float64]) -> dict[str, float]:
    """Return the share of each of a learner's phases in the seconds spent per `Phase`."""
    named = {name: sum(spent[p] for p in of) for name, of in _LEARNER_PHASES.items()}
    total = sum(named.values())
    return {name: float(s / total) for name, s in named.items()} if total > 0 else {}
