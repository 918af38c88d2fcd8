"""The kept outputs of acting against a second forward pass, for PPO and PQN."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from galamp.algorithms import make_algorithm
from galamp.algorithms.base import Rollout
from galamp.algorithms.cached_outputs import CachedOutputsForward
from galamp.algorithms.forward import Place
from galamp.algorithms.minibatch_update import MinibatchAlgorithm
from galamp.algorithms.networks import build_model
from galamp.algorithms.ppo_config import PPOConfig
from galamp.algorithms.pqn_config import PQNConfig
from galamp.core.action_spec import DiscreteActions
from tests.contracts.algorithm import ACTIONS, acted, random_rollout

STEPS, ENVS = 6, 8
SHAPE = (4, 36, 36)
REL, ABS = 1e-3, 1e-5
"""Float32 sums over batches of other sizes, through 16 steps of Adam."""


def make(name: str, *, keeps: bool, dtype: str = "uint8") -> MinibatchAlgorithm:
    config = {
        "ppo": PPOConfig(learning_rate=2.5e-4, target_kl=None),
        "pqn": PQNConfig(learning_rate=2.5e-4, start_e=0.0, end_e=0.0),
    }[name]
    network = {"ppo": "gala", "pqn": "nature-layernorm"}[name]
    model = build_model(network, SHAPE, dtype, ACTIONS, seed=1)
    algorithm = make_algorithm(
        config, model, actions=DiscreteActions(ACTIONS), device="cpu", seed=1
    )
    assert isinstance(algorithm, MinibatchAlgorithm)
    if keeps:
        algorithm.prepare(STEPS, ENVS)
    return algorithm


def rollout_of(seed: int) -> Rollout:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(
        0, 256, (STEPS + 1, ENVS, *SHAPE), dtype=torch.uint8, generator=generator
    )
    rollout = random_rollout(seed, steps=STEPS, envs=ENVS)
    return dataclasses.replace(rollout, observations=images)


def act_on(algorithm: MinibatchAlgorithm, rollout: Rollout, parts: list[slice]) -> None:
    for step in range(STEPS):
        for part in parts:
            acted(algorithm, rollout.observations[step, part], Place(step, part))


def counted(algorithm: MinibatchAlgorithm) -> Callable[[], int]:
    """Count the observations that the network computes without gradient from now on."""
    forward = algorithm._forward
    assert isinstance(forward, CachedOutputsForward)
    computed = forward._pass
    seen: list[int] = []

    def counting(observations: Tensor) -> tuple[Tensor, Tensor]:
        if not torch.is_grad_enabled():
            seen.append(len(observations))
        return computed(observations)

    forward._pass = counting  # type: ignore[method-assign]
    return lambda: sum(seen)


WHOLE, HALVES = [slice(None)], [slice(0, 3), slice(3, ENVS)]


@pytest.mark.parametrize("name", ["ppo", "pqn"])
@pytest.mark.parametrize("parts", [WHOLE, HALVES])
def test_learns_as_without_a_cache(name: str, parts: list[slice]) -> None:
    kept, plain = make(name, keeps=True), make(name, keeps=False)
    for seed in range(3):
        rollout = rollout_of(seed)
        for one in (kept, plain):
            act_on(one, rollout, parts)
        plain.generator.set_state(kept.generator.get_state())
        assert kept.update(rollout) == pytest.approx(plain.update(rollout), rel=REL, abs=ABS)
        kept.parameters.data.copy_(plain.parameters.data)
        for to, of in zip(kept.state().values(), plain.state().values(), strict=True):
            to.copy_(of)


@pytest.mark.parametrize(
    ("rows", "computed"), [(range(STEPS), ENVS), (range(2), (STEPS - 1) * ENVS), ((), 7 * ENVS)]
)
def test_only_what_acting_did_not_see_is_computed(rows: range, computed: int) -> None:
    """The last row is never acted on."""
    algorithm, rollout = make("pqn", keeps=True), rollout_of(1)
    for step in rows:
        acted(algorithm, rollout.observations[step], Place(step, slice(None)))
    count = counted(algorithm)
    algorithm.update(rollout)
    assert count() == computed


def test_a_part_of_a_row_may_be_missing() -> None:
    some, none = make("ppo", keeps=True), make("ppo", keeps=False)
    rollout = rollout_of(1)
    acted(some, rollout.observations[2, :3], Place(2, slice(0, 3)))
    none.generator.set_state(some.generator.get_state())
    assert some.update(rollout) == pytest.approx(none.update(rollout), rel=REL, abs=ABS)


@pytest.mark.parametrize("name", ["ppo", "pqn"])
def test_nothing_is_kept_over_an_update_or_without_a_place(name: str) -> None:
    used, fresh = make(name, keeps=True), make(name, keeps=False)
    act_on(used, rollout_of(1), WHOLE)
    fresh.generator.set_state(used.generator.get_state())
    used.update(rollout_of(1))
    fresh.update(rollout_of(1))
    acted(used, rollout_of(3).observations[0])
    fresh.parameters.data.copy_(used.parameters.data)
    for to, of in zip(fresh.state().values(), used.state().values(), strict=True):
        to.copy_(of)
    fresh.generator.set_state(used.generator.get_state())
    assert used.update(rollout_of(2)) == pytest.approx(
        fresh.update(rollout_of(2)), rel=REL, abs=ABS
    )


@pytest.mark.parametrize("name", ["ppo", "pqn"])
def test_an_algorithm_of_somebodys_own_may_step_without_discarding(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What acting has seen is replaced by the next acting; the last row has no such guard."""
    algorithm = make(name, keeps=True)
    forward = algorithm._forward
    monkeypatch.setattr(forward, "discard", lambda: None)
    act_on(algorithm, rollout_of(1), WHOLE)
    algorithm.update(rollout_of(1))
    act_on(algorithm, rollout_of(2), WHOLE)
    observations, first = rollout_of(2).observations, rollout_of(2).first
    expected = make(name, keeps=False)
    expected.parameters.data.copy_(algorithm.parameters.data)
    torch.testing.assert_close(
        forward.evaluate(observations, first),
        expected._forward.evaluate(observations, first),
        rtol=REL,
        atol=ABS,
    )


def test_what_an_evaluation_returns_stays_as_it_is() -> None:
    algorithm, rollout = make("ppo", keeps=True), rollout_of(1)
    act_on(algorithm, rollout, WHOLE)
    forward = algorithm._forward
    found = forward.evaluate(rollout.observations, rollout.first)
    before = found.values.clone()
    act_on(algorithm, rollout_of(2), WHOLE)
    assert torch.equal(found.values, before)
    row = forward.evaluate(rollout.observations[-1:], rollout.first[-1:])
    torch.testing.assert_close(row.values[0], before[-1])


def test_floats_that_may_be_lost_are_computed_anew() -> None:
    assert not isinstance(make("ppo", keeps=True, dtype="float32")._forward, CachedOutputsForward)
