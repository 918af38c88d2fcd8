"""What `bin/bench gpu` concludes of one device: its facts, its trial, parity, the profile.

Each is tried with findings that are right, and with each kind of wrong one.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from galamp.algorithms.base import Rollout
from galamp.algorithms.cuda_graphs import Graphs
from galamp.core.machine.machine import Cpu
from galamp.tools.bench.gpu import facts, parity, profiling, trial
from galamp.tools.bench.gpu.profiling import Event
from galamp.tools.bench.gpu.steps import cause
from galamp.tools.bench.synthetic import ATARI, synthetic_learners, take_turns
from galamp.workers import acting
from tests.fakecuda.inside import on_gpus
from tests.support.on_devices import counted

pytestmark = [pytest.mark.real, pytest.mark.counted]  # for they start processes


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


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


def test_memory_that_is_not_locked_is_told_and_a_refused_graph_is_a_failure() -> None:
    refused = {k: v for k, v in TRIED.items() if k not in ("capture_us", "graph_right")}
    refused |= {"register_code": 801, "graph_refusal": "operation not permitted"}
    shown = "\n".join(trial.lines(refused))
    assert "cannot be locked in place (code 801)" in shown
    assert list(trial.problems(refused)) == ["no CUDA graph: operation not permitted"]
    assert list(trial.problems(TRIED | {"register_code": 801})) == []


@pytest.mark.parametrize("name", ["launches", "copies", "graph"])
def test_wrong_numbers_are_a_failure(name: str) -> None:
    wrong = TRIED | {f"{name}_right": False}
    assert list(trial.problems(wrong)) == [f"{name}: wrong numbers came out"]


# Parity


NEAR = {"gradient": 1e-6, "way": 1e-3, "loss": 1e-6}
SAME = NEAR | {"actions": 0, "acted": 8000, "farthest": 1e-7}
LEARNED = {
    **{"updates": 100, "network": "gala", "float32": NEAR, "tf32": NEAR},
    **dict.fromkeys(parity.RECORDED, SAME),
}


def test_devices_that_learn_the_same_pass() -> None:
    assert list(parity.problems(LEARNED)) == []
    names = ("float32", "tf32", "recorded", "in two", "recorded", "in two")
    for line, name in zip(parity.lines(LEARNED), names, strict=True):
        assert line.startswith(name)


@pytest.mark.parametrize("name", [*parity.MAX_APART, *parity.RECORDED])
@pytest.mark.parametrize("what", ["gradient", "way"])
@pytest.mark.parametrize("value", [0.15, math.nan, math.inf])
def test_devices_that_learn_other_things_fail(name: str, what: str, value: float) -> None:
    (told,) = parity.problems(LEARNED | {name: SAME | {what: value}})
    assert told.startswith(f"{name}: the {what} is")


@pytest.mark.parametrize("name", parity.RECORDED)
@pytest.mark.parametrize("change", [{"actions": 1}, {"farthest": 2e-5}, {"farthest": math.nan}])
def test_graphs_that_do_other_things_fail(name: str, change: dict[str, Any]) -> None:
    (told,) = parity.problems(LEARNED | {name: SAME | change})
    assert told.startswith(f"{name}: ")


def test_what_cannot_be_recorded_fails_and_says_why() -> None:
    values = {name: found for name, found in LEARNED.items() if name not in parity.RECORDED}
    values["refused"] = ["Traceback", "RuntimeError: no capture", "Compile with DSA"]
    assert list(parity.lines(values))[-3:] == values["refused"]
    told = list(parity.problems(values))
    assert len(told) == len(parity.RECORDED)
    assert all(line.endswith("RuntimeError: no capture") for line in told)


def recorded(rollouts: list[Rollout], reduces: bool | None = None) -> tuple[Any, torch.Tensor]:
    return parity.as_in_runs("gala", "cuda:1", rollouts, Graphs(), reduces)


@pytest.mark.slow
@on_gpus(hold=1)
def test_parity_sees_what_graphs_compute() -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(parity, "ENVS", 4)
        torch.cuda.set_device("cuda:1")
        rollouts = [parity.rollout(seed) for seed in range(3)]
        eager, acted = parity.as_in_runs("gala", "cuda:1", rollouts)
        plain = parity.learned("gala", "cuda:1", rollouts)
        assert max(parity.apart(eager, plain).values()) < 1e-4, "they were copied as they are"
        for reduces in parity.RECORDED.values():
            one, actions = recorded(rollouts, reduces)
            same = parity.from_eager(one.end, eager.end, actions, acted)
            assert same["farthest"] <= parity.MAX_FROM_EAGER
            assert (same["actions"], same["acted"]) == (0, 3 * parity.STEPS * 4)
        assert bool(acted.any())
        wrong = [*rollouts[:2], replace(rollouts[2], rewards=rollouts[2].rewards + 0.5)]
        one, _ = recorded(wrong)
        assert parity.from_eager(one.end, eager.end, acted, acted)["farthest"] > 0
        assert parity.apart(one, eager)["way"] > parity.FLOAT32.way
        with pytest.MonkeyPatch.context() as early:
            early.setattr(acting, "finish", lambda: None)
            _, actions = recorded(rollouts)
        assert parity.from_eager(eager.end, eager.end, actions, acted)["actions"], "not waited for"
        patched.setattr(acting.DeviceActor, "observe", lambda *_: None)
        blind, _ = recorded(rollouts)
        assert parity.apart(blind, eager)["gradient"] > parity.FLOAT32.gradient


@on_gpus(no_graphs=1)
def test_parity_says_that_nothing_can_be_recorded() -> None:
    torch.cuda.set_device("cuda:1")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(parity, "ENVS", 2)
        one = parity.rollout(1)
        with pytest.raises(parity.Refused) as refused:
            recorded([one])
    assert "operation not supported" in cause(traceback.format_exception(refused.value))


@pytest.fixture
def small_rollouts(monkeypatch: pytest.MonkeyPatch) -> list[Rollout]:
    monkeypatch.setattr(parity, "ENVS", 2)
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
    assert found["gradient"] > parity.MAX_APART["float32"].gradient
    (told, *_) = parity.problems(LEARNED | {"float32": found})
    assert "the gradient is" in told
    unmoved = expected._replace(end=expected.start, gradient=torch.zeros_like(expected.start))
    assert list(parity.problems(LEARNED | {"float32": parity.apart(unmoved, unmoved)}))


# Profile


FINE = {"finite": True, "graph_refusal": 0}
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
        "graph_refusal": 0,
        "parts_ms": {"act": 2.0, "learn": 1.5, "gossip": 0.4},
    }
    assert list(profiling.problems(values)) == [
        "all was recorded, and the profiler saw no CUDA graph launched"
    ]
    shown = "\n".join(profiling.lines(values))
    assert "act 2.00, learn 1.50, gossip 0.40; the GPU is busy for 1.50" in shown
    assert "launches 379 (estimated 12), graphs 0 (estimated 11), waits 20" in shown
    assert "copy 23 (estimated 16); recorded" in shown
    log = ["RuntimeError: no capture", "Compile with DSA"]
    values |= {"graph_refusal": 1, "learner_log": log}
    (told,) = profiling.problems(values)
    assert told.endswith("as CUDA graphs: RuntimeError: no capture")
    shown = "\n".join(profiling.lines(values))
    assert "launches 379 (estimated 374), graphs 0 (estimated 0)" in shown


def test_graphs_are_launches_too() -> None:
    events = [Event("cudaGraphLaunch", 20, 0.0, False), *EVENTS[5:]]
    found = profiling.summarise(events, rollouts=20) | FINE
    assert (found["launches"], found["graphs"]) == (0, 1)
    assert list(profiling.problems(found)) == []


def test_a_profile_that_cannot_be_is_a_failure() -> None:
    nothing_seen = profiling.summarise(EVENTS[:5], rollouts=20) | FINE
    assert list(profiling.problems(nothing_seen)) == ["the profiler saw no kernel on the GPU"]
    unlaunched = profiling.summarise(EVENTS[5:], rollouts=20) | FINE | {"finite": False}
    assert len(list(profiling.problems(unlaunched))) == 2


def estimated(graph_refusal: int) -> None:
    """Count a rollout of learners that gossip, against the estimate."""
    torch.set_num_threads(1)
    with profiling.heard() as log:
        both = synthetic_learners(ATARI, learners=2, num_envs=2, network="gala", device="cuda:0")
    told = profiling.refusals([learner.status for learner in both], log.getvalue())
    assert told["graph_refusal"] == graph_refusal
    assert ("learner_log" in told) == bool(graph_refusal)
    if graph_refusal:
        assert "operation not supported" in cause(told["learner_log"])
    take_turns(both, 3)
    found = counted(both[0].turn)
    expected = profiling.ESTIMATED_EAGER if graph_refusal else profiling.ESTIMATED
    assert {
        "launches": found["kernels"],
        "graphs": found["graphs"],
        "waits": found["waits"],
        "copy_calls": found["to_device"] + found["to_host"],
    } == expected


@on_gpus()
def test_the_estimate_is_what_a_learner_does() -> None:
    estimated(0)


@on_gpus(no_graphs=1)
def test_the_estimate_without_graphs_is_what_a_learner_does() -> None:
    estimated(1)


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
