"""`bin/bench gpu`: steps with made-up findings and small stand-ins; the last test is real.

What a step concludes from what it has found is tried with findings that are right, and with each
kind of wrong one.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from galamp.algorithms.base import Rollout
from galamp.bench import cli, processes, tables
from galamp.bench.gpu import (
    chaos,
    children,
    command,
    facts,
    learners,
    parity,
    pong,
    profiling,
    rates,
    training,
    trial,
)
from galamp.bench.gpu.profiling import Event
from galamp.bench.gpu.steps import (
    END_S,
    Deadline,
    Job,
    Late,
    Outcome,
    Report,
    Result,
    Step,
    run_steps,
)
from galamp.bench.limit import Limit
from galamp.bench.nvml import COUNTED, GpuUse
from galamp.bench.runs import Measurement, System, Workload
from galamp.bench.synthetic import ATARI, synthetic_learners
from galamp.errors import RunFailed, UserError
from galamp.machine import Cpu, plain_machine
from tests.engine import ROOT, running, wait_for
from tests.fakecuda.inside import settings

pytestmark = [pytest.mark.real, pytest.mark.counted]  # for they start processes

JOB = Job(
    Workload("ALE/Breakout-v5", "breakout", 1, 1, "gala"),
    device="cuda:0",
    learners=(1, 2, 4),
    simulators=(64, 256),
    precisions=("float32",),
    seconds=6.0,
    warm_up_s=2.0,
)


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


# Steps


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Steps:
    """Steps that take time on a fake clock, and what `run_steps` showed and kept of them."""

    def __init__(self) -> None:
        self.clock, self.shown, self.kept = FakeClock(), list[str](), list[Outcome]()
        self.steps: list[Step] = []

    def add(
        self, name: str, seconds: float, then: Callable[[Report, Deadline], None], **times: float
    ) -> None:
        """Add a step that does something after so many seconds."""

        def run(job: Job, report: Report, deadline: Deadline) -> None:
            assert job is JOB
            self.clock.now_s += min(seconds, deadline.left_s)
            deadline.check(f"the end of {name}")
            then(report, deadline)

        limits = {"limit_s": 60.0, "least_s": 5.0} | times
        self.steps.append(Step(name, f"does {name}", run=run, **limits))

    def run(self, limit_s: float = 540.0) -> list[Outcome]:
        return run_steps(self.steps, JOB, limit_s, self.shown.append, self.kept.append, self.clock)


def nothing(report: Report, deadline: Deadline) -> None:
    report.values["did"] = "nothing"


def fail(error: Exception) -> Callable[[Report, Deadline], None]:
    def then(report: Report, deadline: Deadline) -> None:
        report.say("begun")
        raise error

    return then


def test_no_step_stops_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    steps = Steps()
    steps.add("fails", 1.0, fail(RunFailed("it ended", "with code 3")))
    steps.add("breaks", 1.0, fail(KeyError("gpus")))
    steps.add("hangs", 1e9, nothing, limit_s=30.0)
    steps.add("judges", 1.0, lambda report, _: report.judge(["too far apart"]))
    steps.add("passes", 2.0, nothing)
    outcomes = steps.run()
    assert [(o.step, o.result, o.seconds, o.problems) for o in outcomes] == [
        ("fails", Result.FAILED, 1.0, ("it ended", "with code 3")),
        ("breaks", Result.FAILED, 1.0, ("KeyError: 'gpus'",)),
        ("hangs", Result.LATE, 30.0, ("the end of hangs did not happen in time (30 s)",)),
        ("judges", Result.FAILED, 1.0, ("too far apart",)),
        ("passes", Result.PASSED, 2.0, ()),
    ]
    assert steps.kept == outcomes
    assert outcomes[-1].values == {"did": "nothing"}
    assert steps.shown[:3] == [
        "1/5 fails: does fails",
        "    begun",
        "    failed after 1.0 s: it ended; with code 3",
    ]
    assert "    WRONG: too far apart" in steps.shown
    assert "Traceback" in capsys.readouterr().err, "a defect of a step is told in full"
    assert command.exit_code(outcomes) == 1


def test_what_no_longer_fits_is_named() -> None:
    steps = Steps()
    steps.add("long", 50.0, nothing)
    steps.add("longer", 100.0, nothing, limit_s=200.0)
    steps.add("large", 1.0, nothing, least_s=30.0)
    steps.add("small", 1.0, nothing)
    outcomes = steps.run(limit_s=100.0)
    assert [o.result for o in outcomes] == ["passed", "late", "left out", "left out"]
    assert outcomes[1].seconds == pytest.approx(50.0 - END_S), "there has to be time for its end"
    assert outcomes[2].problems == ("it needs 30 s, 0 s are left",)
    assert any("left out" in line and "30 s" in line for line in steps.shown)
    assert steps.clock.now_s <= 100.0


@pytest.mark.parametrize(
    ("results", "code"),
    [
        ([Result.PASSED, Result.PASSED], 0),
        ([Result.PASSED, Result.LEFT_OUT], 0),
        ([Result.PASSED, Result.FAILED], 1),
        ([Result.LATE, Result.PASSED], 1),
        ([Result.LEFT_OUT], 1),
        ([], 1),
    ],
)
def test_exit_codes(results: list[Result], code: int) -> None:
    assert command.exit_code([Outcome("x", result, 0.0, (), {}) for result in results]) == code


def test_interruptions_end_all_steps() -> None:
    steps = Steps()
    for error in (KeyboardInterrupt(), SystemExit(143)):

        def then(report: Report, deadline: Deadline, error: BaseException = error) -> None:
            raise error

        steps.add("is interrupted", 1.0, then)
        with pytest.raises(type(error)):
            steps.run()
        steps.steps.clear()


# Children


CHILD = f"""#!{sys.executable}
import sys, time
print("a warning of torch's", file=sys.stderr)
print('{children.MARK}{{"first": 1, "second": 2}}', flush=True)
print('{children.MARK}{{"second": 3}}', flush=True)
"""


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Stand in for a child that tells two values, and then does what it is told to."""

    def write(then: str) -> None:
        path = tmp_path / "python"
        path.write_text(CHILD + then)
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))

    return write


def test_a_child_tells_its_values(child: Callable[[str], None]) -> None:
    child("print('and a last word')")
    report = Report(print)
    assert children.ask("facts", (), report, Deadline(60.0)) == {"first": 1, "second": 3}


def test_a_child_that_fails_has_told_its_values(child: Callable[[str], None]) -> None:
    child("sys.exit('CUDA error: unspecified launch failure')")
    report = Report(print)
    with pytest.raises(RunFailed, match="facts ended with code 1: CUDA error: unspecified"):
        children.ask("facts", (), report, Deadline(60.0))
    assert report.values == {"first": 1, "second": 3}


def test_a_child_that_hangs_is_ended(
    child: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "ABORT_GRACE_S", 0.2)
    pids = tmp_path / "pids"
    child(
        f"""
import os, signal, subprocess
signal.signal(signal.SIGTERM, signal.SIG_IGN)
below = subprocess.Popen(["sleep", "600"])
with open({str(pids)!r}, "w") as file:
    file.write(f"{{os.getpid()}} {{below.pid}}")
time.sleep(600)
"""
    )
    report, deadline = Report(print), Deadline(1e9)
    deadline_s = time.monotonic() + 60.0

    class UntilItHangs(Deadline):
        @property
        def left_s(self) -> float:
            over = (pids.exists() and " " in pids.read_text()) or time.monotonic() > deadline_s
            return 0.0 if over else deadline.left_s

    with pytest.raises(Late, match="the end of facts did not happen in time"):
        children.ask("facts", (), report, UntilItHangs(1e9))
    assert report.values == {"first": 1, "second": 3}
    hanging, below = map(int, pids.read_text().split())
    wait_for(lambda: not running(hanging) and not running(below), "the end of both")


def test_lines_that_are_no_findings_are_passed_over() -> None:
    lines = ["", "torch: found {}", f'{children.MARK}{{"a": 1}}', f'{children.MARK}{{"b": 2']
    assert children.told(lines) == {"a": 1}


# Facts


MACHINE: dict[str, Any] = {
    "cpu": "A processor",
    "python": "3.12.3",
    "mps": False,
    "processors": 32,
    "physical_cores": 16,
    "nodes": "0-1",
    "driver": "580.65.06",
    "torch": "2.11.0+cu130",
    "torch_cuda": "13.0",
    "cudnn": 91002,
    "driver_cuda": "13.0",
    "archs": ["sm_75", "sm_80", "sm_90", "compute_120"],
    "gpus": [
        {
            "index": 0,
            "name": "NVIDIA H200",
            "uuid": "1-2",
            "memory_bytes": 139 * 2**30,
            "capability": [9, 0],
            "multiprocessors": 132,
            "pci": "0000:3b:00.0",
            "node": None,
        }
    ],
}


def test_facts_are_shown() -> None:
    driver, gpu, cpu = facts.lines(MACHINE)
    assert driver.startswith("driver 580.65.06 (CUDA 13.0), torch 2.11.0+cu130 (CUDA 13.0,")
    assert "cuda:0 NVIDIA H200, 139 GiB, sm_90, 132 multiprocessors" in gpu
    assert gpu.endswith("NUMA node -, UUID 1-2")
    assert cpu == "A processor: 32 processors, 16 cores, NUMA nodes 0-1; MPS does not run"
    assert list(facts.problems(MACHINE)) == []


def test_facts_that_cannot_work_are_told() -> None:
    old = [MACHINE["gpus"][0] | {"capability": [7, 0]}]
    (told,) = facts.problems(MACHINE | {"gpus": old})
    assert told.startswith("cuda:0 is sm_70, and this torch is built for sm_75, sm_80")
    assert list(facts.problems(MACHINE | {"gpus": []})) == ["torch sees no GPU"]


@pytest.mark.parametrize(
    ("capability", "archs", "runs"),
    [
        ((9, 0), ["sm_90"], True),
        ((9, 0), ["sm_90a"], True),
        ((8, 9), ["sm_80"], True),
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_80"], False),
        ((9, 0), ["compute_80"], True),
        ((7, 0), ["sm_75", "sm_80"], False),
        ((10, 0), ["sm_100"], True),
        ((12, 0), ["sm_90", "gfx90a"], False),
    ],
)
def test_what_a_build_runs_on(capability: tuple[int, int], archs: list[str], runs: bool) -> None:
    assert facts.runs_on(capability, archs) == runs


def test_the_driver_is_read_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "version"
    file.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n"
        "GCC version:  gcc version 12.2.0\n"
    )
    assert facts.driver(file) == "580.65.06"
    monkeypatch.setattr(facts, "SMI", "/no/such/nvidia-smi")
    assert facts.driver(tmp_path / "missing") == ""
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\necho 570.124.06\n")
    script.chmod(0o755)
    monkeypatch.setattr(facts, "SMI", str(script))
    assert facts.driver(tmp_path / "missing") == "570.124.06"


def test_processors_are_counted_by_core_and_node() -> None:
    cpus = [Cpu(0, (0, 0)), Cpu(1, (0, 0)), Cpu(2, (0, 1)), Cpu(3, (1, 0), node=1)]
    assert facts.counts(cpus) == {"processors": 4, "physical_cores": 3, "nodes": "0-1"}


# Trial


TRIED: dict[str, Any] = {
    "context_s": 2.5,
    "register_code": 0,
    "register_us": 6400.0,
    "launch_us": 6.25,
    "wait_us": 12.5,
    "actions_us": 15.0,
    "launches_right": True,
    "row_us": 80.0,
    "vector_in_us": 200.0,
    "vector_out_us": 210.0,
    "copies_right": True,
    "capture_us": 900.0,
    "replay_us": 9.0,
    "replay_wait_us": 50.0,
    "eager_us": 140.0,
    "graph_right": True,
}


def test_what_was_tried_is_shown() -> None:
    shown = "\n".join(trial.lines(TRIED))
    for words in ("100.0 us per MiB", "launch 6.2 us", "replay and wait 50.0 us"):
        assert words in shown
    assert list(trial.problems(TRIED)) == []


def test_a_refusal_is_told_and_no_failure() -> None:
    refused = {k: v for k, v in TRIED.items() if k not in ("capture_us", "graph_right")}
    refused |= {"register_code": 801, "graph_refusal": "operation not permitted"}
    shown = "\n".join(trial.lines(refused))
    assert "cannot be locked in place (code 801)" in shown
    assert "no CUDA graph: operation not permitted" in shown
    assert list(trial.problems(refused)) == []


@pytest.mark.parametrize("name", ["launches", "copies", "graph"])
def test_wrong_numbers_are_a_failure(name: str) -> None:
    wrong = TRIED | {f"{name}_right": False}
    assert list(trial.problems(wrong)) == [f"{name}: wrong numbers came out"]


# Parity


NEAR = {"gradient": 1e-6, "way": 1e-3, "loss": 1e-6}
LEARNED = {"updates": 100, "network": "gala", "float32": NEAR, "tf32": NEAR}


def test_devices_that_learn_the_same_pass() -> None:
    assert list(parity.problems(LEARNED)) == []
    assert [line.split()[0] for line in parity.lines(LEARNED)] == ["float32", "tf32"]


@pytest.mark.parametrize("name", ["float32", "tf32"])
@pytest.mark.parametrize("what", ["gradient", "way"])
@pytest.mark.parametrize("value", [0.15, math.nan, math.inf])
def test_devices_that_learn_other_things_fail(name: str, what: str, value: float) -> None:
    (told,) = parity.problems(LEARNED | {name: NEAR | {what: value}})
    assert told.startswith(f"{name}: the {what} is")


@pytest.fixture
def small_rollouts(monkeypatch: pytest.MonkeyPatch) -> list[Rollout]:
    monkeypatch.setattr(parity, "LANES", 2)
    torch.set_num_threads(1)
    return [parity.rollout(seed) for seed in range(2)]


def test_parity_sees_a_wrong_reward_and_nothing_where_there_is_nothing(
    small_rollouts: list[Rollout],
) -> None:
    expected = parity.learned("gala", "cpu", small_rollouts)
    same = parity.apart(parity.learned("gala", "cpu", small_rollouts, tf32=True), expected)
    assert same == {"gradient": 0.0, "way": 0.0, "loss": 0.0}
    first, second = small_rollouts
    wrong = [replace(first, rewards=first.rewards + 0.05), second]
    found = parity.apart(parity.learned("gala", "cpu", wrong), expected)
    assert found["gradient"] > parity.MOST_APART["float32"].gradient
    (told, *_) = parity.problems(LEARNED | {"float32": found})
    assert "the gradient is" in told
    unmoved = expected._replace(end=expected.start, gradient=torch.zeros_like(expected.start))
    assert list(parity.problems(LEARNED | {"float32": parity.apart(unmoved, unmoved)}))


# Profile


EVENTS = [
    Event("aten::add_", 400, 0.0, False),
    Event("cudaLaunchKernel", 7000, 0.0, False),
    Event("cudaLaunchKernelExC", 580, 0.0, False),
    Event("cudaStreamSynchronize", 400, 0.0, False),
    Event("cudaMemcpyAsync", 460, 0.0, False),
    Event("void gemm<float>", 200, 9000.0, True),
    Event("void conv<float>", 100, 15_000.0, True),
    Event("Memcpy HtoD (Pinned -> Device)", 240, 4000.0, True),
    Event("Memcpy DtoH (Device -> Pageable)", 220, 1000.0, True),
    Event("Memset (Device)", 20, 1000.0, True),
]


def test_a_profile_is_summed_up_per_rollout() -> None:
    found = profiling.summarise(EVENTS, rollouts=20)
    assert (found["launches"], found["waits"], found["copy_calls"]) == (379, 20, 23)
    assert found["graphs"] == 0
    assert found["copies"] == {
        "HtoD (Pinned -> Device)": 12,
        "DtoH (Device -> Pageable)": 11,
    }
    assert found["busy_ms"] == pytest.approx(1.5)
    assert [kernel["name"] for kernel in found["kernels"]] == [
        "void conv<float>",
        "void gemm<float>",
    ]
    assert found["kernels"][0] == {"name": "void conv<float>", "count": 5.0, "ms": 0.75}
    values = found | {
        "num_envs": 64,
        "finite": True,
        "parts_ms": {"act": 2.0, "learn": 1.5, "gossip": 0.4},
    }
    assert list(profiling.problems(values)) == []
    shown = "\n".join(profiling.lines(values))
    assert "act 2.00, learn 1.50, gossip 0.40; the GPU is busy for 1.50" in shown
    assert "launches 379 (estimated 379), graphs 0, waits 20 (estimated 20), copies 23" in shown


def test_graphs_are_launches_too() -> None:
    events = [Event("cudaGraphLaunch", 20, 0.0, False), *EVENTS[5:]]
    found = profiling.summarise(events, rollouts=20) | {"finite": True}
    assert (found["launches"], found["graphs"]) == (0, 1)
    assert list(profiling.problems(found)) == []


def test_a_profile_that_cannot_be_is_a_failure() -> None:
    nothing_seen = profiling.summarise(EVENTS[:5], rollouts=20) | {"finite": True}
    assert list(profiling.problems(nothing_seen)) == ["the profiler saw no kernel on the GPU"]
    unlaunched = profiling.summarise(EVENTS[5:], rollouts=20) | {"finite": False}
    assert len(list(profiling.problems(unlaunched))) == 2


def test_learners_are_profiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "ROLLOUTS", 2)
    torch.set_num_threads(1)
    both = synthetic_learners(ATARI, learners=2, num_envs=2, network="gala", device="cpu")
    parts = profiling.parts_ms(both)
    assert list(parts) == ["act", "learn", "gossip"]
    assert min(parts.values()) > 0
    gauges, events = profiling.profiled(both)
    assert math.isfinite(gauges["grad_norm"])
    names = {event.name: event.calls for event in events}
    assert names["aten::_fused_adam_"] == 2, "one update of each of the two"
    assert not any(event.on_device for event in events)


# Runs


def rows(*steps: int, **more: Any) -> list[training.Row]:
    """Rows a second apart."""
    losses = {f"losses/{name}": 1.0 for name in training.LOSSES}
    return [
        {"wall_s": float(second), "global_step": step} | losses | more
        for second, step in enumerate(steps)
    ]


def test_rates_begin_with_the_first_agent_steps() -> None:
    assert training.rate_of(rows(0, 0, 100, 400, 1100)) == 500.0
    assert training.span_s(rows(0, 0, 100, 400, 1100)) == 2.0
    assert training.rate_of(rows(0, 0)) == training.rate_of([]) == 0.0
    assert training.rate_of(rows(0, 100)) == 0.0


def test_a_run_learns_once_all_learners_do() -> None:
    assert not training.learns([])
    assert not training.learns(rows(0, 5))
    assert not training.learns(rows(5, **{"learner0/updates": 3, "learner1/updates": 0}))
    assert training.learns(rows(5, **{"learner0/updates": 3, "learner1/updates": 1}))


SUMMARY: training.Row = {
    "status": "stopped",
    "restarts": 0,
    "given_up": [],
    "agent_steps": 100,
    "overflowed_updates": 0,
}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, ""),
        ({"status": "failed"}, "status is failed, expected stopped"),
        ({"restarts": 2}, "restarts is 2, expected 0"),
        ({"given_up": ["learner 0"]}, "given_up is ['learner 0']"),
        ({"agent_steps": 0}, "no agent steps"),
        ({"overflowed_updates": 3}, "3 updates overflowed"),
    ],
)
def test_a_run_that_did_not_end_well_is_told(change: dict[str, Any], says: str) -> None:
    told = list(training.wrong_end(SUMMARY | change, status="stopped", restarts=0))
    assert len(told) == bool(says)
    assert says in "".join(told)


def test_losses_that_are_no_numbers_are_told() -> None:
    assert list(training.wrong_losses(rows(1, 2))) == []
    assert list(training.wrong_losses([])) == ["it wrote no metrics"]
    broken = rows(1, **{"losses/value_loss": None})
    assert list(training.wrong_losses(broken)) == ["value_loss is not finite at the end"]


def test_remarks_on_memory_that_is_not_locked_are_found(tmp_path: Path) -> None:
    run = training.Training(["run"], tmp_path / "run", Deadline(1.0))
    assert run.remarks() == []
    run.folder.mkdir()
    told = "page-locked memory is refused (cudaErrorNotSupported)"
    lines = [json.dumps({"text": "all learners run"}), json.dumps({"text": told}), '{"text": "page']
    (run.folder / training.EVENTS).write_text("\n".join(lines))
    assert run.remarks() == [told]


def test_a_killed_learner_is_back_when_it_learns() -> None:
    def row(life: int, updates: int) -> training.Row:
        return {"learner1/incarnation": life, "learner1/updates": updates}

    before = row(0, 10)
    assert not learners.is_back(before, [before, row(0, 12)])
    assert not learners.is_back(before, [before, row(1, 12)])
    assert not learners.is_back(before, [before, row(1, 12), row(1, 12)])
    assert learners.is_back(before, [before, row(0, 11), row(1, 12), row(1, 13)])


def test_a_learner_that_stands_still_beside_the_killed_one_is_told() -> None:
    before = {f"learner{rank}/updates": 5 for rank in range(4)}
    after = before | {"learner0/updates": 9, "learner1/updates": 6, "learner3/updates": 8}
    assert learners.updates_of_others(before, after) == [4, 0, 3]
    assert len(list(learners.wrong_others([4, 0, 3]))) == 1
    assert list(learners.wrong_others([4, 1, 3])) == []


def test_the_one_process_to_kill() -> None:
    assert learners.victim_of([7]) == 7
    for pids in ([], [7, 8]):
        with pytest.raises(RunFailed, match=f"found {len(pids)}"):
            learners.victim_of(pids)


def test_starts_that_do_not_go_on_are_told() -> None:
    each = learners.STEPS_PER_START
    good = [
        SUMMARY | {"status": "finished", "start": number, "agent_steps": number * each + 5}
        for number in (1, 2, 3)
    ]
    assert list(learners.wrong_starts(good)) == []
    anew = [*good[:1], good[1] | {"start": 1}, good[2] | {"agent_steps": each}]
    told = list(learners.wrong_starts(anew))
    assert told[0] == "start 2 calls itself start 1"
    assert told[1].startswith("start 3 ended at 20,000 agent steps, expected 60,000")
    assert len(told) == 2


# Chaos


FOUND: dict[str, Any] = {
    "held": True,
    "complete": True,
    "broken": None,
    "faults": [{}, {}, {}],
    "kinds": [{"kind": "all", "works_s": {"count": 3, "p50": 4.0, "max": 6.5}}],
    "throughput": {"share": 0.9, "within_s": 10.0, "kept": 2, "faults": 3},
    "summary": {"restarts": 2, "agent_steps": 1234},
}


def test_what_held_under_faults_is_shown() -> None:
    assert list(chaos.problems(FOUND, 0)) == []
    assert list(chaos.lines(FOUND)) == [
        "3 faults, 2 restarts, 1,234 agent steps",
        "works again after 4.0 s (median), 6.5 s (greatest)",
        "throughput back at 90% within 10 s after 2 of 3 faults",
    ]


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"broken": {"name": "turns", "expected": "on", "found": "off"}}, 1, "broken: turns"),
        ({"complete": False}, 0, "ended early"),
        ({}, 70, "ended with code 70"),
        ({"faults": []}, 0, "no fault"),
    ],
)
def test_what_did_not_hold_is_told(change: dict[str, Any], code: int, says: str) -> None:
    (told,) = chaos.problems(FOUND | change, code)
    assert says in told


def test_a_run_that_failed_before_any_fault_says_why() -> None:
    assert chaos.record_of(json.dumps(FOUND)) == FOUND
    for text in ("galamp: learner 1 raised RuntimeError", '"held"', "{}"):
        with pytest.raises(RunFailed, match=text.split(":")[0]):
            chaos.record_of(text)


# Pong


def noisy(mean: float, count: int = 40) -> list[training.Row]:
    """Rows whose losses vary by a tenth around a mean."""
    found = rows(*range(1000, 1000 * (count + 1), 1000))
    for number, row in enumerate(found):
        row |= {f"losses/{name}": mean * (1 + 0.1 * (-1) ** number) for name in training.LOSSES}
    return found


def test_losses_are_compared_over_the_common_agent_steps() -> None:
    found = noisy(0.5)
    for row in found[30:]:
        row |= {f"losses/{name}": 1e6 for name in training.LOSSES}
    (estimate, *_) = pong.estimates(found, until=30_000).values()
    assert estimate is not None
    assert estimate.mean == pytest.approx(0.5, rel=0.01)
    assert estimate.error == pytest.approx(0.05 / math.sqrt(28), rel=0.05)
    assert set(pong.estimates(found[:4], until=30_000).values()) == {None}


def test_losses_that_are_alike_pass() -> None:
    on_gpu, on_cpu = (pong.estimates(noisy(mean), 40_000) for mean in (0.5, 0.51))
    assert list(pong.problems(on_gpu, on_cpu)) == []


@pytest.mark.parametrize("mean", [0.2, 1.0, -0.5])
def test_losses_that_are_not_alike_are_told(mean: float) -> None:
    on_gpu, on_cpu = (pong.estimates(noisy(each), 40_000) for each in (mean, 0.5))
    told = list(pong.problems(on_gpu, on_cpu))
    assert [line.split(":")[0] for line in told] == list(training.LOSSES)


def test_too_few_rows_are_no_agreement() -> None:
    few, many = pong.estimates(noisy(0.5, 3), 40_000), pong.estimates(noisy(0.5), 40_000)
    assert all("too few" in line for line in pong.problems(few, many))
    assert len(list(pong.problems(few, many))) == len(training.LOSSES)


# Rates


def test_learners_are_compared_at_the_same_number_of_simulators() -> None:
    job = replace(JOB, precisions=("float32", "bf16"))
    *systems, limit = rates.systems_of(job, 64, ["a", "b"])
    assert [system.name for system in systems] == [
        *("1 learner", "2 learners", "4 learners"),
        *("1 learner, bf16", "2 learners, bf16", "4 learners, bf16"),
    ]
    for system in systems:
        assert isinstance(system, System)
        words = list(system.command)
        values = {name: words[words.index(name) + 1] for name in ("--learners", "--num-envs")}
        assert int(values["--learners"]) * int(values["--num-envs"]) == 64
        assert words[words.index("--device") + 1] == "cuda"
        assert ("bf16" in words) == ("bf16" in system.name)
    assert isinstance(limit, Limit)
    assert (limit.device, limit.workload.learners, limit.workload.num_envs) == ("cuda:0", 1, 64)


def test_only_the_gpus_that_learners_are_dealt_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, ...]] = []
    monkeypatch.setattr(rates, "Gauge", lambda known: read.append(tuple(known)))
    list(rates.systems_of(JOB, 64, ["a", "b", "c"]))
    assert read == [("a",), ("a", "b"), ("a", "b", "c")]


def made(name: str, speed: float, gpu: GpuUse | None = None) -> Measurement:
    return Measurement(name, 1, speed, 4 * speed, 6.0, 500.0, 6, 0.9, 0.0, gpu)


def test_a_rate_in_words() -> None:
    used = GpuUse(0.254, 301.0, 13.29, COUNTED)
    assert rates.in_words(made("x", 1000.0, used)) == (
        "1,000 agent steps/s, 4,000 frames/s, CPU 90%, GPU 25%, 301 W, 13.3 frames/J"
    )
    assert rates.in_words(made("x", 1.0, GpuUse(None, None, None))).endswith(
        "GPU -, - W, - frames/J"
    )
    assert "GPU" not in rates.in_words(made("x", 1.0))


class FakeSystem:
    """Measures what it is told to, or fails."""

    def __init__(self, name: str, speed: float) -> None:
        self.name, self.speed = name, speed

    def measure(
        self, number: int, *, seconds: float, warm_up_s: float, patience_s: float | None = None
    ) -> Measurement:
        assert patience_s is not None
        if not self.speed:
            raise RunFailed(f"{self.name}: out of GPU memory")
        return made(self.name, self.speed)


def test_a_rate_that_fails_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    systems = [FakeSystem(name, speed) for name, speed in (("one", 100.0), ("two", 0.0))]
    systems.append(FakeSystem("four", 200.0))
    monkeypatch.setattr(rates, "uuids", lambda deadline_s: ())
    monkeypatch.setattr(rates, "systems_of", lambda job, simulators, known: systems)
    shown: list[str] = []
    report = Report(shown.append)
    rates.step(replace(JOB, simulators=(64,)), report, Deadline(1e9))
    assert report.problems == ["64 simulators: two: out of GPU memory"]
    measured = report.values["measurements"]
    assert [(one["simulators"], one["system"]) for one in measured] == [(64, "one"), (64, "four")]
    assert any("four" in line and "0.50 (0.50 - 0.50)" in line for line in shown)


def test_rates_that_the_time_does_not_reach_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()

    class SlowSystem(FakeSystem):
        def measure(self, number: int, **times: Any) -> Measurement:
            clock.now_s += 20.0
            return super().measure(number, **times)

    systems = [SlowSystem("one", 100.0), SlowSystem("two", 100.0)]
    monkeypatch.setattr(rates, "uuids", lambda deadline_s: ())
    monkeypatch.setattr(rates, "systems_of", lambda job, simulators, known: systems)
    report = Report(lambda line: None)
    with pytest.raises(Late, match="not measured: one with 256, two with 256"):
        rates.step(JOB, report, Deadline(58.0, clock))
    assert len(report.values["measurements"]) == 2


# The command


def options_of(*words: str) -> argparse.Namespace:
    return cli.build_parser().parse_args(["gpu", *words])


def test_steps_are_chosen_by_name() -> None:
    names = [step.name for step in command.STEPS]
    assert [step.name for step in command.chosen("")] == names
    assert [step.name for step in command.chosen("pong, facts")] == ["facts", "pong"]
    with pytest.raises(UserError, match=r"'parrity': expected some of .*\(did you mean parity"):
        command.chosen("parrity")


def test_the_defaults_fit_into_nine_minutes() -> None:
    options = options_of()
    assert options.limit_s == 540.0
    assert sum(step.least_s for step in command.STEPS) < options.limit_s - END_S
    for step in command.STEPS:
        assert 0 < step.least_s <= step.limit_s


def test_full_is_more() -> None:
    job = command.job_from(options_of(), JOB.workload)
    assert (job.learners, job.simulators, job.precisions) == ((1, 2, 4), (64, 256), ("float32",))
    full = command.job_from(options_of("--full"), JOB.workload)
    assert full.learners == (1, 2, 4, 8)
    assert full.precisions == ("float32", "bf16")


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(command, "inspect_machine", lambda device: plain_machine([0], count, 64))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "is built for CPUs only: install a build with CUDA"),
        ("--steps nothing", "--steps 'nothing': expected some of facts,trial,parity"),
        ("--learners 3 --simulators 16", "expected a multiple of 3"),
        ("--simulators 20 --full", "expected a multiple of 8"),
        ("--game CartPole-v1", "expected an Atari game"),
        ("--limit-s 0", "expected seconds"),
    ],
)
def test_nothing_is_started_without_a_gpu_or_with_wrong_words(
    words: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpus(monkeypatch, 0)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(command, "run_steps", lambda *_: pytest.fail("a step was run"))
    try:
        code: Any = cli.main(["gpu", *words.split()])
    except SystemExit as left:
        code = left.code
    told = capsys.readouterr()
    assert code == 2
    assert says in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""


def test_a_gpu_that_is_not_seen_is_told_from_a_build_without(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpus(monkeypatch, 0)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert cli.main(["gpu"]) == 2
    assert "is the driver loaded" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_told_before_any_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpus(monkeypatch, 1)
    monkeypatch.setattr(command, "run_steps", lambda *_: pytest.fail("a step was run"))
    assert cli.main(["gpu", "--json", "/no/such/folder/rows"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_the_exit_code_and_the_rows_are_the_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def passes(job: Job, report: Report, deadline: Deadline) -> None:
        report.say(f"on {job.device}")
        report.values["loss"] = math.nan

    def fails(job: Job, report: Report, deadline: Deadline) -> None:
        raise RunFailed("no luck")

    gpus(monkeypatch, 1)
    steps = (Step("good", "passes", 60, 5, passes), Step("bad", "fails", 60, 5, fails))
    monkeypatch.setattr(command, "STEPS", steps)
    file = tmp_path / "rows"
    file.write_text("before\n")
    assert cli.main(["gpu", "--steps", "good", "--json", str(file)]) == 0
    assert cli.main(["gpu", "--json", str(file)]) == 1
    kept, *lines = file.read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert kept == "before"
    assert [(row["step"], row["result"]) for row in found] == [
        *(("good", "passed"), ("good", "passed"), ("bad", "failed")),
    ]
    assert found[0]["values"] == {"loss": None}
    assert found[2]["problems"] == ["no luck"]
    assert found[0]["machine"]["torch"] == tables.Origin.here("").machine["torch"]
    assert found[0]["command"].startswith("bin/bench gpu --steps good")
    shown = capsys.readouterr().out
    assert "    on cuda:0" in shown
    assert "    failed after 0.0 s: no luck" in shown


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", ["learner", "kill", "resume", "pong"])
def test_steps_that_train_do_so_on_cpus_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the same with another device; only for as long as is needed to see that."""
    monkeypatch.setattr(learners, "TRAINED_S", 1.0)
    monkeypatch.setattr(learners, "ONE_OF_FOUR", 2)
    monkeypatch.setattr(learners, "STEPS_PER_START", 400)
    monkeypatch.setattr(pong, "TRAINED_S", 5.0)
    monkeypatch.setattr(pong, "NUM_ENVS", 2)
    monkeypatch.setattr(pong, "LEAST_ROWS", 2)
    (chosen,) = command.chosen(name)
    shown: list[str] = []
    chosen = replace(chosen, limit_s=300.0)
    (outcome,) = run_steps(
        [chosen], replace(JOB, device="cpu"), 390.0, shown.append, lambda _: None
    )
    told = "\n".join(shown)
    if name == "pong":  # of so few updates, the losses may be alike or not
        assert set(outcome.values) == {"until", "gpu", "cpu"}, shown
        assert outcome.values["until"] > 0
        assert all("on the GPU" in problem for problem in outcome.problems)
        return
    words = {
        "learner": "agent steps/s with 64 simulators",
        "kill": "learner 1 learned again",
        "resume": "cpu: 1,2",
    }
    assert outcome.result == "passed", shown
    assert words[name] in told
    if name == "kill":
        assert min(outcome.values["updates_of_others"]) > 0


BARE = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("matplotlib", "pynvml", "cv2", "PIL"):
            raise ImportError(f"{name} is not here")
sys.meta_path.insert(0, Missing())
from galamp.bench import cli
from galamp.bench.gpu import command
command.gpus_here = lambda: 1
command.STEPS = command.STEPS[:1]
sys.exit(cli.main(["gpu"]))
"""


def test_what_may_be_missing_on_a_gpu_machine_is_not_imported() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", BARE], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    # There is no GPU, so the first step fails: that is as far as it gets, and no import did.
    assert ended.returncode == 1, ended.stderr
    assert "torch sees no GPU" in ended.stdout
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_first_steps_on_gpus_of_host_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in settings(2).items():
        monkeypatch.setenv(name, value)
    gpus(monkeypatch, 2)
    monkeypatch.setattr(parity, "UPDATES", 2)
    file = tmp_path / "rows"
    words = ["gpu", "--steps", "facts,trial,parity", "--network", "gala", "--json", str(file)]
    assert cli.main(words) == 0, capsys.readouterr().out
    found = {row["step"]: row["values"] for row in map(json.loads, file.read_text().splitlines())}
    assert [gpu["name"] for gpu in found["facts"]["gpus"]] == ["Fake GPU 0", "Fake GPU 1"]
    assert found["trial"]["register_code"] == 0
    assert found["trial"]["launch_us"] > 0
    assert found["parity"]["moved"] > 0
    assert found["parity"]["float32"]["gradient"] < 1e-4
    shown = capsys.readouterr().out
    assert shown.count("passed after") == 3


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_gpu_without_kernels_fails_the_trial_and_not_the_facts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in settings(1, no_kernel="0").items():
        monkeypatch.setenv(name, value)
    gpus(monkeypatch, 1)
    assert cli.main(["gpu", "--steps", "facts,trial"]) == 1
    shown = capsys.readouterr().out
    assert "passed after" in shown
    assert "no kernel image is available" in shown
