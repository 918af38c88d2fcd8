"""Observations of every space: shape, type, scale and values that the network gets; refusals."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import cv2
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict
from gymnasium.spaces.utils import flatten
from numpy.typing import NDArray

from galamp.core.config import EnvironmentConfig
from galamp.core.errors import UserError
from galamp.environments import EnvironmentSpec, describe, make_environment
from galamp.environments.checks import InvalidDataError
from galamp.environments.observations import channels_are_last, scale_of
from tests.contracts.environment import EnvironmentContract
from tests.support import misbehaving, spaces

ROOM = "tests.support.spaces:"
SEED = 3


def config(name: str, **settings: Any) -> EnvironmentConfig:
    return EnvironmentConfig(ROOM + name, **settings)


def played(
    name: str, steps: int = 10, **settings: Any
) -> tuple[EnvironmentSpec, list[NDArray[Any]], list[Any]]:
    """Return the spec, the observations of one environment, and what the environment gave."""
    environment = make_environment(config(name, **settings), [SEED])
    seen = spaces.made[-1].seen
    observations = [environment.reset()[0]]
    for _ in range(steps):
        observations.append(environment.step(np.zeros(1, np.int64)).observations[0])
    environment.close()
    return environment.spec, observations, seen


class TestNested(EnvironmentContract):
    config = config("nested")
    num_steps = 30


class TestPreprocessed(EnvironmentContract):
    config = config("colours", resize="36x38", grayscale=True, frame_stack=2, frame_skip=2)
    num_steps = 30


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "scale"),
    [
        ("float64", (3,), "float32", None),
        ("bools", (4,), "float32", None),
        ("bytes_", (6,), "uint8", None),
        ("bits", (6,), "uint8", 1.0),
        ("int8", (2,), "float32", 1 / 128),
        ("int32", (2, 3), "float32", 1 / 8),
        ("int64", (2,), "float32", None),
        ("uint16", (2,), "float32", 1 / 65535),
        ("number", (), "float32", None),
        ("discrete", (5,), "float32", None),
        ("multi_discrete", (5,), "float32", None),
        ("multi_binary", (4,), "float32", None),
        ("nested", (21,), "float32", None),
        ("cameras", (4, 10, 12), "uint8", None),
        ("masked", (4, 10, 12), "float32", None),
        ("board", (4, 10, 10), "float32", None),
        ("cube", (10, 10, 10), "uint8", 1.0),
        ("first", (3, 10, 12), "uint8", None),
        ("colours", (3, 48, 40), "uint8", None),
        ("gray", (48, 40), "uint8", None),
        ("shades", (3, 40, 40), "float32", 1 / 255),
        ("unit", (3, 40, 40), "float32", None),
    ],
)
def test_shape_type_and_scale_follow_from_the_space(
    name: str, shape: tuple[int, ...], dtype: str, scale: float | None
) -> None:
    spec, observations, _ = played(name, steps=1)
    assert (spec.observation_shape, spec.observation_dtype) == (shape, dtype)
    assert spec.observation_scale == scale
    assert spec.scale == (scale if scale else 1 / 255 if dtype == "uint8" else 1.0)
    assert observations[0].dtype == dtype
    assert spec.observation_note.isprintable()


@pytest.mark.parametrize("name", ["float64", "bools", "bytes_", "bits", "int8", "int32", "gray"])
def test_a_box_is_given_as_it_is(name: str) -> None:
    _, observations, seen = played(name)
    for mine, theirs in zip(observations, seen, strict=True):
        np.testing.assert_array_equal(mine, theirs.astype(mine.dtype))


@pytest.mark.parametrize("name", ["discrete", "multi_discrete", "multi_binary"])
def test_what_is_no_box_is_flattened_as_by_gymnasium(name: str) -> None:
    _, observations, seen = played(name)
    for mine, theirs in zip(observations, seen, strict=True):
        np.testing.assert_array_equal(mine, flatten(spaces.SPACES[name], theirs))


def test_entries_are_in_gymnasiums_order_and_each_has_its_scale() -> None:
    _, observations, seen = played("nested")
    space = spaces.SPACES["nested"]
    assert isinstance(space, Dict)
    for mine, theirs in zip(observations, seen, strict=True):
        scaled = dict(theirs)
        plain = {
            "map": Box(-np.inf, np.inf, (2, 2, 3), np.float64),
            "counts": Box(-np.inf, np.inf, (2,), np.float64),
        }
        scaled["map"], scaled["counts"] = theirs["map"] / 255, theirs["counts"] / 10
        expected = flatten(Dict({**space.spaces, **plain}), scaled)
        np.testing.assert_allclose(mine, expected, rtol=1e-6)


def test_images_of_one_size_are_stacked() -> None:
    spec, observations, seen = played("cameras")
    assert "stacked as channels" in spec.observation_note
    for mine, theirs in zip(observations, seen, strict=True):
        np.testing.assert_array_equal(mine[:3], theirs["left"].transpose(2, 0, 1))
        np.testing.assert_array_equal(mine[3:], theirs["right"])


def test_images_of_several_scales_are_stacked_as_floats() -> None:
    spec, observations, seen = played("masked")
    assert (spec.observation_dtype, spec.scale) == ("float32", 1.0)
    for mine, (image, mask) in zip(observations, seen, strict=True):
        np.testing.assert_allclose(mine[:3], image.transpose(2, 0, 1) / 255, rtol=1e-6)
        np.testing.assert_array_equal(mine[3], mask[..., 0])


@pytest.mark.parametrize("name", ["board", "cube", "colours", "shades"])
def test_channels_come_first(name: str) -> None:
    _, observations, seen = played(name)
    for mine, theirs in zip(observations, seen, strict=True):
        np.testing.assert_array_equal(mine, theirs.transpose(2, 0, 1).astype(mine.dtype))


@pytest.mark.parametrize(
    ("shape", "last"),
    [
        ((84, 84, 3), True),
        ((4, 84, 84), False),
        ((10, 10, 4), True),
        ((10, 10, 10), True),
        ((10, 10, 12), True),
        ((12, 10, 10), False),
        ((7, 5, 3), True),
        ((3, 7, 5), False),
        ((5, 7, 5), True),
    ],
)
def test_equal_sides_are_the_images_else_the_fewer_are_channels(
    shape: tuple[int, int, int], last: bool
) -> None:
    assert channels_are_last(shape) == last


def test_scale_never_magnifies_and_no_bounds_are_none() -> None:
    assert scale_of(Box(0, 0.5, (3, 3, 1))) == 1.0
    assert scale_of(Box(-2.0, 1.0, (3, 3, 1))) == 0.5
    assert scale_of(Box(0, np.inf, (3, 3, 1))) == 1.0
    assert scale_of(Box(0, 65536, (3,), np.int32)) == 1.0
    assert scale_of(Box(np.zeros(2, np.int64), np.array([3, 20]), dtype=np.int64)) == 1 / 20


def test_runs_of_older_versions_read_observations_as_these_did() -> None:
    """Bytes by 1/255 whatever their bounds, all else as it is, channels by the old rule."""
    for name, shape in (("bits", (6,)), ("cube", (10, 10, 10)), ("shades", (3, 40, 40))):
        spec, observations, seen = played(name, observation_reading="dtype")
        assert (spec.observation_shape, spec.observation_scale) == (shape, None)
        if name == "cube":
            np.testing.assert_array_equal(observations[0], seen[0])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "text",
            r"in the space Text\(1, 9, .*\(entry 'mission.words'\) cannot .*FilterObservation",
        ),
        ("graph", r"in the space Graph\(.*cannot be trained on: expected Box, .* turn them into"),
        ("sequence", r"in the space Sequence\(Discrete\(3\).*cannot be trained on"),
        ("one_of", r"in the space OneOf\(.*\(entry '0'\) cannot be trained on"),
        ("huge", r"in the space Discrete\(1000000000\) would become 1,000,000,000 numbers"),
        ("nothing", r"in the space Dict\(\) hold no number"),
        ("empty", r"Box\(.*\(0,\).* hold no number"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_by_name(name: str, told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        describe(config(name))
    (line,) = caught.value.problems
    assert line.startswith(f"{ROOM}{name}: ")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("discrete", 3, r"step\(\) is outside its observation_space Discrete\(5, start=-2\)"),
        ("discrete", -3, "is outside its observation_space Discrete"),
        ("discrete", 1.0, r"step\(\) has dtype float64: its observation_space says int64"),
        ("multi_discrete", [4, 0], "outside its observation_space MultiDiscrete"),
        ("multi_binary", [[0, 1], [2, 0]], "outside its observation_space MultiBinary"),
        ("nested", {"place": 1}, r"step\(\) has keys \['place'\]: its observation_space has"),
        ("nested", None, r"step\(\) has nothing in it \(None\)"),
        ("nested", {"pair": (1,)}, r"step\(\), entry 'pair', has 1 parts: .* 2 parts"),
        ("nested", {"place": 7}, r"step\(\), entry 'place', is outside"),
        ("nested", {"counts": [1]}, r"entry 'counts', has shape \[1\]: .* says \[2\]"),
        ("nested", {"pair": ([0, np.nan], [0, 1])}, r"step\(\) holds nan: expected finite"),
        ("nested", {"pair": ([0, 1e300], [0, 1])}, "holds inf or a number beyond float32"),
        ("cameras", {"left": np.zeros((10, 12, 3))}, "entry 'left', has dtype float64"),
        ("shades", np.full((40, 40, 3), np.nan), r"step\(\) holds nan"),
    ],
)
def test_an_observation_that_is_not_of_its_space_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: Any, told: str
) -> None:
    space = spaces.SPACES[name]
    good = space.sample()
    if isinstance(value, dict) and value != {"place": 1}:
        value = {**good, **value}
    kind = misbehaving.NoneAsObservation if value is None else misbehaving.Scripted
    settings = {"space": Box(0, 1, (1,)), "reset": (good, {}), "observation": value}

    def make() -> misbehaving.Scripted:
        env = kind(**settings)
        env.observation_space = space
        return env

    monkeypatch.setattr(misbehaving, "scripted", make)
    environment = make_environment(EnvironmentConfig("tests.support.misbehaving:scripted"), [1])
    environment.reset()
    with pytest.raises(InvalidDataError, match=told):
        environment.step(np.zeros(1, np.int64))


# Preprocessing


def test_images_are_gray_resized_and_stacked() -> None:
    spec, observations, seen = played(
        "colours", resize="36x38", grayscale=True, frame_stack=3, max_episode_steps=50
    )
    assert spec.observation_shape == (3, 36, 38)
    assert (spec.observation_dtype, spec.scale) == ("uint8", 1 / 255)
    assert spec.protocol == (
        "gymnasium: rewards not clipped, cut after 50 agent steps, grayscale, "
        "resized to 36 x 38, stack 3"
    )
    frames = [
        cv2.resize(cv2.cvtColor(each, cv2.COLOR_RGB2GRAY), (38, 36), interpolation=cv2.INTER_AREA)
        for each in seen
    ]
    assert len(seen) == 11
    for t, mine in enumerate(observations):
        start = 0 if t <= spaces.LENGTH else spaces.LENGTH + 1
        for age in range(3):
            np.testing.assert_array_equal(mine[2 - age], frames[max(t - age, start)])


def test_colours_and_stacks_of_colours_stay_together() -> None:
    spec, observations, seen = played("shades", resize="20", frame_stack=2)
    assert (spec.observation_shape, spec.observation_scale) == ((6, 20, 20), 1 / 255)
    small = [cv2.resize(each.astype(np.float32), (20, 20), interpolation=3) for each in seen]
    for t in (1, 5):
        expected = np.concatenate([small[t - 1], small[t]], -1).transpose(2, 0, 1)
        np.testing.assert_array_equal(observations[t], expected)


@pytest.mark.parametrize(
    ("name", "settings", "shape"),
    [
        ("gray", {"resize": "84"}, (1, 84, 84)),
        ("gray", {"frame_stack": 4}, (4, 48, 40)),
        ("first", {"grayscale": True}, (1, 10, 12)),
        ("cube", {"frame_stack": 2}, (20, 10, 10)),
        ("float64", {"frame_stack": 2}, (6,)),
        ("cameras", {"resize": "36"}, (4, 36, 36)),
        ("nested", {"frame_stack": 3}, (63,)),
    ],
)
def test_the_spec_shows_what_comes_out(
    name: str, settings: dict[str, Any], shape: tuple[int, ...]
) -> None:
    spec, observations, _ = played(name, **settings)
    assert spec.observation_shape == shape
    assert observations[3].shape == shape


def test_a_skip_repeats_the_action_and_ends_with_the_true_last_observation() -> None:
    """Episodes of 7 frames: rewards 1 + 2 + 3, 4 + 5 + 6, and 7, whose frame is the last."""
    environment = make_environment(config("float64", frame_skip=3), [SEED])
    seen = spaces.made[-1].seen
    environment.reset()
    steps = [environment.step(np.zeros(1, np.int64)) for _ in range(5)]
    assert environment.spec.frames_per_step == 3
    assert [step.rewards[0] for step in steps] == [6, 15, 7, 0, 6]
    assert [step.terminated[0] for step in steps] == [False, False, True, False, False]
    assert [step.reset[0] for step in steps] == [False, False, False, True, False]
    for step, frame in zip(steps, (3, 6, 7, 8, 11), strict=True):
        np.testing.assert_array_equal(step.observations[0], seen[frame].astype(np.float32))


def test_opencv_is_loaded_only_where_it_is_used() -> None:
    script = (
        "import sys\n"
        "from galamp.core.config import EnvironmentConfig\n"
        "from galamp.environments import describe\n"
        f"name = '{ROOM}colours'\n"
        "describe(EnvironmentConfig(name, frame_stack=2, frame_skip=2))\n"
        "assert 'cv2' not in sys.modules\n"
        "describe(EnvironmentConfig(name, resize='36'))\n"
        "assert sys.modules['cv2'].getNumThreads() == 1\n"
        "sys.modules['cv2'] = None\n"
        "describe(EnvironmentConfig(name, resize='36'))\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    last = run.stderr.splitlines()[-1]
    assert "UserError: --resize, --grayscale: need OpenCV, and importing cv2 raised" in last
    assert "pip install opencv-python" in last


def test_how_images_are_read_is_told_before_and_after_preprocessing() -> None:
    assert describe(config("cube")).observation_note == (
        "images of 10 x 10, 10 channels, which come last; taken as they are"
    )
    assert describe(config("shades", grayscale=True, frame_stack=2)).observation_note == (
        "images of 40 x 40, 3 channels, which come last, grayscale, stack 2; "
        "images of 40 x 40, 2 channels, which come first; divided by 255"
    )
    assert describe(config("discrete")).observation_note == (
        "one-hot: 5 numbers of Discrete(5, start=-2)"
    )
    assert describe(config("float64")).observation_note == ""
    assert describe(config("int8")).observation_note == "divided by 128"


def test_limits_are_in_agent_steps_whatever_the_skip() -> None:
    environment = make_environment(config("float64", frame_skip=2, max_episode_steps=3), [SEED])
    assert environment.spec.max_episode_steps == 3
    environment.reset()
    steps = [environment.step(np.zeros(1, np.int64)) for _ in range(4)]
    assert [step.truncated[0] for step in steps] == [False, False, True, False]
    assert describe(EnvironmentConfig("CartPole-v1", frame_skip=3)).max_episode_steps == 167


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"env_id": ROOM + "float64", "resize": "84"}, r"--resize: only for images, .*Box\(-5.0"),
        (
            {"env_id": ROOM + "discrete", "resize": "84", "grayscale": True},
            r"--resize, --grayscale: only for images, .* leave it out",
        ),
        ({"env_id": ROOM + "number", "frame_stack": 2}, "--frame-stack: only for images"),
        ({"env_id": ROOM + "gray", "grayscale": True}, "3 or 4 channels, .* have 1: leave it out"),
        ({"env_id": ROOM + "board", "resize": "84x"}, "--resize 84x: expected pixels a side"),
        ({"env_id": ROOM + "board", "resize": "0"}, "--resize 0: expected pixels a side"),
        ({"env_id": ROOM + "board", "resize": "84x9999"}, "up to 4096"),
        ({"env_id": "Pong", "resize": "84"}, "--resize: not for Atari, and ALE/Pong-v5 is"),
        ({"env_id": "Pong", "grayscale": True}, "--grayscale: not for Atari"),
        ({"env_id": ROOM + "board", "noop_max": 3}, "--noop-max: only for Atari games"),
    ],
)
def test_settings_that_do_not_apply_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        describe(EnvironmentConfig(**settings))
    assert len(caught.value.problems) == 1
