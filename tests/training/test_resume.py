"""A run that goes on where other devices are: on a CPU after a GPU, on a GPU after a CPU."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from galamp.core.machine.machine import plain_machine
from galamp.memory.learner_state import GENERATOR_BYTES_OF, STATE_COUNTERS, State
from galamp.storage import checkpoint
from galamp.supervision.plan import make_plan
from galamp.training.resume import other_generators
from galamp.workers.learner import restore_generator
from tests.supervision.test_plan import config
from tests.support.engine import run, summary

ON_A_GPU = np.arange(GENERATOR_BYTES_OF["cuda"], dtype=np.uint8)


def drawn(generator: torch.Generator) -> list[float]:
    drawn: list[float] = torch.rand(4, generator=generator).tolist()
    return drawn


def test_a_generator_goes_on() -> None:
    first, second = (torch.Generator().manual_seed(seed) for seed in (1, 2))
    drawn(first)
    saved = first.get_state().numpy()
    assert saved.size == GENERATOR_BYTES_OF["cpu"]
    assert restore_generator(second, saved)
    assert drawn(second) == drawn(first)


@pytest.mark.parametrize("size", [0, 1, 16, 5055, 5057, 8192])
def test_the_state_of_another_kind_is_left_alone(size: int) -> None:
    generator, other = (torch.Generator().manual_seed(3) for _ in range(2))
    assert not restore_generator(generator, np.zeros(size, np.uint8))
    assert drawn(generator) == drawn(other)


@pytest.mark.parametrize(
    ("saved_on", "device", "others"),
    [
        (["cpu", "cpu"], "cpu", False),
        (["cuda", "cuda"], "cuda:0,cuda:1", False),
        (["cuda", "cuda"], "cpu", True),
        (["cpu", "cpu"], "cuda:1", True),
        (["cpu", "cuda"], "cpu", True),
    ],
)
def test_it_is_known_whether_generators_go_on(
    saved_on: list[str], device: str, others: bool
) -> None:
    counters = dict.fromkeys(STATE_COUNTERS, 0)
    states = [
        State({}, counters, np.zeros(GENERATOR_BYTES_OF[kind], np.uint8)) for kind in saved_on
    ]
    plan = make_plan(config(learners=2, device=device), plain_machine(range(4), 2, 2**20))
    assert other_generators(states, plan) is others


@pytest.mark.slow
def test_a_run_of_a_gpu_goes_on_on_a_cpu(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    flags = ["--env-id", "CartPole-v1", "--learners", 2, "--num-envs", 4, "--run-dir", folder]
    assert run(*flags, "--total-steps", 2000, "--quiet").returncode == 0
    latest = checkpoint.load(folder / "checkpoints" / "latest")
    learners = [dataclasses.replace(each, generator=ON_A_GPU) for each in latest.learners]
    path = checkpoint.save(folder / "checkpoints", dataclasses.replace(latest, learners=learners))
    checkpoint.point(folder / "checkpoints", "latest", path)
    on = run("--resume", folder, "--total-steps", 4000)
    assert on.returncode == 0, on.stderr
    assert "actions are drawn from new generators" in on.stderr
    assert summary(folder)["agent_steps"] >= 4000
