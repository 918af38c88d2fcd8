"""What every learning algorithm must keep; inherit `AlgorithmContract` and say how to make one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import replace

import torch
from torch import Tensor

from galamp.algorithms.base import Algorithm, Rollout
from galamp.algorithms.forward import Place
from galamp.core.algorithm_config import AlgorithmConfig
from galamp.core.config import RunConfig
from galamp.core.settings import check, settings

STEPS, ENVS, INPUTS, ACTIONS = 5, 8, 3, 3
OF_THE_LAST_ROLLOUT = {"mix_kl", "state_drift"}
"""Metrics that compare with the rollout before, which no checkpoint has."""


def acted(algorithm: Algorithm, observations: Tensor, place: Place | None = None) -> Tensor:
    """Return the actions for observations [B, ...] that are not the first of an episode."""
    none = torch.zeros(len(observations), dtype=torch.bool, device=observations.device)
    return algorithm.act(observations, none, place).actions


def random_rollout(
    seed: int, *, steps: int = STEPS, envs: int = ENVS, valid: float = 0.8
) -> Rollout:
    """A rollout of random vectors [INPUTS] with every kind of flag in it."""
    generator = torch.Generator().manual_seed(seed)

    def chance(probability: float) -> Tensor:
        return torch.rand(steps, envs, generator=generator) < probability

    return Rollout(
        observations=torch.randn(steps + 1, envs, INPUTS, generator=generator),
        actions=torch.randint(0, ACTIONS, (steps, envs), generator=generator),
        rewards=torch.randn(steps, envs, generator=generator),
        terminated=chance(0.2),
        truncated=chance(0.2),
        valid=chance(valid),
        first=torch.zeros(steps + 1, envs, dtype=torch.bool),
        log_probs=torch.empty(steps, envs).uniform_(-2.0, -0.5, generator=generator),
    )


def spoiled(rollout: Rollout, seed: int) -> Rollout:
    """`rollout` with everything that belongs to invalid transitions alone replaced."""
    other = random_rollout(seed)
    assert rollout.log_probs is not None
    lost = ~rollout.valid
    touched = torch.zeros(rollout.observations.shape[:2], dtype=torch.bool)
    touched[:-1] |= rollout.valid
    touched[1:] |= rollout.valid
    return replace(
        rollout,
        observations=rollout.observations.masked_fill(~touched.unsqueeze(-1), math.nan),
        actions=torch.where(lost, 10**6, rollout.actions),
        rewards=torch.where(lost, math.nan, rollout.rewards),
        terminated=torch.where(lost, other.terminated, rollout.terminated),
        truncated=torch.where(lost, other.truncated, rollout.truncated),
        log_probs=rollout.log_probs.masked_fill(lost, math.nan),
    )


def copied(algorithm: Algorithm) -> dict[str, Tensor]:
    """The learned state at this moment."""
    return {name: tensor.clone() for name, tensor in algorithm.state().items()}


def assert_same_state(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    """Bit by bit."""
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


class AlgorithmContract(ABC):
    """Inherit and name the class `Test...`."""

    @abstractmethod
    def make(self, seed: int) -> Algorithm:
        """A fresh algorithm on the CPU for float32 vectors [INPUTS] and ACTIONS actions."""

    def test_it_brings_its_settings_gauges_and_learning_rate(self) -> None:
        kind = self.make(1).config_class
        assert issubclass(kind, AlgorithmConfig)
        settled = list(settings(kind))
        flags = [setting.flag for setting in settled]
        others = [s.flag for s in settings(RunConfig) if s.section != "algorithm"]
        assert len({*flags, *others}) == len(flags) + len(others)
        for setting in settled:
            assert check(setting, setting.default) == setting.default, setting.name
            assert setting.option.help.strip(), setting.name
        assert "grad_norm" in kind.gauges
        for name, meaning in kind.gauges.items():
            assert name.isidentifier()
            assert meaning.strip()
            assert "\n" not in meaning
        for learners in (1, 2, 1024):
            assert 0.0 < kind.default_learning_rate(learners) < 10.0

    def test_act_gives_one_known_action_per_environment(self) -> None:
        actions = acted(self.make(1), torch.randn(200, INPUTS))
        assert actions.shape == (200,)
        assert actions.dtype is torch.int64
        assert set(actions.tolist()) == set(range(ACTIONS))

    def test_act_draws_from_its_own_generator_alone(self) -> None:
        first, second = self.make(1), self.make(1)
        observations = torch.zeros(64, INPUTS)
        before = torch.get_rng_state()
        actions = [acted(first, observations) for _ in range(3)]
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(99)
        assert all(torch.equal(acted(second, observations), drawn) for drawn in actions)
        assert not torch.equal(actions[0], actions[1])

    def test_update_steps_counts_and_reports_finite_numbers(self) -> None:
        algorithm = self.make(1)
        for version in range(1, 4):
            before = copied(algorithm)
            metrics = algorithm.update(random_rollout(version))
            assert metrics.keys() == algorithm.config_class.gauges.keys()
            assert all(math.isfinite(number) for number in metrics.values())
            assert algorithm.version == version
            assert not torch.equal(before["parameters"], algorithm.parameters.data)

    def test_same_seed_and_rollouts_give_the_same_bits(self) -> None:
        first, second = self.make(1), self.make(1)
        for seed in range(3):
            assert first.update(random_rollout(seed)) == second.update(random_rollout(seed))
        assert_same_state(first.state(), second.state())

    def test_state_is_live_and_complete(self) -> None:
        trained, fresh = self.make(1), self.make(2)
        for seed in range(3):
            trained.update(random_rollout(seed))
        for name, tensor in trained.state().items():
            fresh.state()[name].copy_(tensor)
        fresh.generator.set_state(trained.generator.get_state())
        observations = torch.zeros(64, INPUTS)
        for seed in range(3, 6):
            assert torch.equal(acted(trained, observations), acted(fresh, observations))
            metrics = trained.update(random_rollout(seed))
            known = metrics.keys() - OF_THE_LAST_ROLLOUT
            again = fresh.update(random_rollout(seed))
            assert {name: again[name] for name in known} == {name: metrics[name] for name in known}
        assert_same_state(trained.state(), fresh.state())

    def test_a_copy_follows_what_is_learned(self) -> None:
        """As a copy that acts does before each rollout, with `--pipeline`."""
        learner, copy = self.make(1), self.make(1)
        observations, first = torch.randn(64, INPUTS), torch.ones(64, dtype=torch.bool)
        copy.prepare(1, 64)
        for seed in range(3):
            learner.update(random_rollout(seed))
            copy.follow(learner)
            copy.generator.set_state(learner.generator.get_state())
            expected = acted(learner, observations)
            found = copy.act(observations, first, Place(0, slice(0, 64))).actions
            assert torch.equal(found, expected)
        assert not torch.equal(self.make(1).parameters.data, copy.parameters.data)

    def test_invalid_transitions_have_no_influence(self) -> None:
        clean, dirty = self.make(1), self.make(1)
        for seed in range(5):
            rollout = random_rollout(seed, valid=0.5)
            assert clean.update(rollout) == dirty.update(spoiled(rollout, seed + 100))
        assert_same_state(clean.state(), dirty.state())

    def test_valid_transitions_all_have_influence(self) -> None:
        rollout = random_rollout(1, valid=1.0)
        states = []
        for env_index in range(-1, ENVS):
            valid = rollout.valid.clone()
            if env_index >= 0:
                valid[2, env_index] = False
            algorithm = self.make(1)
            algorithm.update(replace(rollout, valid=valid))
            states.append(algorithm.parameters.data)
        for env_index in range(1, ENVS + 1):
            assert not torch.equal(states[0], states[env_index])

    def test_rollout_without_valid_transition_changes_nothing(self) -> None:
        algorithm = self.make(1)
        algorithm.update(random_rollout(0))
        before = copied(algorithm)
        lost = replace(random_rollout(1), valid=torch.zeros(STEPS, ENVS, dtype=torch.bool))
        metrics = algorithm.update(spoiled(lost, 2))
        assert_same_state(before, copied(algorithm))
        assert algorithm.version == 1
        assert all(math.isfinite(number) for number in metrics.values())

    def test_learns_which_action_pays(self) -> None:
        """A bandit whose context names the action that pays; 300 updates are enough."""
        algorithm = self.make(1)
        contexts = torch.arange(ENVS * ACTIONS) % ACTIONS
        seen = torch.eye(ACTIONS)[contexts]
        always = torch.ones(1, len(contexts), dtype=torch.bool)
        algorithm.prepare(1, len(contexts))
        recently, update = 0.0, 0
        while update < 300 and recently < 0.95:
            algorithm.schedule(update, 300)
            actions, log_probs = algorithm.act(seen, always[0])
            rewards = (actions == contexts).to(torch.float32).unsqueeze(0)
            observations = seen.expand(2, -1, -1)
            algorithm.update(
                Rollout(
                    observations,
                    actions.unsqueeze(0),
                    rewards,
                    terminated=always,
                    truncated=~always,
                    valid=always,
                    first=always.expand(2, -1),
                    log_probs=None if log_probs is None else log_probs.unsqueeze(0),
                )
            )
            recently += 0.2 * (float(rewards.mean()) - recently)
            update += 1
        algorithm.schedule(300, 300)
        paid = [(acted(algorithm, seen) == contexts).to(torch.float32).mean() for _ in range(20)]
        assert torch.stack(paid).mean() > 0.9
