"""What every environment must do, inherited by one test class per environment.

A subclass says in `config` what to build. One recording of `num_steps` agent steps serves all.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from galamp.core.config import EnvironmentConfig
from galamp.environments import EnvironmentSpec, Transition, make_environment

SEEDS = (5, 2**31 - 1)


@dataclass
class Recording:
    """A course of B environments: what was given, what came back, and copies made at once."""

    spec: EnvironmentSpec
    first: NDArray[Any]
    actions: NDArray[np.int64]
    steps: list[Transition]
    copies: list[NDArray[Any]]

    def column(self, name: str) -> NDArray[Any]:
        """Return `[T, B, ...]` of one field of the transitions."""
        return np.stack([getattr(step, name) for step in self.steps])


def play(
    config: EnvironmentConfig,
    seeds: tuple[int, ...],
    actions: NDArray[np.int64] | None,
    num_steps: int,
    threads: int = 1,
) -> Recording:
    """Step environments by the given actions `[T, B]`, or by ones drawn from their seeds."""
    environment = make_environment(config, seeds, threads=threads)
    if actions is None:
        n = environment.spec.num_actions
        actions = np.stack([np.random.default_rng(s).integers(0, n, num_steps) for s in seeds], 1)
    first = environment.reset()
    recording = Recording(environment.spec, first, actions, [], [first.copy()])
    for row in actions:
        recording.steps.append(environment.step(row))
        recording.copies.append(recording.steps[-1].observations.copy())
    environment.close()
    return recording


class EnvironmentContract:
    """Inherit it, set `config`, and set `has_lives` where a lost life ends a return."""

    config: ClassVar[EnvironmentConfig]
    num_steps: ClassVar[int] = 300
    has_lives: ClassVar[bool] = False

    @pytest.fixture(scope="class")
    @classmethod
    def recording(cls) -> Recording:
        """Play once for all tests of the class."""
        return play(cls.config, SEEDS, None, cls.num_steps, threads=2)

    def test_spec_is_complete_and_survives_json(self, recording: Recording) -> None:
        spec = recording.spec
        assert spec.num_actions == len(spec.action_meanings) > 0
        assert spec.frames_per_step >= 1
        assert spec.protocol.isprintable()
        assert spec.protocol
        assert EnvironmentSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec

    def test_shapes_and_types(self, recording: Recording) -> None:
        spec, envs = recording.spec, len(SEEDS)
        for observation in (recording.first, recording.steps[0].observations):
            assert observation.shape == (envs, *spec.observation_shape)
            assert observation.dtype == spec.observation_dtype
            assert observation.flags.c_contiguous
        for step in recording.steps:
            assert step.rewards.shape == (envs,)
            assert step.rewards.dtype == np.float64
            for flags in (step.terminated, step.truncated, step.reset):
                assert flags.shape == (envs,)
                assert flags.dtype == np.bool_

    def test_environments_do_not_depend_on_how_they_are_split(self, recording: Recording) -> None:
        parts = [
            play(self.config, SEEDS[:1], recording.actions[:, :1], self.num_steps),
            play(self.config, SEEDS[1:], recording.actions[:, 1:], self.num_steps),
        ]
        first = np.concatenate([part.first for part in parts])
        np.testing.assert_array_equal(first, recording.first)
        for name in ("observations", "rewards", "terminated", "truncated", "reset"):
            together = np.concatenate([part.column(name) for part in parts], axis=1)
            np.testing.assert_array_equal(together, recording.column(name), err_msg=name)

    def test_environments_with_different_seeds_differ(self, recording: Recording) -> None:
        observations = recording.column("observations")
        assert not np.array_equal(observations[:, 0], observations[:, 1])

    def test_episodes_end_and_each_reset_follows_an_end(self, recording: Recording) -> None:
        ended = recording.column("terminated") | recording.column("truncated")
        reset = recording.column("reset")
        assert reset.any(), "the recording is too short to show a reset"
        assert not reset[0].any()
        assert ended[:-1][reset[1:]].all()

    def test_reset_follows_every_truncation_and_game_over(self, recording: Recording) -> None:
        truncated, terminated = recording.column("truncated"), recording.column("terminated")
        reset = recording.column("reset")
        assert reset[1:][truncated[:-1]].all()
        if not self.has_lives:
            assert reset[1:][terminated[:-1]].all()

    def test_reset_step_gives_nothing(self, recording: Recording) -> None:
        reset = recording.column("reset")
        assert (recording.column("rewards")[reset] == 0).all()
        assert not (recording.column("terminated") & reset).any()
        assert not (recording.column("truncated") & reset).any()

    def test_observations_belong_to_the_receiver(self, recording: Recording) -> None:
        given = [recording.first, *(step.observations for step in recording.steps)]
        for observation, copy in zip(given, recording.copies, strict=True):
            np.testing.assert_array_equal(observation, copy)
        assert not np.array_equal(given[0], given[-1])

    def test_reset_begins_again_bad_actions_are_refused_and_close_is_idempotent(
        self, recording: Recording
    ) -> None:
        environment = make_environment(self.config, SEEDS[:1])
        good = recording.actions[0, :1]
        environment.reset()
        environment.step(good)
        np.testing.assert_array_equal(environment.reset(), recording.first[:1])
        for bad in (np.full_like(good, environment.spec.num_actions), -1 - good, good[:0]):
            with pytest.raises(ValueError, match="actions: expected"):
                environment.step(bad)
        with pytest.raises(ValueError, match="actions: expected int64"):
            environment.step(good.astype(np.float32))
        step = environment.step(good)
        np.testing.assert_array_equal(step.observations, recording.steps[0].observations[:1])
        environment.close()
        environment.close()
