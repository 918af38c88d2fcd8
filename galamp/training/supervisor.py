"""The supervisor: starts every process of a run, monitors them, saves, shows, and ends them all.

    Supervisor.run:  start; until no learner is left:
                         wait -> signals -> requests -> reap -> restart -> check -> stop timeouts
                              -> save -> display
                     end all children, write the last checkpoint

It creates no CUDA context, steps no environment, and holds nothing that a child could wait for. A
child that dies or hangs is restarted while the others continue, given up, or ends the run: see
`restarts`.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from typing import Protocol

from galamp.core.processes.reaper import adopt_orphans, adopts_orphans
from galamp.core.processes.tracing import permit_tracing
from galamp.supervision.child_failure import ChildFailure
from galamp.supervision.children import Children
from galamp.supervision.launching import AwakeTimeout
from galamp.supervision.layout import RunLayout
from galamp.supervision.signals import Signals
from galamp.telemetry.display.dashboard import Display
from galamp.telemetry.recorder import Recorder
from galamp.telemetry.snapshot import WorkerState
from galamp.training.checkpointing import Saver, common_turn
from galamp.training.control.server import ControlServer
from galamp.training.evaluator import LAST_TIMEOUT_S, Evaluator
from galamp.training.restarts import Restarts
from galamp.training.result import BY_REQUEST, RunResult, StopReason, result_of
from galamp.workers.forkserver import wake_server

DISPLAY_EVERY_S = 0.25
ITERATION_GRACE_S = 2.0
"""Grace period to finish the current iteration after a stop; then learners leave in the middle of
it."""
STOP_TIMEOUT_S = 3.0
"""Children that still run this long after a stop are killed."""
EXIT_GRACE_S = 1.0
"""Grace period at the end for children to exit by themselves."""
LAST_SAVE_TIMEOUT_S = 10.0


class Callback(Protocol):
    """Extension of a run."""

    def tick(self, supervisor: Supervisor) -> None:
        """Do a small step of work; called in every iteration of the supervisor's loop."""


class Supervisor:
    """One attempt of a run, from the first process to the last checkpoint."""

    def __init__(
        self,
        run_layout: RunLayout,
        recorder: Recorder,
        saver: Saver,
        display: Display,
        control_server: ControlServer,
        signals: Signals,
        callbacks: Sequence[Callback] = (),
        evaluator: Evaluator | None = None,
    ) -> None:
        self._callbacks, self._evaluator = callbacks, evaluator
        self.run_layout, self.recorder, self.saver, self.display = (
            run_layout,
            recorder,
            saver,
            display,
        )
        self.control_server, self._signals = control_server, signals
        self.children = Children(run_layout)
        control_server.tracing.configure(self._processes, self._permit_tracing)
        self._restarts = Restarts(
            run_layout, self.children, recorder, saver,
            fail=self._fail, stopping=lambda: self._stopping is not None,
        )  # fmt: skip
        self._in_lock_step = run_layout.plan.config.gossip.exchanges_in_lock_step
        self._report = run_layout.plan.config.report
        self._failure: ChildFailure | None = None
        self._reason: StopReason | None = None
        self._stopped_by: int | None = None
        self._scale_to: int | None = None
        self._stopping: AwakeTimeout | None = None
        """Longest duration of a stop, since it has begun; None before."""
        self._is_immediate = False
        self._tick_s = self._next_display_s = self._next_log_s = time.monotonic()
        self._next_save_s = self._tick_s + self._report.checkpoint_every_s

    def run(self) -> RunResult:
        """Train until the total is reached, a stop is requested, or no learner can continue."""
        adopting = adopts_orphans()
        try:
            self._start()
            self._take_signals()
            while not self._is_immediate and self.children.learning and not self._overdue():
                self.children.wait()
                self._take_signals()
                self._handle_requests()
                self._restarts.reap()
                self._restarts.give_up_unkillable()
                self._restart()
                self._check()
                self._enforce_stop_timeouts()
                self._save()
                self._refresh_display()
                if self._evaluator is not None and self._stopping is None:
                    self._evaluator.tick()
                self.display.poll()
                for callback in self._callbacks:
                    callback.tick(self)
        finally:
            self.recorder.mark_ended()
            self.run_layout.control.quit = True
            self.children.end(0.0 if self._is_immediate else EXIT_GRACE_S)
            adopt_orphans(adopting)
        return self._conclude()

    def finish(self, reason: StopReason = BY_REQUEST) -> None:
        """End the run now, as if its total were reached."""
        self._reason = self._reason or reason
        self._stop()

    def _start(self) -> None:
        """Start all children."""
        adopt_orphans()
        self.children.schedule_all()
        self._restart()

    def _take_signals(self) -> None:
        if self._signals.receive_hang_up():
            self.recorder.log_event(
                "the terminal was closed: training goes on, galamp attach shows it", kind="signal"
            )
        while (number := self._signals.receive()) is not None:
            if self._stopped_by is not None:
                self._is_immediate = True
                self._signals.exit_on_next(self._abandon)
                return
            self._stopped_by = number
            name = signal.Signals(number).name
            self.recorder.log_event(f"{name}: saving and stopping", kind="stop", cause=name)
            self._stop()

    def _abandon(self) -> None:
        """Kill all children and give the terminal back: this process ends at once."""
        self.display.abandon()
        self.children.kill()

    def _handle_requests(self) -> None:
        """Handle control requests; end this attempt if another number of learners is requested."""
        self.control_server.poll()
        # Not before all learners run: there must be states to resume from.
        if self.recorder.status == "running" and self.control_server.requested_learners is not None:
            self._scale_to = self.control_server.requested_learners
            self.recorder.log_event(
                f"the number of learners becomes {self._scale_to}: saving", kind="scale"
            )
            self._stop()

    def _processes(self) -> dict[int, str]:
        """Return process id and title of every process of the run that works now."""
        found = {os.getpid(): "supervisor"}
        return found | {
            child.pid: child.title
            for child in self.children.with_process()
            if child.pid is not None
        }

    def _permit_tracing(self, pid: int) -> None:
        """Let a process trace this one and, as soon as they look, all children."""
        permit_tracing(pid)
        self.run_layout.control.tracer = pid

    def _restart(self) -> None:
        """Start the children that are due."""
        self._restarts.start_due(lambda: self._signals.pending)
        # After both sources of failures: in lock-step all learners may have ended now.
        self._restarts.finish_rollback()

    def _check(self) -> None:
        now_s = time.monotonic()
        passed_s, self._tick_s = now_s - self._tick_s, now_s
        if self._stopping is None:
            self.children.check(passed_s)
        self._check_folder()
        board = self.run_layout.board
        for line in () if board is None else board.notices():
            self.recorder.log_event(line, kind="node")
        self._restarts.note_working()

    def _fail(self, failure: ChildFailure) -> None:
        """End the run for its first failure; later failures follow from it."""
        if self._failure is None and self._stopped_by is None and self._scale_to is None:
            self._failure = failure
            # First: a disk may be slow, and in lock-step the others must not go on without it.
            self.run_layout.control.quit = True
            self._stop()
            self._log_failure(failure)

    def _log_failure(self, failure: ChildFailure) -> None:
        self.recorder.log_event(
            str(failure), kind="failure", who=failure.title, cause=failure.cause
        )

    def _check_folder(self) -> None:
        """End the run once its folder is lost: nothing learned from now on could be saved."""
        folder = self.recorder.folder
        if folder.doubtful:
            folder.is_ours()
        while folder.news and not folder.doubtful:
            self.recorder.log_event(folder.news.pop(0), kind="folder")
        if folder.lost and self._failure is None:
            cause = "was removed, or taken by another start: nothing can be kept any more"
            self._failure = ChildFailure(f"the run folder {folder.path}", cause)
            self._log_failure(self._failure)
            self._stop()
            self.run_layout.control.quit = True

    def _stop(self) -> None:
        """Ask the learners to end after their current turn; in lock-step all after the same.

        In lock-step, while some are still to be started, there is none: those that run leave
        without saving, and the turn that all have saved stays.
        """
        if self._stopping is None:
            self._stopping = AwakeTimeout(STOP_TIMEOUT_S + EXIT_GRACE_S)
            self.recorder.status = "stopping"
            if self._in_lock_step and any(c.due_s is not None for c in self.children.learners):
                self.run_layout.control.quit = True
            self.children.cancel_all()
            self.run_layout.control.stop_turn = (
                common_turn(self.run_layout) if self._in_lock_step else 0
            )

    def _overdue(self) -> bool:
        """Return whether a stop takes too long: a process ignores SIGKILL, and is not waited for.

        Called in every iteration: time in which this process is stopped itself does not count.
        """
        return self._stopping is not None and self._stopping.expired()

    def _enforce_stop_timeouts(self) -> None:
        """After a stop, interrupt learners and then kill children as their grace periods end."""
        if self._stopping is None:
            return
        wake_server()  # a stopped server would report no end
        passed_s = self._stopping.waited_s
        if passed_s > ITERATION_GRACE_S:
            self.run_layout.control.quit = True
        if passed_s > STOP_TIMEOUT_S:
            self.children.kill()

    def _save(self) -> None:
        self.saver.poll(self.recorder.progress)
        now_s = time.monotonic()
        if now_s >= self._next_save_s and self._stopping is None:
            self.saver.request()
            self._next_save_s = now_s + self._report.checkpoint_every_s

    def _refresh_display(self) -> None:
        now_s = time.monotonic()
        if now_s < self._next_display_s:
            return
        self._next_display_s = now_s + DISPLAY_EVERY_S
        self.recorder.read()
        states = [learner.state for learner in self.recorder.learners]
        if self.recorder.status == "starting" and WorkerState.STARTING not in states:
            self.recorder.mark_running()
        if now_s >= self._next_log_s:
            self._next_log_s = now_s + self._report.log_every_s
            self.recorder.log()
        self._publish_snapshot()

    def _publish_snapshot(self) -> None:
        with_game = self.display.wants_game or self.control_server.wants_game
        snapshot = self.recorder.snapshot(with_game=with_game)
        self.display.update(snapshot)
        self.control_server.publish(snapshot)

    def _conclude(self) -> RunResult:
        """Write the last checkpoint, show the last snapshot, return the result."""
        recorder = self.recorder
        recorder.read()
        if not self._is_immediate:
            # A run that has ended by itself ignores the first signal: it only asks for this.
            patient = self._stopped_by is None
            self.saver.finish(
                recorder.progress(), LAST_SAVE_TIMEOUT_S, lambda: self._signals.waiting > patient
            )
        self._check_folder()
        result = result_of(self._failure, self._stopped_by, self._scale_to, self._reason)
        if self._evaluator is not None and result.status == "finished":
            self._finish_evaluation(self._evaluator)
        recorder.status = result.status
        if result.scale_to is None and result.reason is not None:
            steps = self.run_layout.status_board.agent_steps()
            recorder.log_event(
                f"{result.status} after {steps:,} agent steps: {result.reason.kind}", kind="end",
                cause=result.reason.text,
            )  # fmt: skip
        recorder.log()
        self._publish_snapshot()
        return result

    def _finish_evaluation(self, evaluator: Evaluator) -> None:
        """Wait for the last checkpoint's evaluation, until a timeout or a signal."""
        self.recorder.status = "evaluating"
        until_s = time.monotonic() + LAST_TIMEOUT_S
        evaluator.take_ended()
        evaluator.start_last()
        while evaluator.is_playing:
            if self._signals.waiting or time.monotonic() > until_s:
                evaluator.close(f"the run has ended, and waits {LAST_TIMEOUT_S:.0f} s at most")
                return
            self.control_server.poll()
            self._publish_snapshot()
            time.sleep(DISPLAY_EVERY_S)
            evaluator.take_ended()
            evaluator.start_last()
