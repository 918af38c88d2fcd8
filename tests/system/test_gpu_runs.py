"""Whole runs with learners on GPUs of their own, which are host memory (tests/fakecuda)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from galamp.core import failpoints
from galamp.memory.learner_state import GENERATOR_BYTES_OF
from galamp.storage import checkpoint
from tests.fakecuda.inside import counts_of_processes, kernels_of_devices, settings
from tests.support.engine import (
    DEADLINE_S,
    ROOT,
    also,
    galamp,
    run,
    started,
    summary,
    titled,
    training,
    wait_for,
)
from tests.support.scenarios import ENDLESS, stopped, successor, works_on

pytestmark = pytest.mark.real

KERNELS_OF_A_TRIAL = 5
NO_GRAPHS = ["--no-graphs"]
CARTPOLE = ["--env-id", "CartPole-v1", "--num-envs", 4]


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Give the processes that a test starts two GPUs; returns the folder of their counts.

    Copies are held back as long as a GPU may, so that a wait that is missing is told.
    """
    folder = tmp_path / "counts"
    folder.mkdir()
    for name, value in settings(2, hold=1, counts=folder).items():
        monkeypatch.setenv(name, value)
    return folder


def used(folder: Path) -> list[list[int]]:
    """Return the devices on which each process ran kernels, more than a trial does."""
    found = kernels_of_devices(folder).values()
    return sorted(
        [device for device, kernels in enumerate(each) if kernels]
        for each in found
        if sum(each) > KERNELS_OF_A_TRIAL
    )


def of_learners(folder: Path) -> list[dict[str, int]]:
    """Return what each process has counted, but for those that only tried a GPU."""
    return [each for each in counts_of_processes(folder) if each["kernels"] > KERNELS_OF_A_TRIAL]


def events(folder: Path) -> list[str]:
    return [json.loads(line)["text"] for line in (folder / "events.jsonl").read_text().splitlines()]


def parameters(folder: Path) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    """Return each learner's parameters in a run's last checkpoint, flat."""
    learners = checkpoint.load(folder / "checkpoints" / "latest").learners
    return [np.concatenate([v.ravel() for v in each.parameters.values()]) for each in learners]


@pytest.mark.slow
def test_learners_of_a_run_have_a_gpu_each(gpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ended = run(
        *CARTPOLE, "--learners", 2, "--device", "auto", "--total-steps", 1000, "--run-dir", folder
    )
    assert ended.returncode == 0, ended.stderr
    told = summary(folder)
    assert (told["status"], told["restarts"]) == ("finished", 0)
    assert min(told["mixes_per_learner"]) > 0
    assert used(gpus) == [[0], [1]], "nobody but the learners, and each its own"
    config = json.loads((folder / "config.json").read_text())
    devices = [learner["device"] for learner in config["resolved"]["learners"]]
    assert (config["resources"]["device"], devices) == ("auto", ["cuda:0", "cuda:1"])
    latest = checkpoint.load(folder / "checkpoints" / "latest")
    assert [len(each.generator) for each in latest.learners] == [GENERATOR_BYTES_OF["cuda"]] * 2
    assert not [text for text in events(folder) if "page-lock" in text]


ALL_OF_GOSSIP = [
    *("--topology", "exponential", "--verify-gossip", "--gossip-optimizer"),
    "--gradient-correlation",
]


@pytest.mark.parametrize(
    "more",
    [
        [*ALL_OF_GOSSIP, *CARTPOLE, "--total-steps", 600],
        also([*ALL_OF_GOSSIP, "--game", "Breakout", "--num-envs", 4, "--total-steps", 640]),
        ["--method", "allreduce", *CARTPOLE, "--total-steps", 600],
        also(["--method", "single", *CARTPOLE, "--total-steps", 600]),
        also(["--method", "independent", *CARTPOLE, "--total-steps", 600]),
        also(["--precision", "bf16", "--game", "Breakout", "--num-envs", 4, "--total-steps", 640]),
        also(["--topology", "torus", "--max-staleness", 1, *CARTPOLE, "--total-steps", 600]),
    ],
    ids=lambda flags: " ".join(map(str, flags[:2])),
)
def test_every_method_on_four_gpus(
    gpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[object]
) -> None:
    monkeypatch.setenv("FAKE_CUDA_DEVICES", "4")
    folder = tmp_path / "run"
    ended = run(*more, "--learners", 4, "--device", "cuda", "--run-dir", folder)
    assert ended.returncode == 0, ended.stderr
    assert summary(folder)["restarts"] == 0
    alone = "single" in more
    assert used(gpus) == ([[0]] if alone else [[0], [1], [2], [3]])
    assert all(each["graphs"] > 0 for each in of_learners(gpus))
    assert not [text for text in events(folder) if "graph" in text]
    if "allreduce" in more:
        first, *others = parameters(folder)
        assert all(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize("again", [[], also(["--no-graphs"])], ids=str)
def test_lock_step_on_gpus_is_repeatable(gpus: Path, tmp_path: Path, again: list[object]) -> None:
    """Here also without graphs: kernels are the same."""
    found = []
    for name, more in (("first", []), ("second", again)):
        folder = tmp_path / name
        flags = [*CARTPOLE, "--learners", 2, "--device", "cuda", "--sync", "--seed", 7, *more]
        assert run(*flags, "--total-steps", 800, "--run-dir", folder).returncode == 0
        found.append(parameters(folder))
    for mine, theirs in zip(*found, strict=True):
        assert np.array_equal(mine, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gossip", "allreduce"])
def test_a_pipeline_computes_the_same_with_graphs_and_without(
    gpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """And whether or not copies are late: no stream reads what another has not written yet."""
    found = []
    pipeline = ["--algorithm", "vtrace", "--pipeline", "--sync", "--method", method, "--seed", 7]
    for name, hold, more in (("first", "1", []), ("second", "", []), ("third", "1", NO_GRAPHS)):
        folder = tmp_path / name
        monkeypatch.setenv("FAKE_CUDA_HOLD", hold)
        flags = [*pipeline, *CARTPOLE, "--learners", 2, "--device", "cuda", *more]
        ended = run(*flags, "--total-steps", 800, "--run-dir", folder)
        assert (ended.returncode, summary(folder)["policy_lag"]) == (0, 1.0), ended.stderr
        assert not [text for text in events(folder) if "graph" in text]
        found.append(parameters(folder))
    assert sum(each["graphs"] > 0 for each in of_learners(gpus)) == 4
    for first, *others in zip(*found, strict=True):
        assert all(np.array_equal(first, other) for other in others)


def test_a_killed_learner_comes_back_on_its_gpu(gpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with started(*ENDLESS, "--device", "cuda", "--run-dir", folder) as process:
        wait_for(lambda: training(folder), "training")
        [victim] = titled(process.pid, "learner 1")
        os.kill(victim, signal.SIGKILL)
        new = successor(process.pid, "learner 1", victim)
        works_on(folder, "learner0/updates", "learner1/updates")
        assert stopped(process, folder)["restarts"] == 1
    assert used(gpus) == [[0], [1], [1]]
    devices = kernels_of_devices(gpus)
    assert devices[victim][1] > 0
    assert devices[new][1] > 0


@pytest.mark.slow
@pytest.mark.parametrize("point", ["slots.odd", "slots.filled"])
def test_a_learner_that_dies_while_its_gpu_publishes_is_replaced(
    gpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    monkeypatch.setenv(failpoints.VARIABLE, f"{point}:40@learner 1")
    folder = tmp_path / "run"
    flags = ["--env-id", "tests.support.crashing:healthy", "--num-envs", 4, "--learners", 2]
    flags += ["--device", "cuda", "--verify-gossip", "--total-steps", 4000, "--run-dir", folder]
    ended = run(*flags)
    assert ended.returncode == 0, ended.stderr
    assert summary(folder)["restarts"] == 1
    assert all(np.isfinite(vector).all() for vector in parameters(folder))


def test_a_run_goes_on_on_a_cpu_and_on_a_gpu_again_and_plays_there(
    gpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    flags = [*CARTPOLE, "--learners", 2, "--device", "cuda", "--run-dir", folder]
    assert run(*flags, "--total-steps", 600).returncode == 0
    monkeypatch.setenv("FAKE_CUDA_DEVICES", "0")
    on_cpu = run("--resume", folder, "--total-steps", 1200)
    assert on_cpu.returncode == 0, on_cpu.stderr
    assert "actions are drawn from new generators" in on_cpu.stderr
    assert used(gpus) == [[0], [1]]
    latest = checkpoint.load(folder / "checkpoints" / "latest")
    assert [len(each.generator) for each in latest.learners] == [GENERATOR_BYTES_OF["cpu"]] * 2
    monkeypatch.setenv("FAKE_CUDA_DEVICES", "2")
    again = run("--resume", folder, "--device", "cuda", "--total-steps", 1800)
    assert again.returncode == 0, again.stderr
    assert "actions are drawn from new generators" in again.stderr
    assert used(gpus) == [[0], [0], [1], [1]]
    assert summary(folder)["agent_steps"] >= 1800
    played = galamp("eval", folder, "--device", "cuda:1", "--episodes", 2, "--json")
    assert played.returncode == 0, played.stderr
    assert json.loads(played.stdout)["device"] == "cuda:1"
    assert used(gpus) == [[0], [0], [1], [1], [1]]


@pytest.mark.slow
def test_on_the_same_kind_of_device_the_same_generators_go_on(gpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    flags = [*CARTPOLE, "--learners", 2, "--device", "cuda", "--run-dir", folder]
    assert run(*flags, "--total-steps", 600).returncode == 0
    again = run("--resume", folder, "--total-steps", 1200)
    assert again.returncode == 0, again.stderr
    assert "actions are drawn from new generators" not in again.stderr


@pytest.mark.parametrize(("fault", "told"), [
    also({}, "this machine shows 2 GPUs to torch"),
    ({"NO_KERNEL": "2"}, "this torch (2"),
])  # fmt: skip
def test_an_agent_is_not_played_on_a_gpu_that_cannot_be_used(
    gpus: Path, fault: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own each: CUDA does not begin again in one that it has failed in."""
    devices = "3" if fault else "2"
    monkeypatch.setenv("FAKE_CUDA_DEVICES", devices)
    for name, value in fault.items():
        monkeypatch.setenv(f"FAKE_CUDA_{name}", value)
    words = "from galamp.tools.evaluation.agent import usable_device; usable_device('cuda:2')"
    ended = subprocess.run(
        [sys.executable, "-c", words], capture_output=True, text=True, timeout=DEADLINE_S, cwd=ROOT
    )
    assert f"UserError: --device cuda:2: {told}" in ended.stderr
    assert "use --device cpu" in ended.stderr


@pytest.mark.slow
def test_a_run_may_do_without_graphs(gpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    flags = [*CARTPOLE, "--learners", 2, "--device", "cuda", "--no-graphs", "--run-dir", folder]
    ended = run(*flags, "--total-steps", 600)
    assert ended.returncode == 0, ended.stderr
    for each in of_learners(gpus):
        assert each["graphs"] == 0
        assert each["kernels"] > 1000
    assert not [text for text in events(folder) if "CUDA graphs" in text]
    assert json.loads((folder / "config.json").read_text())["resources"]["graphs"] is False


# Faults


@pytest.mark.slow
def test_a_run_goes_on_where_no_graph_can_be_recorded(
    gpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CUDA_NO_GRAPHS", "1")
    folder = tmp_path / "run"
    flags = [*CARTPOLE, "--learners", 2, "--device", "cuda", "--run-dir", folder]
    ended = run(*flags, "--total-steps", 600)
    assert ended.returncode == 0, ended.stderr
    assert summary(folder)["restarts"] == 0
    assert [each["graphs"] for each in of_learners(gpus)] == [0, 0]
    [told] = [text for text in events(folder) if "CUDA graphs" in text]
    rank = told.partition(":")[0].removeprefix("learner ")
    assert "operation not supported" in (folder / "logs" / f"learner-{rank}.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "name"), [(801, "cudaErrorNotSupported"), also(2, "cudaErrorMemoryAllocation")]
)
def test_a_run_goes_on_without_page_locked_memory(
    gpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, name: str
) -> None:
    monkeypatch.setenv("FAKE_CUDA_HOST_REGISTER", str(code))
    folder = tmp_path / "run"
    flags = [*CARTPOLE, "--learners", 2, "--device", "cuda", "--run-dir", folder]
    ended = run(*flags, "--total-steps", 600)
    assert ended.returncode == 0, ended.stderr
    assert used(gpus) == [[0], [1]]
    assert summary(folder)["restarts"] == 0
    [told] = [text for text in events(folder) if "page-lock" in text]
    assert f"({name})" in told


def test_a_gpu_that_fails_ends_one_incarnation_of_its_learner(
    gpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every incarnation of learner 1 fails at its 200th update; learner 0 goes on meanwhile."""
    monkeypatch.setenv("FAKE_CUDA_FAILS_AT", "1:aten::_fused_adam_:200")
    folder = tmp_path / "run"
    with started(*ENDLESS, "--device", "cuda", "--run-dir", folder) as process:
        wait_for(lambda: training(folder), "training")
        [first] = titled(process.pid, "learner 1")
        successor(process.pid, "learner 1", first)
        works_on(folder, "learner0/updates", "learner1/updates")
        assert stopped(process, folder)["restarts"] >= 1
    assert any("illegal memory access" in text for text in events(folder))


def test_learners_of_other_gpus_outlive_one_that_is_unplugged(
    gpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "unplugged"
    monkeypatch.setenv("FAKE_CUDA_UNPLUGGED", str(gone))
    monkeypatch.setenv("FAKE_CUDA_DEVICES", "4")
    folder = tmp_path / "run"
    flags = ["--learners", 4, "--device", "cuda", "--run-dir", folder]
    with started(*ENDLESS, *flags) as process:
        wait_for(lambda: training(folder), "training")
        gone.write_text("1")
        words = "unspecified launch failure"
        wait_for(lambda: any(words in text for text in events(folder)), "a word of it")
        works_on(folder, *(f"learner{rank}/updates" for rank in (0, 2, 3)))
        gone.unlink()
        works_on(folder, *(f"learner{rank}/updates" for rank in range(4)))
        stopped(process, folder)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("OLD_DRIVER", "1", "the driver is too old"),
        also("NO_KERNEL", "1", "was not built for its architecture"),
        also("MEMORY", "1:1000", "its memory is full"),
    ],
)
def test_a_run_leaves_out_what_cannot_be_used_but_takes_no_other_for_what_is_named(
    gpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(f"FAKE_CUDA_{name}", value)
    folder = tmp_path / "run"
    flags = [*CARTPOLE, "--learners", 2, "--total-steps", 500, "--run-dir", folder]
    refused = run(*flags, "--device", "cuda")
    assert refused.returncode == 2
    [line] = [line for line in refused.stderr.splitlines() if "--device" in line]
    assert "--device cuda:1: " in line
    assert words in line
    assert not folder.exists()
    assert used(gpus) == []
    ended = run(*flags, "--device", "auto")
    assert ended.returncode == 0, ended.stderr
    assert used(gpus) == [[0], [0]]
    [told] = [text for text in events(folder) if "left out" in text]
    assert told.startswith("cuda:1 is left out: ")
    assert words in told


def test_a_gpu_that_is_full_is_told_of_with_what_to_change(
    gpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has room for a trial, and none for a learner."""
    monkeypatch.setenv("FAKE_CUDA_MEMORY", "1:100000")
    flags = [*CARTPOLE, "--learners", 2, "--device", "cuda", "--run-dir", tmp_path / "run"]
    ended = run(*flags, "--total-steps", 600)
    assert ended.returncode == 70
    assert "learner 1 failed: cuda:1 has no more memory: " in ended.stderr
    assert "no other learner has it: take a smaller --num-envs or --num-steps" in ended.stderr
