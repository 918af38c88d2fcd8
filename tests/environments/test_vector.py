"""Vector environments of others: their steps are those of the same environments one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from galamp.core.config import EnvironmentConfig
from galamp.core.errors import UserError
from galamp.environments import Episode, EpisodeCounter, Transition, describe, make_environment
from galamp.environments.checks import InvalidDataError
from galamp.environments.vector import VectorEnvironment
from galamp.environments.vector_making import reset_seed
from galamp.tools.evaluation.trained_env import TrainedEnv
from tests.contracts.environment import EnvironmentContract, Recording, play
from tests.support import pools, vectors
from tests.support.vectors import Walk

HERE = "tests.support.vectors:"
SEEDS = (5, 6, 7)
ACTIONS = np.random.default_rng(1).integers(0, 2, (120, len(SEEDS)))


def many(name: str, **settings: Any) -> EnvironmentConfig:
    """Settings of a vector environment of `tests.support.vectors`."""
    return EnvironmentConfig(HERE + name, vector=True, **settings)


class TestNextStep(EnvironmentContract):
    """Copies of a walk, by a factory of Gymnasium's vector environment."""

    config: ClassVar[EnvironmentConfig] = many("next_step")

    def test_equals_the_same_environments_one_by_one(self, recording: Recording) -> None:
        alone = play(EnvironmentConfig(HERE + "Walk"), (5, 2**31 - 1), recording.actions, 300)
        np.testing.assert_array_equal(alone.first, recording.first)
        for name in ("observations", "rewards", "terminated", "reset"):
            np.testing.assert_array_equal(alone.column(name), recording.column(name))
        assert recording.column("truncated").any()
        np.testing.assert_array_equal(alone.column("truncated"), recording.column("truncated"))


class TestMadeById(EnvironmentContract):
    """A registered id, of which `make_vec` makes copies."""

    config: ClassVar[EnvironmentConfig] = many("vectors/Walk-v0", max_episode_steps=4)

    def test_the_lower_limit_cuts(self, recording: Recording) -> None:
        assert recording.spec.max_episode_steps == 4
        assert recording.column("observations")[..., 1].max() == 4


def by_hand(env_index: int) -> tuple[list[dict[str, Any]], list[Episode]]:
    """Return what one environment that resets in the same step must give, row by row."""
    env, rows, episodes = Walk(), [], []
    env.reset(seed=SEEDS[env_index])
    pending, ret, length = False, 0.0, 0
    for action in ACTIONS[:, env_index]:
        seen, reward, over, cut, _ = env.step(action)
        reset, ended = pending, over or cut
        ret, length = ret + reward, length + 1
        if ended:
            episodes.append(Episode(env_index, ret, length))
            ret, length = 0.0, 0
            following, _ = env.reset()
        pending = cut and not over and not reset
        rows.append(
            {
                "observations": following if ended and not pending else seen,
                "rewards": reward,
                "terminated": over and not reset,
                "truncated": pending or (cut and over and not reset),
                "reset": reset,
                "ended": ended,
            }
        )
    return rows, episodes


@pytest.fixture(scope="module")
def same_step() -> Recording:
    return play(many("same_step"), SEEDS, ACTIONS, len(ACTIONS))


def test_the_same_step_equals_environments_stepped_by_hand(same_step: Recording) -> None:
    counter, counted = EpisodeCounter(len(SEEDS)), []
    for step in same_step.steps:
        counted += counter.update(step)
    for env_index in range(len(SEEDS)):
        rows, episodes = by_hand(env_index)
        for step, row in zip(same_step.steps, rows, strict=True):
            for name, expected in row.items():
                np.testing.assert_array_equal(getattr(step, name)[env_index], expected, name)
        assert [each for each in counted if each.env_index == env_index] == episodes
        assert len(episodes) > 10


def check_one_episode_each(first: NDArray[Any], steps: list[Transition]) -> None:
    """Hold that no transition leads from one episode to another, and that `begins` tells them."""
    before, seen = first, first[:, 0] * 0
    for step in steps:
        after, valid = step.observations, ~step.reset
        went_on = valid & ~step.terminated
        np.testing.assert_array_equal(after[went_on, 0], before[went_on, 0])
        np.testing.assert_array_equal(after[went_on, 1], before[went_on, 1] + 1)
        np.testing.assert_array_equal(step.begins, after[:, 0] > seen)
        before, seen = after, after[:, 0]


def test_no_transition_leads_across_episodes(same_step: Recording) -> None:
    check_one_episode_each(same_step.first, same_step.steps)
    cut = same_step.column("truncated") & ~same_step.column("terminated")
    assert cut.any()
    assert (same_step.column("observations")[cut][:, 1] == vectors.LIMIT).all()
    arrays = play(many("Batch"), SEEDS, ACTIONS, len(ACTIONS))
    check_one_episode_each(arrays.first, arrays.steps)
    for given, copy in zip(arrays.steps, arrays.copies[1:], strict=True):
        np.testing.assert_array_equal(given.observations, copy)


def test_evaluation_loses_no_step() -> None:
    """Who does not bootstrap sees the first observation of the next episode at once."""
    environment = make_environment(many("same_step"), SEEDS)
    environment.bootstraps = False
    environment.reset()
    steps = [environment.step(row) for row in ACTIONS]
    assert not any(step.reset.any() for step in steps)
    for step in steps:
        assert step.ended is not None
        np.testing.assert_array_equal(step.ended, step.terminated | step.truncated)
        np.testing.assert_array_equal(step.begins, step.ended)
        assert (step.observations[step.ended, 1] == 0).all()
    assert any(step.truncated.any() for step in steps)


@pytest.mark.real
@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_ale_pys_vector_environment_is_one_of_them(mode: str) -> None:
    """Against galamp's own way to play; in the same step, cut episodes have as many steps."""
    given = ('game="breakout"', "reward_clipping=false", "max_num_frames_per_episode=60")
    mine = (*given, f'autoreset_mode="{mode}"')
    config = EnvironmentConfig("ale_py.vector_env:AtariVectorEnv", vector=True, env_kwargs=mine)
    actions = np.ones((16 if mode == "SameStep" else 40, 2), np.int64)
    ours = play(config, (5, 9), actions, len(actions), threads=2)
    usual = EnvironmentConfig("Breakout", max_frames=60, life_loss_ends=False)
    theirs = play(usual, (5, 9), actions, len(actions))
    assert ours.spec.observation_shape == theirs.spec.observation_shape
    rows = 15 if mode == "SameStep" else len(actions)
    for name in ("observations", "rewards", "terminated", "truncated", "reset"):
        np.testing.assert_array_equal(ours.column(name)[:rows], theirs.column(name)[:rows], name)
    assert ours.column("truncated")[14].all()
    assert ours.column("reset")[15].all()


def test_arguments_wrappers_and_seeds_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    config = many("next_step", env_kwargs=("limit=2",), wrapper=(HERE + "Doubling",))
    doubled = play(config, SEEDS, ACTIONS, 20)
    plain = play(many("next_step", env_kwargs=("limit=2",)), SEEDS, ACTIONS, 20)
    np.testing.assert_array_equal(doubled.column("rewards"), 2 * plain.column("rewards"))
    assert (
        "vector, with limit=2, wrapped in tests.support.vectors:Doubling" in doubled.spec.protocol
    )
    environment = make_environment(many("Batch"), SEEDS, threads=3)
    assert isinstance(environment, VectorEnvironment)
    assert environment._vector.made_with == (5, 3)  # type: ignore[attr-defined]
    assert reset_seed(environment._vector, [5, 6]) == 5
    assert reset_seed(vectors.next_step(2), [5, 6]) == [5, 6]
    assert describe(EnvironmentConfig("CartPole-v1", vector=True)).max_episode_steps == 500


@pytest.mark.parametrize("name", ["next_step", "same_step"])
def test_agents_play_it_as_one_environment(name: str) -> None:
    """As `Agent.env` gives it: episodes are those of the walk alone, every step of them."""
    env, alone = TrainedEnv(many(name), 5), Walk()
    episodes = 0
    seen, own = env.reset()[0], alone.reset(seed=5)[0]
    for action in ACTIONS[:, 0]:
        np.testing.assert_array_equal(seen, own)
        seen, reward, over, cut, _ = env.step(action)
        own, *outcome, _ = alone.step(action)
        assert [reward, over, cut] == outcome
        if over or cut:
            seen, own = env.reset()[0], alone.reset()[0]
            episodes += 1
    assert episodes > 10


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("disabled", {}, r"metadata\['autoreset_mode'\] is AutoresetMode.DISABLED: expected"),
    ("nested", {}, r"Dict\(.*cannot be trained on from a vector environment: expected a Box"),
    ("too_few", {}, r"asked for num_envs=1 environments, the factory made 3"),
    ("countless", {}, r"--vector expects a function with the argument num_envs"),
    ("single", {}, r"the function returned Walk: leave out --vector"),
    ("next_step", {"env_kwargs": ("limt=3",)}, r"--env-kwargs limt: .*\(did you mean limit\?\)"),
    ("next_step", {"env_kwargs": ("num_envs=3",)}, r"--env-kwargs num_envs: every .*--num-envs"),
    ("Batch", {"env_kwargs": ("seed=3",)}, r"--env-kwargs seed: every simulator .*by --seed"),
    ("next_step", {"max_episode_steps": 3}, r"--max-episode-steps: .*cuts its episodes itself"),
    ("next_step", {"frame_stack": 3, "resize": "9"}, r"--frame-stack, --resize: not for vector"),
    ("next_step", {"sticky_actions": 0.5}, r"--sticky-actions: only for Atari games"),
    ("next_step", {"wrapper": (HERE + "Plus",)}, r"--wrapper .*Plus: raised .*"),
    ("next_step", {"wrapper": (HERE + "number",)}, r"makes one VectorEnv of another, it .* int"),
    ("vectors/Walk-v0", {"env_kwargs": ("lim=3",)}, r"--env-kwargs lim: .*did you mean limit"),
]


@pytest.mark.parametrize(("name", "settings", "complaint"), REFUSED)
def test_what_cannot_be_used_is_told(name: str, settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        describe(many(name, **settings))
    assert str(caught.value).isprintable()


def test_many_are_told_from_one() -> None:
    with pytest.raises(UserError, match=r"returned SyncVectorEnv, which is many: add --vector"):
        describe(EnvironmentConfig(HERE + "countless"))
    with pytest.raises(UserError, match=r"--vector: ALE/Pong-v5 is stepped all at once"):
        describe(EnvironmentConfig("Pong", vector=True))


WRONG: list[tuple[int, Any, str]] = [
    (0, np.zeros((3, 2)), r"batch of observations from step\(\) has shape \[3, 2\]: its"),
    (0, np.full((3, 3), np.nan), r"observation of environment 0 from step\(\) holds nan"),
    (1, np.zeros(2), r"rewards from step\(\) are an array \[2\] of float64: expected a number"),
    (1, np.full(3, np.inf), r"reward of environment 0 from step\(\) is inf"),
    (2, None, r"terminations from step\(\) are nothing"),
    (3, ["no"] * 3, r"truncations from step\(\) are an array \[3\] of <U2"),
]


@pytest.mark.parametrize(("place", "value", "complaint"), WRONG)
def test_what_it_returns_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, place: int, value: Any, complaint: str
) -> None:
    step = vectors.Batch.step

    def wrong(self: Any, actions: Any) -> Any:
        returned = list(step(self, actions))
        returned[place] = value
        return returned

    monkeypatch.setattr(vectors.Batch, "step", wrong)
    environment = make_environment(many("Batch"), SEEDS)
    environment.reset()
    with pytest.raises(InvalidDataError, match=complaint):
        environment.step(ACTIONS[0])


def test_a_cut_without_its_last_observation_is_refused() -> None:
    environment = make_environment(many("Batch", env_kwargs=("tells=false",)), SEEDS)
    environment.reset()
    for t in range(vectors.LIMIT - 1):
        environment.step(np.full(3, t % 2))
    with pytest.raises(InvalidDataError, match="truncated, and the info of that step has no final"):
        environment.step(np.zeros(3, np.int64))


def at_the_cut(monkeypatch: pytest.MonkeyPatch, final: Callable[[Any], Any]) -> Any:
    """Make the step in which episodes are truncated, where `final` changes what they ended with."""
    step = vectors.Batch.step

    def changed(self: Any, actions: Any) -> Any:
        *others, info = step(self, actions)
        if "final_obs" in info:
            info = info | {"final_obs": final(info["final_obs"])}
        return (*others, info)

    monkeypatch.setattr(vectors.Batch, "step", changed)
    environment = make_environment(many("Batch"), SEEDS)
    environment.reset()
    for t in range(vectors.LIMIT - 1):
        environment.step(np.full(3, t % 2))
    return environment.step(np.zeros(3, np.int64))


@pytest.mark.parametrize(
    ("final", "complaint"),
    [
        *((lambda last, v=v: np.full(np.shape(last), v), "holds nan, inf or")
          for v in (np.nan, np.inf, 1e300)),
        (lambda last: [None] * len(last), "holds None for it: expected its last observation"),
        (lambda last: np.full(len(last), None), "holds None for it: expected its last observation"),
    ],
)  # fmt: skip
def test_a_last_observation_that_is_none_or_not_finite_is_refused(
    monkeypatch: pytest.MonkeyPatch, final: Callable[[Any], Any], complaint: str
) -> None:
    with pytest.raises(InvalidDataError, match=rf"info\['final_obs'\].* {complaint}"):
        at_the_cut(monkeypatch, final)


def test_last_observations_may_be_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        expected = at_the_cut(patch, lambda last: last)
    found = at_the_cut(monkeypatch, list)
    assert np.array_equal(found.observations, expected.observations)


def test_envpools_environments_are_made_with_a_seed_each() -> None:
    made_by = "tests.support.pools:make_gymnasium"
    config = EnvironmentConfig(made_by, vector=True, env_kwargs=('task_id="Pong-v5"',))
    environment = make_environment(config, SEEDS, threads=2)
    assert isinstance(environment, VectorEnvironment)
    made = environment._vector._pool  # type: ignore[attr-defined]
    assert made.config == {"num_envs": 3, "seed": [5, 6, 7], "num_threads": 2}
    assert environment.reset().shape == (3, 2)
    steps = [environment.step(ACTIONS[0]) for _ in range(pools.LENGTH + 1)]
    assert [step.terminated.all() for step in steps[-2:]] == [True, False]
    assert [step.reset.any() for step in steps[-2:]] == [False, True]
    assert steps[-1].rewards.tolist() == [0.0] * 3
    environment.close()
