"""What an actor gives the algorithm, and what it keeps of its answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from galamp.algorithms.a2c import A2C
from galamp.algorithms.base import Acted
from galamp.algorithms.forward import Place
from galamp.memory.rollouts import NUM_SLOTS, RolloutSlot
from galamp.workers.acting import HostActor
from tests.support.on_devices import ENVS, STEPS, a2c, rollout

HALVES = [slice(0, 1), slice(1, ENVS)]
ALL = np.ones((STEPS, ENVS), np.bool_)


def slots() -> list[RolloutSlot]:
    """Two full slots, as simulators leave them; the learner's actions are not there yet."""
    filled = [rollout("mlp", seed) for seed in range(NUM_SLOTS)]
    names = RolloutSlot._fields
    return [RolloutSlot(*(getattr(one, name).numpy() for name in names)) for one in filled]


def play(actor: HostActor, slot: int, to: RolloutSlot) -> None:
    for step in range(STEPS):
        for envs in HALVES:
            to.actions[step, envs] = actor.act(slot, step, envs)


def test_log_probs_are_those_of_the_policy_that_acted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each slot has its own: the next rollout's do not replace them."""
    monkeypatch.setattr(A2C, "keeps_log_probs", True)
    algorithm, two = a2c("mlp", "cpu"), slots()
    assert isinstance(algorithm, A2C)
    actor = HostActor(two, algorithm, clip_rewards=False)
    play(actor, 0, two[0])
    learned = actor.rollout(0, ALL)
    play(actor, 1, two[1])
    with torch.no_grad():
        logits = algorithm._model(learned.observations[:-1].flatten(0, 1))[0]
    policy = logits.double().softmax(-1).view(STEPS, ENVS, -1)
    taken = policy.gather(-1, learned.actions.unsqueeze(-1)).squeeze(-1).log()
    assert learned.log_probs is not None
    assert learned.log_probs.dtype is torch.float32
    torch.testing.assert_close(learned.log_probs, taken.float(), rtol=1e-5, atol=1e-6)


def test_nothing_is_kept_for_who_does_not_ask() -> None:
    two = slots()
    actor = HostActor(two, a2c("mlp", "cpu"), clip_rewards=False)
    play(actor, 0, two[0])
    assert actor.rollout(0, ALL).log_probs is None


def test_the_algorithm_is_told_which_observations_are_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[int | Tensor, list[bool]]] = []
    act = A2C.act

    def noted(self: A2C, observations: Tensor, first: Tensor, place: Place | None) -> Acted:
        assert place is not None
        seen.append((place.step, first.tolist()))
        return act(self, observations, first, place)

    monkeypatch.setattr(A2C, "act", noted)
    two = slots()
    two[0].first[2, 1:3] = True
    actor = HostActor(two, a2c("mlp", "cpu"), clip_rewards=False)
    play(actor, 0, two[0])
    assert seen[4:6] == [(2, [False]), (2, [True, True, False])]
    assert not any(any(first) for step, first in seen if step != 2)
    assert actor.rollout(0, ALL).first.sum() == 2
