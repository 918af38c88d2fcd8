"""The supervisor: spawns every process of a run, watches them, saves, shows, and ends them all.

    Supervisor.run:  spawn; until no learner is left:
                         wait -> take signals -> answer -> reap -> check heartbeats -> hurry
                              -> save -> show
                     end everyone, write the last checkpoint

It makes no CUDA context, steps no environment, and holds nothing that a child could wait for.
"""

from __future__ import annotations

import multiprocessing.connection
import signal
import time
from dataclasses import dataclass

import torch.multiprocessing

from galamp.arena import Arena
from galamp.display.dashboard import Display
from galamp.errors import EXIT_FAILURE, EXIT_OK
from galamp.forking import METHOD
from galamp.metrics import MetricsRow, Phase
from galamp.recorder import Recorder
from galamp.remote.door import Door
from galamp.saving import Saver, common_turn
from galamp.signals import Signals
from galamp.snapshot import WorkerState
from galamp.worker import Worker, WorkerFailure

TICK_S = 0.05
SHOW_EVERY_S = 0.25
BOOT_LIMIT_S = 120.0
LEAVE_AFTER_S = 2.0
"""After a stop, learners may finish their turn for so long; then they leave in the middle."""
KILL_AFTER_S = 3.0
"""Whoever has not left so long after a stop is killed."""
LAST_SAVE_S = 10.0


@dataclass(frozen=True)
class RunResult:
    """How a start ended: finished, stopped (by a signal), failed, or rescaled.

    Rescaled: someone asked for another number of learners, `scale_to`, and all is ready for them.
    """

    status: str
    exit_code: int
    failure: WorkerFailure | None = None
    scale_to: int | None = None


class Watch:
    """How long a child has shown no progress, in time that the supervisor itself was awake."""

    def __init__(self, row: MetricsRow) -> None:
        self.row = row
        self._beat, self._still_s = -1, 0.0

    def still_s(self, passed_s: float) -> float:
        """Take note of `passed_s` more seconds; returns the seconds without a beat.

        A gap in the supervisor's own time (a paused machine) counts for a few ticks only.
        """
        beat = self.row["beat"]
        self._still_s = 0.0 if beat != self._beat else self._still_s + min(passed_s, 4 * TICK_S)
        self._beat = beat
        return self._still_s


class Supervisor:
    """One start of a run, from the first spawn to the last checkpoint."""

    def __init__(
        self,
        arena: Arena,
        recorder: Recorder,
        saver: Saver,
        display: Display,
        door: Door,
        signals: Signals,
    ) -> None:
        self.arena, self.recorder, self.saver, self.display = arena, recorder, saver, display
        self.door, self._signals = door, signals
        config = arena.plan.config
        self._report, self._hang_after_s = config.report, config.resources.hang_after_s
        context = torch.multiprocessing.get_context(METHOD)
        self._workers = [Worker(spec, context, task) for spec, task in arena.children()]
        self._running: dict[Worker, Watch] = {}
        self._failure: WorkerFailure | None = None
        self._stopped_by: int | None = None
        self._scale_to: int | None = None
        self._stopping_since_s: float | None = None
        self._at_once = False
        self._tick_s = self._next_show_s = self._next_log_s = time.monotonic()
        self._next_save_s = self._tick_s + self._report.checkpoint_every_s

    def run(self) -> RunResult:
        """Train until the total is reached, someone asks to stop, or a process fails."""
        try:
            self._spawn()
            self._take_signals()
            while not self._at_once and self._learning():
                self._wait()
                self._take_signals()
                self._answer()
                self._reap()
                self._check_heartbeats()
                self._hurry()
                self._save()
                self._show()
        finally:
            self.recorder.mark_ended()
            self._end_everyone()
        return self._conclude()

    def _spawn(self) -> None:
        for rank in range(self.arena.count):
            self.arena.control.set_alive(rank, True)
        for worker in self._workers:
            if self._signals.pending:
                break
            worker.start()
            row = self._row(worker)
            self._running[worker] = Watch(row)

    def _row(self, worker: Worker) -> MetricsRow:
        return MetricsRow(self.arena.arrays, worker.spec.row)

    def _learning(self) -> bool:
        return any(worker.spec.role == "learner" for worker in self._running)

    def _wait(self) -> None:
        sentinels = [worker.sentinel for worker in self._running]
        multiprocessing.connection.wait(sentinels, TICK_S)

    def _take_signals(self) -> None:
        if self._signals.take_hang_up():
            self.recorder.tell("the terminal was closed: training goes on, galamp attach shows it")
        while (number := self._signals.take()) is not None:
            if self._stopped_by is not None:
                self._at_once = True
                self._signals.last_warning(self._kill_everyone)
                return
            self._stopped_by = number
            self.recorder.tell(f"{signal.Signals(number).name}: saving and stopping")
            self._stop()

    def _answer(self) -> None:
        """Hear who is at the door; end this start if another number of learners is wanted."""
        self.door.poll()
        # Not before all have begun: there must be something to go on from.
        if self.recorder.status == "running" and self.door.wanted is not None:
            self._scale_to = self.door.wanted
            self.recorder.tell(f"the number of learners becomes {self._scale_to}: saving")
            self._stop()

    def _kill_everyone(self) -> None:
        for worker in self._running:
            worker.kill()

    def _reap(self) -> None:
        for worker in [w for w in self._running if not w.running]:
            del self._running[worker]
            failure = worker.failure()
            if failure is None and self._stopping_since_s is None and not self._row(worker)["done"]:
                failure = WorkerFailure(worker.spec.title, "left before the run was over")
            if worker.spec.role == "learner":
                # Its peers must not wait for it; in a run without faults it is done.
                self.arena.control.set_alive(worker.spec.rank, False)
                state = WorkerState.FAILED if failure else WorkerState.DONE
                self.recorder.learners[worker.spec.rank].state = state
            if failure is not None:
                self._fail(failure)

    def _check_heartbeats(self) -> None:
        now_s = time.monotonic()
        passed_s, self._tick_s = now_s - self._tick_s, now_s
        for worker, watch in self._running.items():
            still_s, phase = watch.still_s(passed_s), watch.row.phase
            if worker.spec.role == "learner" and phase is not Phase.BOOT:
                self.recorder.learners[worker.spec.rank].state = WorkerState.RUNNING
            limit_s = BOOT_LIMIT_S if phase is Phase.BOOT else self._hang_after_s
            if still_s > limit_s and self._stopping_since_s is None:
                worker.declare_stuck(
                    f"hung: no progress for {still_s:.0f} s in phase {phase.name.lower()}"
                )

    def _fail(self, failure: WorkerFailure) -> None:
        """End the run for the first failure; later ones are its consequences."""
        if self._failure is None and self._stopped_by is None and self._scale_to is None:
            self._failure = failure
            self.recorder.tell(str(failure))
            self._stop()
            self.arena.control.quit = True

    def _stop(self) -> None:
        """Ask the learners to end: after their turn, in lock-step all after the same one."""
        if self._stopping_since_s is None:
            self._stopping_since_s = time.monotonic()
            self.recorder.status = "stopping"
            lock_step = self.arena.plan.config.gossip.lock_step
            self.arena.control.stop_turn = common_turn(self.arena) if lock_step else 0

    def _hurry(self) -> None:
        """Be less patient the longer a stop takes."""
        if self._stopping_since_s is None:
            return
        passed_s = time.monotonic() - self._stopping_since_s
        if passed_s > LEAVE_AFTER_S:
            self.arena.control.quit = True
        if passed_s > KILL_AFTER_S:
            self._kill_everyone()

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
        self.door.show(snapshot)

    def _end_everyone(self) -> None:
        """Leave no child behind: ask, wait a moment, kill, reap."""
        self.arena.control.quit = True
        started = [worker for worker in self._workers if worker in self._running]
        deadline_s = time.monotonic() + (0.0 if self._at_once else 1.0)
        for worker in started:
            worker.join(max(0.0, deadline_s - time.monotonic()))
        for worker in started:
            worker.kill()
        for worker in started:
            worker.join()

    def _conclude(self) -> RunResult:
        """Write the last checkpoint, show the last picture, say how it went."""
        recorder = self.recorder
        recorder.read()
        if not self._at_once:
            self.saver.finish(
                recorder.progress(), LAST_SAVE_S, give_up=lambda: self._signals.pending
            )
        recorder.status, code, scale_to = "finished", EXIT_OK, None
        if self._failure is not None:
            recorder.status, code = "failed", EXIT_FAILURE
        elif self._stopped_by is not None:
            recorder.status, code = "stopped", 128 + self._stopped_by
        elif self._scale_to is not None:
            recorder.status, scale_to = "rescaled", self._scale_to
        recorder.log()
        self._show_to_all()
        return RunResult(recorder.status, code, self._failure, scale_to)
