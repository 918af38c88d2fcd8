"""Bounds of an algorithm's settings: a run at any of them learns, but at a step size of zero."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from galamp.algorithms import ALGORITHMS, config_class, make_algorithm
from galamp.algorithms.networks import build_model
from galamp.core.action_spec import DiscreteActions
from galamp.core.settings import settings
from tests.contracts.algorithm import ACTIONS, INPUTS, random_rollout


def bounds() -> Iterator[tuple[str, str, float]]:
    """Yield every algorithm, setting and bound that is a number of any size."""
    for name in ALGORITHMS:
        for setting in settings(config_class(name)):
            if setting.kind is float and setting.name != "learning_rate":
                known = setting.option
                yield from (
                    (name, setting.name, bound)
                    for bound in (known.low, known.high)
                    if bound is not None
                )


@pytest.mark.parametrize(("name", "setting", "bound"), list(bounds()))
def test_weights_change_by_an_update(name: str, setting: str, bound: float) -> None:
    config = dataclasses.replace(config_class(name)(learning_rate=1e-3), **{setting: bound})
    model = build_model("mlp", (INPUTS,), "float32", ACTIONS, seed=1)
    algorithm = make_algorithm(
        config, model, actions=DiscreteActions(ACTIONS), device="cpu", seed=1
    )
    before = algorithm.parameters.data.clone()
    algorithm.update(random_rollout(1))
    change = algorithm.parameters.data - before
    assert change.isfinite().all()
    assert change.any()
