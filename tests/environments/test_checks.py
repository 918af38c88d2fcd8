"""What an environment returns is looked at where it enters, before anybody can be hurt by it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box

from galamp.core.config import EnvironmentConfig
from galamp.core.errors import GalampError, UserError
from galamp.environments import EpisodeCounter, describe, make_environment
from galamp.environments.base import Environment
from galamp.environments.checks import InvalidDataError
from galamp.storage.monitor_log import MonitorLog
from galamp.workers.child import ChildSpec, _write_report
from tests.support import misbehaving
from tests.support.engine import run, summary

SEEDS = (70, 80)
IMAGE = Box(0, 255, (40, 40, 3), np.uint8)


def scripted(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Environment:
    """Two environments, of which the second, of seed 80, returns what `settings` say."""
    envs = itertools.cycle([{"space": settings.get("space", misbehaving.FLOATS)}, settings])
    monkeypatch.setattr(misbehaving, "scripted", lambda: misbehaving.Scripted(**next(envs)))
    return make_environment(EnvironmentConfig("tests.support.misbehaving:scripted"), SEEDS)


def refused(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> InvalidDataError:
    """Return what is raised by the first step, or by the reset."""
    environment = scripted(monkeypatch, **settings)

    def play() -> None:
        environment.reset()
        environment.step(np.zeros(2, np.int64))

    with pytest.raises(InvalidDataError) as caught:
        play()
    return caught.value


REWARDS = [
    (float("nan"), "nan"),
    (float("inf"), "inf"),
    (-float("inf"), "inf"),
    (1e200, "beyond float32"),
    (10**400, "inf"),
    (None, "None"),
    ("1.0", "a str"),
    (1j, "a complex"),
    ([1.0, 2.0], "an array of 2 numbers"),
    (np.array([]), "an array of 0 numbers"),
    ([[1.0], [1.0, 2.0]], "a list"),
    (np.array([np.nan], np.float32), "nan"),
]


@pytest.mark.parametrize(("reward", "kind"), REWARDS)
def test_a_reward_that_is_no_sound_number_is_refused(
    monkeypatch: pytest.MonkeyPatch, reward: Any, kind: str
) -> None:
    error = refused(monkeypatch, reward=reward)
    assert str(error).startswith("tests.support.misbehaving:scripted: reward of environment 1 ")
    assert f" is {kind}: expected " in str(error)
    assert "environment 1 has seed 80" in error.__notes__[0]


def with_nan(value: float) -> Any:
    return np.array([0.0, value])


OBSERVATIONS = [
    (with_nan(np.nan), "step() holds nan"),
    (with_nan(np.inf), "step() holds inf or a number beyond float32"),
    (with_nan(1e200), "step() holds inf or a number beyond float32"),
    (np.zeros(1), "step() has shape [1]: its observation_space says [2]"),
    (np.zeros((1, 2)), "step() has shape [1, 2]: its observation_space says [2]"),
    (0.5, "step() has shape []: its observation_space says [2]"),
    ([None, 1.0], "step() has dtype object: its observation_space says float64"),
    (np.zeros(2, np.complex128), "step() has dtype complex128: its observation_space says"),
    ([[0.0], [0.0, 1.0]], "step() is no array of numbers: expected an array"),
]


@pytest.mark.parametrize(("observation", "kind"), OBSERVATIONS)
def test_an_observation_that_does_not_fit_is_refused(
    monkeypatch: pytest.MonkeyPatch, observation: Any, kind: str
) -> None:
    error = refused(monkeypatch, observation=observation)
    assert f"tests.support.misbehaving:scripted: observation of environment 1 from {kind}" in str(
        error
    )
    assert "environment 1 has seed 80" in error.__notes__[0]


def test_observations_of_a_reset_and_of_pixels_are_looked_at_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = refused(monkeypatch, reset=(with_nan(np.nan), {}))
    assert "observation of environment 1 from reset() holds nan" in str(error)
    error = refused(monkeypatch, space=IMAGE, observation=np.zeros((40, 40), np.uint8))
    assert "has shape [40, 40]: its observation_space says [40, 40, 3]" in str(error)
    error = refused(monkeypatch, space=IMAGE, observation=np.zeros((40, 40, 3)))
    assert "has dtype float64: its observation_space says uint8" in str(error)


@pytest.mark.parametrize("name", ["terminated", "truncated"])
@pytest.mark.parametrize(
    ("flag", "kind"), [("False", "a str"), (2, "2"), (0.5, "0.5"), ([False] * 2, "an array of 2")]
)
def test_a_flag_that_is_neither_true_nor_false_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, flag: Any, kind: str
) -> None:
    error = refused(monkeypatch, **{name: flag})
    assert f"{name} of environment 1 is {kind}" in str(error)
    assert "expected True or False" in str(error)


def test_no_flag_at_all_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "truncated of environment 1 is None" in str(refused(monkeypatch, truncated=None))


@pytest.mark.parametrize(
    "settings",
    [
        {"reward": 2},
        {"reward": np.float32(2)},
        {"reward": np.array(2)},
        {"reward": np.array([2.0])},
        {"reward": [[2]]},
        {"reward": 2.0, "terminated": np.False_, "truncated": 0},
        {"reward": 2.0, "terminated": np.array([False])},
        {"reward": 2.0, "observation": (0, 1)},
        {"reward": 2.0, "observation": np.zeros(2, np.float32)},
    ],
)
def test_what_gymnasium_takes_is_taken(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    environment = scripted(monkeypatch, **settings)
    environment.reset()
    step = environment.step(np.zeros(2, np.int64))
    assert step.rewards.tolist() == [1.0, 2.0]
    assert not (step.terminated | step.truncated).any()
    environment.close()


def test_infos_are_nobodys_business(monkeypatch: pytest.MonkeyPatch) -> None:
    """Environments whose infos do not go together would stop Gymnasium's own vector environment."""
    environment = scripted(monkeypatch, reset=(np.zeros(2), None))
    environment.reset()
    environment.close()


OLD = [
    ("OldStep", "step() returned 4 values"),
    ("OldReset", "reset() returned the observation alone"),
    ("SeedlessReset", "reset() takes no seed"),
    ("OldInside-v0", "step() returned 4 values"),  # found by a wrapper of Gymnasium's
]


@pytest.mark.parametrize(("name", "found"), OLD)
def test_the_old_gym_api_is_recognised(name: str, found: str) -> None:
    with pytest.raises(InvalidDataError) as caught:
        describe(EnvironmentConfig(f"tests.support.misbehaving:{name}"))
    assert f"{name}: {found}: this is the old Gym API; derive it from" in str(caught.value)


def test_an_environment_of_the_old_package_is_recognised() -> None:
    with pytest.raises(UserError, match=r"OldGym: .* old Gym API \(package gym\): derive it from"):
        describe(EnvironmentConfig("tests.support.misbehaving:OldGym"))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"reset": (np.zeros(2), {}, 1)}, "reset() returned 3 values: expected two values"),
        ({"reset": np.zeros(3)}, "reset() returned one ndarray: expected two values"),
    ],
)
def test_a_reset_of_another_form_is_told(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], complaint: str
) -> None:
    assert complaint in str(refused(monkeypatch, **settings))


def test_a_missing_observation_is_told() -> None:
    with pytest.raises(
        InvalidDataError, match=r"observation of environment 0 from step\(\) is None"
    ):
        describe(EnvironmentConfig("tests.support.misbehaving:NoneAsObservation"))


@pytest.mark.parametrize("name", ["raising_in_reset", "raising_in_step"])
def test_the_environment_that_raises_is_named(name: str) -> None:
    environment = make_environment(EnvironmentConfig(f"tests.support.misbehaving:{name}"), SEEDS)

    def play() -> None:
        environment.reset()
        environment.step(np.zeros(2, np.int64))

    with pytest.raises((LookupError, np.linalg.LinAlgError)) as caught:
        play()
    assert caught.value.__notes__ == ["environment 0 has seed 70"]


def test_it_is_an_environment_that_raises_and_the_same_every_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A simulator that says so on purpose would be restarted thrice, as a learner that diverged."""
    texts = {str(refused(monkeypatch, reward=1e200)) for _ in range(2)}
    assert len(texts) == 1
    assert "80" not in texts.pop()
    error = refused(monkeypatch, reward=1e200)
    assert not isinstance(error, GalampError)
    spec = ChildSpec("simulator", 0, 0, "", (), str(tmp_path / "simulator-0.0.log"))
    _write_report(spec, error, tmp_path)
    [report] = tmp_path.glob("*.crash-*.json")
    assert '"deliberate": false' in report.read_text()
    assert "environment 1 has seed 80; it returned np.float64(1e+200)" in report.read_text()


def test_ten_rewards_of_a_tenth_are_one(tmp_path: Path) -> None:
    environment = make_environment(EnvironmentConfig("tests.support.misbehaving:Tenths"), [1])
    counter, log = EpisodeCounter(1), MonitorLog(tmp_path / "0.monitor.csv", "x", 0.0, print)
    environment.reset()
    for _ in range(11):
        for episode in counter.update(environment.step(np.zeros(1, np.int64))):
            log.append(episode.ret, episode.length, 1.0)
    log.flush()
    assert (tmp_path / "0.monitor.csv").read_text().splitlines()[-1].startswith("1,10,")
    environment.close()


def test_no_learner_is_blamed_for_what_an_environment_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One reward that is no number costs an episode and a new incarnation of its simulator."""
    monkeypatch.setenv("TEST_FAILED_ONCE", str(tmp_path / "failed"))
    folder = tmp_path / "run"
    flags = ["--total-steps", 8000, "--learners", 1, "--num-envs", 4, "--quiet"]
    ended = run("--env-id", "tests.support.crashing:poisoned", *flags, "--run-dir", folder)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "failed").exists()
    told = summary(folder)
    assert (told["restarts"], told["given_up"], told["failure"]) == (1, [], None)
    [report] = (folder / "logs").glob("*.crash-*.json")
    assert report.name.startswith("simulator-0.")
    words = report.read_text()
    assert "tests.support.crashing:poisoned: reward of environment " in words
    assert "is nan: expected a finite number" in words
    assert " has seed " in words
    assert "last actions [envs], oldest first: [[" in words
