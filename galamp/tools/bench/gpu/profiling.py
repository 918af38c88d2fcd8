"""Where a learner's time on a GPU goes: launches, waits and copies of a rollout, longest kernels.

    python -m galamp.tools.bench.gpu.profiling --device cuda:0 --network nature --num-envs 64
        two synthetic learners that take turns --20 rollouts, torch.profiler--> Event, Event, ...
        Events --summarise--> counts per rollout, the longest kernels --> lines, problems

The learners are those of a run, with gossip; only the emulators are missing. The times of the parts
are taken before, without the profiler, which makes every launch slower.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from galamp.memory.status import StatusRow
from galamp.tools.bench.gpu.children import ask, run, send
from galamp.tools.bench.gpu.steps import LOG_LINES, Deadline, Job, Report, cause
from galamp.tools.bench.parts import ON_GPU
from galamp.tools.bench.synthetic import ATARI, SyntheticLearner, synthetic_learners, take_turns

ROLLOUTS, WARM_UP = 20, 10
LEARNERS, NUM_ENVS = 2, 64
MAX_KERNELS = 8
SHOWN_CHARACTERS = 70

LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")
GRAPHS = ("cudaGraphLaunch", "cuGraphLaunch")
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
COPIES = ("cudaMemcpyAsync", "cudaMemcpy")
"""Calls of the CUDA runtime, and of the driver below it, as the profiler names them."""
ON_DEVICE = "CUDA"
"""The profiler's name for the kind of device that kernels run on."""

ESTIMATED = {"launches": 12, "graphs": 11, "waits": 12, "copy_calls": 16}
"""Per rollout of 5 agent steps in two batches, counted on GPUs of host memory: a graph for each of
10 acts, one for the update, and a wait for each; 12 rows, what comes with them, and what gossip
copies (3), computes (12 kernels), and waits for (once)."""
ESTIMATED_EAGER = {"launches": 374, "graphs": 0, "waits": 12, "copy_calls": 37}
"""The same where no graph could be recorded: 20 kernels an act, 162 an update, and one more copy an
act. cuDNN adds some."""


class Event(NamedTuple):
    """The profiler's totals for all calls, or kernels, of one name.

    Attributes:
        name: of the call or the kernel.
        calls: their number.
        device_us: time on the GPU, in microseconds; 0 for what ran on the host.
        on_device: whether it ran on the GPU.
    """

    name: str
    calls: int
    device_us: float
    on_device: bool


def step(job: Job, report: Report, deadline: Deadline) -> None:
    """Profile 20 rollouts."""
    words = ("--device", job.device, "--network", job.workload.network, "--num-envs", NUM_ENVS)
    values = ask("profiling", words, report, deadline)
    report.say(*lines(values), *values.get("learner_log", ()))
    report.judge(problems(values))


def summarise(events: Iterable[Event], rollouts: int) -> dict[str, Any]:
    """Return counts and milliseconds per rollout, and the longest kernels.

    Copies are listed by kind, such as `HtoD (Pinned -> Device)`.
    """
    counts = dict.fromkeys(("launches", "graphs", "waits", "copy_calls"), 0.0)
    kernels: list[tuple[float, int, str]] = []
    copies: dict[str, float] = {}
    busy_us = 0.0
    for event in events:
        each = event.calls / rollouts
        if event.on_device:
            busy_us += event.device_us
            if event.name.startswith("Memcpy "):
                copies[event.name.removeprefix("Memcpy ")] = each
            elif not event.name.startswith("Memset"):
                kernels.append((event.device_us, event.calls, event.name))
            continue
        names = zip(counts, (LAUNCHES, GRAPHS, WAITS, COPIES), strict=True)
        for name, calls in names:
            counts[name] += each if event.name in calls else 0.0
    kernels.sort(reverse=True)
    return {
        **counts,
        "copies": copies,
        "busy_ms": busy_us / rollouts / 1e3,
        "kernels": [
            {"name": name, "count": count / rollouts, "ms": us / rollouts / 1e3}
            for us, count, name in kernels[:MAX_KERNELS]
        ],
    }


def lines(values: dict[str, Any]) -> Iterator[str]:
    """Yield the profile as it is shown."""
    parts = ", ".join(f"{name} {values['parts_ms'][name]:.2f}" for name in ON_GPU)
    yield (
        f"per rollout of {values['num_envs']} environments, ms: {parts}; "
        f"the GPU is busy for {values['busy_ms']:.2f}"
    )
    estimated = ESTIMATED_EAGER if values["graph_refusal"] else ESTIMATED
    counts = (
        f"{name.removesuffix('_calls')} {values[name]:.0f} (estimated {most})"
        for name, most in estimated.items()
    )
    yield f"{', '.join(counts)}; {'kernel by kernel' if values['graph_refusal'] else 'recorded'}"
    for name, count in sorted(values["copies"].items()):
        yield f"copies {name}: {count:.0f}"
    for kernel in values["kernels"]:
        yield f"{kernel['ms']:8.3f} ms {kernel['count']:5.0f} x {kernel['name'][:SHOWN_CHARACTERS]}"


def problems(values: dict[str, Any]) -> Iterator[str]:
    """Yield impossible results: no graphs, kernels without launches, losses that are not finite."""
    if values["graph_refusal"]:
        why = cause(values["learner_log"])
        yield f"what a learner does cannot be recorded as CUDA graphs: {why}"
    if not values["kernels"]:
        yield "the profiler saw no kernel on the GPU"
    elif not values["launches"] + values["graphs"]:
        yield "the profiler saw kernels, and nothing that launched them"
    elif not values["graphs"] and not values["graph_refusal"]:
        yield "all was recorded, and the profiler saw no CUDA graph launched"
    if not values["finite"]:
        yield "the losses are not finite"


def main() -> None:
    """Time the parts, profile the rollouts, and send the values."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", required=True)
    parser.add_argument("--network", required=True)
    parser.add_argument("--num-envs", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    send(num_envs=args.num_envs)
    with heard() as log:
        learners = synthetic_learners(
            ATARI,
            learners=LEARNERS,
            num_envs=args.num_envs,
            network=args.network,
            device=args.device,
        )
    send(**refusals([learner.status for learner in learners], log.getvalue()))
    take_turns(learners, WARM_UP)
    send(parts_ms=parts_ms(learners))
    gauges, events = profiled(learners)
    send(
        **summarise(events, ROLLOUTS),
        finite=all(map(math.isfinite, gauges.values())),
    )


@contextlib.contextmanager
def heard() -> Iterator[io.StringIO]:
    """Yield a buffer of what is written to standard error meanwhile; it is passed on at the end."""
    log = io.StringIO()
    try:
        with contextlib.redirect_stderr(log):
            yield log
    finally:
        sys.stderr.write(log.getvalue())


def refusals(rows: Iterable[StatusRow], log: str) -> dict[str, Any]:
    """Return the driver's refusals by the learners' rows, and why there are no graphs."""
    counters = ("page_lock_refusal", "graph_refusal")
    found: dict[str, Any] = dict.fromkeys(counters, 0)
    for row in rows:
        found |= {name: max(found[name], row.counter(name)) for name in counters}
    if found["graph_refusal"]:
        found["learner_log"] = log.splitlines()[-LOG_LINES:]
    return found


def parts_ms(learners: list[SyntheticLearner]) -> dict[str, float]:
    """Return the milliseconds of each part of one rollout of one learner."""
    before = [learner.status.phase_s() for learner in learners]
    take_turns(learners, ROLLOUTS)
    spent_s = np.sum([learner.status.phase_s() for learner in learners], 0) - np.sum(before, 0)
    turns = ROLLOUTS * len(learners)
    return {name: float(spent_s[phase]) / turns * 1e3 for name, phase in ON_GPU.items()}


def profiled(learners: list[SyntheticLearner]) -> tuple[dict[str, float], list[Event]]:
    """Let the learners take `ROLLOUTS` turns together; returns the last metrics, and the events."""
    library: Any = torch.profiler
    kinds = library.ProfilerActivity
    known = {kinds.CPU, kinds.CUDA} & set(library.supported_activities())
    with library.profile(activities=known) as profiler:
        gauges = take_turns(learners, ROLLOUTS // len(learners))
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    events = [
        Event(
            each.key,
            each.count,
            float(each.self_device_time_total),
            each.device_type.name == ON_DEVICE,
        )
        for each in profiler.key_averages()
    ]
    return gauges, events


if __name__ == "__main__":
    run(main)
