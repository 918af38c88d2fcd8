"""Resume point: what an earlier start left, checked before anything is built on it.

    checkpoint --load_resume_point: whole? right environment? --> ResumePoint --states--> resume

Runs in the supervisor. A checkpoint with correct digests may still come from elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from galamp.algorithms.flat_parameters import Span
from galamp.core.decode import Limits, Range, decode
from galamp.core.errors import CheckpointError
from galamp.core.json_values import DecodeError
from galamp.core.nodes import MAX_LEARNERS, Ranks
from galamp.core.normalisation import NormaliserSpec, Saved
from galamp.memory.learner_state import GENERATOR_BYTES, STATE_COUNTERS, Sizes, State
from galamp.storage import checkpoint as checkpoints
from galamp.storage.checkpoint import Checkpoint, LearnerState
from galamp.telemetry.snapshot import EPISODES_IN_MEAN
from galamp.training.state_conversion import saved_state

LIMITS = Limits(number=Range(-1e100, 1e100), items=EPISODES_IN_MEAN, more_fields=True)

OF_LEARNERS = Limits(items=MAX_LEARNERS, whole=Range(0, 10**15), more_fields=True)


@dataclass(frozen=True)
class Progress:
    """What is read of a checkpoint's progress besides the agent steps."""

    episodes: float
    wall_s: float
    mean_return_100: float | None
    best_mean_return_100: float | None
    last_returns: tuple[float, ...]
    last_lengths: tuple[float, ...]


@dataclass(frozen=True)
class ProgressElsewhere:
    """What is read of a checkpoint's progress in a run on several machines."""

    steps_elsewhere: tuple[int, ...] = ()
    machines: Ranks | None = None
    sessions: tuple[Annotated[int, Range(1, 2**62)], ...] = ()


@dataclass(frozen=True)
class ResumePoint:
    """The checkpoint that an earlier start of the run left."""

    folder: Path
    checkpoint: Checkpoint
    skipped: tuple[str, ...]

    def states(self, layout: Sequence[Span]) -> list[State]:
        """Return every learner's state, for a network of this layout."""
        return [saved_state(learner, tuple(layout)) for learner in self.checkpoint.learners]


def progress_of(resume_point: ResumePoint | None) -> dict[str, Any]:
    """Return what was reached before a start; a new run goes on from nothing."""
    new: dict[str, Any] = {"agent_steps": 0, "wall_s": 0.0}
    return resume_point.checkpoint.progress if resume_point else new


def load_resume_point(
    folder: Path,
    identity: checkpoints.Identity,
    sizes: Sizes,
    normaliser: NormaliserSpec | None = None,
) -> ResumePoint:
    """Read the checkpoint that the run in `folder` can resume from.

    Args:
        folder: the run folder.
        identity: what the checkpoint must be of.
        sizes: those of its states.
        normaliser: what the run normalises.

    Raises:
        UserError: there is no whole checkpoint, or it is of another environment or network, or
            lacks values that galamp saves.
    """
    found = checkpoints.find(folder)
    checkpoint = checkpoints.load(found.path, expected=identity)
    lacks = lacking(checkpoint, sizes, normaliser)
    if lacks is not None:
        raise CheckpointError(f"checkpoint {found.path}: no run can resume from it: {lacks}")
    count = len(checkpoint.learners)
    large = checkpoints.too_large(count * checkpoints.FLOAT_BYTES * identity.num_parameters)
    if large is not None:  # a second copy, which `states` creates
        raise CheckpointError(
            f"checkpoint {found.path}: to resume, its {count} learners take {large}"
        )
    return ResumePoint(folder, checkpoint, found.skipped)


def lacking(
    checkpoint: Checkpoint, sizes: Sizes, normaliser: NormaliserSpec | None = None
) -> str | None:
    """Return what is missing or invalid in a checkpoint; None if it is complete."""
    try:
        decode(Progress, checkpoint.progress, LIMITS, "its progress")
        decode(ProgressElsewhere, checkpoint.progress, OF_LEARNERS, "its progress")
    except DecodeError as error:
        return str(error)
    for learner in checkpoint.learners:
        lacks = _lacking(learner, sizes) or _unsound(learner, normaliser)
        if lacks is not None:
            return f"learner {learner.rank} has {lacks}"
    return None


def _lacking(learner: LearnerState, sizes: Sizes) -> str | None:
    missing = set(STATE_COUNTERS) - {"turns"} - set(learner.counters)
    if missing or min(learner.counters.values()) < 0:
        return f"no sound counters ({', '.join(sorted(missing)) or 'one is negative'})"
    found = {name: values.size for name, values in learner.optimizer.items()}
    if found != {name: size for name, size in sizes.items() if name != "parameters"}:
        return f"another optimiser's state ({', '.join(sorted(found)) or 'none'})"
    if learner.generator.size > GENERATOR_BYTES:
        return f"a generator of {learner.generator.size} bytes"
    return None


def _unsound(learner: LearnerState, spec: NormaliserSpec | None) -> str | None:
    """Return what is wrong with the statistics of a learner's normaliser."""
    if spec is None:
        surplus = learner.normaliser.size > 0
        return "statistics of a normaliser that this run has not" if surplus else None
    try:
        Saved.unpacked(learner.normaliser, spec)
    except ValueError as error:
        return f"no sound statistics of its normaliser ({error})"
    return None
