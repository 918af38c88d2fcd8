"""Checkpoints of a running training: requested, gathered from shared memory, written by a thread.

    Saver.request --control block--> learners --StateSlots--> Saver.poll --> writer thread --> disk

Runs in the supervisor. Learners only copy into memory; a thread waits for the disk, so a slow disk
delays no learner. If no thread can start, the checkpoint is skipped; the last one is then written
by the supervisor itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from galamp.core.config import to_dict
from galamp.core.disk import Where, as_named
from galamp.core.errors import CheckpointError, GalampError
from galamp.memory.learner_state import STATE_COUNTERS, State, newest_common_turn, save_every_turns
from galamp.memory.versioned_slots import Header
from galamp.storage import checkpoint as checkpoints
from galamp.storage.checkpoint import (
    Checkpoint,
    CheckpointNotWritten,
    Identity,
    MeanState,
)
from galamp.storage.links import BEST, LATEST
from galamp.supervision.launching import AwakeTimeout
from galamp.supervision.layout import RunLayout
from galamp.telemetry.recorder import SESSIONS, STEPS_ELSEWHERE
from galamp.telemetry.snapshot import EPISODES_IN_MEAN
from galamp.training.mean_of_nodes import MeanOfNodes
from galamp.training.state_conversion import learner_state, parameters_of

MIN_KEPT = 2
"""Number of checkpoints that are kept even if the disk then has no room for another one."""


Mean = Callable[[], MeanState | None]
"""Takes the mean of the learners of all nodes, if this one is to save it."""


class Written(NamedTuple):
    """Checkpoint on the disk: where, and the progress that it has saved."""

    path: Path
    agent_steps: int
    wall_s: float


class Saver:
    """Requests, gathers and writes checkpoints, one at a time."""

    def __init__(
        self,
        run_layout: RunLayout,
        identity: Identity,
        folder: Path,
        log_event: Callable[[str], None],
        where: Where = as_named,
        remove_dead: Callable[[], object] = lambda: None,
    ) -> None:
        """Save the states of `run_layout` into `folder`.

        Args:
            run_layout: holds the learners' states.
            identity: the environment and network that the checkpoints belong to.
            folder: where they are written.
            log_event: called with one line per failure.
            where: returns where the folder is now; may wait until that is certain.
            remove_dead: removes what ended starts have left there, if the disk has no room.
        """
        self._run_layout, self._identity, self._folder, self._log_event = (
            run_layout,
            identity,
            folder,
            log_event,
        )
        self._where, self._remove_dead = where, remove_dead
        self._config = to_dict(run_layout.plan.config)
        self._keep = run_layout.plan.config.report.keep_checkpoints
        self._requested: int | None = None
        self._writer: threading.Thread | None = None
        self._best_path: Path | None = None
        self._best_return = float("-inf")
        self._by_evaluation = run_layout.plan.config.evaluation.eval_every is not None
        self._excluded: set[int] = set()
        self._is_over = False
        """Whether another start may write by now: links and pruning are its own."""
        self._nodes = MeanOfNodes(run_layout)
        self._reported_links: set[str] = set()
        """Links whose failure to move was reported."""
        self.written = 0
        self.last: Checkpoint | None = None
        """The checkpoint that `finish` has gathered, whether or not it was written."""
        self.newest: Written | None = None
        """The checkpoint that was written last in this attempt."""
        self.protected: Path | None = None
        """A checkpoint that is being evaluated, and so is not removed."""

    def resume_best(self) -> None:
        """Resume from an earlier start: only a better score than that of `best` moves the link."""
        best = checkpoints.linked(self._folder, BEST)
        if best is None:
            return
        if self._by_evaluation:
            self._best_path = best
            return
        with contextlib.suppress(CheckpointError):
            score = full_score(checkpoints.load(best, learners=()))
            if score is not None:
                self._best_return, self._best_path = score, best

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being gathered or written."""
        return self._requested is not None or (self._writer is not None and self._writer.is_alive())

    def point_best(self, path: Path) -> None:
        """Point `best` to a checkpoint that is `protected`: an evaluation has found it the best.

        One that is gone all the same, as by a user's hand, leaves the link where it is.
        """
        if not os.path.isdir(self._folder / path.name):
            self._log_event(f"{self._folder / BEST} not moved: {path.name} is gone")
            return
        self._point(BEST, path)
        self._best_path = path

    def exclude(self, rank: int) -> None:
        """Save the mean of the others in place of the parameters of a learner that was given up.

        Its own last parameters grow old, and would distort the mean that evaluation uses.
        """
        self._excluded.add(rank)

    def request(self) -> None:
        """Request every learner's state at the end of its current turn."""
        if self.busy:
            return
        at_turn = 0
        if self._run_layout.plan.config.gossip.exchanges_in_lock_step:
            # A turn in which all save anyway: so all kept states are of the same turns.
            every = save_every_turns(self._run_layout.shape.num_steps, self._run_layout.count)
            at_turn = -(-common_turn(self._run_layout) // every) * every
        self._requested = self._run_layout.control.request_save(at_turn)

    def poll(self, progress: Callable[[], dict[str, Any]]) -> None:
        """Once every learner has saved, gather the states and start to write."""
        now_s = time.monotonic()
        self._nodes.follow(now_s)
        if self._requested is None:
            return
        if any(map(self._is_awaited, range(self._run_layout.count))):
            return
        found = [states.restore() for states in self._run_layout.states]
        self._requested = None
        if self._is_mixed(found):
            # One learner has saved again meanwhile; in lock-step all states must be of one turn.
            self.request()
            return
        states = [f[0] for f in found if f is not None]
        checkpoint = self._gather(states, progress())
        if not self._write_aside(checkpoint, self._mean(states, now_s, ends=False)):
            self._log_event(
                "checkpoint not written, training goes on: no room for another thread "
                "(ulimit -u, or pids.max of the control group)"
            )

    def _is_awaited(self, rank: int) -> bool:
        """Return whether learner `rank` has still to save; of a dead one the last state is used.

        It has one: no run continues before every learner's first state.
        """
        assert self._requested is not None
        found = self._run_layout.states[rank].begin_read()
        if found is not None and found.header.version >= self._requested:
            return False
        return found is None or self._run_layout.control.alive(rank)

    def finish(
        self, progress: dict[str, Any], deadline_s: float, give_up: Callable[[], bool]
    ) -> None:
        """Write every learner's newest state now, of whichever turn; waits at most `deadline_s`.

        Time in which this process is stopped does not count. The state is gathered even if the disk
        has not taken the checkpoint before it by then.
        """
        self._requested = None
        ended_s = time.monotonic()
        self._nodes.follow(ended_s)
        # Only this thread checks whether the run folder was moved or removed.
        self._where(self._folder)
        timeout = AwakeTimeout(deadline_s)
        self._wait(timeout, give_up)
        found = [states.restore() for states in self._run_layout.states]
        if (
            self._is_mixed(found)
            and (turn := newest_common_turn(self._run_layout.states)) is not None
        ):
            self._log_event(
                f"the last checkpoint is of turn {turn:,}, the last that all have saved"
            )
            found = [states.restore(turn) for states in self._run_layout.states]
        states = [f[0] for f in found if f is not None]
        if len(states) < len(found):
            self._log_event("no checkpoint: a learner never got as far as its first state")
            return
        if self._is_mixed(found):
            self._log_event(
                "no last checkpoint: in lock-step it has to be of one turn of all learners"
            )
            return
        if not self._run_layout.plan.config.gossip.exchanges_in_lock_step:
            # The saved counters of a learner that has just died may be behind its row.
            states = [state._replace(counters=self._counted(r)) for r, state in enumerate(states)]
        self.last = self._gather(states, progress)
        if self.busy:
            self._is_over = True
            self._log_event("no last checkpoint: the disk has not taken the one before it yet")
            return
        self._nodes.follow(ended_s)  # of those that have left meanwhile, too
        mean = self._mean(states, ended_s, ends=True)
        if not self._write_aside(self.last, mean):
            self._write(self.last, mean)  # in this thread: nothing waits for it any more
        self._wait(timeout, give_up)
        if self.busy:
            self._is_over = True
            self._log_event("the last checkpoint was not written in time; an earlier one is whole")

    def _counted(self, rank: int) -> dict[str, int]:
        """Return the counters of learner `rank` from its row of the status board."""
        row = self._run_layout.status_board.learner(rank)
        return {name: row.counter(name) for name in STATE_COUNTERS}

    def _is_mixed(self, found: list[tuple[State, Header] | None]) -> bool:
        """Return whether the states are of different turns, where lock-step requires one turn."""
        turns = {f[1].round for f in found if f is not None}
        return self._run_layout.plan.config.gossip.exchanges_in_lock_step and len(turns) > 1

    def _wait(self, timeout: AwakeTimeout, give_up: Callable[[], bool]) -> None:
        """Wait for the writer thread until the timeout, or until `give_up` says so."""
        while self._writer is not None and self._writer.is_alive():
            if timeout.expired() or give_up():
                return
            self._writer.join(0.05)

    def _write_aside(self, checkpoint: Checkpoint, mean: Mean) -> bool:
        """Write a checkpoint in a thread; returns whether the thread could start."""
        writer = threading.Thread(target=self._write, args=(checkpoint, mean), daemon=True)
        try:
            writer.start()
        except RuntimeError:  # process limits count threads, too
            return False
        self._writer = writer
        return True

    def _gather(self, states: list[State], progress: dict[str, Any]) -> Checkpoint:
        layout = self._run_layout.sketch.layout
        others = [s.tensors["parameters"] for r, s in enumerate(states) if r not in self._excluded]
        for rank in self._excluded if others else ():
            states[rank].tensors["parameters"] = np.mean(others, axis=0)
        board = self._run_layout.board
        if board is not None:  # with what earlier starts of this node have done
            for rank, state in enumerate(states):
                state.counters["agent_steps"] += board.missing(rank)
            progress[SESSIONS] = list(board.sessions)  # now: all that these counts hold
        learners = tuple(learner_state(rank, state, layout) for rank, state in enumerate(states))
        progress["agent_steps"] = sum(state.counters["agent_steps"] for state in states)
        progress["agent_steps"] += sum(progress.get(STEPS_ELSEWHERE, ()))
        return Checkpoint(self._identity, self._config, progress, learners)

    def _mean(self, states: list[State], now_s: float, *, ends: bool) -> Mean:
        """Return what takes the mean over all nodes, in the writer thread: it copies vectors."""
        elsewhere = self._nodes.elsewhere(now_s, ends=ends)
        kept = [state for rank, state in enumerate(states) if rank not in self._excluded] or states
        own = [state.tensors["parameters"] for state in kept]

        def mean() -> MeanState | None:
            found = None if elsewhere is None else elsewhere.mean(own)
            if found is None:
                return None
            layout = self._run_layout.sketch.layout
            return MeanState(parameters_of(found.vector, layout), found.learners)

        return mean

    def _write(self, checkpoint: Checkpoint, mean: Mean = lambda: None) -> None:
        """Write a checkpoint, with the mean over all nodes; move the links, remove old checkpoints.

        Runs in the writer thread, if one could start. A written checkpoint counts, and old ones are
        removed, even if the links cannot be moved: resume and evaluation find the newest checkpoint
        without them.
        """
        folder = self._where(self._folder)
        if folder is None:
            return
        self._folder = folder
        if self._best_path is not None:
            self._best_path = folder / self._best_path.name
        try:
            path = self._save(dataclasses.replace(checkpoint, mean=mean()))
        except (GalampError, OSError) as error:
            self._log_event(f"checkpoint not written, training goes on: {error}")
            return
        if self._is_over:
            return
        self.written += 1
        self._point(LATEST, path)
        self._point_best_by_training(checkpoint, path)
        checkpoints.prune(self._folder, self._keep, {path} | self._spared())
        progress = checkpoint.progress
        self.newest = Written(path, progress["agent_steps"], progress.get("wall_s", 0.0))

    def _point_best_by_training(self, checkpoint: Checkpoint, path: Path) -> None:
        """Point `best` to a checkpoint of a higher training score, unless evaluations choose it."""
        score = None if self._by_evaluation else full_score(checkpoint)
        if score is not None and score > self._best_return:
            self._best_return, self._best_path = score, path
            self._point(BEST, path)

    def _point(self, name: Literal["latest", "best"], path: Path) -> None:
        """Point a link to the checkpoint `path`; a failure is reported once per link."""
        try:
            checkpoints.point(self._folder, name, path)
        except CheckpointNotWritten as error:
            if name not in self._reported_links:
                self._reported_links.add(name)
                self._log_event(f"{error}; the checkpoint {path.name} is written")

    def _save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint; on a full disk, remove older ones first.

        Two whole checkpoints are kept in any case.
        """
        try:
            return checkpoints.save(self._folder, checkpoint)
        except CheckpointNotWritten as error:
            if getattr(error.__cause__, "errno", None) not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._remove_dead()
            checkpoints.prune(self._folder, MIN_KEPT, self._spared())
            return checkpoints.save(self._folder, checkpoint)

    def _spared(self) -> set[Path]:
        """Return the checkpoints that stay whatever their age, by where the folder is now."""
        known = (self._best_path, self.protected)
        return {self._folder / each.name for each in known if each is not None}


def full_score(checkpoint: Checkpoint) -> float | None:
    """Return the mean score that decides `best`; None before 100 episodes."""
    progress = checkpoint.progress
    full = len(progress.get("last_returns") or ()) >= EPISODES_IN_MEAN
    score = progress.get("mean_return_100")
    return float(score) if full and isinstance(score, int | float) else None


def common_turn(run_layout: RunLayout) -> int:
    """Return a turn that no learner has reached yet, so that all can act in it."""
    latest = max(row["turns"] for row in run_layout.status_board.learners())
    return latest + 2
