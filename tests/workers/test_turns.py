"""Turns of a learner, in this process."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from galamp.algorithms.base import Rollout
from galamp.algorithms.vtrace import VTrace
from galamp.gossip.mixing import Gossiper
from tests.support.command_lines import parsed
from tests.support.in_process import planned, train_in_process


def words(network: str, *more: object, learners: int = 1) -> list[str]:
    words = f"--network {network} --algorithm vtrace --learners {learners} --num-envs 4"
    words += " --simulator-workers 1 --threads 1 --env-splits 1 --num-steps 5"
    words += " --total-steps 2000 --seed 5 --sync"
    return ["--env-id", "CartPole-v1", "--device", "cpu", *words.split(), *map(str, more)]


@pytest.mark.parametrize("network", ["mlp", "mlp-gru", "mlp-lstm"])
@pytest.mark.parametrize("more", [(), ("--norm-obs",)])
def test_what_acted_is_what_learns(
    network: str, more: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first rollout that is learned from: with a normaliser, it is not the first one."""
    update, far = VTrace.update, list[float]()

    def noted(self: VTrace, rollout: Rollout, reduce: Any = None) -> dict[str, float]:
        assert rollout.log_probs is not None
        outputs = self._forward.evaluate(rollout.observations, rollout.first).logits[:-1]
        again = self.distribution.log_prob(outputs, rollout.actions)
        far.append(float((again - rollout.log_probs)[rollout.valid].abs().max()))
        return update(self, rollout, reduce)

    monkeypatch.setattr(VTrace, "update", noted)
    train_in_process(planned(parsed(*words(network, *more))))
    turns = 2000 // 20
    assert len(far) == turns if not more else 10 < len(far) < turns
    assert torch.tensor(far).max() < 1e-5


def test_what_has_not_learned_yet_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a normaliser has enough data to choose the first scales."""
    update, publish = VTrace.update, Gossiper.publish
    events: dict[int, list[str]] = {}

    def updated(self: VTrace, *arguments: Any) -> dict[str, float]:
        events.setdefault(threading.get_ident(), []).append("updated")
        return update(self, *arguments)

    def published(self: Gossiper, *arguments: Any, **named: Any) -> None:
        events.setdefault(threading.get_ident(), []).append("published")
        publish(self, *arguments, **named)

    monkeypatch.setattr(VTrace, "update", updated)
    monkeypatch.setattr(Gossiper, "publish", published)
    learners = train_in_process(planned(parsed(*words("mlp", "--norm-obs", learners=2))))
    assert len(events) == 2
    for learner, (first, *others) in zip(learners, events.values(), strict=True):
        assert learner.status["updates"] < learner.status["turns"]
        assert first == "updated"
        assert "published" in others
