"""eval.jsonl: the evaluations of a run while it trained, one JSON line each, over all attempts.

    Evaluator --EvaluationLog--> eval.jsonl --read_evaluations--> show, plot, the next attempt

Written by the supervisor; read by anyone, also while the run lives. A killed process leaves at most
one incomplete line; readers skip it and the next writer removes it. A resumed run may train the
same agent steps once more: a line `{"resumed_from": ...}` says from which agent steps it goes on,
and evaluations beyond them count no more.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from galamp.core.decode import Limits, decode
from galamp.core.disk import Where, as_named, open_plain
from galamp.core.json_values import DecodeError, json_object
from galamp.storage.run_logs import AppendOnly, Warn, is_count

EVALUATIONS, RESUMED_FROM = "eval.jsonl", "resumed_from"
MAX_LINE_BYTES = 8_000_000
"""No line is longer: that of 100,000 games takes 4 MB."""
LIMITS = Limits(more_fields=True)


@dataclass(frozen=True)
class Evaluation:
    """One line of eval.jsonl.

    Attributes:
        agent_steps: agent steps of the checkpoint, over all learners.
        emulator_frames: the same in frames of the emulator.
        wall_s: training time of the checkpoint over all starts.
        time: when the evaluation ended, in ISO 8601.
        start: number of the start of the run, from 1.
        checkpoint: name of the checkpoint's folder.
        learner: whose parameters: `mean`.
        mean_of: number of learners that the mean is of; None in files of earlier versions.
        mean: mean true score of the games.
        std: sample standard deviation; None of one game.
        standard_error: of the mean; None of one game.
        episodes: number of games.
        returns: score of each game.
        lengths: length of each game in agent steps.
        truncated: games that a limit cut short.
        seed: seed of everything random in the evaluation.
        num_envs: environments that played at once; the i-th has the seed (seed, 1 + i).
        protocol: protocol of the environment in words.
        max_frames: limit of a game in emulator frames, where there is one.
        max_episode_steps: limit of a game in agent steps, where there is one.
        greedy: whether the most probable action was taken; else it was drawn.
        took_s: seconds that the evaluation took.
        skipped: evaluations that were left out just before, as the one before took too long.
        best: whether no earlier evaluation had so high a mean.
    """

    agent_steps: int
    mean: float
    episodes: int
    emulator_frames: int = 0
    wall_s: float = 0.0
    time: str = ""
    start: int = 1
    checkpoint: str = ""
    learner: str = "mean"
    mean_of: int | None = None
    std: float | None = None
    standard_error: float | None = None
    returns: tuple[float, ...] = ()
    lengths: tuple[int, ...] = ()
    truncated: int = 0
    seed: int = 0
    num_envs: int = 1
    protocol: str = ""
    max_frames: int | None = None
    max_episode_steps: int | None = None
    greedy: bool = False
    took_s: float = 0.0
    skipped: int = 0
    best: bool = False


class EvaluationLog:
    """Writer of eval.jsonl in one start of a run."""

    def __init__(self, folder: Path, warn: Warn, where: Where = as_named) -> None:
        """Append to the file in a run folder; `warn` reports a disk that refuses."""
        self._folder, self._file = folder, AppendOnly(folder / EVALUATIONS, warn, where)

    def go_on_from(self, agent_steps: int) -> list[Evaluation]:
        """Return the evaluations that a start counts, and store that those beyond count no more."""
        found = read_evaluations(self._folder)
        if found and found[-1].agent_steps > agent_steps:
            self._file.append(json.dumps({RESUMED_FROM: agent_steps}).encode() + b"\n")
        return [one for one in found if one.agent_steps <= agent_steps]

    def append(self, evaluation: Evaluation) -> None:
        """Add an evaluation."""
        self._file.append(json.dumps(asdict(evaluation), allow_nan=False).encode() + b"\n")


def read_evaluations(folder: Path) -> list[Evaluation]:
    """Return the evaluations of a run that count, by agent steps; invalid lines are skipped."""
    kept: list[Evaluation] = []
    with contextlib.suppress(OSError), open_plain(folder / EVALUATIONS) as file:
        while line := file.readline(MAX_LINE_BYTES):
            with contextlib.suppress(DecodeError):
                values = json_object(line)
                # Older versions skip this line, since it is no evaluation.
                if is_count(beyond := values.get(RESUMED_FROM)):
                    _cut(kept, beyond)
                    continue
                found = _evaluation(values)
                _cut(kept, found.agent_steps - 1)
                kept.append(found)
    return kept


def _cut(kept: list[Evaluation], agent_steps: int) -> None:
    """Remove the evaluations beyond `agent_steps`."""
    while kept and kept[-1].agent_steps > agent_steps:
        kept.pop()


def best_of(evaluations: Iterable[Evaluation]) -> Evaluation | None:
    """Return the first evaluation with the highest mean; None of none."""
    return max(evaluations, key=lambda each: each.mean, default=None)


def _evaluation(values: dict[str, Any]) -> Evaluation:
    """Return the evaluation of a line's object.

    Raises:
        DecodeError: it is none.
    """
    found = decode(Evaluation, values, LIMITS)
    if not math.isfinite(found.mean):
        raise DecodeError("mean: expected a finite number")
    return found
