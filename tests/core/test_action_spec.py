"""Action specs: their JSON form, what they refuse, and what the environment gets."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box

from galamp.core.action_kinds import action_spec_from_dict
from galamp.core.action_spec import (
    ActionSpec,
    DiscreteActions,
    MultiBinaryActions,
    MultiDiscreteActions,
)
from galamp.core.box_actions import BoxActions
from galamp.core.config import CLIP, SQUASH

SPECS: list[ActionSpec] = [
    DiscreteActions(3),
    DiscreteActions(3, -1),
    MultiDiscreteActions((2, 3)),
    MultiDiscreteActions((2, 3, 4, 5), (1, 0, 0, -1), (2, 2)),
    MultiBinaryActions(3),
    MultiBinaryActions(4, (2, 2)),
    BoxActions((-1.0, 0.0), (1.0, 2.0)),
    BoxActions((-math.inf, -1.0), (math.inf, 1.0), SQUASH, (2, 1)),
    BoxActions((-2.0,), (2.0,), form=()),
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_json_form_gives_the_same_spec(spec: ActionSpec) -> None:
    text = json.dumps(spec.to_dict(), allow_nan=False)
    assert action_spec_from_dict(json.loads(text)) == spec
    for name in spec.to_dict():
        lacking = {key: value for key, value in spec.to_dict().items() if key != name}
        with pytest.raises(ValueError, match="actions: expected"):
            action_spec_from_dict(lacking)
    with pytest.raises(ValueError, match="actions: expected exactly"):
        action_spec_from_dict(spec.to_dict() | {"more": 1})


BOX = {"kind": "box", "low": [-1.0], "high": [1.0], "bounds": "clip", "form": None}


@pytest.mark.parametrize(
    "values",
    [
        None,
        [],
        {"kind": ["discrete"], "n": 2, "start": 0},
        {"kind": "continuous", "n": 2, "start": 0},
        {"kind": "discrete", "n": True, "start": 0},
        {"kind": "discrete", "n": 0, "start": 0},
        {"kind": "discrete", "n": 2**31, "start": 0},
        {"kind": "discrete", "n": 2, "start": 0.5},
        {"kind": "multi-discrete", "nvec": [], "start": [], "form": None},
        {"kind": "multi-discrete", "nvec": [2, "3"], "start": [], "form": None},
        {"kind": "multi-discrete", "nvec": 2, "start": [], "form": None},
        {"kind": "multi-discrete", "nvec": [2, 3], "start": [1], "form": None},
        {"kind": "multi-discrete", "nvec": [2, 3], "start": [], "form": [3]},
        {"kind": "multi-binary", "n": 4, "form": [2, 3]},
        {"kind": "multi-binary", "n": 4, "form": "22"},
        BOX | {"low": []},
        BOX | {"low": [1.0]},
        BOX | {"low": [math.nan]},
        BOX | {"low": [-1.0, -1.0]},
        BOX | {"low": ["-1"]},
        BOX | {"high": 1.0},
        BOX | {"bounds": "fold"},
    ],
    ids=str,
)
def test_what_is_no_spec_is_refused(values: Any) -> None:
    with pytest.raises(ValueError, match=r"^actions: [^\n]+$"):
        action_spec_from_dict(values)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_actions_are_checked(spec: ActionSpec) -> None:
    good = spec.draw(np.random.default_rng(1), 4)
    spec.check(good, 4)
    spec.check(spec.zeros(4), 4)
    other = np.float64 if spec.dtype == "float32" else np.float32
    beyond = np.full_like(good, np.nan if spec.dtype == "float32" else 5)
    for bad in (good[:3], good.astype(other), beyond, good[..., np.newaxis]):
        with pytest.raises(ValueError, match="actions: expected"):
            spec.check(bad, 4)
    if spec.dtype == "int64":
        with pytest.raises(ValueError, match="actions: expected"):
            spec.check(-1 - good, 4)


def test_discrete_actions_begin_at_their_start() -> None:
    actions = np.arange(3)
    assert DiscreteActions(3).to_environment(actions) is actions
    assert DiscreteActions(3, -1).to_environment(actions).tolist() == [-1, 0, 1]
    dials = MultiDiscreteActions((2, 3, 4, 5), (1, 0, 0, -1), (2, 2))
    assert dials.to_environment(np.array([[0, 2, 3, 0]])).tolist() == [[[1, 2], [3, -1]]]


def test_numbers_are_clipped_to_their_bounds() -> None:
    spec = BoxActions((-1.0, -math.inf, 0.0), (1.0, 5.0, math.inf))
    given = np.array([[-3.0, -9.0, -1.0], [0.5, 9.0, 99.0]], np.float32)
    found = spec.to_environment(given)
    assert found.dtype == np.float32
    assert found.tolist() == [[-1.0, -9.0, 0.0], [0.5, 5.0, 99.0]]
    assert given[0, 0] == -3.0, "the rollout keeps what was drawn"


def test_numbers_with_two_bounds_are_squashed() -> None:
    spec = BoxActions((-2.0, -math.inf, 0.0), (4.0, 5.0, 1e38), SQUASH)
    found = spec.to_environment(np.array([[0.0, 9.0, 7.0], [40.0, -9.0, -1.0]], np.float32))
    assert found.tolist() == [[1.0, 5.0, 7.0], [4.0, -9.0, 0.0]]
    rising = spec.to_environment(np.array([[-0.3, 0, 0], [0.2, 0, 0]], np.float32))[:, 0]
    np.testing.assert_allclose(rising, 1 + 3 * np.tanh([-0.3, 0.2]), rtol=1e-6)
    bound = float(np.float32(0.4))
    spec = BoxActions((-bound,), (bound,), SQUASH)
    edges = spec.to_environment(np.array([[-99], [99]], np.float32))
    assert edges.ravel().tolist() == [-bound, bound]


@pytest.mark.parametrize("bounds", [CLIP, SQUASH])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clipped_actions_are_in_the_space_whatever_its_type(dtype: type, bounds: str) -> None:
    low, high = np.array([-0.1, -0.3, 1e-8], dtype), np.array([0.2, 0.7, 0.1], dtype)
    space = Box(low, high, dtype=dtype)
    spec = BoxActions(tuple(low.tolist()), tuple(high.tolist()), bounds)
    for far in (-50.0, 50.0):
        (action,) = spec.to_environment(np.full((1, 3), far, np.float32))
        assert space.contains(action), (action, far)
