"""Stored evaluations of a run: reports of `galamp eval`, and those made while it trained.

RUN/eval-*.json --evaluations--> a line per learner that was evaluated
RUN/eval.jsonl  --evaluations--> a line for the newest, and one for the best
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from galamp.core.disk import read_limited
from galamp.core.sanitize import clean
from galamp.storage.eval_log import EVALUATIONS, Evaluation, best_of, read_evaluations
from galamp.storage.run_folder import JSON_LIMIT_BYTES
from galamp.tools.run_folders.record import amount, whole_number

PATTERN = "eval-*.json"
MAX_FILES = 20
MAX_RESULTS = 20
"""Results of one file that are shown."""


def evaluation_files(run: Path) -> list[Path]:
    """Return the newest reports in a run folder, the newest first."""
    try:
        found = [(path.lstat().st_mtime, path) for path in run.glob(PATTERN)]
    except OSError:
        return []
    return [path for _, path in sorted(found, reverse=True)[:MAX_FILES]]


def evaluations(run: Path) -> list[str]:
    """Return a line for each evaluated learner of each report, all clean."""
    lines = [line for path in evaluation_files(run) for line in _lines(path)]
    return [clean(line) for line in [*lines, *_while_training(read_evaluations(run))]]


def _while_training(found: Sequence[Evaluation]) -> list[str]:
    """Return a line for the newest evaluation, and one for the best."""
    last, best = found[-1] if found else None, best_of(found)
    if last is None or best is None:
        return []
    lines = [f"{_result(asdict(last), asdict(last))}   {EVALUATIONS}"]
    if best is not last:
        lines.append(f"{_result(asdict(best), asdict(best))}   {EVALUATIONS}, best")
    return lines


def _lines(path: Path) -> list[str]:
    try:
        report = json.loads(read_limited(path, JSON_LIMIT_BYTES))
        results = itertools.islice(report["results"], MAX_RESULTS)
        return [f"{_result(result, report)}   {path.name}" for result in results]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return [f"{path.name}: cannot be read"]


def _result(result: dict[str, Any], report: dict[str, Any]) -> str:
    mean, error = amount(result["mean"]), amount(result.get("standard_error"))
    score = "-" if mean is None else f"{mean:.2f}"
    score += "" if error is None else f" ± {error:.2f}"
    games = whole_number(result["episodes"]) or 0
    steps = whole_number(report["agent_steps"]) or 0
    how = "greedy" if report["greedy"] is True else "sampled"
    return (
        f"{score} in {games:,} games, {how}, learner {result['learner']}, at {steps:,} agent steps"
    )
