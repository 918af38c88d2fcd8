"""What `bin/bench gpu` concludes of one device: its facts, its trial, parity, the profile.

Each is tried with findings that are right, and with each kind of wrong one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from galamp.algorithms.base import Rollout
from galamp.bench.gpu import (
    facts,
    parity,
    profiling,
    trial,
)
from galamp.bench.gpu.profiling import Event
from galamp.bench.synthetic import ATARI, synthetic_learners
from galamp.machine import Cpu

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
