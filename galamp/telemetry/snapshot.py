"""Snapshot: plain values that describe a run at one moment, for all displays.

The supervisor makes it from readings of the status board; the dashboard, `metrics.jsonl` and the
summary are made from it. No clock, no process and no shared memory here, so rendering is a pure
function.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum


class WorkerState(IntEnum):
    """State of a child process, as the supervisor sees it."""

    STARTING = 0
    RUNNING = 1
    DONE = 2
    FAILED = 3


EPISODES_IN_MEAN = 100
"""Number of most recent training episodes in every mean score."""

LEARNER_PHASES = ("collect", "infer", "update", "gossip", "other")
"""Phases of a learner's time: waiting for simulators, acting, learning, gossip, the rest."""


@dataclass(frozen=True)
class LearnerSnapshot:
    """One learner."""

    rank: int
    state: WorkerState
    device: str
    incarnation: int = 0
    agent_steps: int = 0
    agent_steps_per_s: float = 0.0
    updates: int = 0
    rounds: int = 0
    envs: int = 0
    """Environments that take part: fewer than all while a simulator restarts."""
    phase_shares: dict[str, float] = field(default_factory=dict)
    """Share of recent time per phase of `LEARNER_PHASES`, in 0..1, summing to about 1."""
    mean_return: float | None = None
    """Mean true score of the learner's last 100 training episodes; None before the first."""
    episodes: int = 0
    staleness: int = 0
    """Rounds since the learner last mixed."""
    sent: int = 0
    received: int = 0
    dropped: int = 0
    """Messages overwritten by newer ones before they were read."""
    distance: float | None = None
    """L2 distance of the learner's parameters to the mean over learners; None when unknown."""
    out_peers: tuple[int, ...] = ()
    """Ranks that it sends to now."""


@dataclass(frozen=True)
class ConsensusReading:
    """Distances between the learners' parameters, last measured; L2 norms, None if unknown."""

    distances: tuple[float, ...] = ()
    """Of each learner to the mean over learners; empty before the first measurement."""
    rms: float | None = None
    """Root mean square of these."""
    pairwise: float | None = None
    """The greatest distance between two learners."""
    certificate: float | None = None
    """Upper bound of the greatest distance, from the recorded mixes and the updates' lengths."""
    ratio: float | None = None
    """Greatest distance divided by its certificate, in 0..1."""
    radius: float | None = None
    """Theoretical bound of `rms`: in lock-step, on a doubly stochastic graph, from an equal start.
    """
    gradient_correlation: float | None = None
    """Mean cosine between different learners' gradients, in -1..1."""


@dataclass(frozen=True)
class Event:
    """An event to report, at `elapsed_s` seconds into this attempt of the run."""

    elapsed_s: float
    text: str
    kind: str = "notice"
    """One word, as in events.jsonl."""


@dataclass(frozen=True)
class Snapshot:
    """A whole run."""

    env_id: str
    protocol: str
    run_dir: str
    status: str
    """One word: starting, running, stopping, checkpointing, finished, failed."""
    elapsed_s: float
    agent_steps: int
    total_steps: int
    frames_per_step: int
    """Emulator frames per agent step (1 where there are no frames)."""
    agent_steps_per_s: float
    learners: tuple[LearnerSnapshot, ...] = ()
    topology: str = "ring"
    episodes: int = 0
    mean_return: float | None = None
    """Mean true score of the last 100 training episodes over all learners."""
    best_mean_return: float | None = None
    mean_length: float | None = None
    """Mean length of the same episodes, in agent steps."""
    curve: tuple[tuple[int, float], ...] = ()
    """(agent steps, mean return) since the run began, thinned to a few hundred points."""
    losses: dict[str, float] = field(default_factory=dict)
    """What the algorithm measures, in its order: means over learners."""
    consensus: ConsensusReading = field(default_factory=ConsensusReading)
    events: tuple[Event, ...] = ()
    """Oldest first."""
    restarts: int = 0

    @property
    def score(self) -> float:
        """The mean score, for programs: NaN before the first episode, so comparisons are false."""
        return math.nan if self.mean_return is None else self.mean_return

    @property
    def remaining_s(self) -> float | None:
        """Time left at the current rate; None while that is unknown."""
        if self.agent_steps_per_s <= 0:
            return None
        return max(0, self.total_steps - self.agent_steps) / self.agent_steps_per_s
