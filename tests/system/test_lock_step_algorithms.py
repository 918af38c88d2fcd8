"""Every algorithm, with its kinds of actions and networks, by every method: one process's bits.

A table of cases, and of what is refused. Each pair of an algorithm and a method, an algorithm and a
kind of actions, an algorithm and a kind of network, and a method and a kind of network is in it.
All cases are trained by a run's learners in threads of this process, and some as real runs, too.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from galamp.algorithms import ALGORITHMS, config_class
from galamp.algorithms.cached_outputs import CachedOutputsForward
from galamp.algorithms.recurrent_forward import RecurrentForward
from galamp.core.config import RunConfig
from galamp.core.gossip_config import GossipConfig
from galamp.core.settings import settings
from galamp.gossip.topologies import make_topology
from tests.support.command_lines import parsed
from tests.support.engine import also, run
from tests.support.in_process import planned
from tests.support.pipelined_reference import train_in_pipeline
from tests.support.reference import ReferenceLearner, train_in_lock_step
from tests.support.same_bits import assert_learners_equal, assert_run_equals

LEARNERS, ENVS, STEPS, TURNS, SEED = 2, 2, 4, 5, 11

ACTIONS = {
    "discrete": ("Counted",),
    "multi-discrete": ("Dials",),
    "multi-binary": ("Switches",),
    "clipped": ("Levers", "--action-bounds", "clip"),
    "squashed": ("Levers", "--action-bounds", "squash"),
}
"""Kind of actions -> the toy that takes them, and flags."""


class Case(NamedTuple):
    """What goes together in a run."""

    algorithm: str
    method: str
    actions: str
    network: str
    more: str = ""
    images: str = ""
    """What is observed instead of the toy's vectors: a name of `tests.support.spaces`."""

    @property
    def memory(self) -> bool:
        return self.network.endswith(("-gru", "-lstm"))

    @property
    def words(self) -> list[str]:
        """The command line of the run, without its folder."""
        toy, *more = ACTIONS[self.actions]
        total = TURNS * STEPS * ENVS * LEARNERS
        env_id = f"spaces:{self.images}" if self.images else f"toys:{toy}"
        words = ["--env-id", f"tests.support.{env_id}", "--algorithm", self.algorithm]
        words += ["--network", self.network, "--method", self.method, "--sync", *more]
        if "update_epochs" in {s.name for s in settings(config_class(self.algorithm))}:
            words += ["--update-epochs", "2", "--num-minibatches", "2"]
        numbers = {
            "learners": LEARNERS, "num-envs": ENVS, "num-steps": STEPS, "total-steps": total,
            "seed": SEED, "threads": 1, "env-splits": 1, "simulator-workers": 1,
        }  # fmt: skip
        for name, number in numbers.items():
            words += [f"--{name}", str(number)]
        return [*words, "--device", "cpu", *self.more.split()]


def name_of(case: Case) -> str:
    return "-".join(filter(None, case)).replace("---", "-")


CASES = [
    Case("a2c", "gossip", "discrete", "mlp"),
    Case("a2c", "allreduce", "multi-discrete", "mlp-gru"),
    Case("a2c", "independent", "multi-binary", "mlp-lstm"),
    Case("a2c", "single", "clipped", "mlp"),
    Case("a2c", "gossip", "squashed", "mlp-gru"),
    Case("vtrace", "gossip", "multi-binary", "mlp-lstm"),
    Case("vtrace", "allreduce", "discrete", "mlp"),
    Case("vtrace", "independent", "clipped", "mlp"),
    Case("vtrace", "single", "squashed", "mlp-gru"),
    Case("vtrace", "gossip", "multi-discrete", "mlp"),
    Case("vtrace", "gossip", "multi-binary", "mlp-lstm", "--pipeline"),
    Case("vtrace", "allreduce", "discrete", "mlp", "--pipeline"),
    Case("vtrace", "independent", "clipped", "mlp", "--pipeline"),
    Case("vtrace", "single", "squashed", "mlp-gru", "--pipeline"),
    Case("vtrace", "gossip", "multi-discrete", "mlp", "--pipeline"),
    Case("ppo", "gossip", "clipped", "mlp"),
    Case("ppo", "allreduce", "squashed", "mlp-lstm"),
    Case("ppo", "independent", "multi-discrete", "mlp"),
    Case("ppo", "single", "multi-binary", "mlp"),
    Case("ppo", "allreduce", "discrete", "mlp"),
    Case("pqn", "gossip", "discrete", "mlp-layernorm"),
    Case("pqn", "allreduce", "discrete", "mlp-gru"),
    Case("pqn", "independent", "discrete", "mlp-layernorm"),
    Case("pqn", "single", "discrete", "mlp-lstm"),
    Case("ppo", "gossip", "discrete", "mlp", "--gossip-optimizer"),
    Case("pqn", "gossip", "discrete", "mlp-layernorm", "--gossip-optimizer"),
]

IMAGES = [
    Case("pqn", "gossip", "discrete", "minatar-layernorm", images="cube"),
    Case("ppo", "gossip", "discrete", "impala-resnet", images="cube"),
    Case("ppo", "allreduce", "discrete", "nature-lstm", images="shades"),
]
"""Networks for images, of every kind that the algorithm's forward pass tells apart."""

REAL = {("vtrace", "gossip", "multi-binary"), ("ppo", "allreduce", "squashed"),
        ("pqn", "independent", "discrete"), ("a2c", "single", "clipped")}  # fmt: skip
"""Cases that the gate has as real runs: each algorithm and method once; the slow set has all."""

REFUSED = {
    ("pqn", actions): f"--algorithm pqn: expected one choice of several actions, the environment "
    f"has {told}; take ppo"
    for actions, told in {
        "multi-discrete": "MultiDiscrete [2, 3] actions",
        "multi-binary": "MultiBinary 4 actions",
        "clipped": "Box [2] actions",
        "squashed": "Box [2] actions, squashed",
    }.items()
}
"""Algorithm and kind of actions -> the line that tells why they do not go together."""


def test_every_pair_is_in_the_table() -> None:
    """And whatever is in neither table is found here, as would be an algorithm that is new."""
    (methods,) = (s.option.names for s in settings(GossipConfig) if s.name == "method")
    assert {(c.algorithm, c.method) for c in CASES} == set(product(ALGORITHMS, methods))
    kinds = set(product(ALGORITHMS, ACTIONS))
    assert {(c.algorithm, c.actions) for c in CASES} == kinds - REFUSED.keys()
    assert {(c.algorithm, c.memory) for c in CASES} == set(product(ALGORITHMS, (False, True)))
    assert {(c.method, c.memory) for c in CASES} == set(product(methods, (False, True)))
    assert {case[:3] for case in CASES} >= REAL
    assert [set(names) for names in zip(*REAL, strict=True)][:2] == [set(ALGORITHMS), set(methods)]


@pytest.mark.parametrize("case", [*CASES, *IMAGES], ids=name_of)
def test_learners_equal_one_process(case: Case) -> None:
    plan = planned(parsed(*case.words))
    learners = assert_learners_equal(plan, referred(plan.config))
    assert {learner.status["turns"] for learner in learners} == {TURNS}
    if "--gossip-optimizer" in case.more:
        states = [learner.algorithm.state() for learner in learners]
        assert all((state["second_moment"] >= 0.0).all() for state in states)
        for name in ("first_moment", "second_moment", "steps"):
            assert_alike(case.method, [state[name] for state in states])
    vectors = [learner.algorithm.parameters.data for learner in learners]
    assert_alike(case.method, vectors)
    assert not torch.equal(vectors[0], ReferenceLearner(plan.config, 0).algorithm.parameters.data)


def test_outputs_of_images_are_kept_and_those_of_a_memory_computed_anew() -> None:
    """So that the cases of images are of what they are named for."""
    learners = [ReferenceLearner(planned(parsed(*case.words)).config, 0) for case in IMAGES]
    forwards = [learner.algorithm._forward for learner in learners]  # type: ignore[attr-defined]
    expected = [CachedOutputsForward, CachedOutputsForward, RecurrentForward]
    assert list(map(type, forwards)) == expected


@pytest.mark.parametrize("case", [CASES[1], CASES[5], CASES[6], CASES[11]], ids=name_of)
def test_learners_that_update_in_parts_equal_one_process(case: Case) -> None:
    plan = planned(parsed(*case.words, "--updates-per-rollout", "2"))
    learners = assert_learners_equal(plan, referred(plan.config))
    assert {learner.algorithm.reductions for learner in learners} == {2}
    assert_alike(case.method, [learner.algorithm.parameters.data for learner in learners])


@pytest.mark.parametrize(
    "case",
    [case if case in CASES and case[:3] in REAL else also(case) for case in [*CASES, *IMAGES]],
    ids=name_of,
)
def test_a_run_equals_one_process(tmp_path: Path, case: Case) -> None:
    expected = referred(planned(parsed(*case.words)).config)
    saved = assert_run_equals(tmp_path / "run", case.words, expected)
    assert {learner.counters["turns"] for learner in saved.learners} == {TURNS}
    assert_alike(case.method, [learner.algorithm.parameters.data for learner in expected])


@pytest.mark.parametrize(("algorithm", "actions"), REFUSED)
def test_what_does_not_go_together_is_one_line(
    tmp_path: Path, algorithm: str, actions: str
) -> None:
    words = Case(algorithm, "gossip", actions, "mlp").words
    ended = run(*words, "--quiet", "--run-dir", tmp_path / "run")
    assert (ended.returncode, ended.stderr) == (2, f"galamp: {REFUSED[algorithm, actions]}\n")
    assert not (tmp_path / "run").exists()


def referred(config: RunConfig) -> list[ReferenceLearner]:
    """Train in this thread, by the settings of a plan."""
    graph = make_topology(config.gossip.topology, config.resources.learners)
    train = train_in_pipeline if config.algorithm.pipeline else train_in_lock_step
    return train(config, graph, TURNS)


def assert_alike(method: str, vectors: list[Tensor]) -> None:
    """Two learners are one after every average, and never become one by themselves."""
    first, *others = vectors
    assert len(others) == (0 if method == "single" else LEARNERS - 1)
    assert all(torch.equal(first, other) == (method != "independent") for other in others)
