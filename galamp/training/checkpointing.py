"""Checkpoints of a running training: asked for, gathered from shared memory, written aside.

    Saver.request --control block--> learners --StateSlots--> Saver.poll --> writer thread --> disk

Runs in the supervisor. The learners only copy into memory; the disk is waited for by a thread, so
a slow one stops nobody. Where there is no room for a thread a checkpoint is left out, and the last
one is written by the supervisor itself.
"""

from __future__ import annotations

import contextlib
import errno
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from galamp.algorithms.flat_parameters import Span
from galamp.core.config import to_dict
from galamp.core.disk import Where, as_named
from galamp.core.errors import CheckpointError, GalampError
from galamp.memory.learner_state import SAVE_EVERY_TURNS, STATE_COUNTERS, State, newest_common_turn
from galamp.memory.versioned_slots import Header
from galamp.storage import checkpoint as checkpoints
from galamp.storage.checkpoint import Checkpoint, CheckpointNotWritten, Identity, LearnerState
from galamp.storage.links import BEST, LATEST
from galamp.supervision.layout import RunLayout
from galamp.telemetry.snapshot import EPISODES_IN_MEAN

LEAST_KEPT = 2
"""So many checkpoints stay, even if there is no room for another one then."""


class Saver:
    """Asks, gathers and writes; one checkpoint at a time."""

    def __init__(
        self,
        run_layout: RunLayout,
        identity: Identity,
        folder: Path,
        tell: Callable[[str], None],
        where: Where = as_named,
        remove_dead: Callable[[], object] = lambda: None,
    ) -> None:
        """Save the states of `run_layout` into `folder`.

        Args:
            run_layout: whose learners' states are saved.
            identity: what the checkpoints belong to.
            folder: where they are written.
            tell: told of what fails, in a line.
            where: where the folder is now; may wait until that is certain.
            remove_dead: removes what ended starts have left there, if the disk has no room.
        """
        self._run_layout, self._identity, self._folder, self._tell = (
            run_layout,
            identity,
            folder,
            tell,
        )
        self._where, self._remove_dead = where, remove_dead
        self._config = to_dict(run_layout.plan.config)
        self._keep = run_layout.plan.config.report.keep_checkpoints
        self._wanted: int | None = None
        self._writer: threading.Thread | None = None
        self._best_path: Path | None = None
        self._best_return = float("-inf")
        self._left: set[int] = set()
        self._unmoved: set[str] = set()
        """Links of which it was told that they could not be moved."""
        self.written = 0
        self.last: Checkpoint | None = None
        """What `finish` has gathered, whether or not the disk took it."""

    def go_on(self) -> None:
        """Go on from a former start: only a better score than that of `best` moves it."""
        best = checkpoints.linked(self._folder, BEST)
        if best is None:
            return
        with contextlib.suppress(CheckpointError):
            score = full_score(checkpoints.load(best, learners=()))
            if score is not None:
                self._best_return, self._best_path = score, best

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being gathered or written."""
        return self._wanted is not None or (self._writer is not None and self._writer.is_alive())

    def leave_out(self, rank: int) -> None:
        """Save the mean of the others in the place of a learner that will not go on.

        What it last was grows old, and would spoil the mean of all that is played with.
        """
        self._left.add(rank)

    def request(self) -> None:
        """Ask every learner for its state at the end of its present turn."""
        if self.busy:
            return
        at_turn = 0
        if self._run_layout.plan.config.gossip.coupled:
            # After a turn in which all save anyway: so what they keep is always of the same turns.
            at_turn = -(-common_turn(self._run_layout) // SAVE_EVERY_TURNS) * SAVE_EVERY_TURNS
        self._wanted = self._run_layout.control.request_save(at_turn)

    def poll(self, progress: Callable[[], dict[str, Any]]) -> None:
        """Once every learner has answered, gather their states and start to write."""
        if self._wanted is None:
            return
        if any(map(self._is_awaited, range(self._run_layout.count))):
            return
        found = [states.restore() for states in self._run_layout.states]
        self._wanted = None
        if self._torn(found):
            self.request()  # one has saved anew meanwhile: in lock-step all are saved in one turn
            return
        checkpoint = self._gather([f[0] for f in found if f is not None], progress())
        if not self._write_aside(checkpoint):
            self._tell(
                "checkpoint not written, training goes on: no room for another thread "
                "(ulimit -u, or pids.max of the control group)"
            )

    def _is_awaited(self, rank: int) -> bool:
        """Whether learner `rank` has still to answer; of one that is dead the last state is taken.

        It has one: without its first state a run does not go on.
        """
        assert self._wanted is not None
        found = self._run_layout.states[rank].begin_read()
        if found is not None and found.header.version >= self._wanted:
            return False
        return found is None or self._run_layout.control.alive(rank)

    def finish(
        self, progress: dict[str, Any], deadline_s: float, give_up: Callable[[], bool]
    ) -> None:
        """Write every learner's newest state now, whichever it is; at most `deadline_s`."""
        self._wanted = None
        self._where(self._folder)  # only this thread finds out what has become of the run folder
        until_s = time.monotonic() + deadline_s
        self._wait(until_s, give_up)
        if self._writer is not None and self._writer.is_alive():
            self._tell("no last checkpoint: the disk has not taken the one before it yet")
            return
        found = [states.restore() for states in self._run_layout.states]
        if self._torn(found) and (turn := newest_common_turn(self._run_layout.states)) is not None:
            self._tell(f"the last checkpoint is of turn {turn:,}, the last that all have saved")
            found = [states.restore(turn) for states in self._run_layout.states]
        states = [f[0] for f in found if f is not None]
        if len(states) < len(found):
            self._tell("no checkpoint: a learner never got as far as its first state")
            return
        if self._torn(found):
            self._tell("no last checkpoint: in lock-step it has to be of one turn of all learners")
            return
        if not self._run_layout.plan.config.gossip.coupled:
            # One that died just now has saved less than it did.
            states = [state._replace(counters=self._counted(r)) for r, state in enumerate(states)]
        self.last = self._gather(states, progress)
        if not self._write_aside(self.last):
            self._write(self.last)  # here: nobody is left who would be kept waiting
        self._wait(until_s, give_up)
        if self.busy:
            self._tell("the last checkpoint was not written in time; an earlier one is whole")

    def _counted(self, rank: int) -> dict[str, int]:
        """Return the counters of learner `rank` as they stand in its row."""
        row = self._run_layout.status_board.learner(rank)
        return {name: row[name] for name in STATE_COUNTERS}

    def _torn(self, found: list[tuple[State, Header] | None]) -> bool:
        """Whether the learners, who go in lock-step, were saved in different turns."""
        turns = {f[1].round for f in found if f is not None}
        return self._run_layout.plan.config.gossip.coupled and len(turns) > 1

    def _wait(self, until_s: float, give_up: Callable[[], bool]) -> None:
        """Wait for the writer thread until the deadline, or until the user will not."""
        while self._writer is not None and self._writer.is_alive():
            if time.monotonic() > until_s or give_up():
                return
            self._writer.join(0.05)

    def _write_aside(self, checkpoint: Checkpoint) -> bool:
        """Have a thread write a checkpoint; returns whether the kernel has let it start."""
        writer = threading.Thread(target=self._write, args=(checkpoint,), daemon=True)
        try:
            writer.start()
        except RuntimeError:  # the limits on processes count threads, too
            return False
        self._writer = writer
        return True

    def _gather(self, states: list[State], progress: dict[str, Any]) -> Checkpoint:
        layout = self._run_layout.sketch.layout
        others = [s.tensors["parameters"] for r, s in enumerate(states) if r not in self._left]
        for rank in self._left if others else ():
            states[rank].tensors["parameters"] = np.mean(others, axis=0)
        learners = tuple(learner_state(rank, state, layout) for rank, state in enumerate(states))
        progress["agent_steps"] = sum(state.counters["agent_steps"] for state in states)
        return Checkpoint(self._identity, self._config, progress, learners)

    def _write(self, checkpoint: Checkpoint) -> None:
        """Write, point `latest` and `best` at it, remove old ones; in the writer thread, if any.

        One that is written counts, and old ones go, whatever becomes of the links: who resumes or
        evaluates a run finds its newest checkpoint without them.
        """
        folder = self._where(self._folder)
        if folder is None:
            return
        self._folder = folder
        if self._best_path is not None:
            self._best_path = folder / self._best_path.name
        try:
            path = self._save(checkpoint)
        except (GalampError, OSError) as error:
            self._tell(f"checkpoint not written, training goes on: {error}")
            return
        self.written += 1
        self._point(LATEST, path)
        score = full_score(checkpoint)
        if score is not None and score > self._best_return:
            self._best_return, self._best_path = score, path
            self._point(BEST, path)
        protect = {path} | ({self._best_path} if self._best_path else set())
        checkpoints.prune(self._folder, self._keep, protect)

    def _point(self, name: Literal["latest", "best"], path: Path) -> None:
        """Let a link point to the checkpoint `path`; that it cannot be moved is told once."""
        try:
            checkpoints.point(self._folder, name, path)
        except CheckpointNotWritten as error:
            if name not in self._unmoved:
                self._unmoved.add(name)
                self._tell(f"{error}; the checkpoint {path.name} is written")

    def _save(self, checkpoint: Checkpoint) -> Path:
        """Write; where the disk has no room for one more, in the place of older ones.

        Two whole ones stay in any case.
        """
        try:
            return checkpoints.save(self._folder, checkpoint)
        except CheckpointNotWritten as error:
            if getattr(error.__cause__, "errno", None) not in (errno.ENOSPC, errno.EDQUOT):
                raise
            protect = {self._best_path} if self._best_path else set()
            self._remove_dead()
            checkpoints.prune(self._folder, LEAST_KEPT, protect)
            return checkpoints.save(self._folder, checkpoint)


def full_score(checkpoint: Checkpoint) -> float | None:
    """Return the mean score that `best` goes by; None before 100 episodes, too few to tell."""
    progress = checkpoint.progress
    full = len(progress.get("last_returns") or ()) >= EPISODES_IN_MEAN
    score = progress.get("mean_return_100")
    return float(score) if full and isinstance(score, int | float) else None


def common_turn(run_layout: RunLayout) -> int:
    """Return a turn that no learner has reached yet, for all to act in the same one."""
    most = max(row["turns"] for row in run_layout.status_board.learners())
    return most + 2


def learner_state(rank: int, state: State, layout: tuple[Span, ...]) -> LearnerState:
    """Take a saved state apart: parameters by name in PyTorch's own layout, the rest as it is."""
    tensors = dict(state.tensors)
    flat = tensors.pop("parameters")
    parameters = {span.name: _standard(flat, span) for span in layout}
    return LearnerState(rank, parameters, tensors, state.counters, state.generator)


def saved_state(learner: LearnerState, layout: tuple[Span, ...]) -> State:
    """Put a checkpoint's state back together: the inverse of `learner_state`."""
    flat = np.concatenate([_stored(learner.parameters[span.name]) for span in layout])
    tensors = {"parameters": flat, **learner.optimizer}
    # Once a turn was always a round, and only rounds were counted.
    counters = {"turns": learner.counters.get("rounds", 0)} | dict(learner.counters)
    return State(tensors, counters, learner.generator)


def _standard(flat: npt.NDArray[np.float32], span: Span) -> npt.NDArray[np.float32]:
    """Return one parameter of the flat vector; convolutions are stored OHWI, shown OIHW."""
    part = flat[span.offset : span.offset + int(np.prod(span.shape))]
    if len(span.shape) != 4:
        return part.reshape(span.shape)
    outputs, inputs, height, width = span.shape
    stored = part.reshape(outputs, height, width, inputs)
    return np.ascontiguousarray(stored.transpose(0, 3, 1, 2))


def _stored(parameter: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return one parameter as it lies in the flat vector."""
    if parameter.ndim == 4:
        parameter = parameter.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(parameter).reshape(-1)
