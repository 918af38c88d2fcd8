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
    overwritten: int = 0
    """Messages overwritten by newer ones before they were read."""
    distance: float | None = None
    """L2 distance of the learner's parameters to the mean over learners; None when unknown."""
    out_peers: tuple[int, ...] = ()
    """Ranks that it sends to now."""


@dataclass(frozen=True)
class EdgeSnapshot:
    """One edge of the gossip graph, over which something was mixed in this attempt."""

    sender: int
    receiver: int
    age: int
    """Rounds of the receiver since it last mixed a vector of the sender."""
    mixes: int = 0
    weight: float = 0.0
    """Mixing weight of the last one."""


@dataclass(frozen=True)
class NodeSnapshot:
    """Another node of a run on several machines, as this node's bridge sees it.

    Attributes:
        node: its number.
        learners: first and last of its learners, as they are numbered here.
        present: whether it can be reached, and agrees.
        received: vectors that were taken from it.
        sent: vectors that were sent to it.
        overwritten: publications that were not, for newer ones replaced them.
        refused: what it sent and was not taken, as of another learner, or damaged.
        received_per_s: bytes of such vectors per second, over the last seconds.
        sent_per_s: the same of those that were sent to it.
    """

    node: int
    learners: tuple[int, int]
    present: bool
    received: int = 0
    sent: int = 0
    overwritten: int = 0
    refused: int = 0
    received_per_s: float = 0.0
    sent_per_s: float = 0.0


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
    last_certificate: float | None = None
    """The newest certificate that there was, where the last measurement has none."""
    last_certificate_age_s: float | None = None
    radius: float | None = None
    """Theoretical bound of `rms`: in lock-step, on a doubly stochastic graph, from an equal start.
    """
    gradient_correlation: float | None = None
    """Mean cosine between different learners' gradients, in -1..1."""


@dataclass(frozen=True)
class EvaluationReading:
    """The newest evaluation of the mean of all learners, while the run trains.

    Attributes:
        agent_steps: agent steps of the checkpoint that played.
        mean: mean true score of its games.
        standard_error: of the mean; None of one game.
        episodes: number of games.
        best: highest mean of all evaluations.
        best_at: agent steps of that one's checkpoint.
    """

    agent_steps: int
    mean: float
    standard_error: float | None
    episodes: int
    best: float
    best_at: int


@dataclass(frozen=True)
class Event:
    """An event to report, at `elapsed_s` seconds into this attempt, or before it (below 0)."""

    elapsed_s: float
    text: str
    kind: str = "notice"
    """One word, as in events.jsonl."""


@dataclass(frozen=True)
class GpuReading:
    """One GPU that learners use, as it was last sampled; None: not reported."""

    device: str
    name: str = ""
    utilisation: float | None = None
    """Share of time in which a kernel ran, 0..1."""
    memory_bytes: int | None = None
    """Memory in use, by whomever."""
    memory_total_bytes: int | None = None
    watts: float | None = None


@dataclass(frozen=True)
class SystemReading:
    """The machine under the run, over the last seconds; None: not known."""

    cores: tuple[int, ...] = ()
    """Numbers of the processors that the run may use."""
    loads: tuple[float, ...] = ()
    """Share of time in which each of them was busy, 0..1."""
    run_share: float | None = None
    """Share of their time that the run's processes took, 0..1."""
    others_share: float | None = None
    """Share of their time that other programs took, 0..1."""
    memory_bytes: int | None = None
    """Memory of the run: private memory of its processes, and the shared block."""
    free_bytes: int | None = None
    """Memory that the run could still have."""
    gpus: tuple[GpuReading, ...] = ()
    gpu_note: str = ""
    """Why there are no figures of the GPUs in use; empty where there are."""
    watts: float | None = None
    """Power of these GPUs."""
    joules_per_frame: float | None = None
    """Energy of these GPUs per emulator frame (per agent step where there are no frames)."""


@dataclass(frozen=True)
class Goal:
    """What a run is to do, where that is not a number of agent steps: faults for some time."""

    share: float
    """Done, 0..1."""
    text: str
    """The same in figures: `14 of 20 s   fault 4 of 5`."""
    remaining_s: float | None = None


@dataclass(frozen=True)
class MetricHistory:
    """Some metrics over the whole run, thinned to a few hundred rows; of all its attempts."""

    number: int
    """Another number: other values."""
    steps: tuple[int, ...]
    """Agent steps of each row."""
    columns: dict[str, tuple[float | None, ...]]
    """By the names of metrics.jsonl; those of single learners, too."""


@dataclass(frozen=True)
class GameFrame:
    """The newest observation of one environment, as it stands in shared memory.

    It is read without a lock, so it may be torn: a part of it may be of the frame before.
    """

    learner: int
    env_index: int
    width: int
    """Of a picture; 0 for observations that are none."""
    height: int
    pixels: str
    """Picture: its grey levels row by row, two hexadecimal digits each."""
    values: tuple[float, ...] = ()
    """Observations that are no picture: the first few numbers."""


@dataclass(frozen=True)
class Snapshot:
    """A whole run."""

    env_id: str
    protocol: str
    run_dir: str
    status: str
    """One word: starting, running, stopping, checkpointing, evaluating, finished,
    failed."""
    elapsed_s: float
    """Since this attempt began."""
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
    learning_rate: float | None = None
    """Of the last updates: mean over learners; None while it is unknown."""
    consensus: ConsensusReading = field(default_factory=ConsensusReading)
    evaluation: EvaluationReading | None = None
    """None before the first one."""
    events: tuple[Event, ...] = ()
    """Oldest first."""
    restarts: int = 0
    attempt: int = 1
    """Number of this start of the run, from 1."""
    former_s: float = 0.0
    """Training time of the attempts before this one."""
    remaining_s: float | None = None
    """Time left at a rate that changes slowly; None until that is known."""
    max_staleness: int | None = None
    """Bound of `LearnerSnapshot.staleness`; None where there is none."""
    max_grad_norm: float | None = None
    """L2 norm that gradients are clipped to; None where they are not."""
    edges: tuple[EdgeSnapshot, ...] = ()
    """Edges of the graph, of large graphs only the oldest."""
    has_ages: bool = False
    """Whether the ages of edges are recorded."""
    nodes: tuple[NodeSnapshot, ...] = ()
    """The other nodes, in a run on several machines."""
    system: SystemReading = field(default_factory=SystemReading)
    bottleneck: str = ""
    """What limits the throughput, and what to change; empty while that is not known."""
    goal: Goal | None = None
    history: MetricHistory | None = None
    """None: unchanged since the last snapshot, or nothing yet."""
    game: GameFrame | None = None
    """None: nobody looks at it."""

    @property
    def score(self) -> float:
        """The mean score, for programs: NaN before the first episode, so comparisons are false."""
        return math.nan if self.mean_return is None else self.mean_return

    @property
    def total_s(self) -> float:
        """Training time over all attempts."""
        return self.former_s + self.elapsed_s
