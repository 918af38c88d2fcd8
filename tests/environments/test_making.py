"""Environments made with arguments and wrappers: by id, by a package's id, by a factory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from galamp.core.config import EnvironmentConfig
from galamp.core.errors import UserError
from galamp.environments import describe
from tests.contracts.environment import play
from tests.support import vectors

HERE = "tests.support.vectors:"
ACTIONS = np.array([[0], [1]] * 20)


@pytest.mark.parametrize(
    ("name", "kwargs", "limit"),
    [
        ("Walk", (), vectors.LIMIT),
        ("Walk", ("limit=4", "end=9", "render_mode=rgb_array"), 4),
        ("vectors/Walk-v0", (), 5),
        ("vectors/Walk-v0", ("limit=4",), 4),
    ],
)
def test_arguments_arrive(name: str, kwargs: tuple[str, ...], limit: int) -> None:
    seen = play(EnvironmentConfig(HERE + name, env_kwargs=kwargs), (5,), ACTIONS, len(ACTIONS))
    assert seen.column("observations")[..., 1].max() == limit
    assert seen.spec.protocol == "gymnasium: rewards not clipped" + "".join(
        f", with {text}" for text in kwargs
    )


def test_an_id_of_gymnasiums_takes_its_own_and_those_of_make() -> None:
    kwargs = ("sutton_barto_reward=true", "max_episode_steps=3")
    seen = play(EnvironmentConfig("CartPole-v1", env_kwargs=kwargs), (5,), ACTIONS[:3], 3)
    assert set(seen.column("rewards").ravel()) == {0.0}
    assert seen.spec.max_episode_steps == 3
    assert seen.column("truncated")[2, 0]


def test_wrappers_are_put_on_from_within() -> None:
    doubled, plus = HERE + "Doubled", HERE + "Plus"

    def rewards(*wrappers: str) -> Any:
        config = EnvironmentConfig(HERE + "Walk", wrapper=wrappers, max_episode_steps=6)
        return play(config, (5,), ACTIONS[:6], 6).column("rewards")

    np.testing.assert_array_equal(rewards(doubled, plus), 2 * rewards() + 1)
    np.testing.assert_array_equal(rewards(plus, doubled), 2 * (rewards() + 1))
    spec = describe(EnvironmentConfig(HERE + "vectors/Walk-v0", wrapper=(doubled, plus)))
    assert spec.protocol.endswith(f", wrapped in {doubled}, wrapped in {plus}")


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("CartPole-v1", {"env_kwargs": ("sutton=1",)}, "--env-kwargs sutton: CartPole-v1 has no such"),
    (HERE + "Walk", {"env_kwargs": ("limt=1",)}, r"such argument \(did you mean limit\?\): it has"),
    (HERE + "vectors/Walk-v0", {"env_kwargs": ("wide=1",)}, "it has end, limit, render_mode"),
    (HERE + "next_step", {}, "missing a required argument: 'num_envs': give the factory"),
    (HERE + "Walk", {"env_kwargs": ("render_mode=human",)}, "would open a window for every"),
    (HERE + "Walk", {"wrapper": (HERE + "Dubled",)}, r"no class 'Dubled' \(did you mean Doubled"),
    (HERE + "Walk", {"wrapper": ("tests.nothing:A",)}, "--wrapper .*: cannot import tests.nothing"),
    (HERE + "Walk", {"wrapper": (HERE + "LIMIT",)}, "has no class 'LIMIT'"),
    (HERE + "Walk", {"wrapper": (HERE + "Hungry",)}, "argument: 'food', and gets the environment"),
    (HERE + "Walk", {"wrapper": (HERE + "number",)}, "makes one Env of another, it returned int"),
    (
        HERE + "Walk",
        {"wrapper": (HERE + "Sour",)},
        r"--wrapper .*Sour: raised LookupError: no such",
    ),
    ("Pong", {"wrapper": (HERE + "Plus",)}, "--wrapper: not for Atari games"),
    ("Pong", {"env_kwargs": ("mode=1",)}, "--env-kwargs: not for Atari games, .*: use --mode"),
]


@pytest.mark.parametrize(("env_id", "settings", "complaint"), REFUSED)
def test_what_cannot_be_used_is_told(env_id: str, settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        describe(EnvironmentConfig(env_id, **settings))
    assert str(caught.value).isprintable()
