"""Distributions over actions, against torch's, against integrals, and in bits that may not change.

torch.distributions validates its arguments by reading them, and waits for the device; galamp's own
forms must not, so torch's serve as the reference here.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import distributions as torchs

from galamp.algorithms.a2c import Targets, a2c_losses
from galamp.algorithms.distributions import (
    Categorical,
    DiagonalGaussian,
    Distribution,
    SquashedGaussian,
    make_distribution,
)
from galamp.core.action_spec import (
    ActionSpec,
    DiscreteActions,
    MultiBinaryActions,
    MultiDiscreteActions,
)
from galamp.core.box_actions import BoxActions
from galamp.core.config import SQUASH
from tests.algorithms.test_algorithms import WaitsForDevice

LOW, HIGH = (-2.0, -1.0), (2.0, 3.0)
BOX, SQUASHED = BoxActions(LOW, HIGH), BoxActions(LOW, HIGH, SQUASH)
PARTLY = BoxActions((-1.0, -math.inf, -math.inf), (1.0, 1.0, math.inf), SQUASH)
SPECS: list[ActionSpec] = [
    DiscreteActions(5), MultiDiscreteActions((2, 3, 4)), MultiBinaryActions(3), BOX, SQUASHED,
    PARTLY,
]  # fmt: skip


def drawn(spec: ActionSpec, seed: int = 1, size: int = 6) -> tuple[Distribution, Tensor, Tensor]:
    """A distribution, random outputs [2, size, N], and actions drawn for them."""
    generator = torch.Generator().manual_seed(seed)
    policy = make_distribution(spec)
    outputs = torch.randn(2, size, policy.num_inputs, generator=generator)
    return policy, outputs, policy.sample(outputs, generator)


def reference(spec: ActionSpec, outputs: Tensor) -> list[Any]:
    """Torch's distributions, one per part of an action."""
    if isinstance(spec, DiscreteActions):
        return [torchs.Categorical(logits=outputs)]
    if isinstance(spec, MultiDiscreteActions):
        return [torchs.Categorical(logits=part) for part in outputs.split(list(spec.nvec), -1)]  # type: ignore[no-untyped-call]
    if isinstance(spec, MultiBinaryActions):
        return [torchs.Bernoulli(logits=part) for part in outputs.unbind(-1)]
    means, log_stds = outputs.chunk(2, -1)
    pairs = zip(means.unbind(-1), log_stds.unbind(-1), strict=True)
    return [torchs.Normal(mean, log_std.exp()) for mean, log_std in pairs]


def parts(spec: ActionSpec, actions: Tensor) -> list[Tensor]:
    floats = [part.float() for part in actions.unbind(-1)] if spec.shape else [actions]
    return floats


@pytest.mark.parametrize("spec", [s for s in SPECS if s not in (SQUASHED, PARTLY)], ids=str)
def test_log_prob_and_entropy_are_torchs(spec: ActionSpec) -> None:
    policy, outputs, actions = drawn(spec)
    theirs = reference(spec, outputs)
    log_prob = sum(one.log_prob(a) for one, a in zip(theirs, parts(spec, actions), strict=True))
    torch.testing.assert_close(policy.log_prob(outputs, actions), log_prob)
    entropy = sum(one.entropy() for one in theirs)
    torch.testing.assert_close(policy.entropy(outputs), entropy)
    weights = torch.rand(outputs.shape[:2])
    both = policy.log_prob_and_mean_entropy(outputs, actions, weights)
    torch.testing.assert_close(both[0], log_prob)
    torch.testing.assert_close(both[1], (weights * entropy).sum())


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_divergences_are_torchs(spec: ActionSpec) -> None:
    """From the first policy to the second; the other way gives other numbers."""
    policy, outputs, _ = drawn(spec)
    others = outputs.flip(1) + 0.3

    def theirs(one: Tensor, other: Tensor) -> Tensor:
        pairs = zip(reference(spec, one), reference(spec, other), strict=True)
        return torch.stack([torchs.kl_divergence(p, q) for p, q in pairs]).sum(0)

    there, back = theirs(outputs, others), theirs(others, outputs)
    assert (there - back).abs().max() > 0.1
    torch.testing.assert_close(policy.kl(outputs, others), there, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(policy.kl(others, outputs), back, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(policy.kl(outputs, outputs), torch.zeros(outputs.shape[:2]))


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_actions_are_of_the_spec_and_follow_the_generator(spec: ActionSpec) -> None:
    policy, outputs, actions = drawn(spec)
    assert actions.shape == (2, 6, *spec.shape)
    assert actions.dtype is getattr(torch, spec.dtype)
    for chosen in (actions, policy.mode(outputs)):
        flat = chosen.flatten(0, 1).numpy()
        spec.check(flat, len(flat))
    assert torch.equal(actions, drawn(spec)[2])
    best = policy.log_prob(outputs, policy.mode(outputs))
    if spec not in (SQUASHED, PARTLY):
        assert (best >= policy.log_prob(outputs, actions)).all()


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_drawn_actions_have_the_entropy_that_is_told(spec: ActionSpec) -> None:
    """The mean of -log p over many draws is the entropy; a wrong sampler or entropy is seen."""
    policy = make_distribution(spec)
    outputs = torch.linspace(-1.0, 1.0, policy.num_inputs).expand(1, 100_000, -1)
    actions = policy.sample(outputs, torch.Generator().manual_seed(0))
    surprise = -policy.log_prob(outputs, actions)
    error = float(surprise.std() / math.sqrt(surprise.numel()))
    assert float(policy.entropy(outputs)[0, 0]) == pytest.approx(
        float(surprise.mean()), abs=5 * error + 1e-4
    )


@pytest.mark.parametrize("spec", [MultiDiscreteActions((2, 3, 4)), MultiBinaryActions(3)], ids=str)
def test_probabilities_of_all_actions_sum_to_one(spec: ActionSpec) -> None:
    sizes = spec.nvec if isinstance(spec, MultiDiscreteActions) else (2, 2, 2)
    actions = torch.cartesian_prod(*(torch.arange(size) for size in sizes))
    policy = make_distribution(spec)
    outputs = torch.randn(policy.num_inputs, generator=torch.Generator().manual_seed(2))
    log_probs = policy.log_prob(outputs.expand(len(actions), -1), actions)
    assert float(log_probs.exp().sum()) == pytest.approx(1.0, rel=1e-5)


# Gaussians


@pytest.mark.parametrize("log_std", [-1.0, 0.0, 0.5])
def test_a_squashed_density_integrates_to_one(log_std: float) -> None:
    """Over the environment's actions: the midpoint rule on 200,000 pieces."""
    low, high, pieces = -2.0, 5.0, 200_000
    policy = make_distribution(BoxActions((low,), (high,), SQUASH))
    actions = low + (torch.arange(pieces, dtype=torch.float64) + 0.5) * ((high - low) / pieces)
    before = torch.atanh((actions - low) / (high - low) * 2 - 1).unsqueeze(-1)
    outputs = torch.tensor([0.4, log_std], dtype=torch.float64).expand(pieces, -1)
    density = policy.log_prob(outputs, before).exp()
    assert float(density.sum() * (high - low) / pieces) == pytest.approx(1.0, abs=1e-3)


def test_a_squashed_density_is_torchs() -> None:
    policy, outputs, actions = drawn(SQUASHED)
    mean, log_std = outputs.chunk(2, -1)
    low, high = torch.tensor(LOW), torch.tensor(HIGH)
    through = [
        torchs.transforms.TanhTransform(cache_size=1),
        torchs.transforms.AffineTransform((low + high) / 2, (high - low) / 2),
    ]
    theirs = torchs.TransformedDistribution(torchs.Normal(mean, log_std.exp()), through)
    given = theirs.transforms[1](theirs.transforms[0](actions))  # the caches know x again
    expected = theirs.log_prob(given).sum(-1)
    torch.testing.assert_close(policy.log_prob(outputs, actions), expected, rtol=1e-4, atol=1e-4)


def test_a_number_without_two_bounds_is_not_squashed() -> None:
    policy, outputs, actions = drawn(PARTLY)
    assert isinstance(policy, SquashedGaussian)
    plain = DiagonalGaussian(3).log_prob(outputs, actions)
    slope = 1 - actions[..., 0].double().tanh().square()
    expected = plain - slope.log().float()
    torch.testing.assert_close(policy.log_prob(outputs, actions), expected)
    free = BoxActions((-math.inf,), (math.inf,), SQUASH)
    assert type(make_distribution(free)) is DiagonalGaussian


def test_a_squashed_log_prob_is_finite_far_out() -> None:
    policy = make_distribution(SQUASHED)
    far = torch.tensor([[60.0, -60.0]], requires_grad=True)
    outputs = torch.zeros(1, 4, requires_grad=True)
    log_prob = policy.log_prob(outputs, far).sum() + policy.entropy(outputs * 0 + 50).sum()
    log_prob.backward()  # type: ignore[no-untyped-call]
    assert log_prob.isfinite()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()


def test_the_mean_of_log_standard_deviations_has_the_mean_entropy() -> None:
    """What gossip does to them: averaging parameters averages entropies, whatever the sizes."""
    policy = make_distribution(BOX)
    one, other = torch.tensor([[0.0, 0.0, -3.0, 0.5], [0.0, 0.0, 1.0, 2.0]])
    mixed = policy.entropy((one + other) / 2)
    torch.testing.assert_close(mixed, (policy.entropy(one) + policy.entropy(other)) / 2)


# What may not change, and may not wait


def test_discrete_losses_are_those_of_before_to_the_last_bit() -> None:
    """The form that A2C had when actions could be nothing else; its gradients, too."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(5, 8, 4, generator=generator).requires_grad_()
    twin = logits.detach().clone().requires_grad_()
    values, returns = (torch.randn(5, 8, generator=generator) for _ in range(2))
    actions = torch.randint(0, 4, (5, 8), generator=generator)
    weights = torch.rand(5, 8, generator=generator)
    losses = a2c_losses(
        logits, values, Targets(returns, returns - values), actions, weights,
        distribution=Categorical(4), vf_coef=0.5, ent_coef=0.01,
    )  # fmt: skip
    log_policy = twin.log_softmax(-1)
    log_taken = log_policy.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    errors = returns - values
    policy_loss = -(weights * errors.detach() * log_taken).sum()
    value_loss = (weights * errors.square()).sum()
    entropy = -(weights.unsqueeze(-1) * log_policy.exp() * log_policy).sum()
    total = policy_loss + 0.5 * value_loss - 0.01 * entropy
    assert [each.item() for each in losses] == [
        each.item() for each in (total, policy_loss, value_loss, entropy)
    ]
    (mine,) = torch.autograd.grad(losses.total, logits)
    (theirs,) = torch.autograd.grad(total, twin)
    assert torch.equal(mine, theirs)


def test_discrete_actions_are_drawn_as_before() -> None:
    logits = torch.randn(64, 5, generator=torch.Generator().manual_seed(1))
    arrivals = torch.empty_like(logits).exponential_(generator=torch.Generator().manual_seed(2))
    expected = (logits - arrivals.log_()).argmax(-1)
    assert torch.equal(Categorical(5).sample(logits, torch.Generator().manual_seed(2)), expected)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_nothing_waits_for_the_device(spec: ActionSpec) -> None:
    policy, outputs, _ = drawn(spec)
    with WaitsForDevice() as waits:
        actions = policy.sample(outputs, torch.Generator().manual_seed(1))
        policy.mode(outputs)
        policy.entropy(outputs)
        policy.log_prob_and_mean_entropy(outputs, actions, torch.ones(2, 6))
    assert waits.seen == []
