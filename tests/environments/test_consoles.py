"""Atari games one by one: the same games as ale-py's vector environment, and what that has not."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest

from galamp.core.config import EnvironmentConfig
from galamp.core.errors import UserError
from galamp.environments import describe, finish_probe, start_probe
from galamp.environments.protocols import AtariProtocol, resolve
from galamp.environments.screens import filmed
from galamp.tools.evaluation.references import misfit
from tests.contracts.environment import EnvironmentContract, Recording, play

PLAIN = [
    {"env_id": "Breakout", "noop_max": 0},
    {"env_id": "Pong", "noop_max": 0, "max_frames": 83, "fire_reset": False, "frame_stack": 2},
    {"env_id": "SpaceInvaders", "noop_max": 1, "sticky_actions": 0.25, "frame_skip": 1},
]


@pytest.mark.real
@pytest.mark.parametrize("settings", PLAIN)
def test_it_is_the_same_game_bit_for_bit(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of settings that both can do; how no-ops are drawn is all that differs."""
    config, rows = EnvironmentConfig(**settings), 90
    theirs = play(config, (5,), None, rows)
    monkeypatch.setattr(AtariProtocol, "is_plain", False)
    ours = play(config, (5,), theirs.actions, rows)
    np.testing.assert_array_equal(ours.first, theirs.first)
    for name in ("observations", "rewards", "terminated", "truncated", "reset"):
        np.testing.assert_array_equal(ours.column(name), theirs.column(name), name)
    assert ours.spec == theirs.spec


@pytest.mark.real
class TestMemory(EnvironmentContract):
    """The RAM as the observation, in another mode."""

    config: ClassVar[EnvironmentConfig] = EnvironmentConfig(
        "Pong", obs_type="ram", mode=1, difficulty=2, max_frames=360
    )
    num_steps: ClassVar[int] = 120

    def test_it_is_seen_and_told(self, recording: Recording) -> None:
        assert recording.spec.observation_shape == (128,)
        assert recording.spec.observation_dtype == "uint8"
        assert recording.spec.protocol.startswith("classic (changed: ")
        assert recording.spec.protocol.endswith(", mode 1, difficulty 2, RAM")
        assert recording.column("truncated").any()


def test_memories_are_stacked_if_asked_for() -> None:
    config = EnvironmentConfig("Breakout", obs_type="ram", frame_stack=3, noop_max=0)
    seen = play(config, (5,), np.zeros((3, 1), np.int64), 3)
    alone = play(EnvironmentConfig("Breakout", obs_type="ram", noop_max=0), (5,), seen.actions, 3)
    parts = [alone.first, *alone.column("observations")]
    np.testing.assert_array_equal(seen.first[0, -128:], parts[0][0])
    assert not seen.first[0, :-128].any()
    np.testing.assert_array_equal(seen.steps[2].observations[0], np.concatenate(parts[1:], 1)[0])


def test_modes_and_difficulties_are_other_games() -> None:
    def memory(**settings: Any) -> Any:
        config = EnvironmentConfig("Breakout", obs_type="ram", **settings)
        return play(config, (5,), None, 20).column("observations")

    usual = memory()
    np.testing.assert_array_equal(memory(mode=0, difficulty=0), usual)
    for other in (memory(mode=8), memory(difficulty=1)):
        assert not np.array_equal(other, usual)


def test_its_screen_is_filmed_frame_by_frame() -> None:
    config = EnvironmentConfig("Breakout", obs_type="ram", mode=4, noop_max=0, frame_skip=3)
    film = filmed(config, 5)
    _, frames = film.reset()
    shapes = [frame.shape for frame in frames]
    for _ in range(2):
        _, frames = film.step(np.ones(1, np.int64))
        shapes += [frame.shape for frame in frames]
    assert shapes == [(210, 160, 3)] * 7
    film.close()


def test_a_game_without_that_mode_or_difficulty_is_told_before_a_run_starts() -> None:
    with pytest.raises(UserError) as caught:
        finish_probe(start_probe(EnvironmentConfig("Pong", mode=7)))
    assert str(caught.value) == "--mode 7: expected one that ALE/Pong-v5 has: 0, 1"
    assert caught.value.details == ""
    with pytest.raises(UserError, match=r"^--difficulty 4: expected one .* has: 0, 1, 2, 3$"):
        describe(EnvironmentConfig("Pong", difficulty=4))


def test_published_scores_are_of_the_usual_game() -> None:
    assert misfit(resolve(EnvironmentConfig("Pong"))) is None
    other = resolve(EnvironmentConfig("Pong", mode=1, obs_type="ram"))
    assert misfit(other) == "mode 1 (theirs the usual), obs type ram (theirs image)"
