"""A run from its first start to its last: another number of learners is a start of its own.

    Former --_begin--> Started: Arena, Recorder, Saver --Supervisor.run--> RunResult
       ^                                                                    |
       |                                            rescaled: the learners' last states
       `-----------------------------------------------------------------'
                                                otherwise: summary.json, the end

A rescaled start that fails before all in it have done any work leads back to the one before it.
Runs in the supervisor. Folder, display, door and signals last over all starts.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from galamp.core.config import to_dict
from galamp.core.errors import GalampError, UserError
from galamp.core.machine.machine import Machine, lacks_bf16, told_quota
from galamp.core.machine.memory import available_bytes
from galamp.core.machine.mps import mps_folder, mps_in_words
from galamp.environments.base import EnvironmentSpec
from galamp.memory.learner_state import State
from galamp.storage.gossip_log import GOSSIP, GossipLog
from galamp.storage.identity import Identity
from galamp.storage.run_folder import Kept, RunFolder
from galamp.storage.run_logs import MetricsLog
from galamp.supervision.layout import Arena, ModelSketch
from galamp.supervision.plan import CPU, Plan, check_processes, left_out, with_learners
from galamp.supervision.signals import Signals
from galamp.telemetry.consensus import ConsensusMonitor, History
from galamp.telemetry.display.dashboard import Display
from galamp.telemetry.display.streams import SafeStream
from galamp.telemetry.recorder import Losses, Recorder
from galamp.training.checkpointing import Saver
from galamp.training.control.server import Door
from galamp.training.resolve import Course, chart_course
from galamp.training.resume import first_entry, states_for, take_over
from galamp.training.resume_point import Former, load_former
from galamp.training.summary import summarise, versions
from galamp.training.supervisor import Companion, RunResult, Supervisor

BEGIN_WITHIN_S, RETRY_EVERY_S = 60.0, 3.0


@dataclass(frozen=True)
class Outcome:
    """A training that has ended: how, and its summary as written to summary.json."""

    result: RunResult
    summary: dict[str, Any]
    folder: Path


@dataclass(frozen=True)
class Ground:
    """What is the same in every start of a run."""

    machine: Machine
    environment: EnvironmentSpec
    sketch: ModelSketch
    identity: Identity


@dataclass(frozen=True)
class Started:
    """One start, ready to be supervised."""

    number: int
    began_s: float
    course: Course
    arena: Arena
    recorder: Recorder
    saver: Saver


class Retreat:
    """What ran before another number of learners was asked for, until all of these have worked.

    Nobody knows better whether there is room for them than the kernel. See `supervisor.Companion`.
    """

    def __init__(self, confirm: Callable[[], object]) -> None:
        """`confirm` is called once they all have worked."""
        self.to: tuple[Course, Former] | None = None
        self._confirm = confirm

    def tick(self, supervisor: Supervisor) -> None:
        """Forget it, and free its memory, once it is not needed any more."""
        if self.to is not None and all(post.has_worked for post in supervisor.crew.posts):
            self.to = None
            self._confirm()


class Session:
    """The loop over a run's starts."""

    def __init__(
        self,
        ground: Ground,
        folder: RunFolder,
        display: Display,
        door: Door,
        signals: Signals,
        companions: Sequence[Companion] = (),
    ) -> None:
        self._companions = companions
        self._ground, self._folder = ground, folder
        self._display, self._door, self._signals = display, door, signals
        self._has_begun = False
        self._losses, self._retreat = Losses(), Retreat(door.confirm)

    def run(self, course: Course, former: Former | None) -> Outcome:
        """Train until the run ends.

        Raises:
            UserError: it cannot even begin.
        """
        started = self._begin(course, former)
        while True:
            result = self._supervise(started)
            if result.scale_to is not None:
                self._retreat.to = started.course, self._left(started)
                del started
                started = self._begin_anew(result.scale_to)
            elif self._can_go_back(result):
                del started
                started = self._go_back(str(result.failure))
            else:
                return self._conclude(started, result)

    def _begin(self, course: Course, former: Former | None) -> Started:
        """Lay everything out for one start, and where it goes on from."""
        began_s, ground, folder = time.monotonic(), self._ground, self._folder
        new: dict[str, Any] = {"agent_steps": 0, "wall_s": 0.0}
        done = former.checkpoint.progress if former else new
        metrics = MetricsLog(folder.metrics, done["agent_steps"], complain, folder.where)
        number, plan = metrics.start, course.plan
        arena = Arena(
            plan, course.topology, ground.environment, ground.sketch, folder.logs, number,
            folder.where,
        )  # fmt: skip
        states = states_for(arena, former, number) if former else []
        history = _history(arena, folder, states, done["wall_s"], number)
        recorder = Recorder(arena, folder, metrics, ConsensusMonitor(arena, history))
        recorder.losses = self._losses
        saver = Saver(
            arena, ground.identity, folder.checkpoints, recorder.tell,
            folder.settled_where, folder.remove_dead,
        )  # fmt: skip
        if former is not None:
            take_over(states, former, arena, recorder, folder)
            saver.go_on()
        self._store(course, arena, recorder)
        _tell_choices(plan, ground.machine, recorder)
        share_bytes = arena.arrays.size_bytes // arena.count
        self._door.begin(arena.count, lambda count: self._allow(plan, share_bytes, count))
        gc.freeze()
        return Started(number, began_s, course, arena, recorder, saver)

    def _store(self, course: Course, arena: Arena, recorder: Recorder) -> None:
        """Write config.json, and at the first start the graph; one that has begun goes on without.

        Raises:
            UserError: the disk refuses, at the first start.
        """
        graph = None if self._has_begun else course.graph
        try:
            changed = self._folder.write_config(
                _stored_config(course.plan, arena),
                None if graph is None else graph.content,
            )
        except UserError as error:
            if not self._has_begun:
                raise
            complain(f"{error}; it still tells of the former start")
        else:
            if changed and graph is not None:
                recorder.tell(f"gossip graph: another one than before, from {graph.path}")
        self._has_begun = True

    def _supervise(self, started: Started) -> RunResult:
        return Supervisor(
            started.arena,
            started.recorder,
            started.saver,
            self._display,
            self._door,
            self._signals,
            [*self._companions, self._retreat],
        ).run()

    def _left(self, started: Started) -> Former:
        """Return what a start has left; on the disk, should its learners not have come that far."""
        if started.saver.last is not None:
            return Former(self._folder.path, started.saver.last, ())
        ground = self._ground
        return load_former(self._folder.path, ground.identity, ground.sketch.state_sizes)

    def _begin_anew(self, learners: int) -> Started:
        """Begin with so many learners, or, where there is no room for them, as before."""
        assert self._retreat.to is not None
        course, former = self._retreat.to
        gc.unfreeze()
        gc.collect()  # the former start's memory
        try:
            return self._begin(self._course_for(course.plan, learners), former)
        except (UserError, OSError) as error:
            why = str(error)
        return self._go_back(why)  # not above, where what has failed still holds its memory

    def _can_go_back(self, result: RunResult) -> bool:
        """Whether a start failed in which not all who were asked for have done any work yet."""
        if self._retreat.to is None or result.failure is None:
            return False
        course, _ = self._retreat.to
        wanted = course.plan.config.resources.max_restarts > 0 and not result.is_stopped
        return wanted and not self._folder.lost

    def _go_back(self, why: str) -> Started:
        """Begin again what ran before others were asked for, which cannot be had.

        Raises:
            UserError, OSError: see `_begin_patiently`.
        """
        assert self._retreat.to is not None
        course, former = self._retreat.to
        self._retreat.to = None
        gc.unfreeze()
        gc.collect()
        self._door.decline(why)
        started = self._begin_patiently(course, former)
        started.recorder.tell(f"{len(course.plan.learners)} learners as before: {why}")
        return started

    def _begin_patiently(self, course: Course, former: Former) -> Started:
        """Begin again what ran a moment ago: should others have taken its memory, wait for it.

        Raises:
            UserError, OSError: it has not come back in time, or someone wants the run to end.
        """
        until_s = time.monotonic() + BEGIN_WITHIN_S
        while True:
            try:
                return self._begin(course, former)
            except (UserError, OSError):
                if self._signals.pending or time.monotonic() > until_s:
                    raise
            time.sleep(RETRY_EVERY_S)

    def _allow(self, plan: Plan, share_bytes: int, learners: int) -> None:
        """Check that the run, with its share of memory per learner, could have so many.

        Raises:
            UserError: it could not.
        """
        course = self._course_for(plan, learners)
        check_processes(course.plan, running=plan.tasks)
        more_bytes = share_bytes * (learners - len(plan.learners))
        free_bytes = available_bytes()
        if more_bytes > free_bytes:
            raise UserError(
                f"--learners {learners}: {more_bytes / 2**20:,.0f} MiB more are needed, "
                f"{free_bytes / 2**20:,.0f} MiB are free: free memory, or take fewer"
            )

    def _course_for(self, plan: Plan, learners: int) -> Course:
        """Plan for another number of learners.

        Raises:
            UserError: the run cannot have so many.
        """
        if plan.config.gossip.method == "a2c":
            raise UserError(
                "--method a2c: one learner has everyone's simulators, others would have none; "
                "--learners is for methods with several"
            )
        machine = self._ground.machine
        config = with_learners(plan.asked, learners, machine, plan.learners)
        return chart_course(config, machine, Kept(self._folder.path, devices=True))

    def _conclude(self, started: Started, result: RunResult) -> Outcome:
        wall_s = time.monotonic() - started.began_s
        summary = summarise(result, started.arena, started.recorder, started.number, wall_s)
        try:
            self._folder.write_summary(summary)
        except GalampError as error:  # of a full disk: it takes nothing from what was trained
            complain(str(error))
        self._door.end(result.status)
        return Outcome(result, summary, self._folder.path)


def complain(text: str) -> None:
    """Warn of something that does not end the run; if nobody hears it, that does not either."""
    stream = SafeStream(sys.stderr)
    stream.write(f"galamp: warning: {text}\n")
    stream.flush()


def _history(
    arena: Arena, folder: RunFolder, states: list[State], wall_s: float, number: int
) -> History | None:
    """Return what certifies the run; nothing where one learner is all, or nobody wants it."""
    gossip = arena.plan.config.gossip
    if arena.count == 1 or not gossip.certificate:
        return None
    log = GossipLog(folder.path / GOSSIP, complain, folder.where)
    history = History(arena.arrays, arena.topology, log, complain, lock_step=gossip.lock_step)
    history.begin(first_entry(arena, states, float(wall_s), number))
    return history


def _tell_choices(plan: Plan, machine: Machine, recorder: Recorder) -> None:
    config = plan.config
    for line in left_out(machine):
        recorder.tell(line)
    if config.resources.device != CPU and (folder := mps_folder()) is not None:
        recorder.tell(mps_in_words(folder))
    if machine.throttled:
        recorder.tell(f"{told_quota(machine)}: what is not set is chosen for {machine.usable}")
    some = "learner" if len(plan.learners) == 1 else "learners"
    recorder.tell(
        f"{len(plan.learners)} {some} of {config.environment.num_envs} simulators on "
        f"{config.resources.device}, learning rate {config.algorithm.learning_rate:.3g}"
    )
    if config.algorithm.precision == "bf16" and config.resources.device == CPU and lacks_bf16():
        recorder.tell("--precision bf16: this processor has no units for it; float32 is faster")


def _stored_config(plan: Plan, arena: Arena) -> dict[str, Any]:
    """Return config.json: the settings with every choice made, and what they led to."""
    return to_dict(plan.asked) | {
        "resolved": {
            "protocol": arena.environment.protocol,
            "network": arena.sketch.network,
            "parameters": arena.sketch.parameters,
            "learners": [
                {"rank": each.rank, "device": each.device, "cores": each.place._asdict()}
                for each in plan.learners
            ],
            "versions": versions(),
        }
    }
