"""One learner on the GPUs against several with the same environments: rates, power, the ceiling.

    for S environments:  galamp with 1, 2, 4 learners of S, S / 2, S / 4 --measure--> Measurement
                       the bare parts                                  --measure--> ceiling
    Measurements --> a line each at once, a table per S

One learner with all environments is plain A2C: what several add by gossiping is told against it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from galamp.core.errors import RunFailed
from galamp.telemetry.display.console import text_lines
from galamp.telemetry.display.text import UNKNOWN
from galamp.tools.bench import tables
from galamp.tools.bench.gpu.steps import Deadline, Job, Late, Report
from galamp.tools.bench.gpu.training import ROWS_EVERY_S
from galamp.tools.bench.limit import Limit, parts_table
from galamp.tools.bench.nvml import Gauge, uuids
from galamp.tools.bench.runs import Measurable, Measurement, Workload, galamp_system

MIN_START_S = 12.0
"""Time for start and end of a run: none is started with less time left."""
ROUND = 1


def step(job: Job, report: Report, deadline: Deadline) -> None:
    """Measure all systems within the time limit; those that are not reached are listed."""
    known = uuids()
    report.values["measurements"] = []
    left_out: list[str] = []
    for total_envs in job.total_envs:
        done: list[Measurement] = []
        systems = list(systems_of(job, total_envs, known))
        for system in systems:
            timeout_s = deadline.left_s - job.warm_up_s - job.seconds
            if timeout_s < MIN_START_S:
                left_out.append(f"{system.name} with {total_envs}")
                continue
            try:
                one = system.measure(
                    ROUND, seconds=job.seconds, warm_up_s=job.warm_up_s, timeout_s=timeout_s
                )
            except RunFailed as error:  # the others are measured all the same
                report.judge([f"{total_envs} environments: {error}"])
                continue
            done.append(one)
            report.say(f"{total_envs} environments, {one.system}: {in_words(one)}")
            report.values["measurements"].append(
                {"total_envs": total_envs, **dataclasses.asdict(one)}
            )
        if len(done) > 1:
            report.say(*table_lines(done, systems[0].name))
        for system in systems:
            if isinstance(system, Limit) and system.rounds:
                report.values[f"parts_of_{total_envs}"] = system.rounds[0]
                report.say(*text_lines(parts_table(system.rounds)))
    if left_out:
        raise Late(f"not measured: {', '.join(left_out)}")


def systems_of(job: Job, total_envs: int, known: Mapping[str, str]) -> Iterator[Measurable]:
    """Yield what is measured with so many environments on the GPUs `known`, device -> UUID."""
    for precision in job.precisions:
        for learners in job.learners:
            workload = _workload(job, learners, total_envs // learners, precision)
            more = ("--device", ",".join(known), "--log-every-s", str(ROWS_EVERY_S))
            name = "1 learner" if learners == 1 else f"{learners} learners"
            name += "" if precision == "float32" else f", {precision}"
            gauge = Gauge(list(known.values())[:learners])  # they are assigned in turn
            yield replace(galamp_system(workload, name, more=more), gauge=gauge)
    yield Limit(_workload(job, 1, total_envs, "float32"), device=job.device)


def _workload(job: Job, learners: int, num_envs: int, precision: str) -> Workload:
    return replace(job.workload, learners=learners, num_envs=num_envs, precision=precision)


def in_words(one: Measurement) -> str:
    """Return a measurement as one line of text."""
    words = [
        f"{one.agent_steps_per_s:,.0f} agent steps/s",
        f"{one.emulator_frames_per_s:,.0f} frames/s",
        f"CPU {one.cpu_share:.0%}",
    ]
    if one.gpu is not None:
        share, watts, per_joule, _ = dataclasses.astuple(one.gpu)
        words.append(f"GPU {_known(share, '.0%')}")
        words.append(f"{_known(watts, '.0f')} W")
        words.append(f"{_known(per_joule, '.1f')} frames/J")
    return ", ".join(words)


def _known(value: Any, form: str) -> str:
    return UNKNOWN if value is None else format(value, form)


def table_lines(done: Sequence[Measurement], subject: str) -> list[str]:
    """Return the table of measurements, and the source of its watts."""
    lines = text_lines(tables.table(done, subject))
    return [*lines, *tables.gpu_remarks(done)]
