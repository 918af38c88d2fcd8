"""The interface of metric sinks: where rows of metrics and finished episodes go.

    Recorder --write(row), add_episode(episode)--> MetricSink --> file, TensorBoard, tracker, ...

Runs in the supervisor, between its other duties: a call has to come back within milliseconds.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeAlias

from galamp.core.disk import Where, as_named

Row: TypeAlias = Mapping[str, float | int | str | None]
"""Metrics by name (`galamp help metrics`), always with `global_step`; None: nothing known yet."""


class Episode(NamedTuple):
    """A finished training episode.

    Attributes:
        learner: whose simulator played it, from 0.
        score: the true return, finite and never clipped.
        length: in agent steps.
        ended: time.time() at its end.
    """

    learner: int
    score: float
    length: int
    ended: float


@dataclass(frozen=True)
class SinkContext:
    """What a sink is told about the start of the run that it writes for.

    Attributes:
        folder: the run folder, as it was called at the start.
        env_id: environment.
        learners: how many learners there are.
        start: how often the run was started, this time included, from 1.
        from_step: agent steps that the start goes on from (0: a new run). Rows of former starts
            beyond it are superseded.
        warn: reports one line about what went wrong; the run continues.
        where: says where a path in the run folder is now; None if nothing may be written there.
        t_start: time.time() at this start.
    """

    folder: Path
    env_id: str
    learners: int
    start: int
    from_step: int
    warn: Callable[[str], None]
    where: Where = as_named
    t_start: float = field(default_factory=time.time)


class MetricSink(ABC):
    """A destination of metrics, made by `Class(context)` once per start of a run.

    What it raises is told once, and costs its own rows only: the run and other sinks go on.
    A constructor that raises is told before the run begins. One that blocks holds the run up.
    """

    def __init__(self, context: SinkContext) -> None:
        """Make ready to write; the run folder exists, its config may not yet be written."""
        self.context = context

    @abstractmethod
    def write(self, row: Row) -> None:
        """Take one row of metrics; called every `--log-every-s` seconds and once at the end.

        Args:
            row: the same mapping goes to every sink, and is not to be changed.
        """

    def add_episode(self, episode: Episode) -> None:
        """Take a finished episode, in order of time, before the row that counts it; or do nothing.

        Args:
            episode: of any learner.
        """
        return

    def close(self) -> None:
        """Write what is left and let go of files; called once, however the start ends."""
        return
