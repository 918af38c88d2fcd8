"""PPO against the algorithm contract, rlax's values and a literal form of its update."""

from __future__ import annotations

import dataclasses
import itertools
import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from galamp.algorithms import make_algorithm
from galamp.algorithms.base import Algorithm, Rollout, trainable
from galamp.algorithms.forward import Place
from galamp.algorithms.minibatches import mean_weights, minibatches, standardised
from galamp.algorithms.networks import build_model
from galamp.algorithms.normalising import from_raw, layers_of, rescaled, to_raw
from galamp.algorithms.ppo import PPO, clipped_surrogate, value_losses
from galamp.algorithms.ppo_config import PPOConfig
from galamp.algorithms.returns import lambda_returns
from galamp.core.action_spec import DiscreteActions
from galamp.core.normalisation import NormaliserSpec, Scales
from tests.contracts.algorithm import ACTIONS, INPUTS, AlgorithmContract, random_rollout

CONFIG = PPOConfig("ppo", learning_rate=2.5e-4)


def make(seed: int = 1, **settings: Any) -> PPO:
    model = build_model("mlp", (INPUTS,), "float32", ACTIONS, seed=seed)
    config = dataclasses.replace(CONFIG, **settings)
    algorithm = make_algorithm(
        config, model, actions=DiscreteActions(ACTIONS), device="cpu", seed=seed
    )
    assert isinstance(algorithm, PPO)
    return algorithm


class TestPPO(AlgorithmContract):
    def make(self, seed: int) -> Algorithm:
        return make(seed, learning_rate=2e-3)


class TestPPOAsStableBaselinesHasIt(AlgorithmContract):
    def make(self, seed: int) -> Algorithm:
        return make(seed, learning_rate=2e-3, clip_vloss=False, vf_loss="full", target_kl=0.5)


def test_the_surrogate_is_that_of_rlax() -> None:
    """google-deepmind/rlax, `_src/policy_gradients_test.py`, Apache-2.0."""
    logits = torch.tensor([[1.0, 1.0, 1.0], [2.0, 0.0, 0.0], [-1.0, -2.0, -3.0]])
    old_logits = torch.tensor([[1.0, 1.0, 1.0], [2.0, 0.0, 0.0], [-3.0, -2.0, -1.0]])
    taken = torch.arange(3)
    log_ratios = (logits.log_softmax(-1) - old_logits.log_softmax(-1))[taken, taken]
    advantages = torch.tensor([0.3, 0.2, 0.1])
    losses = [clipped_surrogate(log_ratios, sign * advantages, 0.2).mean() for sign in (1.0, -1.0)]
    torch.testing.assert_close(
        torch.stack(losses), torch.tensor([-0.17117467, 0.19333333]), rtol=0, atol=1e-4
    )


def test_a_value_gains_nothing_by_leaving_its_bounds() -> None:
    old, returns = torch.zeros(4), torch.tensor([1.0, 1.0, -1.0, 0.05])
    values = torch.tensor([0.05, 0.5, -0.5, 0.5], requires_grad=True)
    losses = value_losses(values, old, returns, 0.1)
    losses.sum().backward()
    torch.testing.assert_close(
        losses, torch.tensor([0.95**2, 0.9**2, 0.9**2, 0.45**2]), rtol=1e-6, atol=1e-6
    )
    assert values.grad is not None
    assert (values.grad != 0.0).tolist() == [True, False, False, True]
    assert torch.equal(value_losses(values, old, returns, None), (values - returns).square())


def test_advantages_are_standardised_over_valid_transitions_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(50, generator=generator)
    valid = torch.rand(50, generator=generator) < 0.6
    found = standardised(values, mean_weights(valid))
    expected = (values - values[valid].mean()) / (values[valid].std() + 1e-8)
    torch.testing.assert_close(found[valid], expected[valid])
    for few in (torch.zeros(50, dtype=torch.bool), torch.arange(50) == 3):
        assert torch.isfinite(standardised(values, mean_weights(few))).all()


@pytest.mark.parametrize("parts", [1, 3, 5])
def test_minibatches_hold_every_transition_once(parts: int) -> None:
    generator = torch.Generator().manual_seed(0)
    grid = torch.arange(50).view(10, 5)
    of_env = torch.arange(5).expand(10, 5)

    def drawn(whole_envs: bool) -> list[Tensor]:
        found = []
        for (numbers, owners), envs in minibatches(
            (grid, of_env), parts, generator, whole_envs=whole_envs
        ):
            assert numbers.shape[0] == (10 if whole_envs else 1)
            assert torch.equal(owners, envs.expand_as(owners))
            found.append(numbers)
        assert len(found) == parts
        sizes = [len(each[0]) for each in found]
        assert max(sizes) - min(sizes) <= 1
        assert sorted(torch.cat([each.flatten() for each in found]).tolist()) == list(range(50))
        return found

    for whole_envs in (False, True):
        first, second = (torch.cat([e.T for e in drawn(whole_envs)]) for _ in range(2))
        assert not torch.equal(first, second)
    assert torch.equal(drawn(True)[0][:, :1] // 5, torch.arange(10).unsqueeze(-1)[:, :1])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"clip_vloss": False, "vf_loss": "full", "norm_adv": False, "ent_coef": 0.0},
        {"num_minibatches": 1, "update_epochs": 10, "clip_coef": 0.02, "anneal_clip": True},
    ],
)
def test_an_update_is_the_literal_one(settings: dict[str, Any]) -> None:
    """PyTorch's Adam and autograd over valid transitions alone, minibatch by minibatch."""
    ppo = make(max_grad_norm=0.2, **settings)
    known = dataclasses.replace(CONFIG, max_grad_norm=0.2, **settings)
    ppo.schedule(30, 100)
    model = build_model("mlp", (INPUTS,), "float32", ACTIONS, seed=1)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.7 * 2.5e-4, eps=1e-5)
    bound = known.clip_coef * (0.7 if known.anneal_clip else 1.0)
    for seed in range(3):
        generator = torch.Generator().set_state(ppo.generator.get_state())
        rollout = random_rollout(seed)
        metrics = ppo.update(rollout)
        clean = trainable(rollout)
        with torch.no_grad():
            old_logits, values = model(clean.observations.flatten(0, 1))
        grid = values.view(6, 8)
        returns = lambda_returns(
            clean.rewards, clean.terminated, clean.truncated, grid, 0.99, known.gae_lambda
        )
        old_log_probs = taken(old_logits[:40], clean.actions.flatten())
        advantages = (returns - grid[:-1]).flatten()
        kls: list[float] = []
        for _ in range(known.update_epochs):
            kls = []
            for (every,), _ in minibatches(
                (torch.arange(40).view(5, 8),),
                known.num_minibatches,
                generator,
                whole_envs=False,
            ):
                indices = every.flatten()
                rows = indices[clean.valid.flatten()[indices]]
                logits, new_values = model(clean.observations[:-1].flatten(0, 1)[rows])
                log_ratios = taken(logits, clean.actions.flatten()[rows]) - old_log_probs[rows]
                ratios, own = log_ratios.exp(), advantages[rows]
                if known.norm_adv:
                    own = (own - own.mean()) / (own.std() + 1e-8)
                surrogate = -torch.min(ratios * own, ratios.clamp(1 - bound, 1 + bound) * own)
                target, old = returns.flatten()[rows], values[rows]
                errors = (new_values - target) ** 2
                if known.clip_vloss:
                    near = old + (new_values - old).clamp(-bound, bound)
                    errors = torch.maximum(errors, (near - target) ** 2)
                value_loss = errors.mean() * (0.5 if known.vf_loss == "half" else 1.0)
                policy = logits.softmax(-1)
                entropy = -(policy * policy.log()).sum(-1).mean()
                loss = surrogate.mean() + 0.5 * value_loss - known.ent_coef * entropy
                optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 0.2)
                optimiser.step()
                kls.append(float((ratios - 1 - log_ratios).mean().detach()))
        own_parameters = dict(ppo._model.named_parameters())
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(own_parameters[name], parameter, rtol=1e-3, atol=2e-6)
        assert metrics["approx_kl"] == pytest.approx(sum(kls) / len(kls), rel=0.05, abs=1e-6)


def taken(logits: Tensor, actions: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)


@pytest.mark.parametrize("network", ["mlp", "mlp-gru", "minatar"])
def test_ratios_start_at_one(network: str) -> None:
    """The policy that acted is the one that is recomputed from the rollout, whatever is cached."""
    steps, envs, drawn = 4, 3, torch.Generator().manual_seed(1)
    shape, dtype = ((4, 10, 10), "uint8") if network == "minatar" else ((INPUTS,), "float32")
    ppo = make_algorithm(
        dataclasses.replace(CONFIG, update_epochs=1, num_minibatches=1, learning_rate=1e-2),
        build_model(network, shape, dtype, ACTIONS, seed=1),
        actions=DiscreteActions(ACTIONS),
        device="cpu",
        seed=1,
    )
    assert isinstance(ppo, PPO)
    ppo.keeps_log_probs = True  # type: ignore[misc]
    ppo.prepare(steps, envs)
    for turn in range(3):
        rollout = random_rollout(turn, steps=steps, envs=envs, valid=1.0)
        numbers = torch.rand(steps + 1, envs, *shape, generator=drawn)
        observations = (255 * numbers).to(torch.uint8) if dtype == "uint8" else numbers
        first = torch.rand(steps + 1, envs, generator=drawn) < 0.2
        kept = [
            ppo.act(observations[step], first[step], Place(step, slice(0, envs)))
            for step in range(steps)
        ]
        rollout = dataclasses.replace(
            rollout,
            observations=observations,
            first=first,
            actions=torch.stack([each.actions for each in kept]),
        )
        recomputed = ppo._evaluated(rollout).log_probs
        acted = torch.stack([each.log_probs for each in kept if each.log_probs is not None])
        torch.testing.assert_close(recomputed, acted, rtol=0, atol=1e-6)
        metrics = ppo.update(rollout)
        assert metrics["approx_kl"] == pytest.approx(0.0, abs=1e-6)
        assert (metrics["clip_fraction"], metrics["mix_kl"]) == (0.0, 0.0)


def test_the_divergence_of_a_mix_is_that_from_before_to_after() -> None:
    """On the last observations of the rollout before; the update itself is no part of it."""
    ppo = make(update_epochs=1, num_minibatches=1, learning_rate=1e-2)
    rollout = random_rollout(2, valid=1.0)
    ppo.update(rollout)
    observations = rollout.observations[-1]
    assert ppo.update(rollout)["mix_kl"] == 0.0

    def policy() -> torch.distributions.Categorical:
        with torch.no_grad():
            return torch.distributions.Categorical(logits=ppo._model(observations)[0])

    before = policy()
    generator = torch.Generator().manual_seed(0)
    ppo.parameters.data.add_(0.3 * torch.randn(ppo.parameters.data.shape, generator=generator))
    there, back = (
        float(torch.distributions.kl_divergence(*pair).mean())
        for pair in ((before, policy()), (policy(), before))
    )
    assert abs(there - back) > 1e-3
    mixed = ppo.update(random_rollout(3))
    assert mixed["mix_kl"] == pytest.approx(there, rel=1e-4)
    assert mixed["approx_kl"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("radius", [0.1, 1.0])
def test_the_divergence_of_a_mix_in_a_ball_is_bounded(radius: float) -> None:
    """By Hoeffding's lemma it is at most R^2 / 8, R the range of the changes of the logits.

    Tanh changes no faster than what it is given and stays within 1. So, layer by layer, with s the
    spectral norms and r the layers' own parts of the radius: |h1' - h1| <= r1 |(x, 1)|,
    |h2' - h2| <= r2 |(1, ..., 1)| + s2 |h1' - h1|, and the logits likewise; R^2 is at most twice
    the square of their change. Cauchy's inequality leaves the radius alone.
    """
    ppo = make(update_epochs=1, num_minibatches=1, learning_rate=1e-2)
    rollout = random_rollout(2, valid=1.0)
    ppo.update(rollout)
    policy: Any = ppo._model.policy
    _, second, last = (each for each in policy if isinstance(each, nn.Linear))
    s2, s3 = (float(torch.linalg.matrix_norm(e.weight.detach(), 2)) for e in (second, last))
    units = math.sqrt(second.in_features + 1)
    ppo.parameters.zero_grad()
    logits = ppo._model(rollout.observations[-1])[0]
    torch.autograd.backward((logits[:, 0] - logits[:, 1]).mean())  # where a mix changes most
    ahead = ppo.parameters.grad.clone()
    ppo.parameters.data.add_(ahead * (radius / ahead.norm()))
    norms = (rollout.observations[-1].square().sum(-1) + 1.0).sqrt()
    changes = radius**2 * (units**2 + (s3 * units) ** 2 + (s3 * s2 * norms).square())
    bound = float((changes / 4.0).mean())
    assert bound / 50.0 < ppo.update(random_rollout(3))["mix_kl"] <= bound


def test_an_update_ends_after_the_epoch_that_went_too_far() -> None:
    far = make(target_kl=1e-9, learning_rate=1e-2)
    near = make(target_kl=math.inf, learning_rate=1e-2)
    for algorithm in (far, near):
        algorithm.update(random_rollout(0, valid=1.0))
    assert far.state()["steps"].item() == CONFIG.num_minibatches
    assert near.state()["steps"].item() == CONFIG.update_epochs * CONFIG.num_minibatches


def test_every_minibatch_is_reduced() -> None:
    ppo = make()
    calls = []

    def reduce() -> bool:
        calls.append(ppo.parameters.grad.norm().item())
        return True

    ppo.update(random_rollout(0), reduce)
    assert len(calls) == ppo.reductions == 16


def test_the_mean_gradient_of_two_halves_is_the_gradient_of_the_whole() -> None:
    """With one minibatch there is no choice in the order, and no advantage is standardised."""
    settings: dict[str, Any] = {"update_epochs": 1, "num_minibatches": 1, "norm_adv": False}
    rollout = random_rollout(5, valid=1.0)
    gradients: list[Tensor] = []
    for part in (rollout, _envs(rollout, slice(0, 4)), _envs(rollout, slice(4, 8))):
        ppo = make(**settings)

        def note(ppo: PPO = ppo) -> bool:
            gradients.append(ppo.parameters.grad.clone())
            return False

        ppo.update(part, note)
    whole, *halves = gradients
    torch.testing.assert_close(torch.stack(halves).mean(0), whole, rtol=1e-4, atol=1e-6)


def _envs(rollout: Rollout, envs: slice) -> Rollout:
    return rollout.mapped(lambda tensor: tensor[:, envs])


@pytest.mark.parametrize(("steps", "envs"), [(1, 2), (3, 1), (5, 8)])
def test_no_minibatch_is_empty(steps: int, envs: int) -> None:
    ppo = make(num_minibatches=8)
    ppo.prepare(steps, envs)
    calls: list[float] = []
    beats: list[None] = []
    ppo.heartbeat = lambda: beats.append(None)  # type: ignore[method-assign]

    def reduce() -> bool:
        calls.append(ppo.parameters.grad.norm().item())
        return False

    ppo.update(random_rollout(0, steps=steps, envs=envs, valid=1.0), reduce)
    expected = CONFIG.update_epochs * min(8, steps * envs)
    assert len(calls) == len(beats) == ppo.reductions == expected


def test_a_bound_of_the_divergence_and_equal_steps_for_all_do_not_go_together() -> None:
    assert PPOConfig(target_kl=0.1).misfit("allreduce").startswith("--target-kl: ")
    assert not PPOConfig(target_kl=0.1).misfit("gossip")
    assert not PPOConfig().misfit("allreduce")


def test_other_scales_of_observations_are_no_change_of_policy() -> None:
    """The last observations, which the divergence is taken on, are kept in the scales before."""
    algorithm, divergence = make(learning_rate=1e-2), []
    draw = np.random.default_rng(1)
    scales = [
        Scales(True, draw.normal(size=INPUTS), draw.uniform(0.5, 2.0, INPUTS), 1.0)
        for _ in range(4)
    ]
    layers = layers_of(algorithm._model, "mlp", NormaliserSpec(INPUTS, False))
    for turn, (before, after) in enumerate(itertools.pairwise(scales)):
        to_raw(layers, before)
        from_raw(layers, after, before)
        algorithm.rescale(partial(rescaled, before=before, after=after))
        divergence.append(algorithm.update(random_rollout(turn))["mix_kl"])
    assert divergence == pytest.approx([0.0] * 3, abs=1e-6)
