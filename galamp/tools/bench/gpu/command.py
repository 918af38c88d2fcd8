"""`bin/bench gpu`: arguments to steps, outcomes to an exit code."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TextIO

import torch

from galamp.core.disk import finite
from galamp.core.errors import EXIT_OK, UserError, did_you_mean
from galamp.core.machine.machine import Machine, inspect_machine
from galamp.tools.bench import tables
from galamp.tools.bench.gpu import chaos, facts, learners, parity, pong, profiling, rates, trial
from galamp.tools.bench.gpu.steps import Job, Outcome, Result, Step, run_steps
from galamp.tools.bench.runs import Workload

EXIT_FAILED = 1
"""Exit code: a step has failed or was late, or none was run."""

DEVICE = "cuda:0"
"""Default until it is known which GPU can be used."""
FULL_LEARNERS = 8
SHORT, FULL = ("float32",), ("float32", "bf16")

STEPS = (
    Step("facts", "driver, GPUs, cores, NUMA nodes, the build of torch", 60, 5, facts.step),
    Step("trial", "locking, launches, waits, copies, a graph", 60, 10, trial.step),
    Step("parity", "100 updates on the GPU and on the CPU", 90, 15, parity.step),
    Step("learner", "one learner trains", 60, 20, learners.one_learner),
    Step("kill", "one of four learners on a GPU is killed", 75, 25, learners.killed_learner),
    Step("resume", "a run goes on on a CPU and on the GPU again", 90, 30, learners.changed_device),
    Step("profile", "20 rollouts under torch.profiler", 60, 20, profiling.step),
    Step("rates", "learners at the same number of environments", 600, 30, rates.step),
    Step("chaos", "faults for 40 s", 120, 60, chaos.step),
    Step("pong", "Pong for 40 s on the GPU and on the CPU", 140, 95, pong.step),
)
"""In order: later steps rely on earlier ones. The times are for one GPU of 2024."""


def run(
    args: argparse.Namespace, workload: Workload, rows: AbstractContextManager[TextIO | None]
) -> int:
    """Run the steps that `args` name; returns the exit code.

    Args:
        args: as `galamp.tools.bench.options.add_gpu` has them.
        workload: the game and the network.
        rows: opens the file that rows are appended to, if there is to be one.

    Raises:
        UserError: there is no GPU that can be used, or no such step, or the numbers do not fit
            one another.
    """
    steps = chosen(args.steps)
    job = job_from(args, workload)
    machine = machine_here()
    for device, why in machine.unusable.items():
        show(f"{device} is left out: {why}")
    job = replace(job, device=machine.gpus[0].device)
    origin = tables.Origin.here(shlex.join(["bin/bench", *args.words]))
    with rows as file:
        outcomes = run_steps(steps, job, args.limit_s, show, _keeper(file, origin))
    show("")
    for outcome in outcomes:
        show(f"{outcome.step:8} {outcome.result:9} {outcome.seconds:6.1f} s")
    for line in origin.lines:
        show(line)
    return exit_code(outcomes)


def machine_here() -> Machine:
    """Return this machine, with at least one GPU; GPUs are tried in a process of their own.

    Raises:
        UserError: torch sees none, or none can be used.
    """
    machine = inspect_machine("auto")
    if machine.gpus:
        return machine
    if machine.unusable:
        why = "; ".join(f"{device}: {why}" for device, why in machine.unusable.items())
        raise UserError(f"bench gpu needs a GPU that can be used: {why}")
    why = "and sees none: is the driver loaded, and does CUDA_VISIBLE_DEVICES name one?"
    if torch.version.cuda is None and torch.version.hip is None:
        why = "and is built for CPUs only: install a build with CUDA"
    raise UserError(f"bench gpu needs a GPU; torch {torch.__version__} is here {why}")


def chosen(names: str) -> tuple[Step, ...]:
    """Return the steps of a list of names, in their own order; all if it is empty.

    Raises:
        UserError: there is no such step.
    """
    known = {step.name: step for step in STEPS}
    wanted = [name.strip() for name in names.split(",")] if names else list(known)
    for name in wanted:
        if name not in known:
            raise UserError(
                f"--steps {name!r}: expected some of {','.join(known)}{did_you_mean(name, known)}"
            )
    return tuple(step for step in STEPS if step.name in wanted)


def job_from(args: argparse.Namespace, workload: Workload) -> Job:
    """Return the job of the steps.

    Raises:
        UserError: a number of environments cannot be split among a number of learners.
    """
    counts: tuple[int, ...] = args.learners
    if args.full and FULL_LEARNERS not in counts:
        counts = (*counts, FULL_LEARNERS)
    for total_envs in args.total_envs:
        for count in counts:
            if total_envs % count:
                raise UserError(
                    f"--total-envs {total_envs}: expected a multiple of {count}, which is one of "
                    "--learners"
                )
    return Job(
        workload=workload,
        device=DEVICE,
        learners=counts,
        total_envs=args.total_envs,
        precisions=FULL if args.full else SHORT,
        seconds=args.seconds,
        warm_up_s=args.warm_up,
    )


def show(line: str) -> None:
    """Print a line immediately."""
    print(line, flush=True)


def _keeper(file: TextIO | None, origin: tables.Origin) -> Callable[[Outcome], None]:
    """Return a function that appends each outcome to `file`, if there is one."""

    def keep(outcome: Outcome) -> None:
        if file is not None:
            row = finite(json_row(outcome, origin))
            file.write(json.dumps(row, allow_nan=False) + "\n")
            file.flush()

    return keep


def json_row(outcome: Outcome, origin: tables.Origin) -> dict[str, Any]:
    """Return an outcome and its origin as JSON values."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": origin.commit,
        "machine": origin.machine,
        "command": origin.command,
        **dataclasses.asdict(outcome),
    }


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """Return 0 if all steps that ran have passed, and at least one ran."""
    results = [outcome.result for outcome in outcomes if outcome.result is not Result.LEFT_OUT]
    good = bool(results) and all(result is Result.PASSED for result in results)
    return EXIT_OK if good else EXIT_FAILED
