"""Acting while learning: the same whenever the update runs, and what it is refused for."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import Tensor

from galamp.algorithms import ALGORITHMS
from galamp.algorithms.base import Rollout
from galamp.algorithms.vtrace import VTrace
from galamp.core.errors import StopRun, UserError
from galamp.gossip.topologies import make_topology
from galamp.memory.learner_state import FINAL, SAVE_EVERY_STEPS
from galamp.memory.metrics import POLICY_LAG
from galamp.memory.rollouts import NUM_SLOTS, PIPELINE_SLOTS
from galamp.workers import update_thread
from galamp.workers.collector import Collector
from galamp.workers.turns import Turns
from tests.support.command_lines import parsed
from tests.support.in_process import LearnerInThread, planned, train_in_process
from tests.support.pipelined_reference import train_in_pipeline
from tests.support.same_bits import assert_learners_equal
from tests.support.toy_algorithm import ReinforceConfig
from tests.workers.test_update_thread import NoThreads

TURNS, STEPS, ENVS = 6, 5, 4


def words(*more: object, env_id: str = "CartPole-v1", learners: int = 2) -> list[str]:
    numbers = {
        "learners": learners, "num-envs": ENVS, "num-steps": STEPS, "threads": 1, "env-splits": 1,
        "simulator-workers": 1, "total-steps": TURNS * STEPS * ENVS * learners, "seed": 5,
    }  # fmt: skip
    flags = [word for name, number in numbers.items() for word in (f"--{name}", str(number))]
    named = () if "--algorithm" in more else ("--algorithm", "vtrace")
    return ["--env-id", env_id, "--device", "cpu", "--sync", *flags, *named, *map(str, more)]


@pytest.mark.parametrize("network", ["mlp", "mlp-gru"])
def test_it_does_not_matter_when_the_update_runs(
    network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the next rollout is complete, too: until then nothing that it learns from changes."""
    plan = planned(parsed(*words("--pipeline", "--network", network)))
    graph = make_topology(plan.config.gossip.topology, 2)
    monkeypatch.setattr(update_thread, "ThreadPoolExecutor", NoThreads)
    assert_learners_equal(plan, train_in_pipeline(plan.config, graph, TURNS))


def learned_from(plan: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, dict[str, Any]]]:
    """Train; returns the gradient and the metrics of every update."""
    found: list[tuple[Tensor, dict[str, Any]]] = []
    learned = Turns._learned

    def noted(self: Turns, gauges: dict[str, float]) -> None:
        found.append((self._algorithm.parameters.grad.clone(), gauges))
        learned(self, gauges)

    with monkeypatch.context() as patch:
        patch.setattr(Turns, "_learned", noted)
        train_in_process(plan)
    return found


@pytest.mark.parametrize("network", ["mlp", "mlp-lstm"])
def test_with_equal_policies_it_learns_the_same(
    network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without steps the policy that acts is the one that learns: so are all gradients."""
    still = ("--learning-rate", 0, "--network", network)
    overlapping, plain = (
        learned_from(planned(parsed(*words(*still, *more, learners=1))), monkeypatch)
        for more in (["--pipeline"], [])
    )
    assert len(overlapping) == len(plain) == TURNS
    for (gradient, gauges), (expected, expected_gauges) in zip(overlapping, plain, strict=True):
        assert torch.equal(gradient, expected)
        assert gauges == expected_gauges
        assert expected.any()


def test_every_rollout_but_the_first_is_one_update_old(monkeypatch: pytest.MonkeyPatch) -> None:
    lags: list[float] = []
    learned = Turns._learned

    def noted(self: Turns, gauges: dict[str, float]) -> None:
        lags.append(self._status.metrics.gauges()[POLICY_LAG])
        learned(self, gauges)

    monkeypatch.setattr(Turns, "_learned", noted)
    (learner,) = train_in_process(planned(parsed(*words("--pipeline", learners=1))))
    assert lags == [0.0] + [1.0] * (TURNS - 1)
    assert learner.status["updates"] == learner.status["turns"] == TURNS
    assert learner.status["agent_steps"] == TURNS * STEPS * ENVS


def test_what_learns_is_whole_when_a_turn_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The update in progress is completed, and not exchanged; it is that of a shorter run."""
    collect, update, left = Collector.collect, VTrace.update, 3

    def leave(self: Collector, number: int) -> Any:
        rollout = collect(self, number)
        if number == left:
            raise StopRun
        return rollout

    plan = planned(parsed(*words("--pipeline", learners=1)))
    (expected,) = train_in_pipeline(plan.config, make_topology("none", 1), left)

    def late(self: VTrace, rollout: Rollout, reduce: Any = None) -> dict[str, float]:
        time.sleep(0.1 if self.version == left - 1 else 0.0)
        return update(self, rollout, reduce)

    monkeypatch.setattr(Collector, "collect", leave)
    monkeypatch.setattr(VTrace, "update", late)
    learners: list[LearnerInThread] = []
    run = LearnerInThread.run

    def noted(self: LearnerInThread) -> None:
        learners.append(self)
        run(self)

    monkeypatch.setattr(LearnerInThread, "run", noted)
    with pytest.raises(StopRun):
        train_in_process(plan)
    state = learners[0].algorithm.state()
    for name, tensor in expected.algorithm.state().items():
        assert torch.equal(state[name], tensor), name
    assert learners[0].status["updates"] == left


@pytest.mark.parametrize("more", [["--pipeline"], []], ids=str)
def test_the_last_turn_of_lock_step_has_one_state(more: list[str]) -> None:
    """That after all is learned from: to a turn, all go back to the same."""
    steps, turns = SAVE_EVERY_STEPS // 2, 4
    length = ("--num-steps", steps, "--total-steps", turns * steps * ENVS * 2)
    for learner in train_in_process(planned(parsed(*words(*more, *length)))):
        learner.save(FINAL)
        assert set(learner._states.saved_turns()) == {2, turns}
        found = learner._states.restore(turns)
        assert found is not None
        assert found[0].counters["updates"] == turns


def test_a_slot_more_is_there_only_where_it_is_needed() -> None:
    """So is all else: a run without it has the memory that it had."""
    for more, slots in ((["--pipeline"], PIPELINE_SLOTS), ([], NUM_SLOTS)):
        (learner,) = train_in_process(planned(parsed(*words(*more, learners=1))))
        assert len(learner.port.slots) == slots
        assert (POLICY_LAG in learner.status.metrics.gauges()) == bool(more)


OWN = "tests.support.toy_algorithm:Reinforce"


@pytest.mark.parametrize("name", [*(name for name in ALGORITHMS if name != "vtrace"), OWN])
def test_what_does_not_correct_for_it_is_refused_in_one_line(name: str) -> None:
    config = parsed(*words("--pipeline", "--algorithm", name))
    with pytest.raises(UserError) as told:
        planned(config)
    assert str(told.value) == (
        f"--pipeline: acting would be an update behind learning, and --algorithm {name} assumes "
        "that the policy that acted is the one that learns; leave it out, or take --algorithm "
        "vtrace, which corrects for that"
    )


def test_an_algorithm_of_ones_own_says_that_it_corrects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReinforceConfig, "corrects_lag", True)
    config = parsed(*words("--pipeline", "--algorithm", OWN, learners=1))
    (learner,) = train_in_process(planned(config))
    assert learner.status["updates"] == TURNS


def test_a_network_that_every_call_returns_again_is_refused() -> None:
    """The copy that acts would take the parameters away from the one that learns."""
    again = ("--network", "tests.support.networks:the_same")
    train_in_process(planned(parsed(*words(*again, learners=1))))
    with pytest.raises(UserError, match=r"two calls .* the same parameters.* leave --pip"):
        train_in_process(planned(parsed(*words(*again, "--pipeline", learners=1))))


def test_its_threads_share_a_learners_cores() -> None:
    """And are counted: limits on processes are of threads, too."""
    flags = words(learners=2)
    del flags[flags.index("--threads") : flags.index("--threads") + 2]
    plain, overlapping = planned(parsed(*flags)), planned(parsed(*flags, "--pipeline"))
    assert (plain.config.resources.threads, overlapping.config.resources.threads) == (4, 2)
    assert plain.tasks - overlapping.tasks == 2 * (2 * (4 - 2) - 2)
