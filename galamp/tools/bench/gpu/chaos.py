"""Step with injected faults: `galamp chaos` on one GPU, and its record."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from galamp.core.errors import EXIT_OK, RunFailed
from galamp.tools.bench.gpu.steps import Deadline, Job, Report
from galamp.tools.bench.gpu.training import Training, words_of

FAULTS_S, LEARNERS, NUM_ENVS = 40, 4, 16
OF_RUN = 1
"""Index of the first argument of an endless run that `galamp chaos` takes, too."""


def step(job: Job, report: Report, deadline: Deadline) -> None:
    """Train under faults."""
    with tempfile.TemporaryDirectory(prefix="galamp-bench-") as home:
        folder = Path(home, "run")
        settings = words_of(job, LEARNERS, NUM_ENVS, "--run-dir", folder)[OF_RUN:]
        words = ["chaos", "--seconds", FAULTS_S, "--json", *settings]
        with Training(words, folder, deadline) as run:
            code = run.end()
            found = record_of(run.last_line)
    report.values |= {
        "code": code,
        **{name: found[name] for name in ("held", "complete", "broken", "kinds", "throughput")},
    }
    report.say(*lines(found))
    report.judge(problems(found, code))


def record_of(text: str) -> dict[str, Any]:
    """Return the record that `galamp chaos --json` has printed last.

    Raises:
        RunFailed: it is something else, such as the reason of a failure.
    """
    try:
        found = json.loads(text)
    except ValueError:
        raise RunFailed(text) from None
    if not isinstance(found, dict) or "held" not in found:
        raise RunFailed(text)
    return found


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Yield the survived faults as text."""
    summary, back = found["summary"], found["throughput"]
    yield (
        f"{len(found['faults'])} faults, {summary['restarts']} restarts, "
        f"{summary['agent_steps']:,} agent steps"
    )
    works = next((each["works_s"] for each in found["kinds"] if each["kind"] == "all"), None)
    if works and works["count"]:
        yield f"works again after {works['p50']:.1f} s (median), {works['max']:.1f} s (greatest)"
    yield (
        f"throughput back at {back['share']:.0%} within {back['within_s']:.0f} s after "
        f"{back['kept']} of {back['faults']} faults"
    )


def problems(found: dict[str, Any], code: int) -> Iterator[str]:
    """Yield the broken invariants."""
    broken = found["broken"]
    if broken is not None:
        yield f"broken: {broken['name']}: expected {broken['expected']}, found {broken['found']}"
    if not found["complete"] and broken is None:
        yield "the run ended early"
    if code != EXIT_OK and broken is None:
        yield f"it ended with code {code}"
    if not found["faults"]:
        yield "no fault was injected"
