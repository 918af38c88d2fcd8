"""The supervisor: starts every process of a run, watches them, saves, shows, and ends them all.

    Supervisor.run:  start; until no learner is left:
                         wait -> take signals -> answer -> reap -> restart -> check -> hurry
                              -> save -> show
                     end everyone, write the last checkpoint

It makes no CUDA context, steps no environment, and holds nothing that a child could wait for. A
child that dies or hangs is started anew while the others go on; what cannot be cured by that ends
the run: a failure before any work was done, a learner that fails twice at the same place, and the
loss of the last learner.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from galamp.core.errors import EXIT_FAILURE, EXIT_OK
from galamp.core.processes.reaper import adopt_orphans, adopts_orphans
from galamp.memory.status import Phase
from galamp.supervision.child import Child
from galamp.supervision.children import Children, words_for
from galamp.supervision.layout import RunLayout
from galamp.supervision.process import ChildFailure
from galamp.supervision.rollback import Rollback
from galamp.supervision.signals import Signals
from galamp.telemetry.display.dashboard import Display
from galamp.telemetry.recorder import Recorder
from galamp.telemetry.snapshot import WorkerState
from galamp.training.checkpointing import Saver, common_turn
from galamp.training.control.server import ControlServer
from galamp.workers.forkserver import wake_server

SHOW_EVERY_S = 0.25
LEAVE_AFTER_S = 2.0
"""After a stop, learners may finish their turn for so long; then they leave in the middle."""
KILL_AFTER_S = 3.0
"""Whoever has not left so long after a stop is killed."""
LEAVE_S = 1.0
"""At the end, everyone has so long to leave by themselves."""
LAST_SAVE_S = 10.0


@dataclass(frozen=True)
class RunResult:
    """How a start ended: finished, stopped (by a signal), failed, or rescaled.

    Rescaled: someone asked for another number of learners, `scale_to`, and all is ready for them.
    One that failed may have been stopped by a signal as well: `is_stopped`.
    """

    status: str
    exit_code: int
    failure: ChildFailure | None = None
    scale_to: int | None = None
    is_stopped: bool = False


class Callback(Protocol):
    """Who goes along with a run."""

    def tick(self, supervisor: Supervisor) -> None:
        """Do a little; called in every turn of the supervisor's loop."""


class Supervisor:
    """One start of a run, from the first process to the last checkpoint."""

    def __init__(
        self,
        run_layout: RunLayout,
        recorder: Recorder,
        saver: Saver,
        display: Display,
        control_server: ControlServer,
        signals: Signals,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self._callbacks = callbacks
        self.run_layout, self.recorder, self.saver, self.display = (
            run_layout,
            recorder,
            saver,
            display,
        )
        self.control_server, self._signals = control_server, signals
        self.children = Children(run_layout)
        self._regroup = Rollback(self.children, run_layout.states)
        self._coupled = run_layout.plan.config.gossip.coupled
        self._report = run_layout.plan.config.report
        self._failure: ChildFailure | None = None
        self._stopped_by: int | None = None
        self._scale_to: int | None = None
        self._stopping_since_s: float | None = None
        self._at_once = False
        self._tick_s = self._next_show_s = self._next_log_s = time.monotonic()
        self._next_save_s = self._tick_s + self._report.checkpoint_every_s

    def run(self) -> RunResult:
        """Train until the total is reached, someone asks to stop, or nobody can go on."""
        adopting = adopts_orphans()
        try:
            self._start()
            self._take_signals()
            while not self._at_once and self.children.learning and not self._overdue:
                self.children.wait()
                self._take_signals()
                self._answer()
                self._reap()
                self._restart()
                self._check()
                self._hurry()
                self._save()
                self._show()
                for callback in self._callbacks:
                    callback.tick(self)
        finally:
            self.recorder.mark_ended()
            self.run_layout.control.quit = True
            self.children.end(0.0 if self._at_once else LEAVE_S)
            adopt_orphans(adopting)
        return self._conclude()

    def finish(self) -> None:
        """Have the run end now as it does when its total is reached."""
        self._stop()

    def _start(self) -> None:
        """Begin everyone's first life."""
        adopt_orphans()
        self.children.schedule_all()
        self._restart()

    def _take_signals(self) -> None:
        if self._signals.take_hang_up():
            self.recorder.tell("the terminal was closed: training goes on, galamp attach shows it")
        while (number := self._signals.take()) is not None:
            if self._stopped_by is not None:
                self._at_once = True
                self._signals.last_warning(self.children.kill)
                return
            self._stopped_by = number
            self.recorder.tell(f"{signal.Signals(number).name}: saving and stopping")
            self._stop()

    def _answer(self) -> None:
        """Hear who is at the door; end this start if another number of learners is wanted."""
        self.control_server.poll()
        # Not before all have begun: there must be something to go on from.
        if self.recorder.status == "running" and self.control_server.wanted is not None:
            self._scale_to = self.control_server.wanted
            self.recorder.tell(f"the number of learners becomes {self._scale_to}: saving")
            self._stop()

    def _reap(self) -> None:
        """Hear of every end, and end what was left behind."""
        ended = self.children.reap()
        for (child, failure), words in zip(ended, words_for(ended), strict=True):
            if failure is None or self._stopping_since_s is not None:
                self._mark(child, WorkerState.FAILED if failure else WorkerState.DONE)
            elif self._regroup.takes(child):
                self._mark(child, WorkerState.STARTING)
            else:
                self._lose(child, failure, words)
        self.children.look_for_orphans(time.monotonic())

    def _restart(self) -> None:
        """Begin the lives that are due."""
        lost = self.children.start_due(time.monotonic(), lambda: self._signals.pending)
        for (child, failure), words in zip(lost, words_for(lost), strict=True):
            assert failure is not None
            self._lose(child, failure, words)
        # After both ways to lose somebody: in lock-step all may be gone now, and nobody be due yet.
        if self._stopping_since_s is None:
            self._step_back()

    def _lose(self, child: Child, failure: ChildFailure, words: str) -> None:
        """Have a place filled again, or go on without it, or end the run; `words` are told."""
        self._mark(child, WorkerState.FAILED)
        if child.given_up:
            return
        if self._is_fatal(child):
            self._fail(failure)
            return
        delay_s = child.delay_s(failure)
        if child.role == "learner" and child.repeats:
            self._fail(failure)  # the others run the same code
            return
        if delay_s is None:
            self._give_up(child, failure)
            return
        self._mark(child, WorkerState.STARTING)
        self.recorder.losses.restarts += 1
        if child.role == "learner" and self._coupled:
            self._regroup.begin(failure, delay_s)
            return
        child.due_s = time.monotonic() + delay_s
        when = f" in {delay_s:.2g} s" if delay_s else ""
        if words:
            self.recorder.tell(f"{words}: started anew{when}")

    def _step_back(self) -> None:
        """In lock-step, once all learners are gone: start them anew from one turn."""
        cause = self._regroup.cause
        if cause is None or not (self._regroup.ready or self._regroup.overdue):
            return
        turn = self._regroup.finish() if self._regroup.ready else None
        if turn is None:
            self._fail(cause)
        else:
            self.recorder.tell(f"{cause}: all learners go back to turn {turn:,}")

    def _is_fatal(self, child: Child) -> bool:
        """Whether starting anew is no cure, as nothing was ever done there, or is not wanted."""
        return not child.has_worked or not self.run_layout.plan.config.resources.max_restarts

    def _give_up(self, child: Child, failure: ChildFailure) -> None:
        """Go on without it; a learner without simulators leaves, and without learners all do."""
        child.given_up = True
        self.recorder.losses.given_up.append(child.title)
        self.recorder.tell(f"{failure}: given up, too often or always at the same place")
        learner = self.children.learners[child.rank]
        if not any(each.expected for each in self.children.simulators_of(child.rank)):
            learner.give_up()
        if learner.given_up:
            self.saver.leave_out(child.rank)
        left = any(each.expected for each in self.children.learners)
        if not left or (self._coupled and learner.given_up):
            self._fail(failure)

    def _mark(self, child: Child, state: WorkerState) -> None:
        if child.role == "learner":
            self.recorder.learners[child.rank].state = state

    def _check(self) -> None:
        now_s = time.monotonic()
        passed_s, self._tick_s = now_s - self._tick_s, now_s
        if self._stopping_since_s is None:
            self.children.check(passed_s)
        self._look_after_folder()
        for child, _ in self.children.running():
            if child.row.phase is not Phase.BOOT:
                self._mark(child, WorkerState.RUNNING)

    def _fail(self, failure: ChildFailure) -> None:
        """End the run for the first failure; later ones are its consequences."""
        if self._failure is None and self._stopped_by is None and self._scale_to is None:
            self._failure = failure
            self.recorder.tell(str(failure))
            self._stop()
            self.run_layout.control.quit = True

    def _look_after_folder(self) -> None:
        """End the run once its folder is gone: nothing that is still learned could be kept."""
        folder = self.recorder.folder
        if folder.doubtful:
            folder.is_ours()
        while folder.news and not folder.doubtful:
            self.recorder.tell(folder.news.pop(0))
        if folder.lost and self._failure is None:
            cause = "was removed, or taken by another start: nothing can be kept any more"
            self._failure = ChildFailure(f"the run folder {folder.path}", cause)
            self.recorder.tell(str(self._failure))
            self._stop()
            self.run_layout.control.quit = True

    def _stop(self) -> None:
        """Ask the learners to end: after their turn, in lock-step all after the same one."""
        if self._stopping_since_s is None:
            self._stopping_since_s = time.monotonic()
            self.recorder.status = "stopping"
            self.children.cancel_all()
            self.run_layout.control.stop_turn = common_turn(self.run_layout) if self._coupled else 0

    @property
    def _overdue(self) -> bool:
        """Whether a stop has taken too long: somebody cannot be ended, and is not waited for."""
        since_s = self._stopping_since_s
        return since_s is not None and time.monotonic() - since_s > KILL_AFTER_S + LEAVE_S

    def _hurry(self) -> None:
        """Be less patient the longer a stop takes."""
        if self._stopping_since_s is None:
            return
        wake_server()  # a stopped one would tell of no end
        passed_s = time.monotonic() - self._stopping_since_s
        if passed_s > LEAVE_AFTER_S:
            self.run_layout.control.quit = True
        if passed_s > KILL_AFTER_S:
            self.children.kill()

    def _save(self) -> None:
        self.saver.poll(self.recorder.progress)
        now_s = time.monotonic()
        if now_s >= self._next_save_s and self._stopping_since_s is None:
            self.saver.request()
            self._next_save_s = now_s + self._report.checkpoint_every_s

    def _show(self) -> None:
        now_s = time.monotonic()
        if now_s < self._next_show_s:
            return
        self._next_show_s = now_s + SHOW_EVERY_S
        self.recorder.read()
        states = [learner.state for learner in self.recorder.learners]
        if self.recorder.status == "starting" and WorkerState.STARTING not in states:
            self.recorder.mark_running()
        if now_s >= self._next_log_s:
            self._next_log_s = now_s + self._report.log_every_s
            self.recorder.log()
        self._show_to_all()

    def _show_to_all(self) -> None:
        snapshot = self.recorder.snapshot()
        self.display.show(snapshot)
        self.control_server.show(snapshot)

    def _conclude(self) -> RunResult:
        """Write the last checkpoint, show the last picture, say how it went."""
        recorder = self.recorder
        recorder.read()
        if not self._at_once:
            # Of a run that has ended by itself, the first signal asks for no more than this.
            patient = self._stopped_by is None
            self.saver.finish(
                recorder.progress(), LAST_SAVE_S, lambda: self._signals.waiting > patient
            )
        self._look_after_folder()
        recorder.status, code, scale_to = "finished", EXIT_OK, None
        if self._failure is not None:
            recorder.status, code = "failed", EXIT_FAILURE
        elif self._stopped_by is not None:
            recorder.status, code = "stopped", 128 + self._stopped_by
        elif self._scale_to is not None:
            recorder.status, scale_to = "rescaled", self._scale_to
        recorder.log()
        self._show_to_all()
        is_stopped = self._stopped_by is not None
        return RunResult(recorder.status, code, self._failure, scale_to, is_stopped)
