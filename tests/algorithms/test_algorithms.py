"""Returns, RMSprop and A2C against slow literal forms, and A2C against the algorithm contract."""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from galamp.algorithms import make_algorithm
from galamp.algorithms.a2c import A2C
from galamp.algorithms.a2c_config import A2CConfig
from galamp.algorithms.actor_critic import explained_variance
from galamp.algorithms.base import Algorithm, Rollout
from galamp.algorithms.distributions import Categorical
from galamp.algorithms.flat_parameters import FlatParameters
from galamp.algorithms.forward import Place
from galamp.algorithms.networks import build_model
from galamp.algorithms.returns import n_step_returns
from galamp.algorithms.rmsprop import FlatRMSprop
from galamp.algorithms.vtrace_config import VTraceConfig
from galamp.core.action_spec import DiscreteActions
from galamp.core.algorithm_config import AlgorithmConfig
from galamp.core.errors import UserError
from tests.contracts.algorithm import (
    ACTIONS,
    ENVS,
    INPUTS,
    STEPS,
    AlgorithmContract,
    acted,
    random_rollout,
)

CONFIG = A2CConfig(learning_rate=7e-4)


def make_a2c(seed: int, device: str = "cpu", **settings: Any) -> A2C:
    return made(dataclasses.replace(CONFIG, **settings), seed, device)


def made(config: A2CConfig, seed: int = 1, device: str = "cpu", network: str = "mlp") -> A2C:
    model = build_model(network, (INPUTS,), "float32", ACTIONS, seed=seed)
    algorithm = make_algorithm(
        config, model, actions=DiscreteActions(ACTIONS), device=device, seed=seed
    )
    assert isinstance(algorithm, A2C)
    return algorithm


class TestA2C(AlgorithmContract):
    def make(self, seed: int) -> Algorithm:
        # From zero RMSprop takes large steps at once: a few hundred have to do here.
        return make_a2c(seed, rmsprop_initial=0.0)


class TestA2CWithTheOtherForm(AlgorithmContract):
    def make(self, seed: int) -> Algorithm:
        return make_a2c(seed, rmsprop_initial=0.0, rmsprop_form="tf", rmsprop_eps=1e-8)


class TestA2CInParts(AlgorithmContract):
    def make(self, seed: int) -> Algorithm:
        algorithm = make_a2c(seed, rmsprop_initial=0.0, updates_per_rollout=3)
        algorithm.prepare(STEPS, ENVS)
        return algorithm


# Updates in parts


@pytest.mark.parametrize("kind", [A2CConfig, VTraceConfig])
def test_parts_are_updates_of_some_environments_one_after_the_other(kind: type[A2CConfig]) -> None:
    config = kind(learning_rate=7e-4, rmsprop_initial=0.0, updates_per_rollout=3)
    together, apart = (made(replace(config, updates_per_rollout=n)) for n in (3, 1))
    together.prepare(STEPS, ENVS)
    assert (together.reductions, apart.reductions) == (3, 1)
    calls: list[None] = []

    def counted() -> bool:
        calls.append(None)
        return False

    for seed in range(4):
        rollout = random_rollout(seed)
        metrics = together.update(rollout, counted)
        parts = torch.arange(ENVS).tensor_split(3)
        found = [apart.update(rollout.of(envs)) for envs in parts]
        assert len(calls) == 3 * (seed + 1)
        assert together.version == seed + 1
        torch.testing.assert_close(together.parameters.data, apart.parameters.data)
        counts = [int(rollout.valid[:, envs].sum()) for envs in parts]
        for name, value in metrics.items():
            each = zip(counts, found, strict=True)
            mean = sum(count * part[name] for count, part in each) / sum(counts)
            assert value == pytest.approx(mean, rel=1e-4, abs=1e-5), name


def test_there_is_a_step_for_each_environment_at_most() -> None:
    algorithm = make_a2c(1, updates_per_rollout=4)
    algorithm.prepare(STEPS, 2)
    assert algorithm.reductions == 2
    algorithm.update(random_rollout(1, envs=2))


def test_what_a_policy_remembers_goes_on_over_all_parts() -> None:
    """At a learning rate of 0 it is as if there were one part."""
    config = A2CConfig(learning_rate=0.0)
    both = [made(replace(config, updates_per_rollout=n), network="mlp-gru") for n in (1, 3)]
    for algorithm in both:
        algorithm.prepare(STEPS, ENVS)
    for seed in range(3):
        rollout = random_rollout(seed)
        for t in range(STEPS):
            one, other = (
                a.act(rollout.observations[t], rollout.first[t], Place(t, slice(0, ENVS)))
                for a in both
            )
            assert torch.equal(one.actions, other.actions)
        first, second = (a.update(rollout) for a in both)
        assert first["entropy"] == pytest.approx(second["entropy"], rel=1e-4)


# Returns


def literal_return(
    t: int,
    gamma: float,
    rewards: list[float],
    terminated: list[bool],
    truncated: list[bool],
    values: list[float],
) -> float:
    """One environment: add discounted rewards from t on until something ends the sum."""
    total, discount = 0.0, 1.0
    for s in range(t, len(rewards)):
        total += discount * rewards[s]
        discount *= gamma
        if terminated[s]:
            return total
        if truncated[s]:
            return total + discount * values[s + 1]
    return total + discount * values[len(rewards)]


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.5, 0.99, 1.0]),
    st.randoms(use_true_random=False),
)
def test_returns_equal_a_literal_sum(steps: int, envs: int, gamma: float, random: Any) -> None:
    def grid(rows: int, draw: Any) -> list[list[Any]]:
        return [[draw() for _ in range(envs)] for _ in range(rows)]

    rewards = grid(steps, lambda: random.uniform(-1, 1))
    values = grid(steps + 1, lambda: random.uniform(-9, 9))
    terminated, truncated = (grid(steps, lambda: random.random() < 0.3) for _ in range(2))
    returns = n_step_returns(
        torch.tensor(rewards),
        torch.tensor(terminated),
        torch.tensor(truncated),
        torch.tensor(values),
        gamma,
    )
    for env_index in range(envs):
        own = [
            [row[env_index] for row in rows] for rows in (rewards, terminated, truncated, values)
        ]
        expected = [literal_return(t, gamma, *own) for t in range(steps)]
        torch.testing.assert_close(
            returns[:, env_index], torch.tensor(expected), atol=1e-5, rtol=1e-5
        )


# Clipping and RMSprop


@pytest.mark.parametrize("form", ["torch", "tf"])
@pytest.mark.parametrize("max_norm", [0.1, 1e6])
def test_clipping_equals_pytorch(max_norm: float, form: str) -> None:
    flat = FlatParameters(nn.Linear(999, 1), "cpu")
    flat.grad.copy_(torch.randn(1000, generator=torch.Generator().manual_seed(0)))
    parameter = nn.Parameter(torch.zeros(1000))
    parameter.grad = flat.grad.clone()
    optimiser = FlatRMSprop(flat, learning_rate=0.01, alpha=0.99, eps=1e-5, form=form)
    norm = optimiser.step(torch.tensor(True), max_norm)
    expected = nn.utils.clip_grad_norm_([parameter], max_norm)
    torch.testing.assert_close(norm, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(flat.grad, parameter.grad, rtol=1e-6, atol=0)


@pytest.mark.parametrize("form", ["torch", "tf"])
@pytest.mark.parametrize("gradient", [1.0, 1e30, math.inf, math.nan])
@pytest.mark.parametrize(("initial", "eps"), [(1.0, 1e-5), (0.0, 1e-5), (0.0, 0.0)])
def test_an_inactive_step_changes_nothing(
    form: str, gradient: float, initial: float, eps: float
) -> None:
    flat = FlatParameters(nn.Linear(3, 2), "cpu")
    optimiser = FlatRMSprop(
        flat, learning_rate=0.01, alpha=0.99, eps=eps, initial=initial, form=form
    )
    before = flat.data.clone()
    flat.grad.fill_(gradient)
    optimiser.step(torch.tensor(False), 0.5)
    assert torch.equal(flat.data, before)
    assert torch.equal(optimiser.square_average, torch.full((8,), initial))


@pytest.mark.parametrize("initial", [0.0, 1.0])
def test_first_rmsprop_step(initial: float) -> None:
    flat = FlatParameters(nn.Linear(3, 2), "cpu")
    before = flat.data.clone()
    optimiser = FlatRMSprop(flat, learning_rate=0.01, alpha=0.99, eps=1e-5, initial=initial)
    flat.grad.fill_(0.02)
    optimiser.step(torch.tensor(True), 1e6)
    step = 0.01 * 0.02 / (math.sqrt(0.99 * initial + 0.01 * 0.02**2) + 1e-5)
    assert torch.allclose(before - flat.data, torch.tensor(step), rtol=1e-3)


def test_rmsprop_equals_pytorch() -> None:
    model = build_model("mlp", (INPUTS,), "float32", ACTIONS, seed=1)
    other = copy.deepcopy(model)
    flat = FlatParameters(model, "cpu")
    mine = FlatRMSprop(flat, learning_rate=0.01, alpha=0.9, eps=1e-3)
    theirs = torch.optim.RMSprop(other.parameters(), lr=0.01, alpha=0.9, eps=1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        for parameter, twin in zip(model.parameters(), other.parameters(), strict=True):
            assert parameter.grad is not None
            parameter.grad.copy_(torch.randn(parameter.shape, generator=generator))
            twin.grad = parameter.grad.clone()
        nn.utils.clip_grad_norm_(other.parameters(), 0.5)
        mine.step(torch.tensor(True), 0.5)
        theirs.step()
    for parameter, twin in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(parameter, twin, rtol=1e-6, atol=1e-7)


GRADIENT = [0.001, -0.02, 0.3, -4.0, 0.0]
"""At turns 0, 3, 6, ... it is -1/2 of this."""
WEIGHTS = [0.5, -0.25, 0.125, 0.0, 1.0]
GOLDEN = [0.498786747, -0.225969285, -0.0662364215, 0.306529939, 1.0]
GOLDEN_SQUARES = [0.00515451655, 0.00545253744, 0.0723769367, 11.9559374, 0.00515376823]
"""The weights and their mean squares after 50 steps of `RMSpropTFLike` of Stable-Baselines3 2.9.2
(torch 2.13, float32) with lr 0.01, alpha 0.9, eps 1e-3."""


def gradient_of(turn: int) -> list[float]:
    return [value * (1.0 if turn % 3 else -0.5) for value in GRADIENT]


class Weights(nn.Module):
    """WEIGHTS, as a network."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(WEIGHTS))


def tensorflow_form() -> tuple[FlatParameters, FlatRMSprop]:
    """Take 50 steps from WEIGHTS."""
    flat = FlatParameters(Weights(), "cpu")
    mine = FlatRMSprop(flat, learning_rate=0.01, alpha=0.9, eps=1e-3, initial=1.0, form="tf")
    for turn in range(50):
        flat.grad.copy_(torch.tensor(gradient_of(turn)))
        mine.step(torch.tensor(True), 1e6)
    return flat, mine


def test_the_tensorflow_form_equals_a_literal_loop() -> None:
    """s starts from 1, and eps is within the root."""
    weights, squares = list(WEIGHTS), [1.0] * len(WEIGHTS)
    for turn in range(50):
        for at, g in enumerate(gradient_of(turn)):
            squares[at] = 0.9 * squares[at] + (1.0 - 0.9) * g * g
            weights[at] -= 0.01 * g / math.sqrt(squares[at] + 1e-3)
    flat, mine = tensorflow_form()
    assert flat.data.tolist() == pytest.approx(weights, rel=1e-6)
    assert mine.square_average.tolist() == pytest.approx(squares, rel=1e-5)


def test_the_tensorflow_form_equals_published_numbers() -> None:
    flat, mine = tensorflow_form()
    assert flat.data.tolist() == pytest.approx(GOLDEN, rel=1e-6)
    assert mine.square_average.tolist() == pytest.approx(GOLDEN_SQUARES, rel=1e-6)


@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_the_tensorflow_form_equals_stable_baselines3(max_norm: float) -> None:
    theirs = pytest.importorskip("stable_baselines3.common.sb2_compat.rmsprop_tf_like")
    flat = FlatParameters(nn.Linear(999, 1), "cpu")
    parameter = nn.Parameter(flat.data.clone())
    mine = FlatRMSprop(flat, learning_rate=7e-4, alpha=0.99, eps=1e-5, initial=1.0, form="tf")
    other = theirs.RMSpropTFLike([parameter], lr=7e-4, alpha=0.99, eps=1e-5)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        flat.grad.copy_(torch.randn(1000, generator=generator) * 0.01)
        parameter.grad = flat.grad.clone()
        nn.utils.clip_grad_norm_([parameter], max_norm)
        mine.step(torch.tensor(True), max_norm)
        other.step()
    torch.testing.assert_close(flat.data, parameter.detach(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("size", [1e-4, 1e-2, 1.0])
def test_the_forms_differ_where_gradients_are_small(size: float) -> None:
    steps = {}
    for form in ("torch", "tf"):
        flat = FlatParameters(nn.Linear(1, 1), "cpu")
        mine = FlatRMSprop(flat, learning_rate=1.0, alpha=0.5, eps=1e-5, form=form)
        before = flat.data.clone()
        flat.grad.fill_(size)
        mine.step(torch.tensor(True), 1e6)
        steps[form] = float((before - flat.data)[0])
    s = 0.5 * size**2
    expected = (math.sqrt(s) + 1e-5) / math.sqrt(s + 1e-5)
    assert steps["tf"] / steps["torch"] == pytest.approx(expected, rel=1e-3)


# Acting


def test_sampling_follows_the_softmax() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.04, 0.01])
    draws = 100_000
    logits = (probabilities.log() + 3.0).expand(draws, -1)
    actions = Categorical(ACTIONS).sample(logits, torch.Generator().manual_seed(0))
    counts = torch.bincount(actions, minlength=5)
    expected = probabilities * draws
    # Chi-squared with four degrees of freedom: 18.5 is passed with a chance of 0.001.
    assert ((counts - expected).square() / expected).sum() < 18.5


def test_act_samples_from_the_policy_of_the_network() -> None:
    algorithm = make_a2c(1)
    algorithm.parameters.data.mul_(3.0)
    observations = torch.randn(1, INPUTS, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = algorithm._model(observations)[0].softmax(-1)[0] * 50_000
    counts = torch.bincount(acted(algorithm, observations.expand(50_000, -1)), minlength=ACTIONS)
    assert expected.min() > 1000
    # Chi-squared with two degrees of freedom: 13.8 is passed with a chance of 0.001.
    assert ((counts - expected).square() / expected).sum() < 13.8


# Updating


def literal_update(model: nn.Module, optimiser: torch.optim.Optimizer, rollout: Rollout) -> None:
    """One A2C step, transition by transition, skipping those that are not valid."""
    steps, envs = rollout.actions.shape
    outputs = [model(observations) for observations in rollout.observations]
    logits = [pair[0] for pair in outputs]
    values = [pair[1] for pair in outputs]
    known = [row.detach().tolist() for row in values]
    terms = []
    for t in range(steps):
        for b in range(envs):
            if not rollout.valid[t, b]:
                continue
            target, discount = 0.0, 1.0
            for s in range(t, steps):
                target += discount * float(rollout.rewards[s, b])
                discount *= CONFIG.gamma
                if rollout.terminated[s, b]:
                    break
                last = s + 1 == steps or not rollout.valid[s + 1, b]
                if rollout.truncated[s, b] or last:
                    target += discount * known[s + 1][b]
                    break
            policy = logits[t][b].softmax(0)
            error = target - values[t][b]
            terms.append(
                -error.detach() * policy[rollout.actions[t, b]].log()
                + CONFIG.vf_coef * error**2
                + CONFIG.ent_coef * (policy * policy.log()).sum()
            )
    optimiser.zero_grad()
    torch.stack(terms).mean().backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), CONFIG.max_grad_norm)
    optimiser.step()


def test_update_equals_a_literal_one() -> None:
    algorithm = make_a2c(1, rmsprop_initial=0.0)
    twin = build_model("mlp", (INPUTS,), "float32", ACTIONS, seed=1)
    optimiser = torch.optim.RMSprop(twin.parameters(), lr=7e-4, alpha=0.99, eps=1e-5)
    for seed in range(4):
        rollout = random_rollout(seed)
        algorithm.update(rollout)
        literal_update(twin, optimiser, rollout)
        for name, parameter in twin.named_parameters():
            mine = algorithm.parameters.named()[name]
            torch.testing.assert_close(mine, parameter.detach(), rtol=1e-4, atol=1e-5)


def test_metrics_are_means_over_valid_transitions() -> None:
    algorithm = make_a2c(1)
    rollout = replace(random_rollout(1), terminated=torch.ones(5, 8, dtype=torch.bool))
    with torch.no_grad():
        logits, values = algorithm._model(rollout.observations[:-1].flatten(0, 1))
    logits, values = logits.unflatten(0, (5, 8)), values.unflatten(0, (5, 8))
    errors = (rollout.rewards - values)[rollout.valid]
    policy = logits.softmax(-1)[rollout.valid]
    taken = policy[torch.arange(len(policy)), rollout.actions[rollout.valid]].log()
    entropy = -(policy * policy.log()).sum(-1).mean()
    metrics = algorithm.update(rollout)
    assert metrics["value_loss"] == pytest.approx(float(errors.square().mean()), rel=1e-4)
    assert metrics["policy_loss"] == pytest.approx(-float((errors * taken).mean()), rel=1e-4)
    assert metrics["entropy"] == pytest.approx(float(entropy), rel=1e-4)
    rewards = rollout.rewards[rollout.valid]
    explained = 1 - float(errors.var(correction=0) / rewards.var(correction=0))
    assert metrics["explained_variance"] == pytest.approx(explained, abs=1e-4)


def test_gradient_norm_is_reported_before_clipping() -> None:
    rollout = random_rollout(1)
    large = replace(rollout, rewards=rollout.rewards * 100)
    algorithm = make_a2c(1)
    assert algorithm.update(large)["grad_norm"] > 10 * CONFIG.max_grad_norm
    assert float(algorithm.parameters.grad.norm()) == pytest.approx(CONFIG.max_grad_norm, rel=1e-3)


def test_explained_variance_ends() -> None:
    returns = torch.tensor([[1.0, 2.0, 5.0]])
    weights = torch.full((1, 3), 1 / 3)
    assert float(explained_variance(returns, returns, weights)) == pytest.approx(1.0)
    assert float(explained_variance(returns, 0 * returns, weights)) == pytest.approx(0.0)
    assert float(explained_variance(0 * returns, returns, weights)) == 0.0


def image_rollout(seed: int) -> Rollout:
    rollout = random_rollout(seed)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (6, 8, 4, 36, 36), dtype=torch.uint8, generator=generator)
    return replace(rollout, observations=images)


def test_lost_images_have_no_influence() -> None:
    algorithms = [
        make_algorithm(
            CONFIG,
            build_model("gala", (4, 36, 36), "uint8", ACTIONS, seed=1),
            actions=DiscreteActions(ACTIONS),
            device="cpu",
            seed=1,
        )
        for _ in range(2)
    ]
    rollout = image_rollout(1)
    rollout.valid[2:, 3] = False
    images = rollout.observations.clone()
    images[3:, 3] = 77
    first = algorithms[0].update(rollout)
    assert first == algorithms[1].update(replace(rollout, observations=images))
    assert torch.equal(algorithms[0].parameters.data, algorithms[1].parameters.data)
    assert algorithms[0].parameters.grad.count_nonzero() > 1000


class WaitsForDevice(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations that make the host wait for a device, by what they are on any device."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        if func.__name__.split(".")[0] in self.NAMES:
            self.seen.append(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("form", ["torch", "tf"])
def test_update_reads_no_number_back_before_its_metrics(form: str) -> None:
    algorithm = make_a2c(1, rmsprop_form=form)
    with WaitsForDevice() as waits:
        acted(algorithm, torch.zeros(4, INPUTS))
        algorithm.update(random_rollout(1))
        assert waits.seen == []
        assert bool(torch.ones(()) > 0)
    assert waits.seen == ["_local_scalar_dense.default"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_update_on_a_gpu_waits_once_and_agrees_with_the_cpu() -> None:
    def moved(rollout: Rollout) -> Rollout:
        return rollout.mapped(Tensor.cuda)

    host, device = make_a2c(1), make_a2c(1, "cuda")
    for seed in range(3):
        expected = host.update(random_rollout(seed))
        rollout = moved(random_rollout(seed))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            metrics = device.update(rollout)
            acted(device, rollout.observations[0])
            torch.cuda.set_sync_debug_mode("default")
        waits = [w for w in caught if "called a synchronizing" in str(w.message)]
        assert seed == 0 or len(waits) == 1
        assert metrics == pytest.approx(expected, rel=1e-2, abs=1e-3)
    torch.testing.assert_close(
        device.parameters.data.cpu(), host.parameters.data, rtol=1e-3, atol=1e-4
    )


# Making


def test_unresolved_learning_rate_is_refused() -> None:
    model = build_model("mlp", (INPUTS,), "float32", ACTIONS, seed=1)
    with pytest.raises(ValueError, match="learning_rate"):
        make_algorithm(A2CConfig(), model, actions=DiscreteActions(ACTIONS), device="cpu", seed=1)


def test_unknown_algorithm_is_refused() -> None:
    model = build_model("mlp", (INPUTS,), "float32", ACTIONS, seed=1)
    config = AlgorithmConfig(algorithm="a3c", learning_rate=1e-3)
    with pytest.raises(UserError, match=r"a3c.*did you mean a2c"):
        make_algorithm(config, model, actions=DiscreteActions(ACTIONS), device="cpu", seed=1)


def test_saved_gradients_are_not_needed_between_updates() -> None:
    """A stale or poisoned gradient vector must not reach the next update."""
    clean, dirty = make_a2c(1), make_a2c(1)
    dirty.parameters.grad.fill_(math.nan)
    assert clean.update(random_rollout(1)) == dirty.update(random_rollout(1))


def tensors(algorithm: Algorithm) -> list[Tensor]:
    return list(algorithm.state().values())


def test_state_tensors_keep_their_memory() -> None:
    algorithm = make_a2c(1)
    before = [tensor.data_ptr() for tensor in tensors(algorithm)]
    algorithm.update(random_rollout(1))
    assert [tensor.data_ptr() for tensor in tensors(algorithm)] == before
