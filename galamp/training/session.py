"""A run from its first start to its last: another number of learners is a start of its own.

    Former --_begin--> Attempt: RunLayout, Recorder, Saver --Supervisor.run--> RunResult
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

from galamp.core.errors import GalampError, UserError
from galamp.core.machine.machine import Machine, lacks_bf16, told_quota
from galamp.core.machine.memory import available_bytes
from galamp.core.machine.mps import mps_folder, mps_in_words
from galamp.environments.base import EnvironmentSpec
from galamp.storage.identity import Identity
from galamp.storage.run_folder import RunFolder, StoredChoices
from galamp.storage.run_logs import next_start
from galamp.supervision.layout import ModelSketch, RunLayout
from galamp.supervision.plan import CPU, Plan, check_processes, left_out, with_learners
from galamp.supervision.signals import Signals
from galamp.telemetry.consensus import ConsensusMonitor
from galamp.telemetry.display.dashboard import Display
from galamp.telemetry.display.streams import SafeStream
from galamp.telemetry.recorder import Losses, Recorder
from galamp.telemetry.sinks import open_sinks
from galamp.telemetry.sinks.base import SinkContext
from galamp.telemetry.sinks.group import SinkGroup
from galamp.training.checkpointing import Saver
from galamp.training.control.server import ControlServer
from galamp.training.resolve import ResolvedRun, resolve_run
from galamp.training.resume import history_of, restore, states_for
from galamp.training.resume_point import ResumePoint, load_resume_point, progress_of
from galamp.training.summary import stored_config, summarise
from galamp.training.supervisor import Callback, RunResult, Supervisor

BEGIN_WITHIN_S, RETRY_EVERY_S = 60.0, 3.0


@dataclass(frozen=True)
class Outcome:
    """A training that has ended: how, and its summary as written to summary.json."""

    result: RunResult
    summary: dict[str, Any]
    folder: Path


@dataclass(frozen=True)
class RunContext:
    """What is the same in every start of a run."""

    machine: Machine
    environment: EnvironmentSpec
    sketch: ModelSketch
    identity: Identity


@dataclass(frozen=True)
class Attempt:
    """One start, ready to be supervised."""

    number: int
    began_s: float
    resolved: ResolvedRun
    run_layout: RunLayout
    recorder: Recorder
    saver: Saver


class Fallback:
    """What ran before another number of learners was asked for, until all of these have worked.

    Nobody knows better whether there is room for them than the kernel. See `supervisor.Companion`.
    """

    def __init__(self, confirm: Callable[[], object]) -> None:
        """`confirm` is called once they all have worked."""
        self.to: tuple[ResolvedRun, ResumePoint] | None = None
        self._confirm = confirm

    def tick(self, supervisor: Supervisor) -> None:
        """Forget it, and free its memory, once it is not needed any more."""
        if self.to is not None and all(child.has_worked for child in supervisor.children.all):
            self.to = None
            self._confirm()


class Session:
    """The loop over a run's starts."""

    def __init__(
        self,
        context: RunContext,
        folder: RunFolder,
        display: Display,
        control_server: ControlServer,
        signals: Signals,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self._callbacks = callbacks
        self._context, self._folder = context, folder
        self._display, self._control_server, self._signals = display, control_server, signals
        self._has_begun = False
        self._losses, self._retreat = Losses(), Fallback(control_server.confirm)

    def run(self, resolved: ResolvedRun, resume_point: ResumePoint | None) -> Outcome:
        """Train until the run ends.

        Raises:
            UserError: it cannot even begin.
        """
        attempt = self._begin(resolved, resume_point)
        while True:
            result = self._supervise(attempt)
            if result.scale_to is not None:
                self._retreat.to = attempt.resolved, self._left(attempt)
                del attempt
                attempt = self._begin_anew(result.scale_to)
            elif self._can_go_back(result):
                del attempt
                attempt = self._go_back(str(result.failure))
            else:
                return self._conclude(attempt, result)

    def _begin(self, resolved: ResolvedRun, resume_point: ResumePoint | None) -> Attempt:
        """Lay everything out for one start, and where it goes on from."""
        number, done = next_start(self._folder.metrics), progress_of(resume_point)
        sinks = self._open_sinks(resolved.plan, number, done["agent_steps"])
        try:
            return self._laid_out(resolved, resume_point, number, sinks)
        except BaseException:
            sinks.close()
            raise

    def _open_sinks(self, plan: Plan, number: int, from_step: int) -> SinkGroup:
        """Open the metric sinks of start `number`; the first row says where it goes on from.

        Raises:
            UserError: one cannot be opened, at the first start.
        """
        folder, env_id = self._folder, self._context.environment.env_id
        told = SinkContext(
            folder.path, env_id, len(plan.learners), number, from_step, complain, folder.where
        )
        return open_sinks(plan.config.report.sinks, told, begun=self._has_begun)

    def _laid_out(
        self,
        resolved: ResolvedRun,
        resume_point: ResumePoint | None,
        number: int,
        sinks: SinkGroup,
    ) -> Attempt:
        began_s, context, folder = time.monotonic(), self._context, self._folder
        plan, done = resolved.plan, progress_of(resume_point)
        run_layout = RunLayout(
            plan, resolved.topology, context.environment, context.sketch, folder.logs, number,
            folder.where,
        )  # fmt: skip
        states = states_for(run_layout, resume_point, number) if resume_point else []
        history = history_of(run_layout, folder, states, done["wall_s"], complain)
        recorder = Recorder(run_layout, folder, sinks, ConsensusMonitor(run_layout, history))
        recorder.losses = self._losses
        saver = Saver(
            run_layout, context.identity, folder.checkpoints, recorder.tell,
            folder.settled_where, folder.remove_dead,
        )  # fmt: skip
        if resume_point is not None:
            restore(states, resume_point, run_layout, recorder, folder)
            saver.go_on()
        self._store(resolved, run_layout, recorder)
        _tell_choices(plan, context.machine, recorder)
        share_bytes = run_layout.arrays.size_bytes // run_layout.count
        self._control_server.begin(
            run_layout.count, lambda count: self._allow(plan, share_bytes, count)
        )
        gc.freeze()
        return Attempt(number, began_s, resolved, run_layout, recorder, saver)

    def _store(self, resolved: ResolvedRun, run_layout: RunLayout, recorder: Recorder) -> None:
        """Write config.json, and at the first start the graph; one that has begun goes on without.

        Raises:
            UserError: the disk refuses, at the first start.
        """
        graph = None if self._has_begun else resolved.graph
        try:
            changed = self._folder.write_config(
                stored_config(resolved.plan, run_layout),
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

    def _supervise(self, attempt: Attempt) -> RunResult:
        supervisor = Supervisor(
            attempt.run_layout,
            attempt.recorder,
            attempt.saver,
            self._display,
            self._control_server,
            self._signals,
            [*self._callbacks, self._retreat],
        )
        try:
            return supervisor.run()
        finally:
            attempt.recorder.close()

    def _left(self, attempt: Attempt) -> ResumePoint:
        """Return what a start has left; on the disk, should its learners not have come that far."""
        if attempt.saver.last is not None:
            return ResumePoint(self._folder.path, attempt.saver.last, ())
        context = self._context
        return load_resume_point(self._folder.path, context.identity, context.sketch.state_sizes)

    def _begin_anew(self, learners: int) -> Attempt:
        """Begin with so many learners, or, where there is no room for them, as before."""
        assert self._retreat.to is not None
        resolved, resume_point = self._retreat.to
        gc.unfreeze()
        gc.collect()  # the former start's memory
        try:
            return self._begin(self._course_for(resolved.plan, learners), resume_point)
        except (UserError, OSError) as error:
            why = str(error)
        return self._go_back(why)  # not above, where what has failed still holds its memory

    def _can_go_back(self, result: RunResult) -> bool:
        """Whether a start failed in which not all who were asked for have done any work yet."""
        if self._retreat.to is None or result.failure is None:
            return False
        resolved, _ = self._retreat.to
        wanted = resolved.plan.config.resources.max_restarts > 0 and not result.is_stopped
        return wanted and not self._folder.lost

    def _go_back(self, why: str) -> Attempt:
        """Begin again what ran before others were asked for, which cannot be had.

        Raises:
            UserError, OSError: see `_begin_patiently`.
        """
        assert self._retreat.to is not None
        resolved, resume_point = self._retreat.to
        self._retreat.to = None
        gc.unfreeze()
        gc.collect()
        self._control_server.decline(why)
        attempt = self._begin_patiently(resolved, resume_point)
        attempt.recorder.tell(f"{len(resolved.plan.learners)} learners as before: {why}")
        return attempt

    def _begin_patiently(self, resolved: ResolvedRun, resume_point: ResumePoint) -> Attempt:
        """Begin again what ran a moment ago: should others have taken its memory, wait for it.

        Raises:
            UserError, OSError: it has not come back in time, or someone wants the run to end.
        """
        until_s = time.monotonic() + BEGIN_WITHIN_S
        while True:
            try:
                return self._begin(resolved, resume_point)
            except (UserError, OSError):
                if self._signals.pending or time.monotonic() > until_s:
                    raise
            time.sleep(RETRY_EVERY_S)

    def _allow(self, plan: Plan, share_bytes: int, learners: int) -> None:
        """Check that the run, with its share of memory per learner, could have so many.

        Raises:
            UserError: it could not.
        """
        resolved = self._course_for(plan, learners)
        check_processes(resolved.plan, running=plan.tasks)
        more_bytes = share_bytes * (learners - len(plan.learners))
        free_bytes = available_bytes()
        if more_bytes > free_bytes:
            raise UserError(
                f"--learners {learners}: {more_bytes / 2**20:,.0f} MiB more are needed, "
                f"{free_bytes / 2**20:,.0f} MiB are free: free memory, or take fewer"
            )

    def _course_for(self, plan: Plan, learners: int) -> ResolvedRun:
        """Plan for another number of learners.

        Raises:
            UserError: the run cannot have so many.
        """
        if plan.config.gossip.method == "single":
            raise UserError(
                "--method single: one learner has everyone's environments, others would have none; "
                "--learners is for methods with several"
            )
        machine = self._context.machine
        config = with_learners(plan.asked, learners, machine, plan.learners)
        return resolve_run(config, machine, StoredChoices(self._folder.path, devices=True))

    def _conclude(self, attempt: Attempt, result: RunResult) -> Outcome:
        wall_s = time.monotonic() - attempt.began_s
        summary = summarise(result, attempt.run_layout, attempt.recorder, attempt.number, wall_s)
        try:
            self._folder.write_summary(summary)
        except GalampError as error:  # of a full disk: it takes nothing from what was trained
            complain(str(error))
        self._control_server.end(result.status)
        return Outcome(result, summary, self._folder.path)


def complain(text: str) -> None:
    """Warn of something that does not end the run; if nobody hears it, that does not either."""
    stream = SafeStream(sys.stderr)
    stream.write(f"galamp: warning: {text}\n")
    stream.flush()


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
        f"{len(plan.learners)} {some} of {config.environment.num_envs} environments on "
        f"{config.resources.device}, learning rate {config.algorithm.learning_rate:.3g}"
    )
    if config.algorithm.precision == "bf16" and config.resources.device == CPU and lacks_bf16():
        recorder.tell("--precision bf16: this processor has no units for it; float32 is faster")
