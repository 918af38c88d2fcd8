"""Seeds: distinct ones for all that is random, and none inherited by a fork."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from galamp.core.seeding import seed_for, seed_generators
from galamp.storage import checkpoint
from tests.support.engine import run
from tests.support.randomness import SOURCES

SIMULATORS = 4
"""Two learners with two simulators each, one environment in every simulator."""
FLAGS = ["--learners", 2, "--num-envs", 2, "--simulator-workers", 2, "--quiet", "--seed", 1]
FLAGS += ["--hang-after-s", 60]


def test_seeds_stay_what_they_are() -> None:
    # A change of these numbers changes every run that is repeated with its seed.
    assert seed_for(1) == 917752063
    assert seed_for(1, 0, 1) == 750514629
    assert seed_for(1, 0, 1, 1) == 488039721
    assert seed_for(2**31 - 1, 63, 2, 16) == 1117400780


def test_seeds_of_learners_environments_and_starts_are_distinct() -> None:
    found = [
        seed_for(seed, rank, start, *env_index)
        for seed in (0, 1, 2, 2**31 - 1)
        for rank in range(8)
        for start in (1, 2)
        for env_index in [(), *((1 + env_index,) for env_index in range(16))]
    ]
    assert len(set(found)) == len(found)
    assert all(0 <= seed < 2**31 for seed in found)


def draw_all() -> dict[str, float]:
    return {name: draw() for name, draw in SOURCES.items()}


def test_seeded_generators_repeat_themselves() -> None:
    seed_generators(7)
    first = draw_all()
    seed_generators(8)
    other = draw_all()
    seed_generators(7)
    assert draw_all() == first
    assert all(first[name] != other[name] for name in SOURCES)


def test_a_second_call_seeds_only_what_was_loaded_since() -> None:
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    seeded = seed_generators(7, frozenset({"random", "numpy", "torch"}))
    assert seeded == {"random", "numpy", "torch", "cv2"}
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.get_rng_state().tolist() == states[2]
    cv2.setRNGSeed(7)


def trained(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], Any]:
    """Return what the first environments of a lock-step run drew, and its last checkpoint."""
    draws = folder / "draws"
    monkeypatch.setenv("TEST_DRAWS", str(draws))
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    words = ["--env-id", "tests.support.randomness:drawing", *FLAGS, "--sync", "--total-steps", 400]
    ended = run(*words, "--run-dir", folder / "run")
    assert ended.returncode == 0, ended.stderr
    return first_draws(draws), checkpoint.load(checkpoint.find(folder / "run").path)


def first_draws(file: Path) -> list[dict[str, float]]:
    """What the first environments of the simulators drew; the first line is the probe's."""
    return [json.loads(line) for line in file.read_text().splitlines()[1:]]


def test_processes_draw_on_their_own_and_repeat_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever they draw from, no two draw the same, and the same seed brings the same bits."""
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    one, saved = trained(tmp_path / "one", monkeypatch)
    other, saved_again = trained(tmp_path / "other", monkeypatch)
    assert len(one) == len(other) == SIMULATORS
    for source in [*SOURCES, "space", "hash"]:
        drawn = sorted(each[source] for each in one)
        assert drawn == sorted(each[source] for each in other), source
        assert len(set(drawn)) == (1 if source == "hash" else SIMULATORS), source
    for learner, again in zip(saved.learners, saved_again.learners, strict=True):
        for name, value in learner.parameters.items():
            assert np.array_equal(value, again.parameters[name]), name


def test_a_later_incarnation_draws_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = tmp_path / "draws"
    monkeypatch.setenv("TEST_DRAWS", str(draws))
    monkeypatch.setenv("TEST_FAILED_ONCE", str(tmp_path / "failed"))
    words = ["--env-id", "tests.support.randomness:stumbling", *FLAGS, "--sync"]
    ended = run(*words, "--total-steps", 400, "--run-dir", tmp_path / "run")
    assert ended.returncode == 0, ended.stderr
    found = first_draws(draws)
    assert len(found) == SIMULATORS + 1
    for source in [*SOURCES, "space"]:
        assert len({each[source] for each in found}) == SIMULATORS + 1, source
