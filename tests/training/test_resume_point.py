"""What a checkpoint must have for a run to go on from it, though every digest be right."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from galamp.cli.main import build_parser
from galamp.cli.run_config import config_from
from galamp.core.config import EnvironmentConfig, RunConfig, to_dict
from galamp.core.errors import CheckpointError
from galamp.core.normalisation import NormaliserSpec, Own, Saved, Scales
from galamp.environments.protocols import resolve
from galamp.memory.learner_state import GENERATOR_BYTES, STATE_COUNTERS
from galamp.storage import checkpoint as checkpoints
from galamp.storage.checkpoint import Checkpoint, LearnerState
from galamp.storage.run_folder import CONFIG
from galamp.training.resume_point import lacking, load_resume_point
from tests.support.checkpoints import PONG, made, without_waiting_for_the_disk

__all__ = ["without_waiting_for_the_disk"]

SIZES = {"parameters": 10, "square_average": 10}


def whole() -> Checkpoint:
    """As a run saves it, before its first episode has ended."""
    progress = {
        "agent_steps": 100,
        "episodes": 0,
        "wall_s": 3.5,
        "mean_return_100": None,
        "best_mean_return_100": None,
        "last_returns": [],
        "last_lengths": [],
    }
    counters = dict.fromkeys(STATE_COUNTERS, 7)
    learners = tuple(dataclasses.replace(each, counters=counters) for each in made().learners)
    return dataclasses.replace(made(), progress=progress, learners=learners)


def with_progress(**changes: Any) -> Callable[[Checkpoint], Checkpoint]:
    return lambda content: dataclasses.replace(content, progress=content.progress | changes)


def without(name: str) -> Callable[[Checkpoint], Checkpoint]:
    return lambda content: dataclasses.replace(
        content, progress={key: value for key, value in content.progress.items() if key != name}
    )


def with_learner(**changes: Any) -> Callable[[Checkpoint], Checkpoint]:
    def change(content: Checkpoint) -> Checkpoint:
        first, *others = content.learners
        changed: LearnerState = dataclasses.replace(first, **changes)
        return dataclasses.replace(content, learners=(changed, *others))

    return change


WRONG: dict[str, tuple[Callable[[Checkpoint], Checkpoint], str]] = {
    "no episodes": (without("episodes"), "its progress: episodes: is missing"),
    "no best": (without("best_mean_return_100"), "its progress: best_mean_return_100: is missing"),
    "time as text": (with_progress(wall_s="3"), 'wall_s: expected a finite number, found "3"'),
    "huge time": (with_progress(wall_s=10**300), "wall_s: expected a finite number, found a huge"),
    "returns of text": (
        with_progress(last_returns=["a"]),
        r"last_returns\[0\]: expected a finite number",
    ),
    "too many returns": (
        with_progress(last_returns=[1.0] * 101),
        "last_returns: expected a list of at most 100",
    ),
    "lengths missing": (
        with_progress(last_lengths=None),
        "last_lengths: expected a list, found null",
    ),
    "sessions of text": (with_progress(sessions=["a"]), r"sessions\[0\]: expected a whole number"),
    "a huge session": (with_progress(sessions=[2**63]), r"sessions\[0\]: expected a whole number"),
    "no counters": (with_learner(counters={"updates": 1}), "learner 0 has no sound counters"),
    "a negative counter": (
        with_learner(counters=dict.fromkeys(STATE_COUNTERS, -1)),
        "no sound counters",
    ),
    "no optimiser": (with_learner(optimizer={}), "another optimiser's state"),
    "another optimiser": (
        with_learner(optimizer={"momentum": np.zeros(10, np.float32)}),
        r"another optimiser's state \(momentum\)",
    ),
    "a huge generator": (
        with_learner(generator=np.zeros(GENERATOR_BYTES + 1, np.uint8)),
        "a generator of 8193 bytes",
    ),
}


def test_what_a_run_saves_is_enough(tmp_path: Path) -> None:
    assert lacking(whole(), SIZES) is None
    checkpoints.save(tmp_path / "checkpoints", whole())
    assert len(load_resume_point(tmp_path, PONG, SIZES).checkpoint.learners) == 2


@pytest.mark.parametrize("case", WRONG)
def test_what_is_missing_is_named(case: str, tmp_path: Path) -> None:
    change, complaint = WRONG[case]
    checkpoints.save(tmp_path / "checkpoints", change(whole()))
    with pytest.raises(CheckpointError, match=f"no run can resume from it: .*{complaint}"):
        load_resume_point(tmp_path, PONG, SIZES)


SPEC = NormaliserSpec(2, True)
SOUND = Saved(Own.none(SPEC), Scales.raw(2)).packed()


@pytest.mark.parametrize(
    ("kept", "spec", "complaint"),
    [
        (SOUND, SPEC, None),
        (SOUND, None, "statistics of a normaliser that this run has not"),
        (SOUND[:0], SPEC, r"no sound statistics of its normaliser \(0 numbers, expected 14\)"),
        (SOUND[:-1], SPEC, "no sound statistics"),
        (-SOUND, SPEC, r"no sound statistics of its normaliser \(numbers that are no statistics"),
        (SOUND * np.nan, SPEC, "no sound statistics"),
    ],
)
def test_statistics_are_those_that_the_run_has(
    tmp_path: Path, kept: np.ndarray, spec: NormaliserSpec | None, complaint: str | None
) -> None:
    content = whole()
    learners = tuple(dataclasses.replace(each, normaliser=kept) for each in content.learners)
    checkpoints.save(tmp_path / "checkpoints", dataclasses.replace(content, learners=learners))
    if complaint is None:
        load_resume_point(tmp_path, PONG, SIZES, spec)
        return
    with pytest.raises(CheckpointError, match=f"no run can resume from it: .*{complaint}"):
        load_resume_point(tmp_path, PONG, SIZES, spec)


OF_BEFORE = {
    "classic": "classic: sticky 0, no-ops 30, frame skip 4, stack 4, life loss ends, rewards "
    "clipped, 108000 frames, minimal actions",
    "machado": "machado: sticky 0.25, no-ops 0, frame skip 4, stack 4, life loss ignored, rewards "
    "clipped, 108000 frames, all 18 actions",
}
"""Lines of protocol, and so checkpoints, of before there was a setting for FIRE at resets."""


@pytest.mark.parametrize("protocol", OF_BEFORE)
def test_a_run_of_before_the_fire_setting_goes_on_with_fire(tmp_path: Path, protocol: str) -> None:
    """Its config names no such setting, its checkpoint's line of protocol neither."""
    config = to_dict(RunConfig(environment=EnvironmentConfig("ALE/Pong-v5", protocol=protocol)))
    del config["environment"]["fire_reset"], config["environment"]["max_episode_steps"]
    (tmp_path / CONFIG).write_text(json.dumps(config))
    identity = dataclasses.replace(PONG, protocol=OF_BEFORE[protocol])
    checkpoints.save(tmp_path / "checkpoints", dataclasses.replace(whole(), identity=identity))

    def resumed(*flags: str) -> bool:
        words = ["run", "--resume", str(tmp_path), *flags]
        environment = config_from(build_parser().parse_args(words)).environment
        wanted = dataclasses.replace(PONG, protocol=resolve(environment).describe())
        assert load_resume_point(tmp_path, wanted, SIZES).checkpoint.identity == identity
        return environment.fire_reset is True

    assert resumed()
    assert resumed("--fire-reset")
    with pytest.raises(CheckpointError, match=r"is of protocol .*, this run uses .* no FIRE"):
        resumed("--no-fire-reset")
