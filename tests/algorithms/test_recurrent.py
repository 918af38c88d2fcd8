"""Recurrent networks: sequences, states over rollouts, and every algorithm with one."""

from __future__ import annotations

from statistics import mean
from typing import Any

import pytest
import torch
from torch import Tensor

from galamp.algorithms import config_class, make_algorithm
from galamp.algorithms.base import Algorithm, Rollout
from galamp.algorithms.forward import Place
from galamp.algorithms.networks import build_model
from galamp.algorithms.networks.recurrent import RecurrentActorCritic
from galamp.algorithms.recurrent_forward import RecurrentForward
from galamp.algorithms.state_drift import MAX_ENVS
from galamp.core.action_spec import DiscreteActions
from galamp.core.box_actions import BoxActions
from tests.contracts.algorithm import ACTIONS, INPUTS, AlgorithmContract
from tests.support.engine import also

NETWORKS = {
    "mlp": ((INPUTS,), "float32"),
    "mlp-gru": ((INPUTS,), "float32"),
    "mlp-lstm": ((INPUTS,), "float32"),
    "nature-gru": ((4, 84, 84), "uint8"),
    "nature-lstm": ((4, 84, 84), "uint8"),
}


def observed(network: str, *counts: int) -> Tensor:
    shape, dtype = NETWORKS[network]
    generator = torch.Generator().manual_seed(0)
    if dtype == "uint8":
        return torch.randint(0, 256, (*counts, *shape), dtype=torch.uint8, generator=generator)
    return torch.randn(*counts, *shape, generator=generator)


def recurrent(network: str) -> RecurrentActorCritic:
    model = build_model(network, *NETWORKS[network], ACTIONS, seed=1)
    assert isinstance(model, RecurrentActorCritic)
    return model


def make(name: str, network: str = "mlp-gru", seed: int = 1, **settings: Any) -> Any:
    kind = config_class(name)
    config = kind(name, **{"learning_rate": 1e-3, **settings})
    model = build_model(network, *NETWORKS[network], ACTIONS, seed=seed)
    return make_algorithm(config, model, actions=DiscreteActions(ACTIONS), device="cpu", seed=seed)


class TestA2CWithAMemory(AlgorithmContract):
    def make(self, seed: int) -> Algorithm:
        return make("a2c", seed=seed, rmsprop_initial=0.0)


class TestVTraceWithAMemory(AlgorithmContract):
    def make(self, seed: int) -> Algorithm:
        return make("vtrace", "mlp-lstm", seed, rmsprop_initial=0.0)


FEW = {"update_epochs": 2, "num_minibatches": 2}
"""Steps of an update: as many as are needed to tell epochs and minibatches apart."""


class TestPPOWithAMemory(AlgorithmContract):
    def make(self, seed: int) -> Algorithm:
        return prepared(make("ppo", "mlp-lstm", seed, learning_rate=2e-3, **FEW))


class TestPQNWithAMemory(AlgorithmContract):
    def make(self, seed: int) -> Algorithm:
        return prepared(make("pqn", seed=seed, **FEW))


def prepared(algorithm: Algorithm, steps: int = 5, envs: int = 8) -> Algorithm:
    algorithm.prepare(steps, envs)
    return algorithm


@pytest.mark.parametrize("network", [name for name in NETWORKS if name != "mlp"])
def test_a_sequence_is_step_by_step(network: str) -> None:
    model, observations = recurrent(network), observed(network, 7, 3)
    first = torch.rand(7, 3, generator=torch.Generator().manual_seed(1)) < 0.3
    state = torch.randn(3, model.state_size)
    logits, values, end = model.sequence(observations, first, state)
    for step in range(7):
        state = state * ~first[step].unsqueeze(-1)
        one_logits, one_values, state = model.step(observations[step], state)
        torch.testing.assert_close(logits[step], one_logits, rtol=0, atol=1e-6)
        torch.testing.assert_close(values[step], one_values, rtol=0, atol=1e-6)
    torch.testing.assert_close(end, state, rtol=0, atol=1e-6)


@pytest.mark.parametrize("network", ["mlp-gru", "nature-lstm"])
def test_a_memory_is_kept_where_actions_are_continuous(network: str) -> None:
    shape, dtype = NETWORKS[network]
    model = build_model(network, shape, dtype, 4, state_independent=2, seed=1)
    assert isinstance(model, RecurrentActorCritic)
    first = torch.zeros(3, 2, dtype=torch.bool)
    state = torch.zeros(2, model.state_size)
    outputs, values, end = model.sequence(observed(network, 3, 2), first, state)
    assert outputs.shape == (3, 2, 4)
    assert values.shape == (3, 2)
    assert end.abs().min() > 0.0
    config = config_class("ppo")("ppo", learning_rate=1e-3)
    actions = BoxActions((-1.0, -1.0), (1.0, 1.0))
    algorithm = make_algorithm(config, model, actions=actions, device="cpu", seed=1)
    algorithm.prepare(3, 2)
    assert isinstance(algorithm._forward, RecurrentForward)  # type: ignore[attr-defined]


def act_over(forward: RecurrentForward, observations: Tensor, first: Tensor) -> Tensor:
    """Logits [T, B, A] of acting step by step, for two halves of the environments in turn."""
    half = observations.shape[1] // 2
    return torch.stack(
        [
            torch.cat(
                [
                    forward.act(observations[t, envs], first[t, envs], Place(t, envs))
                    for envs in (slice(0, half), slice(half, None))
                ]
            )
            for t in range(len(first))
        ]
    )


@pytest.mark.parametrize("network", ["mlp-gru", "mlp-lstm"])
def test_an_update_sees_what_acting_has_computed(network: str) -> None:
    algorithm = prepared(make("ppo", network), 5, 4)
    forward = algorithm._forward  # type: ignore[attr-defined]
    assert isinstance(forward, RecurrentForward)
    generator = torch.Generator().manual_seed(3)
    for rollout in range(3):
        observations = torch.randn(6, 4, INPUTS, generator=generator)
        first = torch.rand(6, 4, generator=generator) < 0.2
        if rollout == 0:
            first[0] = True
        acted = act_over(forward, observations[:-1], first[:-1])
        outputs, values = forward.evaluate(observations, first)
        torch.testing.assert_close(outputs[:-1], acted, rtol=0, atol=1e-6)
        logits, some_values, bootstrap = forward.rollout(observations, first)
        torch.testing.assert_close(logits, outputs[:-1], rtol=0, atol=1e-6)
        torch.testing.assert_close(some_values, values[:-1], rtol=0, atol=1e-6)
        torch.testing.assert_close(bootstrap, values[-1], rtol=0, atol=1e-6)
        envs = torch.tensor([3, 1])
        part = forward.outputs(observations[:-1, envs], first[:-1, envs], envs)
        torch.testing.assert_close(part.logits, outputs[:-1, envs], rtol=0, atol=1e-6)
        forward.next_rollout()


def test_a_state_is_kept_over_a_mix_and_forgotten_at_the_first_observation() -> None:
    algorithm = prepared(make("a2c"), 5, 2)
    forward = algorithm._forward  # type: ignore[attr-defined]
    observations, none = torch.randn(5, 2, INPUTS), torch.zeros(5, 2, dtype=torch.bool)
    act_over(forward, observations, none)
    before = forward._states.clone()
    assert before.abs().min() > 0.0
    algorithm.parameters.data.mul_(0.9)  # as a gossip round does
    assert torch.equal(forward._states, before)
    rejoined = torch.tensor([True, False])
    forward.act(observations[0], rejoined, Place(0, slice(None)))
    alone = forward._model.step(observations[0, :1], torch.zeros(1, before.shape[1]))[2]
    torch.testing.assert_close(forward._states[:1], alone, rtol=0, atol=1e-6)
    assert not torch.allclose(forward._states[1:], alone)


@pytest.mark.parametrize("name", ["ppo", "pqn"])
def test_there_are_no_more_minibatches_than_environments(name: str) -> None:
    algorithm = prepared(make(name, num_minibatches=64), 6, 2)
    assert algorithm.reductions == 2 * algorithm._minibatch.update_epochs  # type: ignore[attr-defined]
    CUES.manual_seed(5)
    rollout, _ = remembering_rollout(algorithm, 6, 2)
    assert algorithm.update(rollout)["grad_norm"] > 0.0


def remembering_rollout(algorithm: Algorithm, length: int, envs: int) -> tuple[Rollout, Tensor]:
    """A cue at the first step, nothing after it; the last action pays if it is the cue."""
    cues = torch.randint(0, 2, (envs,), generator=CUES)
    observations = torch.zeros(length + 1, envs, INPUTS)
    observations[0, torch.arange(envs), cues] = 1.0
    observations[1:, :, 2] = torch.linspace(0, 1, length).unsqueeze(-1)
    first = torch.zeros(length + 1, envs, dtype=torch.bool)
    first[0] = first[-1] = True
    acts = [
        algorithm.act(observations[t], first[t], Place(t, slice(0, envs))) for t in range(length)
    ]
    actions = torch.stack([act.actions for act in acts])
    rewards = torch.zeros(length, envs)
    rewards[-1] = (actions[-1] == cues).to(torch.float32)
    none = torch.zeros(length, envs, dtype=torch.bool)
    ends = none.clone()
    ends[-1] = True
    rollout = Rollout(observations, actions, rewards, ends, none, ~none, first)
    return rollout, rewards[-1].mean()


CUES = torch.Generator()


@pytest.mark.parametrize(
    ("network", "learns"), [also("mlp-gru", True), ("mlp-lstm", True), ("mlp", False)]
)
def test_what_has_to_be_remembered_is_learned_by_a_memory_alone(network: str, learns: bool) -> None:
    CUES.manual_seed(5)
    algorithm = prepared(
        make("ppo", network, learning_rate=3e-3, num_minibatches=2, max_grad_norm=5.0), 6, 64
    )
    shares = [0.0] * 5
    while len(shares) < (65 if learns else 35) and mean(shares[-5:]) < 0.95:
        rollout, share = remembering_rollout(algorithm, 6, 64)
        algorithm.update(rollout)
        shares.append(float(share))
    last = mean(shares[-5:])
    assert last >= 0.95 if learns else last < 0.7


def random_rollout(algorithm: Algorithm, seed: int, steps: int = 6, envs: int = 10) -> Rollout:
    """Episodes of a few steps, most of which the rollout's end cuts."""
    generator = torch.Generator().manual_seed(seed)
    observations = torch.randn(steps + 1, envs, INPUTS, generator=generator)
    first = torch.rand(steps + 1, envs, generator=generator) < 0.25
    first[0] = first[0] | (seed == 0)
    first[2] &= ~first[1]
    first[3:] &= ~first[2:-1]
    acts = [
        algorithm.act(observations[t], first[t], Place(t, slice(0, envs))) for t in range(steps)
    ]
    none = torch.zeros(steps, envs, dtype=torch.bool)
    rewards = torch.randn(steps, envs, generator=generator)
    actions = torch.stack([act.actions for act in acts])
    return Rollout(observations, actions, rewards, none, none.clone(), ~first[1:], first)


class Drifts:
    """What an algorithm reports of its states, over rollouts between which `between` is called."""

    def __init__(self, network: str = "mlp-gru", **settings: Any) -> None:
        self.algorithm = prepared(make("ppo", network, **settings), 6, 10)
        self.rollouts = 0

    def __call__(self, late: int | None = None) -> float:
        rollout = random_rollout(self.algorithm, self.rollouts)
        if late is not None:
            rollout.valid[2:, late] = False
        self.rollouts += 1
        return self.algorithm.update(rollout)["state_drift"]

    def mix(self) -> None:
        self.algorithm.parameters.data.mul_(0.9)  # as a gossip round does


STILL = {"learning_rate": 1e-12}


@pytest.mark.parametrize("network", ["mlp-gru", "mlp-lstm"])
def test_states_are_stale_by_what_a_mix_has_changed(network: str) -> None:
    drifts = Drifts(network, **STILL)
    assert drifts() == 0.0, "there is none before"
    assert drifts() < 1e-5
    drifts.mix()
    assert drifts() > 1e-3
    assert drifts() < 1e-5, "the next states are of the same parameters"


@pytest.mark.parametrize("network", ["mlp-gru", "mlp-lstm"])
def test_states_are_stale_by_what_an_update_has_changed(network: str) -> None:
    drifts = Drifts(network, learning_rate=3e-3)
    drifts()
    assert drifts() > 1e-3


def test_a_feedforward_network_has_no_stale_states() -> None:
    drifts = Drifts("mlp", learning_rate=3e-3)
    assert [drifts(), drifts()] == [0.0, 0.0]


def test_the_staleness_is_the_mean_distance_of_states_that_are_computed_again() -> None:
    drifts = Drifts(**STILL)
    algorithm = drifts.algorithm
    drifts()
    start = algorithm._forward._start.clone()  # type: ignore[attr-defined]
    last = random_rollout(algorithm, 1)
    kept = algorithm.memory.clone()  # type: ignore[union-attr]
    algorithm.update(last)
    drifts.mix()
    for step in range(6):
        states = start * ~last.first[step].unsqueeze(-1)
        with torch.no_grad():
            start = algorithm._model.step(last.observations[step], states)[2]  # type: ignore[attr-defined]
    distances = (start - kept).norm(dim=-1)[:MAX_ENVS]
    goes_on = ~last.first[-1, :MAX_ENVS]
    assert not goes_on.all(), "what an episode's end leaves is not used"
    assert last.first[1:-1, :MAX_ENVS].any(), "there are resets, which are invalid steps"
    drifts.rollouts = 2
    assert drifts() == pytest.approx(float(distances[goes_on].mean()), rel=1e-4)


@pytest.mark.parametrize("late", [0, 7])
def test_an_environment_that_was_late_has_no_stale_state(late: int) -> None:
    """It has not acted at every step: its state is not that of the sequence."""
    drifts = Drifts(**STILL)
    drifts(late)
    algorithm = drifts.algorithm
    algorithm._forward._start[late] += 5.0  # type: ignore[attr-defined]
    algorithm.memory[late] += 5.0  # type: ignore[index]
    assert drifts() < 1e-5


def test_other_scales_of_observations_leave_no_state_stale() -> None:
    drifts = Drifts(**STILL)
    drifts()
    algorithm: Any = drifts.algorithm
    shift = torch.linspace(-1.0, 1.0, INPUTS)
    layer = algorithm._model.hidden
    with torch.no_grad():
        layer.bias += layer.weight @ shift
    algorithm.rescale(lambda observations: observations - shift)
    assert drifts() < 1e-5


@pytest.mark.parametrize("name", ["a2c", "vtrace", "ppo", "pqn"])
def test_a_rollout_that_is_not_learned_from_is_where_the_next_one_starts(name: str) -> None:
    """As with a normaliser, until there are enough data to choose the scales."""
    algorithm = prepared(make(name), 6, 10)
    forward = algorithm._forward  # type: ignore[attr-defined]
    random_rollout(algorithm, 0)
    algorithm.discard()
    generator = torch.Generator().manual_seed(9)
    observations = torch.randn(7, 10, INPUTS, generator=generator)
    first = torch.zeros(7, 10, dtype=torch.bool)
    acted = act_over(forward, observations[:-1], first[:-1])
    torch.testing.assert_close(
        forward.evaluate(observations, first).logits[:-1], acted, rtol=0, atol=1e-6
    )
