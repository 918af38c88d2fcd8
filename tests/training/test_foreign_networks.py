"""Checkpoints that are whole and name a network that is not theirs; how much memory one takes."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import galamp
from galamp.algorithms.flat_parameters import FlatParameters
from galamp.algorithms.networks import build_model
from galamp.core.config import EnvironmentConfig, RunConfig, to_dict
from galamp.core.errors import CheckpointError
from galamp.environments import EnvironmentSpec, describe
from galamp.storage import checkpoint as checkpoints
from galamp.storage.canonical_json import encode
from galamp.storage.checkpoint import Checkpoint, Identity, LearnerState
from galamp.tools.evaluation import report as evaluation
from galamp.tools.evaluation import trained as reading
from galamp.tools.evaluation import trained_network
from galamp.tools.evaluation.agent import Agent
from galamp.tools.evaluation.config import EvaluationConfig
from galamp.tools.evaluation.trained import MEAN, locate, read
from galamp.training.resume_point import load_resume_point
from tests.storage.test_bounded_reading import MIB, Peak, free
from tests.support.checkpoints import ROOT, reseal, without_waiting_for_the_disk
from tests.tools.test_evaluate import (
    BREAKOUT,
    CARTPOLE,
    OBSERVATIONS,
    at_once,
    complaint,
    saved,
)
from tests.training.test_resume_point import SIZES, whole

__all__ = ["without_waiting_for_the_disk"]

# Network, observations, actions: each is of one parameter by the checkpoint's own word.
ODD: dict[str, tuple[str, list[int], int]] = {
    "51 GB of actions": ("mlp", [4], 200_000_000),
    "more actions than an address": ("mlp", [4], 2**62),
    "64 GB of inputs": ("mlp", [2**28], 2),
    "inputs beyond all bounds": ("mlp", [2**40], 2),
    "large images": ("gala", [4, 2**13, 2**13], 4),
    "large images with channels last": ("nature", [2**13, 2**13, 3], 4),
    "images beyond all bounds": ("gala", [4, 2**31, 2**31], 4),
    "no action": ("mlp", [4], 0),
    "no such network": ("transformer", [4], 2),
    "images for a perceptron": ("mlp", [4, 84, 84], 2),
    "its own, with other parameters": ("mlp", [4], 2),
}

PIECE = 2**12
"""So many numbers are averaged at a time here: of a small vector, too, there are two pieces."""

LOADER = """
import resource, sys
from pathlib import Path
import galamp
from galamp.core.errors import CheckpointError
good, *paths = sys.argv[1:]
galamp.load(good).act([0.0] * 4)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
for path in paths:
    try:
        galamp.load(path)
    except CheckpointError as error:
        print(str(error))
    else:
        print("loaded", path)
""".replace("ROOM", str(200 * MIB))


def odd(folder: Path, network: str, shape: list[int], actions: int) -> Path:
    """A whole checkpoint of one tiny parameter, of which `state.json` says that network."""
    identity = dataclasses.replace(CARTPOLE, layout=(("w", (1,)),))
    state = LearnerState(0, {"w": np.ones(1, np.float32)}, {}, {"updates": 1}, np.zeros(16, "u1"))
    config = to_dict(RunConfig(environment=EnvironmentConfig(env_id=CARTPOLE.env_id)))
    folder.mkdir()
    path = checkpoints.save(
        folder / "checkpoints", Checkpoint(identity, config, {"agent_steps": 1}, (state,))
    )
    document = json.loads((path / "state.json").read_bytes())
    document["identity"] |= {
        "network": network, "observation_shape": shape, "num_actions": actions,
    }  # fmt: skip
    (path / "state.json").write_bytes(encode(document))
    reseal(path)
    return folder


@pytest.mark.real
def test_a_network_that_is_not_the_checkpoints_takes_no_memory(tmp_path: Path) -> None:
    good = tmp_path / "good"
    saved(good, CARTPOLE, 1)
    folders = [odd(tmp_path / f"odd{n}", *case) for n, case in enumerate(ODD.values())]
    done = subprocess.run(
        [sys.executable, "-c", LOADER, good, *folders],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == len(ODD)
    for line, folder in zip(lines, folders, strict=True):
        assert f"checkpoint {folder}/checkpoints/ckpt-000000000001: " in line
    assert "has the parameter w [1] where the network mlp, for observations [4] and" in lines[0]
    assert "and 200000000 actions, has policy.0.bias [64]" in lines[0]
    said = dict(zip(ODD, lines, strict=True))
    assert "num_actions is out of range" in said["no action"]
    assert "num_actions is out of range" in said["more actions than an address"]
    assert "observation_shape is too large" in said["inputs beyond all bounds"]
    assert "--network transformer: expected one of" in said["no such network"]


@pytest.mark.parametrize("case", ["51 GB of actions", "large images"])
def test_eval_and_resume_build_nothing_of_it_either(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = odd(tmp_path / "run", *ODD[case])

    def build(*arguments: Any, **more: Any) -> None:
        raise AssertionError("something is built")

    at_once(monkeypatch)
    monkeypatch.setattr(trained_network, "bare_model", build)
    told = complaint(capsys, folder, "--episodes", "1")
    assert "trained on observations" in told
    assert "but CartPole-v1 has [4] and 2 actions here" in told
    monkeypatch.setattr(checkpoints, "read_file", build)  # of a learner
    with pytest.raises(CheckpointError, match="this run"):
        load_resume_point(folder, CARTPOLE, SIZES)


def test_agents_are_built_once_the_environment_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, CARTPOLE, 1)
    trained = read(locate(tmp_path).path)
    steps: list[str] = []
    at_once(monkeypatch)

    def probed(environment: EnvironmentConfig) -> EnvironmentSpec:
        steps.append("looked")
        return describe(environment)

    monkeypatch.setattr(evaluation, "finish_probe", probed)
    really = trained_network.bare_model

    def build(*arguments: Any, **more: Any) -> Any:
        steps.append("built")
        return really(*arguments, **more)

    monkeypatch.setattr(trained_network, "bare_model", build)
    evaluation._prepare(trained, 0, trained.environment, EvaluationConfig())
    assert steps == ["looked", "built"]


# What is built is what was built before its shapes were checked first


@pytest.mark.parametrize("identity", [CARTPOLE, BREAKOUT], ids=["cartpole", "breakout"])
def test_an_agents_network_has_the_same_bits(tmp_path: Path, identity: Identity) -> None:
    saved(tmp_path, identity, 3)
    trained = read(locate(tmp_path).path)
    agent = galamp.load(tmp_path)
    inputs = torch.from_numpy(OBSERVATIONS[:8])
    if identity is BREAKOUT:
        draw = np.random.default_rng(4)
        inputs = torch.from_numpy(draw.integers(0, 256, (8, 4, 84, 84)).astype(np.uint8))
    before = torch.get_rng_state()
    for dtype in ("uint8", "float32"):
        model = build_model(
            identity.network, identity.observation_shape, dtype, identity.actions.n, seed=5
        )
        mean = {
            name: np.stack([each.parameters[name] for each in trained.checkpoint.learners])
            for name, _ in model.named_parameters()
        }
        FlatParameters(model, "cpu").load_named(
            {
                name: torch.from_numpy(values.mean(axis=0, dtype=np.float64).astype(np.float32))
                for name, values in mean.items()
            }
        )
        found = agent.module_of(dtype).network
        assert [p.stride() for p in found.parameters()] == [p.stride() for p in model.parameters()]
        with torch.inference_mode():
            for mine, other in zip(found(inputs), model(inputs), strict=True):
                assert torch.equal(mine, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("shape", [(3, 2), (5,), (2, 3, 4, 5), (PIECE + 7,)])
def test_the_mean_has_the_bits_that_all_together_gave(
    count: int, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PIECE", PIECE)
    draw = np.random.default_rng([count, *shape])
    values = [
        draw.standard_normal(shape) * 10.0 ** draw.integers(-9, 9, shape) for _ in [0] * count
    ]
    singles = [value.astype(np.float32) for value in values]
    expected = np.stack(singles).mean(axis=0, dtype=np.float64).astype(np.float32)
    assert reading._mean(singles).tobytes() == expected.tobytes()


def test_one_number_of_few_learners_too() -> None:
    for shape in ((), (1,), (1, 1)):
        singles = [np.full(shape, value, np.float32) for value in (1e8, -3.0, 1e-8)]
        expected = np.stack(singles).mean(axis=0, dtype=np.float64).astype(np.float32)
        assert reading._mean(singles).tobytes() == expected.tobytes()
        assert reading._mean(singles).shape == shape


# Memory


def test_the_mean_takes_no_more_memory_than_itself() -> None:
    learners = [np.full(2**20, value, np.float32) for value in range(8)]
    with Peak() as peak:
        mean = reading._mean(learners)
    assert mean[0] == 3.5
    assert peak.used < 1.5 * mean.nbytes


def test_what_the_learners_held_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, CARTPOLE, 2)
    held: list[Any] = []

    def noted(*arguments: Any) -> Any:
        trained = read(*arguments)
        for state in trained.checkpoint.learners:
            assert (state.optimizer, state.generator.size) == ({}, 0)
            held.extend(map(weakref.ref, state.parameters.values()))
        return trained

    monkeypatch.setattr("galamp.tools.evaluation.agent.read", noted)
    for learner in (MEAN, 1):
        agent = galamp.load(tmp_path, learner=learner)
        gc.collect()
        assert len(held) > 10
        assert [reference for reference in held if reference() is not None] == []
        assert type(agent.act(OBSERVATIONS[0])) is int
        assert agent.identity.actions.n == 2


def test_who_evaluates_holds_the_agents_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path, CARTPOLE, 2)
    held: list[Any] = []
    at_once(monkeypatch)

    def noted(*arguments: Any) -> Any:
        trained = read(*arguments)
        for state in trained.checkpoint.learners:
            held.extend(map(weakref.ref, state.parameters.values()))
        return trained

    def played(*arguments: Any) -> Any:
        gc.collect()
        assert held
        assert [reference for reference in held if reference() is not None] == []
        raise CheckpointError("far enough")

    monkeypatch.setattr(evaluation, "read", noted)
    monkeypatch.setattr(evaluation, "_play_all", played)
    assert "far enough" in complaint(capsys, tmp_path, "--learner", "each")


def test_a_network_is_built_only_where_there_is_room_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, BREAKOUT, 2)
    trained = read(locate(tmp_path).path)
    needed = 3 * 4 * trained.checkpoint.identity.num_parameters
    free(monkeypatch, needed // MIB)
    with pytest.raises(CheckpointError, match=r"its network, as it is built, takes .* are free"):
        Agent(trained, MEAN, torch.device("cpu"))
    free(monkeypatch, needed // MIB + 1)
    agent = Agent(trained, MEAN, torch.device("cpu"))
    assert all(each.grad is None for each in agent.module_of("uint8").network.parameters())


def test_to_go_on_there_has_to_be_room_for_the_states_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints.save(tmp_path / "checkpoints", whole())
    left = iter([2**40, 2 * 4 * 10 - 1])  # two learners of ten parameters
    monkeypatch.setattr("galamp.storage.checkpoint.available_bytes", lambda: next(left))
    with pytest.raises(CheckpointError, match="to resume, its 2 learners take 0 MiB"):
        load_resume_point(tmp_path, whole().identity, SIZES)
