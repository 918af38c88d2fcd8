"""Restarts: what follows when a child of a run has ended.

    Children --reap, start_due--> done with its work, started anew later, given up, or: fail the run
             --unkillable--> given up, or: fail the run

Runs in the supervisor. The others continue meanwhile; in lock-step all learners go back to a turn
that all have saved. A failure that a restart cannot cure ends the run: one before any work was
done, a learner that fails twice at the same agent step, and the loss of the last learner.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from galamp.memory.status import Phase
from galamp.supervision.child import Child
from galamp.supervision.child_failure import ChildFailure
from galamp.supervision.children import Children, Ended, failure_lines
from galamp.supervision.layout import RunLayout
from galamp.supervision.rollback import Rollback
from galamp.telemetry.recorder import Recorder
from galamp.telemetry.snapshot import WorkerState
from galamp.training.checkpointing import Saver


class Restarts:
    """Restarts the children of one attempt of a run, and shows their states."""

    def __init__(
        self,
        run_layout: RunLayout,
        children: Children,
        recorder: Recorder,
        saver: Saver,
        *,
        fail: Callable[[ChildFailure], None],
        stopping: Callable[[], bool],
    ) -> None:
        """Restart `children`, unless the run is `stopping`; `fail` ends it for a failure."""
        self._run_layout, self._children = run_layout, children
        self._recorder, self._saver = recorder, saver
        self._fail, self._stopping = fail, stopping
        self._rollback = Rollback(children, run_layout.states)
        self._in_lock_step = run_layout.plan.config.gossip.exchanges_in_lock_step
        self._pending: list[Child] = []

    def reap(self) -> None:
        """Handle the ends of children, and end their orphans."""
        for child, failure, line in self._one_by_one(self._children.reap()):
            if failure is None or self._stopping():  # for the failure of another one, maybe
                self._set_state(child, WorkerState.FAILED if failure else WorkerState.DONE)
                if failure is not None:
                    self._end_peers(child)
            elif self._rollback.covers(child):
                self._set_state(child, WorkerState.STARTING)
            else:
                self._handle_failure(child, failure, line)
            if failure is not None and self._all_wait_for(child):
                child.mark_dead()
        self._children.look_for_orphans(time.monotonic())

    def give_up_unkillable(self) -> None:
        """Give up hung children that ignore SIGKILL: their end may never be reaped."""
        for child in self._children.with_process():
            if not child.unkillable or child.given_up:
                continue
            failure = child.failure()
            assert failure is not None
            failure = replace(failure, cause=f"{failure.cause}, and cannot be ended")
            is_done = bool(child.row["done"])
            self._set_state(child, WorkerState.DONE if is_done else WorkerState.FAILED)
            if is_done:
                self._log_given_up(child, failure, "its work is done")
            elif not self._stopping():
                if self._is_fatal(child):
                    self._fail(failure)
                else:
                    self._give_up(child, failure, "given up")
            if not is_done:
                self._end_peers(child)
            child.give_up()

    def start_due(self, postpone: Callable[[], bool]) -> None:
        """Start the children that are due, until `postpone` says that there is something else."""
        failed = self._children.start_due(time.monotonic(), postpone)
        for child, failure, line in self._one_by_one(failed):
            assert failure is not None
            self._handle_failure(child, failure, line)

    def finish_rollback(self) -> None:
        """In lock-step, once all learners have ended: restart them from one common turn."""
        cause = self._rollback.cause
        if (
            self._stopping()
            or cause is None
            or not (self._rollback.ready or self._rollback.overdue())
        ):
            return
        turn = self._rollback.finish() if self._rollback.ready else None
        if turn is None:
            self._fail(cause)
        else:
            self._recorder.log_event(
                f"{cause}: all learners go back to turn {turn:,}", kind="rollback",
                who=cause.title, cause=cause.cause,
            )  # fmt: skip

    def note_working(self) -> None:
        """Show the children that work by now as running."""
        for child in self._children.with_process():
            if not child.given_up and child.row.phase is not Phase.BOOT:
                self._set_state(child, WorkerState.RUNNING)

    def _one_by_one(
        self, ended: Sequence[Ended]
    ) -> Iterator[tuple[Child, ChildFailure | None, str]]:
        """Yield each child, its failure, and the line to report; see `_goes_on` for the rest."""
        self._pending = [child for child, failure in ended if failure is not None]
        for (child, failure), line in zip(ended, failure_lines(ended), strict=True):
            if failure is not None:
                self._pending.remove(child)
            yield child, failure, line

    def _goes_on(self, child: Child) -> bool:
        """Return whether a child runs, will be restarted, or may be: it failed at the same time."""
        awaited = child in self._pending or self._rollback.covers(child)
        return child.expected or (awaited and not child.given_up)

    def _handle_failure(self, child: Child, failure: ChildFailure, line: str) -> None:
        """Restart a failed child, continue without it, or end the run; `line` is reported."""
        self._set_state(child, WorkerState.FAILED)
        if child.given_up or self._stopping():
            return
        if self._is_fatal(child):
            self._fail(failure)
            return
        delay_s = child.delay_s(failure)
        if child.role == "learner" and child.repeats:
            self._fail(failure)  # the others run the same code
            return
        if delay_s is None:
            self._give_up(child, failure, "given up, too often or always at the same place")
            return
        self._set_state(child, WorkerState.STARTING)
        self._recorder.losses.restarts += 1
        if child.role == "learner" and self._in_lock_step:
            self._rollback.start(failure, delay_s)
            return
        child.due_s = time.monotonic() + delay_s
        when = f" in {delay_s:.2g} s" if delay_s else ""
        if line:
            self._recorder.log_event(
                f"{line}: started anew{when}", kind="restart", cause=failure.cause,
                who=child.title if line == str(failure) else "",
            )  # fmt: skip

    def _is_fatal(self, child: Child) -> bool:
        """Return whether a restart is not allowed, or cannot help.

        That is so where the child has never worked, or another process runs as this node.
        """
        board = self._run_layout.board if child is self._children.bridge else None
        if board is not None and board.overtaken_by is not None:
            return True
        return not child.has_worked or not self._run_layout.plan.config.resources.max_restarts

    def _give_up(self, child: Child, failure: ChildFailure, what: str) -> None:
        """Continue without a child; stop a learner without simulators, a run without learners."""
        self._end_peers(child)
        child.give_up()
        self._recorder.losses.given_up.append(child.title)
        self._log_given_up(child, failure, what)
        if child is self._children.bridge:
            return
        learner = self._children.learners[child.rank]
        if not any(map(self._goes_on, self._children.simulators_of(child.rank))):
            self._end_peers(learner)
            learner.give_up()
        if learner.given_up:
            self._saver.exclude(child.rank)
        left = any(map(self._goes_on, self._children.learners))
        if not left or (self._in_lock_step and learner.given_up):
            self._fail(failure)

    def _all_wait_for(self, child: Child) -> bool:
        """Return whether all learners wait for this child: in lock-step, for a learner."""
        return self._in_lock_step and child.role == "learner"

    def _end_peers(self, child: Child) -> None:
        """Before a learner is marked dead without a rollback: let no other one save any more.

        In lock-step the others would train without it, and overwrite the turn that all have saved.
        """
        if self._all_wait_for(child):
            self._run_layout.control.quit = True

    def _log_given_up(self, child: Child, failure: ChildFailure, what: str) -> None:
        self._recorder.log_event(
            f"{failure}: {what}", kind="given-up", who=child.title, cause=failure.cause
        )

    def _set_state(self, child: Child, state: WorkerState) -> None:
        if child.role == "learner":
            self._recorder.learners[child.rank].state = state
