"""Environments: the contract for four of them, ale-py's traps, names, and the probe."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
from ale_py.vector_env import AtariVectorEnv
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from galamp.core.config import EnvironmentConfig
from galamp.core.errors import UserError
from galamp.environments import (
    Episode,
    EpisodeCounter,
    Transition,
    describe,
    finish_probe,
    make_environment,
    start_probe,
)
from galamp.environments.atari import AtariEnvironment
from galamp.environments.names import canonical_env_id, list_games
from galamp.environments.protocols import FOR_ALL, PROTOCOLS, SETTINGS, resolve
from tests.contracts.environment import SEEDS, EnvironmentContract, Recording, play
from tests.support.engine import also


class Walk(gymnasium.Env[Any, Any]):
    """A walk that ends at +-3 and is cut after 9 steps; shows a picture with channels last."""

    observation_space = Box(0, 255, (7, 5, 3), np.uint8)
    action_space = Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        """Start in the middle, under a colour that is drawn per episode."""
        super().reset(seed=seed)
        self.colour = int(self.np_random.integers(1, 256))
        self.place, self.length = 0, 0
        return self._picture(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, Any]:
        """Go left or right; the reward is the place, so it is often beyond [-1, 1]."""
        self.place += 2 * int(action) - 1
        self.length += 1
        over = abs(self.place) == 3
        return self._picture(), float(self.place), over, self.length == 9 and not over, {}

    def _picture(self) -> Any:
        picture = np.zeros((7, 5, 3), np.uint8)
        picture[self.place + 3, 2, 1] = self.colour
        return picture


class Halves(gymnasium.Env[Any, Any]):
    """Observations in float64, actions counted from 1."""

    observation_space = Box(-1, 1, (2,), np.float64)
    action_space = Discrete(2, start=1)


def exiting() -> None:
    """End the process as ale-py does over a bad ROM."""
    print("the ROM is bad", file=sys.stderr, flush=True)
    os._exit(1)


def leaving() -> None:
    """End the process as if all were well."""
    sys.exit()


def printing() -> gymnasium.Env[Any, Any]:
    """Write to standard output, past Python, before and after the environment is described."""
    os.write(1, b"noise\n")
    return Walk()


def waiting() -> None:
    """Never return."""
    while True:
        os.read(os.pipe()[0], 1)


def a_number() -> int:
    """Return no environment."""
    return 3


class TestBreakout(EnvironmentContract):
    config = EnvironmentConfig("Breakout")
    num_steps = 180
    has_lives = True

    def test_lost_lives_end_returns_and_only_lost_games_reset(self, recording: Recording) -> None:
        """Against the emulator's own count of lives, played by hand."""
        raw = AtariVectorEnv("breakout", 2, num_threads=1, reward_clipping=False)
        _, info = raw.reset(seed=np.array(SEEDS))
        lost, over = [], []
        for t, row in enumerate(recording.actions):
            before = info["lives"]
            _, _, terminated, _, info = raw.step(row)
            lost.append(info["lives"] < before)
            over.append(terminated)
            np.testing.assert_array_equal(recording.steps[t].terminated, lost[t] | over[t])
            if t:
                np.testing.assert_array_equal(recording.steps[t].reset, over[t - 1])
        assert np.any(over)
        assert np.any(np.array(lost) & ~np.array(over))


class TestPong(EnvironmentContract):
    config = EnvironmentConfig("Pong", max_frames=240, sticky_actions=0.25)
    num_steps = 130

    def test_max_frames_truncates_and_does_not_terminate(self, recording: Recording) -> None:
        truncated = recording.column("truncated")
        assert np.flatnonzero(truncated[:, 0]).tolist() == [59, 120]  # 60 agent steps and a reset
        assert not recording.column("terminated").any()


class TestCartPole(EnvironmentContract):
    config = EnvironmentConfig("CartPole-v1")

    def env_index(self) -> gymnasium.Env[Any, Any]:
        """Build one environment without galamp."""
        return gymnasium.make("CartPole-v1")

    def convert(self, observation: Any) -> Any:
        """Return one environment's observation as the learner gets it."""
        return observation

    def test_equals_environments_stepped_by_hand(self, recording: Recording) -> None:
        for env_index, seed in enumerate(SEEDS):
            env = self.env_index()
            observation, _ = env.reset(seed=seed)
            np.testing.assert_array_equal(recording.first[env_index], self.convert(observation))
            ended = False
            for action, step in zip(recording.actions[:, env_index], recording.steps, strict=True):
                reset, reward, over, cut = ended, 0.0, False, False
                if reset:
                    observation, _ = env.reset()
                else:
                    observation, reward, over, cut, _ = env.step(action)  # type: ignore[assignment]
                ended = over or cut
                np.testing.assert_array_equal(
                    step.observations[env_index], self.convert(observation)
                )
                assert (step.rewards[env_index], step.terminated[env_index]) == (reward, over)
                assert (step.truncated[env_index], step.reset[env_index]) == (cut, reset)


class TestFactory(TestCartPole):
    config = EnvironmentConfig("tests.environments.test_environments:Walk")

    def env_index(self) -> gymnasium.Env[Any, Any]:
        """Build one environment without galamp."""
        return Walk()

    def convert(self, observation: Any) -> Any:
        """Return the picture with its channels first."""
        return observation.transpose(2, 0, 1)

    def test_shows_both_ends_and_rewards_beyond_one(self, recording: Recording) -> None:
        assert recording.spec.observation_shape == (3, 7, 5)
        assert recording.column("terminated").any()
        assert recording.column("truncated").any()
        assert np.abs(recording.column("rewards")).max() > 1


def test_scores_are_never_clipped() -> None:
    recording = play(EnvironmentConfig("SpaceInvaders", clip_rewards=True), (3,), None, 150)
    assert recording.spec.clip_rewards
    assert recording.column("rewards").max() >= 5


def test_a_game_without_lives_ends_once_and_its_score_is_exact() -> None:
    """Pong, played to the end, reports lives 0 throughout; one side has 21 points then."""
    environment = make_environment(EnvironmentConfig("Pong", frame_skip=12), [1])
    counter, lost, won = EpisodeCounter(1), 0, 0
    episodes: list[Episode] = []
    environment.reset()
    length = 0
    while not episodes:
        step = environment.step(np.array([length % 6]))
        episodes += counter.update(step)
        length += 1
        lost += int(step.rewards[0] == -1)
        won += int(step.rewards[0] == 1)
        assert length < 3000
    environment.close()
    assert max(lost, won) == 21
    assert episodes == [Episode(0, won - lost, length - 1)]


@pytest.mark.real
def test_resets_are_seen_though_the_episode_frame_number_rises_over_them() -> None:
    config = EnvironmentConfig("Breakout", max_frames=12)
    actions = np.ones((60, 1), np.int64)
    recording = play(config, (5,), actions, 60)
    raw = AtariVectorEnv("breakout", 1, num_threads=1, max_num_frames_per_episode=12)
    _, info = raw.reset(seed=np.array([5]))
    rose, cut = 0, False
    for row, step in zip(actions, recording.steps, strict=True):
        before, was_cut = info["episode_frame_number"][0], cut
        _, _, _, truncated, info = raw.step(row)
        cut = bool(truncated[0])
        assert step.reset[0] == was_cut
        assert step.truncated[0] == cut
        rose += was_cut and info["episode_frame_number"][0] > before
    assert rose > 0, "this seed does not show the trap"


def test_a_life_lost_at_the_frame_limit_is_followed_by_a_reset() -> None:
    """The emulator reports such a step as terminated only, though the episode is over."""
    free = play(EnvironmentConfig("Breakout"), (5,), np.ones((60, 1), np.int64), 60)
    first = int(np.flatnonzero(free.column("terminated"))[0])
    assert not free.steps[first + 1].reset[0]
    config = EnvironmentConfig("Breakout", max_frames=4 * (first + 1))
    cut = play(config, (5,), np.ones((first + 2, 1), np.int64), first + 2)
    assert cut.steps[first].terminated[0]
    assert not cut.steps[first].truncated[0]
    assert cut.steps[first + 1].reset[0]


def test_without_life_loss_only_the_end_of_the_game_terminates() -> None:
    config = dataclasses.replace(EnvironmentConfig("Breakout"), life_loss_ends=False)
    recording = play(config, (5,), np.ones((400, 1), np.int64), 400)
    terminated, reset = recording.column("terminated"), recording.column("reset")
    assert terminated.any()
    np.testing.assert_array_equal(reset[1:], terminated[:-1])


def transition(rewards: list[float], ended: str, reset: str) -> Transition:
    """Build a step of environments from flags such as `.tc` (t terminated, c cut) and `r..`."""

    def flags(text: str, letter: str) -> NDArray[np.bool_]:
        return np.array([c == letter for c in text])

    return Transition(
        np.zeros((len(rewards), 1), np.float32),
        np.array(rewards, np.float64),
        flags(ended, "t"),
        flags(ended, "c"),
        flags(reset, "r"),
    )


def test_episode_counter_completes_at_the_reset_and_not_at_a_lost_life() -> None:
    counter = EpisodeCounter(3)
    steps = [
        transition([1, 5, -2], "t..", "..."),  # environment 0 loses a life
        transition([1, 5, -2], "..c", "..."),  # environment 2 is cut
        transition([1, 5, 0], "t..", "..r"),
        transition([0, 5, 7], "...", "r.."),
        transition([4, 5, 7], "tc.", "..."),
        transition([0, 0, 7], "...", "rr."),
    ]
    assert [counter.update(step) for step in steps] == [
        [],
        [],
        [Episode(2, -4.0, 2)],
        [Episode(0, 3.0, 3)],
        [],
        [Episode(0, 4.0, 1), Episode(1, 25.0, 5)],
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Breakout", "ALE/Breakout-v5"),
        ("breakout", "ALE/Breakout-v5"),
        ("SpaceInvaders", "ALE/SpaceInvaders-v5"),
        ("space_invaders", "ALE/SpaceInvaders-v5"),
        ("space-invaders", "ALE/SpaceInvaders-v5"),
        ("ALE/SpaceInvaders-v5", "ALE/SpaceInvaders-v5"),
        ("ALE/SpaceInvaders", "ALE/SpaceInvaders-v5"),
        ("SpaceInvadersNoFrameskip-v4", "ALE/SpaceInvaders-v5"),
        ("SpaceInvaders-v4", "ALE/SpaceInvaders-v5"),
        ("SpaceInvaders-v0", "ALE/SpaceInvaders-v5"),
        ("SpaceInvadersDeterministic-v4", "ALE/SpaceInvaders-v5"),
        ("MsPacman", "ALE/MsPacman-v5"),
        ("Blackjack-v1", "Blackjack-v1"),  # a Gymnasium id, though there is a ROM of that name
        ("Blackjack", "ALE/Blackjack-v5"),
        ("CartPole-v1", "CartPole-v1"),
        ("phys2d/CartPole-v1", "phys2d/CartPole-v1"),
        ("package.module:factory", "package.module:factory"),
        ("package:EnvId-v0", "package:EnvId-v0"),
        ("package.module:space/Env.Id-v12", "package.module:space/Env.Id-v12"),
        ("ale_py:ALE/Pong-v5", "ALE/Pong-v5"),
        ("ale_py:SpaceInvadersNoFrameskip-v4", "ALE/SpaceInvaders-v5"),
        ("ale_py:pong", "ALE/Pong-v5"),
    ],
)
def test_names(text: str, expected: str) -> None:
    assert canonical_env_id(text) == expected
    assert canonical_env_id(expected) == expected


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("Brekout", "Breakout"),
        ("ALE/SpaceInvader-v5", "SpaceInvaders"),
        ("CartPole", "CartPole-v1"),
        ("CartPole-v7", "CartPole-v1"),
    ],
)
def test_unknown_names_offer_the_nearest(text: str, near: str) -> None:
    with pytest.raises(UserError, match=rf"unknown .*{text!r} \(did you mean .*{near}") as caught:
        canonical_env_id(text)
    assert "expected" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["MiniGrid-Empty-5x5-v0", "parking-v0", "PandaReach-v3", "FetchReach-v2", "merge-v0"]
)
def test_environments_of_other_packages_get_no_guesses(text: str) -> None:
    with pytest.raises(UserError, match="package:EnvId-v0 for an id that another") as caught:
        canonical_env_id(text)
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["Joust", "ALE/Combat-v5", "maze_craze", "WarlordsNoFrameskip-v4", "ale_py:ALE/Joust"]
)
def test_games_for_two_are_told_to_be_left_out_on_purpose(text: str) -> None:
    with pytest.raises(UserError, match="a game for two players, and left out") as caught:
        canonical_env_id(text)
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("text", [":name", "package:", "a:b:c", "a b:c", "a.:c", "m:ns/b/c-v0"])
def test_names_of_no_known_form_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"expected package\.module:factory, or package:EnvId"):
        canonical_env_id(text)


@pytest.mark.parametrize(
    "name",
    [
        "Careless-v0",
        "careless/Nested.Name-v3",
        "Plain",  # an identifier, but no function
        "healthy",  # a function before it is an id
        "Namespace.healthy",
    ],
)
def test_ids_that_a_package_registers_are_made(name: str) -> None:
    spec = describe(EnvironmentConfig(f"tests.support.misbehaving:{name}"))
    assert spec.env_id == f"tests.support.misbehaving:{name}"
    assert spec.observation_shape == (2,)


def test_an_id_of_a_package_keeps_its_time_limit() -> None:
    recording = play(EnvironmentConfig("tests.support.misbehaving:Limited-v0"), (1,), None, 7)
    assert recording.column("truncated")[:, 0].tolist() == [False] * 4 + [True, False, False]


def test_games_are_named_as_their_registered_ids() -> None:
    import ale_py

    gymnasium.register_envs(ale_py)
    registered = {i[4:-3] for i in gymnasium.registry if i.startswith("ALE/")}
    assert set(list_games()) == registered
    assert len(registered) > 100
    assert list_games() == sorted(list_games())


def test_protocol_overrides_are_applied_and_named() -> None:
    classic, machado = resolve(EnvironmentConfig()), resolve(EnvironmentConfig(protocol="machado"))
    assert classic is not machado
    assert classic == PROTOCOLS["classic"]
    assert classic.describe() == (
        "classic: sticky 0, fewer than 30 no-ops, FIRE at reset, frame skip 4, stack 4, "
        "life loss ends, rewards clipped, 108000 frames, minimal actions"
    )
    assert machado.describe() == (
        "machado: sticky 0.25, no no-ops, no FIRE at reset, frame skip 4, stack 4, "
        "life loss ignored, rewards clipped, 108000 frames, all 18 actions"
    )
    config = EnvironmentConfig(protocol="machado", noop_max=0, frame_skip=2, life_loss_ends=True)
    assert resolve(config).describe().startswith("machado (changed: frame_skip, life_loss_ends): ")
    with pytest.raises(UserError, match=r"--protocol clasic.*did you mean classic"):
        resolve(EnvironmentConfig(protocol="clasic"))


def test_protocol_settings_reach_the_emulator() -> None:
    spec = describe(EnvironmentConfig("Pong", protocol="machado", frame_stack=2, frame_skip=3))
    assert (spec.num_actions, spec.observation_shape, spec.frames_per_step) == (18, (2, 84, 84), 3)
    assert spec.action_meanings[:2] == ("NOOP", "FIRE")


def test_every_setting_is_passed_on_and_a_damaged_rom_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[str, Any] = {}

    def damaged(rom: str, envs: int, **settings: Any) -> None:
        seen.update(settings, rom=rom, envs=envs)
        raise OSError("The hash does not match\nExpected (1)")

    monkeypatch.setattr("galamp.environments.atari.AtariVectorEnv", damaged)
    config = EnvironmentConfig(
        "SpaceInvaders", sticky_actions=0.5, noop_max=3, max_frames=77, full_action_space=True
    )
    with pytest.raises(UserError, match=r"ROM cannot be read .The hash does not match Expected"):
        make_environment(config, [1, 2], threads=3)
    assert (seen["rom"], seen["envs"], seen["num_threads"]) == ("space_invaders", 2, 3)
    assert (seen["repeat_action_probability"], seen["noop_max"]) == (0.5, 3)
    assert (seen["max_num_frames_per_episode"], seen["full_action_space"]) == (77, True)


@pytest.mark.parametrize("protocol", ["classic", "machado"])
@pytest.mark.parametrize("asked", [None, True, False])
def test_fire_is_pressed_where_the_protocol_says_so(
    monkeypatch: pytest.MonkeyPatch, protocol: str, asked: bool | None
) -> None:
    seen: dict[str, Any] = {}

    def noted(rom: str, envs: int, **settings: Any) -> None:
        seen.update(settings)
        raise OSError("enough")

    monkeypatch.setattr("galamp.environments.atari.AtariVectorEnv", noted)
    config = EnvironmentConfig("Pong", protocol=protocol, fire_reset=asked)
    with pytest.raises(UserError):
        make_environment(config, [1])
    pressed = protocol == "classic" if asked is None else asked
    assert seen["use_fire_reset"] is pressed
    assert ("no FIRE at reset" in resolve(config).describe()) is not pressed
    changed = pressed is not (protocol == "classic")
    assert ("(changed: fire_reset)" in resolve(config).describe()) is changed


@pytest.mark.real
def test_without_fire_breakout_waits_for_the_agent() -> None:
    """There is no ball, and nothing moves, until it presses FIRE itself."""
    noop, fire = np.zeros((12, 1), np.int64), np.ones((12, 1), np.int64)

    def stands_still(fire_reset: bool, actions: NDArray[np.int64]) -> bool:
        config = EnvironmentConfig("Breakout", noop_max=0, fire_reset=fire_reset)
        seen = play(config, (5,), actions, 12).column("observations")
        return bool((seen[4:] == seen[4]).all())

    assert stands_still(False, noop)
    assert not stands_still(False, fire)
    assert not stands_still(True, noop)


@pytest.mark.real
@pytest.mark.parametrize(
    ("noop_max", "fire_reset"),
    [
        (1, True), (3, True), (0, False), (3, False),
        also(0, True), also(2, True), also(5, True), also(1, False), also(2, False), also(5, False),
    ],
)  # fmt: skip
def test_fewer_no_ops_than_the_limit_are_played(noop_max: int, fire_reset: bool) -> None:
    """Against the emulator's own count of frames: ale-py draws 0 to `noop_max - 1` of them."""
    # Every other step is a reset, for episodes are cut after one frame.
    config = EnvironmentConfig("Breakout", noop_max=noop_max, fire_reset=fire_reset, max_frames=1)
    environment = make_environment(config, [3, 4])
    assert isinstance(environment, AtariEnvironment)
    environment.reset()
    played = set()
    for _ in range(10):
        environment.step(np.zeros(2, np.int64))
        _, _, _, _, info = environment._open().step(np.zeros(2, np.int64))
        played |= set(info["episode_frame_number"].tolist())
    environment.close()
    most = max(noop_max - 1, 0)
    assert played == (set(range(1, max(most, 1) + 1)) if fire_reset else set(range(most + 1)))


STEP_LIMITS = [
    (EnvironmentConfig("Pong"), 7),
    (EnvironmentConfig("Pong", frame_skip=3, max_frames=30, noop_max=0), 7),
    (EnvironmentConfig("CartPole-v1"), 5),
    (EnvironmentConfig("tests.environments.test_environments:Walk"), 2),
]


@pytest.mark.parametrize(("config", "limit"), STEP_LIMITS)
def test_a_step_limit_truncates_in_every_environment(config: EnvironmentConfig, limit: int) -> None:
    config = dataclasses.replace(config, max_episode_steps=limit)
    recording = play(config, (5,), np.zeros((3 * limit + 3, 1), np.int64), 3 * limit + 3)
    truncated = recording.column("truncated")[:, 0]
    assert np.flatnonzero(truncated).tolist() == [limit - 1, 2 * limit, 3 * limit + 1]
    assert not recording.column("terminated").any()
    frames = limit * recording.spec.frames_per_step
    said = f"{frames} frames" if config.env_id == "Pong" else f", cut after {limit} agent steps"
    assert said in recording.spec.protocol


def test_the_lower_of_two_limits_holds() -> None:
    """The emulator's, in frames, and Gymnasium's own of 500 steps."""
    frames = EnvironmentConfig("Pong", max_frames=20, max_episode_steps=7)
    assert resolve(frames).max_frames == 20
    assert resolve(dataclasses.replace(frames, max_episode_steps=4)).max_frames == 16
    config = EnvironmentConfig("Acrobot-v1", max_episode_steps=900)
    cut = play(config, (5,), np.ones((510, 1), np.int64), 510).column("truncated")[:, 0]
    assert np.flatnonzero(cut).tolist() == [499]


def test_atari_settings_are_refused_elsewhere() -> None:
    values: dict[str, Any] = {name: 1 for name in SETTINGS if name not in FOR_ALL}
    for name, value in {**values, "life_loss_ends": True, "protocol": "machado"}.items():
        config = dataclasses.replace(EnvironmentConfig("CartPole-v1"), **{name: value})
        with pytest.raises(UserError, match=f"--{name.replace('_', '-')}: only for Atari") as told:
            make_environment(config, [0])
        hint = "--max-episode-steps cuts episodes in any environment"
        assert (hint in str(told.value)) == (name == "max_frames")


def test_evaluation_settings_and_clipping_are_allowed_everywhere() -> None:
    assert not describe(EnvironmentConfig("CartPole-v1", life_loss_ends=False)).clip_rewards
    spec = describe(EnvironmentConfig("CartPole-v1", clip_rewards=True))
    assert spec.clip_rewards
    assert spec.protocol == "gymnasium: rewards clipped"


@pytest.mark.parametrize(
    ("env_id", "complaint"),
    [
        ("tests.environments.test_environments:Wolk", "no function 'Wolk' .did you mean Walk"),
        (
            "tests.environments.test_environments:a_number",
            "returns a gymnasium.Env, it returned int",
        ),
        ("tests.nothing:here", "cannot import tests.nothing .*is it installed"),
        ("tests.nothing:Here-v0", "cannot import tests.nothing"),
        (
            "tests.support.misbehaving:Nothing",
            "no function 'Nothing', and its import has not registered",
        ),
        (
            "tests.support.misbehaving:Careless-v7",
            "registered no .* Careless-v7 .did you mean Careless-v",
        ),
        (
            "tests.support.misbehaving:OldSpace",
            "is a gym.spaces.box.OldBox: expected one of gymnasium.sp",
        ),
        ("tests.support.misbehaving:Spaceless", "no observation_space: set it in its __init__"),
    ],
)
def test_environments_that_cannot_be_used(env_id: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        make_environment(EnvironmentConfig(env_id), [0])


def test_float64_observations_become_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Halves, "action_space", Discrete(2))
    environment = make_environment(
        EnvironmentConfig("tests.environments.test_environments:Halves"), [0]
    )
    assert environment.spec.observation_dtype == "float32"
    environment.close()


def test_seeds_that_the_emulator_cannot_keep_are_refused() -> None:
    for seeds in ([], [-1], [2**31]):
        with pytest.raises(ValueError, match="seeds: expected"):
            make_environment(EnvironmentConfig("Pong"), seeds)


def test_probe_finds_the_spec_in_another_process() -> None:
    config = EnvironmentConfig("pong", noop_max=7)
    probe = start_probe(config)
    spec = finish_probe(probe)
    assert spec == describe(config)
    assert spec.num_actions == 6
    assert probe.returncode == 0


@pytest.mark.parametrize(
    ("env_id", "complaint"),
    [
        ("Brekout", r"^unknown environment 'Brekout' \(did you mean Breakout"),
        (f"{__name__}:exiting", r":exiting: did not start \(exit code 1\): the ROM is bad$"),
        (
            f"{__name__}:leaving",
            r":leaving: raised SystemExit \(/.*ments.py:\d+ in leaving\)$",
        ),
    ],
)
def test_probe_relays_how_it_failed(env_id: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        finish_probe(start_probe(EnvironmentConfig(env_id)))


def test_probe_answers_alone_on_standard_output() -> None:
    spec = finish_probe(start_probe(EnvironmentConfig(f"{__name__}:printing")))
    assert spec.observation_shape == (3, 7, 5)


def test_probe_is_killed_at_its_deadline() -> None:
    probe = start_probe(EnvironmentConfig(f"{__name__}:waiting"), timeout_s=0.5)
    with pytest.raises(UserError, match=r"did not start within 0\.5 s: .*--start-timeout-s"):
        finish_probe(probe)
    assert probe.returncode in (-signal.SIGKILL, -signal.SIGUSR1)


@pytest.mark.parametrize("env_id", ["Breakout", "CartPole-v1"])
def test_simulators_import_neither_torch_nor_the_other_emulator(env_id: str) -> None:
    script = (
        "import json, sys\n"
        "import galamp.environments as e\n"
        "from galamp.core.config import EnvironmentConfig\n"
        f"name = e.canonical_env_id({env_id!r})\n"
        "named = set(sys.modules)\n"
        "e.describe(EnvironmentConfig(name))\n"
        "watched = ('torch', 'ale_py', 'gymnasium')\n"
        "print(json.dumps([[m for m in watched if m in s] for s in (named, set(sys.modules))]))\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    named, built = json.loads(run.stdout.splitlines()[-1])
    if env_id == "Breakout":
        assert named == []
        assert built == ["ale_py", "gymnasium"]
    else:
        assert named == ["gymnasium"]
        assert built == ["gymnasium"]
