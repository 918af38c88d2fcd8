"""What a run looks like at one moment: plain values, made by the supervisor for all who show them.

The supervisor's `metrics.StatusBoard` readings go in; the dashboard, `metrics.jsonl` and the
summary come out. No clock, no process and no shared memory here, so rendering is a pure function.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum


class WorkerState(IntEnum):
    """Life of a child process, as the supervisor sees it."""

    STARTING = 0
    RUNNING = 1
    DONE = 2
    FAILED = 3


EPISODES_IN_MEAN = 100
"""Every mean score is over the last so many training episodes."""

LEARNER_PHASES = ("collect", "infer", "update", "gossip", "other")
"""What a learner's time goes to: waiting for simulators, acting, learning, gossip, the rest."""


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
    """Simulated environments that take part: fewer than all while a simulator is away."""
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
    """To whom it sends now."""


@dataclass(frozen=True)
class ConsensusReading:
    """How far apart the learners' parameters were when last measured; L2 norms, None if unknown."""

    distances: tuple[float, ...] = ()
    """Of each learner to the mean over learners; empty before the first measurement."""
    rms: float | None = None
    """Root mean square of these."""
    pairwise: float | None = None
    """The greatest distance between two learners."""
    certificate: float | None = None
    """What the greatest distance could be at most, by what was mixed and the updates' lengths."""
    ratio: float | None = None
    """Greatest distance divided by its certificate, in 0..1."""
    radius: float | None = None
    """Bound of `rms` in theory, in lock-step on a doubly stochastic graph from an equal start."""
    gradient_correlation: float | None = None
    """Mean cosine between different learners' gradients, in -1..1."""


@dataclass(frozen=True)
class Event:
    """Something worth telling, at `elapsed_s` seconds into this start of the run."""

    elapsed_s: float
    text: str


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
    """(agent steps, mean return) since the beginning, thinned to a few hundred points."""
    losses: dict[str, float] = field(default_factory=dict)
    """What the algorithm measures, in its order: means over learners."""
    consensus: ConsensusReading = field(default_factory=ConsensusReading)
    events: tuple[Event, ...] = ()
    """Oldest first."""
    restarts: int = 0

    @property
    def remaining_s(self) -> float | None:
        """Time left at the present rate, or None while that is unknown."""
        if self.agent_steps_per_s <= 0:
            return None
        return max(0, self.total_steps - self.agent_steps) / self.agent_steps_per_s
