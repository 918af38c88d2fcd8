"""Pong for a while on the GPU and on the CPU with the same seed: do both learn alike?

    metrics.jsonl of both --means, over the agent steps that both have--> losses side by side

Actions are drawn by other generators, so the games differ; the means over thousands of updates
must not.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from galamp.bench.gpu.steps import Deadline, Job, Report
from galamp.bench.gpu.training import LOSSES, Row, Training, rate_of, words_of, wrong_losses
from galamp.plan import CPU

GAME = "ALE/Pong-v5"
TRAINED_S, NUM_ENVS = 40.0, 32
SKIPPED = 0.1
"""Share of the common agent steps that is left out at the beginning."""
LEAST_ROWS = 5


class Tolerance(NamedTuple):
    """How far the mean of a loss on the GPU may be from that on the CPU: the greater of both.

    CALIBRATE
    """

    absolute: float
    relative: float


TOLERANCES = {
    "policy_loss": Tolerance(0.02, 0.0),
    "value_loss": Tolerance(0.01, 0.5),
    "entropy": Tolerance(0.1, 0.0),
    "grad_norm": Tolerance(0.05, 0.5),
}
assert tuple(TOLERANCES) == LOSSES


def step(job: Job, report: Report, deadline: Deadline) -> None:
    """Train on both, and compare."""
    job = replace(job, workload=replace(job.workload, env_id=GAME))
    found: dict[str, list[Row]] = {}
    for device in (job.device, CPU):
        found[device] = _rows(replace(job, device=device), deadline)
        rows = found[device]
        report.say(
            f"{device}: {rows[-1]['global_step']:,} agent steps, {rate_of(rows):,.0f} per second, "
            f"mean score {rows[-1]['charts/episodic_return']}"
        )
        report.judge(f"on {device}: {wrong}" for wrong in wrong_losses(rows))
    on_gpu, on_cpu = found.values()
    until = min(rows[-1]["global_step"] for rows in found.values())
    means = [losses(rows, until) for rows in (on_gpu, on_cpu)]
    report.values |= {"until": until, "gpu": means[0], "cpu": means[1]}
    report.say(f"means up to {until:,} agent steps, GPU and CPU:")
    for name in LOSSES:
        report.say(f"{name:12} {_shown(means[0][name])} {_shown(means[1][name])}")
    report.judge(problems(*means))


def _rows(job: Job, deadline: Deadline) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="galamp-bench-") as home:
        folder = Path(home, "run")
        with Training(words_of(job, 1, NUM_ENVS, "--run-dir", folder), folder, deadline) as run:
            run.until_it_has_trained(TRAINED_S)
            run.stop()
            return run.rows()


def losses(rows: Sequence[Row], until: int) -> dict[str, float | None]:
    """Return the mean of each loss over the rows of the common agent steps; None of too few."""
    common = [row for row in rows if SKIPPED * until <= row["global_step"] <= until]
    found: dict[str, float | None] = {}
    for name in LOSSES:
        values = [row[f"losses/{name}"] for row in common if row.get(f"losses/{name}") is not None]
        found[name] = mean(values) if len(values) >= LEAST_ROWS else None
    return found


def problems(on_gpu: dict[str, float | None], on_cpu: dict[str, float | None]) -> Iterator[str]:
    """Yield which losses are not alike."""
    for name, tolerance in TOLERANCES.items():
        found, expected = on_gpu[name], on_cpu[name]
        if found is None or expected is None:
            yield f"{name}: too few rows to compare"
            continue
        most = max(tolerance.absolute, tolerance.relative * abs(expected))
        if not abs(found - expected) <= most:
            yield (
                f"{name}: {found:.4g} on the GPU, {expected:.4g} on the CPU, expected to be at "
                f"most {most:.2g} apart"
            )


def _shown(value: float | None) -> str:
    return f"{'-' if value is None else f'{value:.4f}':>10}"
