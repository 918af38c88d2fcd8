"""Pong for a while on the GPU and on the CPU with the same seed: do both learn alike?

    metrics.jsonl of both --estimates, over the agent steps that both have--> losses side by side

Actions are drawn by other generators, so the games differ, and a row tells of one update alone. The
means are alike if they are no farther apart than `ERRORS` standard errors, and a share of the loss
besides, for both learn in their own time.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from galamp.supervision.devices import CPU
from galamp.telemetry.display.text import UNKNOWN
from galamp.tools.bench.gpu.steps import Deadline, Job, Report
from galamp.tools.bench.gpu.training import (
    LOSSES,
    Row,
    Training,
    rate_of,
    words_of,
    wrong_losses,
)

GAME = "ALE/Pong-v5"
TRAINED_S, NUM_ENVS = 40.0, 32
SKIPPED = 0.1
"""Share of the common agent steps that is skipped at the beginning."""
MIN_ROWS = 5


ERRORS = 4.0
SHARES = {"policy_loss": 0.25, "value_loss": 0.25, "entropy": 0.05, "grad_norm": 0.25}
assert tuple(SHARES) == LOSSES


class Estimate(NamedTuple):
    """The mean of a loss, and its standard error."""

    mean: float
    error: float


def step(job: Job, report: Report, deadline: Deadline) -> None:
    """Train on both, and compare."""
    job = replace(job, workload=replace(job.workload, env_id=GAME))
    both: list[list[Row]] = []
    for device in (job.device, CPU):
        rows = _rows(replace(job, device=device), deadline)
        both.append(rows)
        report.say(
            f"{device}: {rows[-1]['global_step']:,} agent steps, {rate_of(rows):,.0f} per second, "
            f"mean score {rows[-1]['charts/episodic_return']}"
        )
        report.judge(f"on {device}: {wrong}" for wrong in wrong_losses(rows))
    until = min(rows[-1]["global_step"] for rows in both)
    on_gpu, on_cpu = (estimates(rows, until) for rows in both)
    report.values |= {"until": until, "gpu": on_gpu, "cpu": on_cpu}
    report.say(f"means up to {until:,} agent steps, GPU and CPU:")
    for name in LOSSES:
        report.say(f"{name:12} {_shown(on_gpu[name])}   {_shown(on_cpu[name])}")
    report.judge(problems(on_gpu, on_cpu))


def _rows(job: Job, deadline: Deadline) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="galamp-bench-") as home:
        folder = Path(home, "run")
        with Training(words_of(job, 1, NUM_ENVS, "--run-dir", folder), folder, deadline) as run:
            run.until_it_has_trained(TRAINED_S)
            run.stop()
            return run.rows()


def estimates(rows: Sequence[Row], until: int) -> dict[str, Estimate | None]:
    """Return each loss's mean over the rows of the common agent steps; None of too few."""
    common = [row for row in rows if SKIPPED * until <= row["global_step"] <= until]
    found: dict[str, Estimate | None] = {}
    for name in LOSSES:
        values = [row[f"losses/{name}"] for row in common if row.get(f"losses/{name}") is not None]
        enough = len(values) >= MIN_ROWS
        error = stdev(values) / math.sqrt(len(values)) if enough else 0.0
        found[name] = Estimate(mean(values), error) if enough else None
    return found


def problems(
    on_gpu: dict[str, Estimate | None], on_cpu: dict[str, Estimate | None]
) -> Iterator[str]:
    """Yield the losses that differ."""
    for name, share in SHARES.items():
        found, expected = on_gpu[name], on_cpu[name]
        if found is None or expected is None:
            yield f"{name}: too few rows to compare"
            continue
        most = ERRORS * math.hypot(found.error, expected.error) + share * abs(expected.mean)
        if not abs(found.mean - expected.mean) <= most:
            yield (
                f"{name}: {found.mean:.4g} on the GPU, {expected.mean:.4g} on the CPU, expected "
                f"to be at most {most:.2g} apart"
            )


def _shown(found: Estimate | None) -> str:
    return UNKNOWN if found is None else f"{found.mean:9.4f} ± {found.error:.4f}"
