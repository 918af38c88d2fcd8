"""Trial of one GPU's elementary operations: microseconds of each, and whether results are right.

    python -m galamp.tools.bench.gpu.trial --device cuda:0 --send--> values, problems--> Report

All operations of a learner: page-locked memory (as galamp locks it), launches, waits, copies of the
size of a rollout's row and of a parameter vector, and a CUDA graph.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch
from torch import Tensor

from galamp.memory.arrays import ArraySpec, SharedArrays
from galamp.tools.bench.gpu.children import ask, run, send
from galamp.tools.bench.gpu.steps import Deadline, Job, Report

LAUNCHES, REPEATS = 500, 50
KERNELS_OF_GRAPH = 20
"""Number of kernels of one act of an eager learner."""
LOCKED_BYTES = 64 * 2**20
ROW_BYTES = 64 * 4 * 84 * 84
"""Observations of 64 environments at one agent step."""
VECTOR_NUMBERS = 1_686_693
"""Parameters of the Nature network."""


def step(job: Job, report: Report, deadline: Deadline) -> None:
    """Run the whole trial."""
    values = ask("trial", ("--device", job.device), report, deadline)
    report.say(*lines(values))
    report.judge(problems(values))


def lines(values: dict[str, Any]) -> Iterator[str]:
    """Yield what was measured, as it is shown."""
    yield f"context {values['context_s']:.1f} s"
    if values["register_code"] == 0:
        per_mib = values["register_us"] / (LOCKED_BYTES / 2**20)
        yield f"memory locked in place: {per_mib:.1f} us per MiB"
    else:
        yield (
            f"memory cannot be locked in place (code {values['register_code']}): copies take a "
            "detour, and the host waits for each"
        )
    yield (
        f"launch {values['launch_us']:.1f} us, launch and wait {values['wait_us']:.1f} us, "
        f"actions to the host {values['actions_us']:.1f} us"
    )
    yield (
        f"copies and a wait: {ROW_BYTES / 1e6:.1f} MB to the GPU {values['row_us']:.0f} us, "
        f"{VECTOR_NUMBERS * 4 / 1e6:.1f} MB to it {values['vector_in_us']:.0f} us, "
        f"from it {values['vector_out_us']:.0f} us"
    )
    if not values.get("graph_refusal"):
        yield (
            f"graph of {KERNELS_OF_GRAPH} kernels: capture {values['capture_us']:.0f} us, replay "
            f"{values['replay_us']:.1f} us, replay and wait {values['replay_wait_us']:.1f} us; "
            f"the same launched one by one, and a wait: {values['eager_us']:.1f} us"
        )


def problems(values: dict[str, Any]) -> Iterator[str]:
    """Yield wrong results, and a refused graph: galamp runs without one, but far slower.

    Memory that cannot be page-locked is no problem: it costs much less.
    """
    if values.get("graph_refusal"):
        yield f"no CUDA graph: {values['graph_refusal']}"
    for name in ("launches", "copies", "graph"):
        if not values.get(f"{name}_right", True):
            yield f"{name}: wrong numbers came out"


def main() -> None:
    """Try every operation on one GPU, and send each result immediately."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", required=True)
    device = parser.parse_args().device
    began_s = time.perf_counter()
    torch.cuda.set_device(device)
    x = torch.zeros(64, device=device)
    torch.cuda.synchronize()
    send(context_s=time.perf_counter() - began_s)
    for trial in (_locked_memory, _launches, _copies):
        send(**trial(x))
    try:
        send(**_graph(x))
    except (RuntimeError, AttributeError) as error:
        send(graph_refusal=(str(error).strip() or type(error).__name__).splitlines()[0])


def _locked_memory(x: Tensor) -> dict[str, Any]:
    arrays = SharedArrays.create([ArraySpec("trial", (LOCKED_BYTES,), "uint8", fill=1)])
    began_s = time.perf_counter()
    code = arrays.page_lock("trial")
    passed_s = time.perf_counter() - began_s
    if not code:
        torch.cuda.cudart().cudaHostUnregister(  # type: ignore[no-untyped-call]
            arrays["trial"].ctypes.data
        )
    return {"register_code": code, "register_us": passed_s * 1e6}


def _launches(x: Tensor) -> dict[str, Any]:
    x.zero_()
    torch.cuda.synchronize()
    began_s = time.perf_counter()
    for _ in range(LAUNCHES):
        x.add_(1)
    passed_s = time.perf_counter() - began_s
    torch.cuda.synchronize()
    right = bool((x == LAUNCHES).all())

    def launch_and_wait() -> None:
        x.add_(1)
        torch.cuda.synchronize()

    actions = torch.zeros(64, dtype=torch.int64, device=x.device)
    return {
        "launch_us": passed_s / LAUNCHES * 1e6,
        "wait_us": microseconds(launch_and_wait),
        "actions_us": microseconds(actions.cpu),
        "launches_right": right,
    }


def _copies(x: Tensor) -> dict[str, Any]:
    row = torch.randint(0, 255, (ROW_BYTES,), dtype=torch.uint8).pin_memory()
    vector = torch.randn(VECTOR_NUMBERS).pin_memory()
    row_there, vector_there = row.to(x.device), torch.empty_like(vector, device=x.device)
    back = torch.empty_like(vector).pin_memory()

    def copied(to: Tensor, source: Tensor) -> float:
        def copy() -> None:
            to.copy_(source, non_blocking=True)
            torch.cuda.synchronize()

        return microseconds(copy)

    row_there.zero_()
    times = {
        "row_us": copied(row_there, row),
        "vector_in_us": copied(vector_there, vector),
        "vector_out_us": copied(back, vector_there),
    }
    right = torch.equal(back, vector) and torch.equal(row_there.cpu(), row)
    return {**times, "copies_right": right}


def _graph(x: Tensor) -> dict[str, Any]:
    def kernels() -> None:
        for _ in range(KERNELS_OF_GRAPH):
            x.add_(1)

    def eagerly() -> None:
        kernels()
        torch.cuda.synchronize()

    eager_us = microseconds(eagerly)
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        kernels()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    began_s = time.perf_counter()
    with torch.cuda.graph(graph):
        kernels()
    captured_s = time.perf_counter() - began_s
    x.zero_()
    graph.replay()
    right = bool((x == KERNELS_OF_GRAPH).all())

    def replayed() -> None:
        graph.replay()
        torch.cuda.synchronize()

    torch.cuda.synchronize()
    began_s = time.perf_counter()
    for _ in range(REPEATS):
        graph.replay()
    replay_s = (time.perf_counter() - began_s) / REPEATS
    torch.cuda.synchronize()
    return {
        "capture_us": captured_s * 1e6,
        "replay_us": replay_s * 1e6,
        "replay_wait_us": microseconds(replayed),
        "eager_us": eager_us,
        "graph_right": right,
    }


def microseconds(work: Callable[[], object]) -> float:
    """Return how long `work` takes, the median of some repetitions after the first few."""
    times = []
    for _ in range(REPEATS):
        began_s = time.perf_counter()
        work()
        times.append(time.perf_counter() - began_s)
    return median(times[REPEATS // 10 :]) * 1e6


if __name__ == "__main__":
    run(main)
