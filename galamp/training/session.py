"""A run from its first attempt to its last: a new number of learners starts a new attempt.

    ResumePoint --_prepare--> Attempt: RunLayout, Recorder, Saver --Supervisor.run--> RunResult
       ^                                                                                |
       |                                              rescaled: the learners' last states
       `--------------------------------------------------------------------------------'
                                                      otherwise: summary.json, the end

If a rescaled attempt fails before all its children have worked, the previous one is resumed. Runs
in the supervisor. Run folder, display, control server and signals last over all attempts.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from galamp.core.errors import GalampError, UserError
from galamp.core.machine.machine import Machine
from galamp.core.machine.memory import available_bytes
from galamp.environments.base import EnvironmentSpec
from galamp.memory.learner_state import State
from galamp.storage.attempts import last_attempt
from galamp.storage.eval_log import EvaluationLog
from galamp.storage.identity import Identity
from galamp.storage.run_folder import RunFolder, StoredChoices
from galamp.supervision.layout import ModelSketch, RunLayout
from galamp.supervision.plan import Plan, check_processes, with_learners
from galamp.supervision.signals import Signals
from galamp.telemetry.consensus import ConsensusMonitor
from galamp.telemetry.display.dashboard import Display
from galamp.telemetry.display.streams import warn
from galamp.telemetry.recorder import Losses, Recorder
from galamp.telemetry.sinks import open_sinks
from galamp.telemetry.sinks.base import SinkContext
from galamp.telemetry.sinks.group import SinkGroup
from galamp.training.checkpointing import Saver
from galamp.training.control.server import ControlServer
from galamp.training.evaluator import Evaluator
from galamp.training.resolve import ResolvedRun, resolve_run
from galamp.training.result import RunResult
from galamp.training.resume import history_of, restore, states_for
from galamp.training.resume_point import ResumePoint, load_resume_point, progress_of
from galamp.training.start_events import log_choices
from galamp.training.summary import stored_config, summarise
from galamp.training.supervisor import Callback, Supervisor
from galamp.training.surroundings import monitor_of

RETRY_TIMEOUT_S, RETRY_EVERY_S = 60.0, 3.0


@dataclass(frozen=True)
class Outcome:
    """A run that has ended: how, and its summary as written to summary.json."""

    result: RunResult
    summary: dict[str, Any]
    folder: Path


@dataclass(frozen=True)
class RunContext:
    """What is the same in every attempt of a run."""

    machine: Machine
    environment: EnvironmentSpec
    sketch: ModelSketch
    identity: Identity
    rates: Mapping[int, float] = field(default_factory=dict)
    """Agent steps/s by number of learners, as measured on this machine before."""


@dataclass(frozen=True)
class Attempt:
    """One start of a run, ready to be supervised."""

    number: int
    began_s: float
    resolved: ResolvedRun
    run_layout: RunLayout
    recorder: Recorder
    saver: Saver
    evaluator: Evaluator | None


class PendingScale:
    """The previous attempt, kept until all children of a rescaled one have worked.

    Only the kernel can tell whether there is room for the new number. See `supervisor.Callback`.
    """

    def __init__(self, confirm: Callable[[], object]) -> None:
        """Call `confirm` once all children have worked."""
        self.previous: tuple[ResolvedRun, ResumePoint] | None = None
        self._confirm = confirm

    def tick(self, supervisor: Supervisor) -> None:
        """Drop the previous attempt, and free its memory, once all children have worked."""
        if self.previous is not None and all(child.has_worked for child in supervisor.children.all):
            self.previous = None
            self._confirm()


class Session:
    """The loop over a run's attempts."""

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
        self._has_started, self._attempts = False, last_attempt(folder.path)
        self._losses, self._pending_scale = Losses(), PendingScale(control_server.confirm)

    def run(self, resolved: ResolvedRun, resume_point: ResumePoint | None) -> Outcome:
        """Train until the run ends.

        Raises:
            UserError: the first attempt cannot start.
        """
        attempt = self._prepare(resolved, resume_point)
        while True:
            result = self._supervise(attempt)
            if result.scale_to is not None:
                self._pending_scale.previous = attempt.resolved, self._resume_point_of(attempt)
                del attempt
                attempt = self._start_scaled(result.scale_to)
            elif self._can_return(result):
                del attempt
                attempt = self._return_to_previous(str(result.failure))
            else:
                return self._conclude(attempt, result)

    def _prepare(self, resolved: ResolvedRun, resume_point: ResumePoint | None) -> Attempt:
        """Create everything for one attempt, and restore its resume point."""
        began_s, context, folder = time.monotonic(), self._context, self._folder
        number, done = self._attempts + 1, progress_of(resume_point)
        first = not self._has_started
        run_layout = RunLayout(
            resolved.plan, resolved.topology, context.environment, context.sketch, folder.logs,
            number, folder.where,
        )  # fmt: skip
        states = states_for(run_layout, resume_point, number) if resume_point else []
        sinks = self._open_sinks(resolved.plan, number, done["agent_steps"])  # writes files
        self._attempts = number
        try:
            recorder, saver = self._create(run_layout, resume_point, states, sinks)
            self._store(resolved, run_layout, recorder)
        except BaseException:
            sinks.close()
            raise
        log_choices(resolved.plan, context.machine, recorder, first=first)
        share_bytes = run_layout.arrays.size_bytes // run_layout.count
        self._control_server.configure(
            run_layout.count,
            lambda count: self._check_learners(resolved.plan, share_bytes, count),
        )
        evaluator = self._evaluator(run_layout, recorder, saver)
        gc.freeze()
        return Attempt(number, began_s, resolved, run_layout, recorder, saver, evaluator)

    def _evaluator(
        self, run_layout: RunLayout, recorder: Recorder, saver: Saver
    ) -> Evaluator | None:
        """Create what evaluates the run while it trains; None if it is not to be evaluated."""
        plan = run_layout.plan
        if plan.config.evaluation.eval_every is None:
            log = EvaluationLog(self._folder.path, warn, self._folder.where)
            log.go_on_from(run_layout.status_board.agent_steps())
            return None
        taken = {core for learner in plan.learners for core in learner.cpus.cores}
        left = [core for core in self._context.machine.cores if core not in taken]
        cores = tuple(left) if plan.config.resources.pin else ()
        return Evaluator(run_layout, recorder, saver, cores)

    def _open_sinks(self, plan: Plan, number: int, from_step: int) -> SinkGroup:
        """Open the metric sinks of attempt `number`, whose rows continue at `from_step`.

        Raises:
            UserError: one cannot be opened, at the first attempt.
        """
        folder, env_id = self._folder, self._context.environment.env_id
        told = SinkContext(
            folder.path, env_id, len(plan.learners), number, from_step, warn, folder.where
        )
        return open_sinks(plan.config.report.sinks, told, begun=self._has_started)

    def _create(
        self,
        run_layout: RunLayout,
        resume_point: ResumePoint | None,
        states: list[State],
        sinks: SinkGroup,
    ) -> tuple[Recorder, Saver]:
        """Create what records and saves one attempt, and restore its resume point."""
        context, folder = self._context, self._folder
        wall_s = progress_of(resume_point)["wall_s"]
        history = history_of(run_layout, folder, states, wall_s, warn)
        recorder = Recorder(
            run_layout, folder, sinks, ConsensusMonitor(run_layout, history),
            monitor_of(run_layout, context.machine), context.rates,
        )  # fmt: skip
        recorder.losses = self._losses
        saver = Saver(
            run_layout, context.identity, folder.checkpoints,
            partial(recorder.log_event, kind="checkpoint"), folder.settled_where,
            folder.remove_dead,
        )  # fmt: skip
        if resume_point is not None:
            kind = "scale" if self._has_started else "resume"
            restore(states, resume_point, run_layout, recorder, folder, kind)
            saver.resume_best()
        return recorder, saver

    def _store(self, resolved: ResolvedRun, run_layout: RunLayout, recorder: Recorder) -> None:
        """Write config.json, and at the first attempt the graph; later attempts tolerate a failure.

        Raises:
            UserError: the disk refuses, at the first attempt.
        """
        graph = None if self._has_started else resolved.graph
        try:
            changed = self._folder.write_config(
                stored_config(resolved.plan, run_layout),
                None if graph is None else graph.content,
            )
        except UserError as error:
            if not self._has_started:
                raise
            warn(f"{error}; it still describes the previous start")
        else:
            if changed and graph is not None:
                recorder.log_event(
                    f"gossip graph: another one than before, from {graph.path}", kind="setting"
                )
        self._has_started = True

    def _supervise(self, attempt: Attempt) -> RunResult:
        supervisor = Supervisor(
            attempt.run_layout,
            attempt.recorder,
            attempt.saver,
            self._display,
            self._control_server,
            self._signals,
            [*self._callbacks, self._pending_scale],
            attempt.evaluator,
        )
        try:
            return supervisor.run()
        finally:
            self._control_server.tracing.forget()
            if attempt.evaluator is not None:
                attempt.evaluator.close()
            attempt.recorder.close()

    def _resume_point_of(self, attempt: Attempt) -> ResumePoint:
        """Return the attempt's last checkpoint; the one on disk, if its learners saved none."""
        if attempt.saver.last is not None:
            return ResumePoint(self._folder.path, attempt.saver.last, ())
        context = self._context
        sketch = context.sketch
        return load_resume_point(
            self._folder.path, context.identity, sketch.state_sizes, sketch.normaliser
        )

    def _start_scaled(self, learners: int) -> Attempt:
        """Start an attempt with `learners` learners; return to the previous one if that fails."""
        assert self._pending_scale.previous is not None
        resolved, resume_point = self._pending_scale.previous
        gc.unfreeze()
        gc.collect()  # free the previous attempt's memory
        try:
            return self._prepare(self._resolve_for(resolved.plan, learners), resume_point)
        except (UserError, OSError) as error:
            why = str(error)
        # Not in the handler above, where the failed attempt still holds its memory.
        return self._return_to_previous(why)

    def _can_return(self, result: RunResult) -> bool:
        """Return whether a rescaled attempt failed before all its children had worked."""
        if self._pending_scale.previous is None or result.failure is None:
            return False
        resolved, _ = self._pending_scale.previous
        wanted = resolved.plan.config.resources.max_restarts > 0 and not result.is_stopped
        return wanted and not self._folder.lost

    def _return_to_previous(self, why: str) -> Attempt:
        """Resume the previous attempt, since the requested number of learners failed.

        Raises:
            UserError, OSError: see `_prepare_with_retries`.
        """
        assert self._pending_scale.previous is not None
        resolved, resume_point = self._pending_scale.previous
        self._pending_scale.previous = None
        gc.unfreeze()
        gc.collect()
        self._control_server.decline(why)
        attempt = self._prepare_with_retries(resolved, resume_point)
        attempt.recorder.log_event(
            f"{len(resolved.plan.learners)} learners as before: {why}", kind="scale", cause=why
        )
        return attempt

    def _prepare_with_retries(self, resolved: ResolvedRun, resume_point: ResumePoint) -> Attempt:
        """Prepare the previous attempt again; retry while other programs hold its memory.

        Raises:
            UserError, OSError: it failed until the timeout, or a signal is pending.
        """
        until_s = time.monotonic() + RETRY_TIMEOUT_S
        while True:
            try:
                return self._prepare(resolved, resume_point)
            except (UserError, OSError):
                if self._signals.pending or time.monotonic() > until_s:
                    raise
            time.sleep(RETRY_EVERY_S)

    def _check_learners(self, plan: Plan, share_bytes: int, learners: int) -> None:
        """Check that the run could have `learners` learners, at `share_bytes` of memory each.

        Raises:
            UserError: it could not.
        """
        resolved = self._resolve_for(plan, learners)
        check_processes(resolved.plan, running=plan.tasks)
        more_bytes = share_bytes * (learners - len(plan.learners))
        free_bytes = available_bytes()
        if more_bytes > free_bytes:
            raise UserError(
                f"--learners {learners}: {more_bytes / 2**20:,.0f} MiB more are needed, "
                f"{free_bytes / 2**20:,.0f} MiB are free: free memory, or take fewer"
            )

    def _resolve_for(self, plan: Plan, learners: int) -> ResolvedRun:
        """Resolve the run for another number of learners.

        Raises:
            UserError: the run cannot have that number.
        """
        if plan.config.gossip.method == "single":
            raise UserError(
                "--method single: one learner has everyone's environments, others would have none; "
                "--learners is for methods with several"
            )
        if plan.place is not None:
            raise UserError(
                f"--nodes {plan.place.nodes}: the number of learners of a run on several machines "
                "is fixed; resume it alone with --nodes 1, or start a new run"
            )
        machine = self._context.machine
        config = with_learners(plan.asked, learners, machine, plan.learners)
        return resolve_run(config, machine, StoredChoices(self._folder.path, devices=True))

    def _conclude(self, attempt: Attempt, result: RunResult) -> Outcome:
        wall_s = time.monotonic() - attempt.began_s
        summary = summarise(result, attempt.run_layout, attempt.recorder, attempt.number, wall_s)
        try:
            self._folder.write_summary(summary)
        except GalampError as error:  # such as a full disk: the training itself is complete
            warn(str(error))
        self._control_server.end(result.status)
        return Outcome(result, summary, self._folder.path)
