"""Of many games, networks and protocols, each one's checkpoints are refused by all others."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path

import pytest

from galamp.core.action_spec import ActionSpec, DiscreteActions, MultiDiscreteActions
from galamp.core.box_actions import BoxActions
from galamp.core.config import SQUASH, EnvironmentConfig
from galamp.core.errors import CheckpointError
from galamp.environments.names import canonical_env_id, list_games
from galamp.environments.protocols import SETTINGS, resolve
from galamp.storage import checkpoint as ck
from galamp.storage.checkpoint import Identity
from tests.support.checkpoints import PONG, made

GAMES = [canonical_env_id(name) for name in list_games()[::10][:10]]
PREPROCESSING = [
    EnvironmentConfig(protocol="machado"),  # all 18 actions: every game has the same shapes
    EnvironmentConfig(protocol="machado", sticky_actions=0.0),
    EnvironmentConfig(protocol="classic", full_action_space=True),
]
CHANGES = {
    "sticky_actions": 0.5, "noop_max": 7, "frame_skip": 3, "frame_stack": 2, "max_frames": 1000,
    "full_action_space": True, "life_loss_ends": False, "clip_rewards": False, "fire_reset": False,
    "mode": 1, "difficulty": 1, "obs_type": "ram",
}  # fmt: skip


def identities() -> list[Identity]:
    """All of the same shapes: what differs is what the numbers mean."""
    return [
        dataclasses.replace(
            PONG,
            env_id=game,
            protocol=resolve(environment).describe(),
            actions=DiscreteActions(18),
            network=network,
        )
        for game in GAMES
        for network in ("gala", "nature")
        for environment in PREPROCESSING
    ]


def test_no_two_are_taken_for_one_another() -> None:
    known = identities()
    assert len(known) == 10 * 2 * len(PREPROCESSING)
    for mine, other in itertools.product(known, known):
        told = mine.difference(other)
        assert (told is None) == (mine is other)
        assert told is None or (told.isprintable() and len(told) < 500)


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_step_of_preprocessing_is_part_of_the_identity(setting: str) -> None:
    usual = EnvironmentConfig()
    changed = dataclasses.replace(usual, **{setting: CHANGES[setting]})
    assert resolve(usual).describe() != resolve(changed).describe()


@pytest.mark.parametrize("protocol", ["classic", "machado"])
def test_a_checkpoint_with_every_setting_changed_can_be_read(tmp_path: Path, protocol: str) -> None:
    changes = CHANGES | {"fire_reset": protocol == "machado", "clip_rewards": False}
    changes |= {"full_action_space": protocol == "classic"}
    changes |= {"life_loss_ends": protocol == "machado"}
    line = resolve(EnvironmentConfig(protocol=protocol, **changes)).describe()  # type: ignore[arg-type]
    assert all(setting in line for setting in SETTINGS)
    identity = dataclasses.replace(PONG, protocol=line)
    saved = ck.save(tmp_path, dataclasses.replace(made(), identity=identity))
    assert ck.load(saved, expected=identity).identity == identity


def test_refused_before_tensors_with_both_sides_named(tmp_path: Path) -> None:
    known = identities()[:: len(PREPROCESSING)]
    paths = {}
    for mine in known:
        saved = ck.save(tmp_path / str(len(paths)), dataclasses.replace(made(), identity=mine))
        paths[mine] = saved
        assert ck.load(saved, expected=mine).identity == mine
        for file in saved.glob("learner-*"):
            file.unlink()
    for (mine, path), other in itertools.product(paths.items(), known):
        if mine == other:
            continue
        with pytest.raises(CheckpointError) as refused:
            ck.load(path, expected=other)
        told = str(refused.value)
        name = "env_id" if mine.env_id != other.env_id else "network"
        assert getattr(mine, name) in told
        assert getattr(other, name) in told
        assert told.isprintable()


def test_a_scale_is_stored_where_it_is_not_the_types_own(tmp_path: Path) -> None:
    """Where it is, the file is as older versions wrote it."""
    assert "observation_scale" not in PONG.to_dict()
    halved = dataclasses.replace(PONG, observation_scale=0.5)
    saved = ck.save(tmp_path, dataclasses.replace(made(), identity=halved))
    assert ck.load(saved, expected=halved).identity == halved
    for scale in (0.0, -1.0, 0, "1", math.inf, math.nan, True):
        with pytest.raises(CheckpointError, match="identity: observation_scale"):
            Identity.from_dict({**PONG.to_dict(), "observation_scale": scale})


OF_BEFORE = [
    (
        EnvironmentConfig(fire_reset=True),
        "classic: sticky 0, no-ops 30, frame skip 4, stack 4, life loss ends, rewards clipped, "
        "108000 frames, minimal actions",
    ),
    (
        EnvironmentConfig(protocol="machado", fire_reset=True),
        "machado: sticky 0.25, no-ops 0, frame skip 4, stack 4, life loss ignored, rewards "
        "clipped, 108000 frames, all 18 actions",
    ),
    (
        EnvironmentConfig(protocol="machado", fire_reset=True, noop_max=7),
        "machado (changed: noop_max): sticky 0.25, no-ops 7, frame skip 4, stack 4, life loss "
        "ignored, rewards clipped, 108000 frames, all 18 actions",
    ),
    (
        EnvironmentConfig(protocol="machado", fire_reset=True, frame_skip=2, clip_rewards=False),
        "machado (changed: frame_skip, clip_rewards): sticky 0.25, no-ops 0, frame skip 2, stack "
        "4, life loss ignored, rewards not clipped, 108000 frames, all 18 actions",
    ),
    (
        EnvironmentConfig(protocol="machado", fire_reset=True, noop_max=5, sticky_actions=0.0),
        "machado (changed: sticky_actions, noop_max): sticky 0, no-ops 5, frame skip 4, stack 4, "
        "life loss ignored, rewards clipped, 108000 frames, all 18 actions",
    ),
]
"""Lines of protocol as they were written when FIRE was pressed in all and none said so."""


def test_a_checkpoint_of_before_the_fire_setting_is_of_the_protocol_with_fire() -> None:
    for (mine, line), (_, other) in itertools.product(OF_BEFORE, OF_BEFORE):
        run = dataclasses.replace(PONG, protocol=resolve(mine).describe())
        without = dataclasses.replace(mine, fire_reset=False)
        unlike = dataclasses.replace(PONG, protocol=resolve(without).describe())
        stored = dataclasses.replace(PONG, protocol=other)
        assert (stored.difference(run) is None) == (line == other)
        assert stored.difference(unlike) is not None


def test_discrete_actions_are_stored_as_their_number_as_in_older_versions() -> None:
    stored = PONG.to_dict()
    assert stored["num_actions"] == 6
    assert "actions" not in stored
    assert Identity.from_dict(json.loads(json.dumps(stored))) == PONG


@pytest.mark.parametrize(
    "actions",
    [
        DiscreteActions(6, 1),
        MultiDiscreteActions((2, 3)),
        BoxActions((-1.0, -math.inf), (1.0, 2.0), SQUASH),
    ],
    ids=str,
)
def test_other_actions_are_stored_and_told_apart(actions: ActionSpec) -> None:
    identity = dataclasses.replace(PONG, actions=actions)
    stored = json.loads(json.dumps(identity.to_dict(), allow_nan=False))
    assert Identity.from_dict(stored) == identity
    told = identity.difference(PONG)
    assert told == f"takes {actions.describe()}, this run 6 actions"
    for broken in ({"kind": "discrete"}, 6, None, stored["actions"] | {"more": 1}):
        with pytest.raises(CheckpointError, match="identity: actions: expected"):
            Identity.from_dict(stored | {"actions": broken})
    with pytest.raises(CheckpointError, match="identity: num_actions: is not known"):
        Identity.from_dict(stored | {"num_actions": 6})
