r"""Recorder: turns the status board into snapshots, rows for the metric sinks, and the summary.

    StatusBoard, EpisodeRings, ConsensusMonitor --Recorder--> Snapshot --> dashboard
                                                          \--> metric sinks: files, TensorBoard
    what happens --Recorder.log_event--> the screen and events.jsonl

Runs in the supervisor; it only reads what the children write.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from galamp.core.nodes import Ranks
from galamp.core.throughput import ThroughputMeter
from galamp.memory.latest_observation import latest_observation
from galamp.memory.metrics import LEARNING_RATE, EpisodeRing
from galamp.storage.event_log import EventLog, read_events
from galamp.storage.learning_curve import Curve, thinned
from galamp.storage.run_folder import RunFolder
from galamp.supervision.layout import RunLayout
from galamp.telemetry.bottleneck import bottleneck
from galamp.telemetry.consensus import ConsensusMonitor
from galamp.telemetry.episode_statistics import EpisodeStatistics
from galamp.telemetry.game_frame import game_frame
from galamp.telemetry.learner_reading import LearnerReading, shares_of
from galamp.telemetry.metric_history import MetricHistoryBuilder
from galamp.telemetry.metrics_row import mean_of, metrics_row
from galamp.telemetry.node_readings import NodeReadings
from galamp.telemetry.notices import Notices
from galamp.telemetry.sinks.base import Episode
from galamp.telemetry.sinks.group import SinkGroup
from galamp.telemetry.snapshot import (
    EvaluationReading,
    Event,
    GameFrame,
    Goal,
    LearnerSnapshot,
    Snapshot,
    SystemReading,
)
from galamp.telemetry.system_monitor import SystemMonitor
from galamp.telemetry.throughput_facts import FactsReader
from galamp.telemetry.time_left import TimeLeft

MAX_EVENTS = 50
STEPS_ELSEWHERE, MACHINES, SESSIONS = "steps_elsewhere", "machines", "sessions"
"""In a checkpoint's progress: agent steps of each learner of the other nodes of a run; the place of
this one among them, also where it has gone on alone since; and the sessions of the starts that its
agent steps may have been made in."""
LATEST_FORMER_S = -0.001
"""Time of an event that an earlier start told after its last checkpoint: it is no event of this."""
MAX_FORMER_EVENTS = 20
"""Events of earlier starts that are shown."""


@dataclass
class Losses:
    """Lost processes over all attempts of a session.

    Attributes:
        restarts: number of restarts.
        given_up: titles of those that were not restarted, in the attempt in which they were lost.
    """

    restarts: int = 0
    given_up: list[str] = field(default_factory=list)


class Recorder:
    """Reads the status board and makes snapshots, rows and files of it."""

    def __init__(
        self,
        run_layout: RunLayout,
        folder: RunFolder,
        sinks: SinkGroup,
        consensus: ConsensusMonitor,
        system: SystemMonitor | None = None,
        rates: Mapping[int, float] | None = None,
    ) -> None:
        """Record one attempt.

        Args:
            run_layout: what the children write to.
            folder: of the run.
            sinks: where rows of metrics go.
            consensus: measures distances.
            system: samples the machine (default: nothing does).
            rates: agent steps/s by number of learners, as measured on this machine before.
        """
        self._run_layout, self.folder, self._sinks = run_layout, folder, sinks
        self._consensus, self._system = consensus, system
        self._facts = FactsReader(run_layout, rates or {})
        self._time_left, self._history = TimeLeft(), MetricHistoryBuilder(run_layout.count)
        self._limit = ""
        self.goal: Goal | None = None
        """What the run is to do, where that is not a number of agent steps."""
        self.most_left_s: float | None = None
        """Time left by a limit of time."""
        self._began_s = time.monotonic()
        self._former_s = 0.0
        self._overall = ThroughputMeter()
        self.status = "starting"
        board = run_layout.status_board
        self.learners = [LearnerReading(row) for row in board.learners()]
        self._elsewhere = [LearnerReading(board.learner(r)) for r in run_layout.plan.ranks.remote]
        self._nodes = NodeReadings(run_layout)
        workers = run_layout.shape.workers
        self._rings = [EpisodeRing(run_layout.arrays, i) for i in range(run_layout.count * workers)]
        self._tails = [0] * len(self._rings)
        self.episodes = EpisodeStatistics()
        self.evaluation: EvaluationReading | None = None
        """The newest evaluation while the run trains."""
        self.losses = Losses()
        self._notices = Notices(self.log_event)
        self._curve = Curve()
        plan = run_layout.plan
        self._machines = None if plan.place is None else plan.ranks
        self._events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self._event_log = EventLog(folder.events, run_layout.start, self.log_event, folder.where)
        sinks.warn = partial(self.log_event, kind="sink")

    @property
    def elapsed_s(self) -> float:
        """Seconds since this start of the run."""
        return time.monotonic() - self._began_s

    @property
    def steps_since_best(self) -> int:
        """Agent steps since the mean of 100 episodes was last higher than ever."""
        return self._run_layout.status_board.agent_steps() - self.episodes.best_at

    def mark_running(self) -> None:
        """Record that all learners run: the overall rate is measured from now on."""
        self.status = "running"
        self.log_event(f"all learners run after {self.elapsed_s:.1f} s", kind="running")
        self._overall.restart()
        self._time_left.restart()
        self._overall.add(time.monotonic(), self._run_layout.status_board.agent_steps())

    def mark_ended(self) -> None:
        """Record that the learners have ended: the overall rate is measured until now."""
        self._overall.add(time.monotonic(), self._run_layout.status_board.agent_steps())

    def overall_rate(self) -> float:
        """Return agent steps per second while all learners ran; 0 if they never did."""
        return self._overall.rate

    def overall_shares(self) -> dict[str, float]:
        """Return the share of each phase in all learners' time since this attempt began."""
        return shares_of(
            np.sum([row.phase_s() for row in self._run_layout.status_board.learners()], axis=0)
        )

    def log_event(
        self, text: str, *, kind: str = "notice", who: str = "", cause: str = "", command: str = ""
    ) -> None:
        """Show an event, and keep it in events.jsonl; see `event_log.KeptEvent` for the fields."""
        event = Event(self.elapsed_s, text, kind)
        self._events.append(event)
        self._event_log.append(
            time.time(), event.elapsed_s, text, wall_s=self._former_s + event.elapsed_s, kind=kind,
            who=who, cause=cause, command=command,
        )  # fmt: skip

    def progress(self) -> dict[str, Any]:
        """Return the progress that a checkpoint stores besides the learners' states."""
        elsewhere = [reading.row["agent_steps"] for reading in self._elsewhere]
        return {
            "agent_steps": self._run_layout.status_board.agent_steps(),
            "wall_s": self._former_s + self.elapsed_s,
            **self.episodes.progress(),
            **({STEPS_ELSEWHERE: elsewhere} if elsewhere else {}),
            **({MACHINES: list(self._machines)} if self._machines else {}),
        }

    def resume_from(
        self, progress: dict[str, Any], curve: Curve, rows: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Continue from the progress, the curve and rows of metrics of earlier starts."""
        self._history.extend(rows)
        self._events.extendleft(reversed(self._former_events(float(progress["wall_s"]))))
        self.episodes.resume_from(progress)
        self._former_s = float(progress["wall_s"])
        if self._machines is None and progress.get(MACHINES):  # it goes on alone
            self._machines = Ranks(*progress[MACHINES])
        self._curve = curve
        for learner in (*self.learners, *self._elsewhere):
            learner.start_afresh()

    def _former_events(self, former_s: float) -> list[Event]:
        """Return the newest events of earlier starts; their times are before this one's begin."""
        kept = deque(read_events(self.folder.events), maxlen=MAX_FORMER_EVENTS)
        return [
            Event(min(LATEST_FORMER_S, event.wall_s - former_s), event.text, event.kind)
            for event in kept
            if event.start < self._run_layout.start
        ]

    def read(self) -> None:
        """Read the counters and episodes since the last call."""
        now_s = time.monotonic()
        for learner in (*self.learners, *self._elsewhere):
            learner.sample(now_s)
        self._nodes.sample(now_s)
        self._time_left.add(now_s, self._run_layout.status_board.agent_steps())
        for rank, score, length, env_index, ended in self._finished():
            self._episode(rank, score, int(length), int(env_index), ended)
        self._notices.observe([learner.row for learner in self.learners])
        self._consensus.follow()
        if self._system is not None:
            self._system.sample()
        if self._facts.sample(now_s):
            self._limit = self._bottleneck()

    def _finished(self) -> list[tuple[int, float, float, float, float]]:
        """Return the episodes that ended since the last call, of all learners, by time.

        Each is (learner, true score, length in agent steps, env index, time.time() at its end).
        """
        found = []
        for index, ring in enumerate(self._rings):
            entries, self._tails[index] = ring.drain(self._tails[index])
            rank = index // self._run_layout.shape.workers
            found += [(rank, *entry) for entry in entries.tolist()]
        return sorted(found, key=lambda episode: episode[-1])

    def log(self) -> None:
        """Measure distances, and give the metric sinks one row."""
        agent_steps = self._run_layout.status_board.agent_steps()
        self._consensus.measure(self._former_s + self.elapsed_s, agent_steps)
        snapshot = self.snapshot()
        if snapshot.mean_return is not None:
            self._curve.add(snapshot.agent_steps, snapshot.mean_return)
        row = metrics_row(snapshot, self._former_s)
        self._history.add(row)
        self._sinks.write(row)

    def close(self) -> None:
        """Close the metric sinks: this start of the run has ended."""
        self._sinks.close()

    def snapshot(self, *, with_game: bool = False) -> Snapshot:
        """Return the current snapshot of the run; `with_game`: with the newest frame of a game."""
        distances = dict(enumerate(self._consensus.reading.distances))
        learners = tuple(
            self._learner(r, reading, distances.get(r)) for r, reading in enumerate(self.learners)
        )
        config = self._run_layout.plan.config
        gauges = mean_of([reading.row.metrics.gauges() for reading in self.learners])
        learning_rate = gauges.pop(LEARNING_RATE, None)
        own_rate = sum(reading.rate() for reading in self.learners)
        gossip = config.gossip
        return Snapshot(
            env_id=self._run_layout.environment.env_id,
            protocol=self._run_layout.environment.protocol,
            run_dir=str(self.folder.path),
            status=self.status,
            elapsed_s=self.elapsed_s,
            agent_steps=self._run_layout.status_board.agent_steps(),
            total_steps=config.total_steps,
            frames_per_step=self._run_layout.environment.frames_per_step,
            agent_steps_per_s=own_rate + sum(reading.rate() for reading in self._elsewhere),
            learners=learners,
            topology=gossip.graph,
            episodes=self.episodes.count,
            mean_return=self.episodes.mean_return,
            best_mean_return=self.episodes.best,
            mean_length=self.episodes.mean_length,
            curve=thinned(self._curve.points),
            losses=gauges,
            learning_rate=learning_rate,
            consensus=self._consensus.reading,
            evaluation=self.evaluation,
            events=tuple(self._events),
            restarts=self.losses.restarts,
            attempt=self._run_layout.start,
            former_s=self._former_s,
            remaining_s=self._remaining_s(),
            max_staleness=0 if gossip.synchronous else gossip.max_staleness,
            max_grad_norm=getattr(config.algorithm, "max_grad_norm", None) or None,
            edges=self._consensus.edges(),
            has_ages=self._consensus.has_ages,
            nodes=self._nodes.snapshots(),
            system=self._seen(own_rate),
            bottleneck=self._limit,
            goal=self.goal,
            history=self._history.reading,
            game=self._game() if with_game else None,
        )

    def _remaining_s(self) -> float | None:
        """Return the time left, by the agent steps or by a limit of time."""
        left = self._run_layout.plan.config.total_steps
        left -= self._run_layout.status_board.agent_steps()
        by_steps_s = self._time_left.seconds(time.monotonic(), left)
        known = [each for each in (by_steps_s, self.most_left_s) if each is not None]
        return min(known, default=None)

    def _seen(self, own_rate: float) -> SystemReading:
        """Return the last sample of the machine, with the energy per frame.

        `own_rate`: agent steps/s of this machine's learners, as the power is of its devices.
        """
        if self._system is None:
            return SystemReading()
        reading = self._system.reading
        frames = own_rate * self._run_layout.environment.frames_per_step
        if reading.watts is None or frames <= 0:
            return reading
        return replace(reading, joules_per_frame=reading.watts / frames)

    def _bottleneck(self) -> str:
        if self.status != "running" or self._system is None:
            return ""
        return bottleneck(self._facts.facts(self.learners, self._system.reading))

    def _game(self) -> GameFrame | None:
        layout = self._run_layout
        observation = latest_observation(layout.arrays, 0, layout.shape)
        return None if observation is None else game_frame(observation, 0, 0)

    def _episode(self, rank: int, score: float, length: int, env_index: int, ended: float) -> None:
        if not math.isfinite(score):
            self.log_event(
                f"learner {rank}, env {env_index}: a game's score is {score}: left out of all means"
            )
            return
        self.learners[rank].scores.append(score)
        self.learners[rank].episodes += 1
        self.episodes.add(score, length, self._run_layout.status_board.agent_steps())
        self._sinks.add_episode(Episode(rank, score, length, ended))

    def _learner(
        self, rank: int, reading: LearnerReading, distance: float | None
    ) -> LearnerSnapshot:
        row = reading.row
        return LearnerSnapshot(
            rank=rank,
            state=reading.state,
            device=self._run_layout.plan.learners[rank].device,
            incarnation=self._run_layout.control.incarnation(rank),
            agent_steps=row["agent_steps"],
            agent_steps_per_s=reading.rate(),
            updates=row["updates"],
            rounds=row["rounds"],
            envs=row.metrics["envs"],
            phase_shares=reading.phase_shares(),
            mean_return=float(np.mean(reading.scores)) if reading.scores else None,
            episodes=reading.episodes,
            staleness=row["staleness"],
            sent=row.metrics["sent"],
            received=row.metrics["received"],
            overwritten=row.metrics["dropped"],
            distance=distance,
            out_peers=self._run_layout.topology.out_peers(rank, row["rounds"]),
        )
