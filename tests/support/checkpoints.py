"""A small checkpoint to save, and what tests of checkpoints share."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from galamp.core.action_spec import DiscreteActions
from galamp.storage.canonical_json import encode
from galamp.storage.checkpoint import Checkpoint, Identity, LearnerState, MeanState

ROOT = Path(__file__).resolve().parents[2]
LAYOUT = (("body.0.weight", (3, 2)), ("body.0.bias", (3,)), ("head.bias", (1,)))
PONG = Identity("ALE/Pong-v5", "classic", (4, 84, 84), DiscreteActions(6), "a2c", "gala", LAYOUT)


@pytest.fixture(autouse=True)
def without_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here cuts the power; that fsync is called, and when, is tested by its own."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


def learner(rank: int, seed: int) -> LearnerState:
    draw = np.random.default_rng([rank, seed])
    parameters = {n: draw.standard_normal(s).astype(np.float32) for n, s in LAYOUT}
    optimizer = {"square_average": draw.random(10).astype(np.float32)}
    generator = draw.integers(0, 256, 16).astype(np.uint8)
    return LearnerState(rank, parameters, optimizer, {"updates": seed, "rounds": 2}, generator)


def made(steps: int = 100, seed: int = 1) -> Checkpoint:
    progress = {"agent_steps": steps, "best_mean_return": -20.5, "returns": [1.0, 2.0]}
    return Checkpoint(PONG, {"seed": 1}, progress, (learner(0, seed), learner(1, seed)))


def made_of_all_nodes(learners: int = 4) -> Checkpoint:
    """One that has the mean of the learners of all nodes as well."""
    return dataclasses.replace(made(), mean=MeanState(learner(7, 1).parameters, learners))


def same(a: Checkpoint, b: Checkpoint) -> bool:
    def plain(c: Checkpoint) -> Any:
        states = []
        for state in c.learners:
            arrays: dict[str, Any] = {f"p.{n}": v for n, v in state.parameters.items()}
            arrays |= {f"o.{n}": v for n, v in state.optimizer.items()} | {"g": state.generator}
            values = {n: (v.dtype.name, v.tolist()) for n, v in arrays.items()}
            states.append([state.rank, state.counters, values])
        mean = c.mean and {n: v.tolist() for n, v in c.mean.parameters.items()}
        whole = [c.identity.to_dict(), c.config, c.progress, states, mean]
        return json.dumps([*whole, c.mean and c.mean.learners], sort_keys=True)

    return bool(plain(a) == plain(b))


def reseal(path: Path) -> None:
    """Make sizes and digests right again after a change, as an attacker would."""
    manifest = json.loads((path / "MANIFEST.json").read_bytes())
    del manifest["digest"]
    for name in manifest["files"]:
        data = (path / name).read_bytes()
        manifest["files"][name] = [len(data), hashlib.sha256(data).hexdigest()]
    manifest["digest"] = hashlib.sha256(encode(manifest)).hexdigest()
    (path / "MANIFEST.json").write_bytes(encode(manifest))
