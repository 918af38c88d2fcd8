"""A learner that acts and learns by CUDA graphs: the same as without, in fewer launches.

The GPUs are host memory (tests/fakecuda): what is captured, launched, waited for and computed is
seen there; that a real GPU takes the captures, and how fast it is then, is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from galamp.algorithms import graphed_update
from galamp.algorithms.a2c import A2C, Targets
from galamp.algorithms.base import Rollout
from galamp.cli.main import build_parser
from galamp.cli.run_config import config_from
from galamp.core.action_spec import ActionSpec, MultiBinaryActions, MultiDiscreteActions
from galamp.core.box_actions import BoxActions
from galamp.core.config import SQUASH, from_dict, to_dict
from galamp.tools.bench.synthetic import ATARI, synthetic_learners, take_turns
from galamp.workers import acting
from tests.fakecuda.inside import on_gpus
from tests.support.engine import also
from tests.support.on_devices import ENVS, STEPS, Collecting, counted
from tests.system.test_on_gpus import MOST_KERNELS_OF_AN_ACT

pytestmark = [pytest.mark.real]

GPU = "cuda:1"
ACTIONS: dict[str, ActionSpec] = {
    "multi-discrete": MultiDiscreteActions((2, 3)),
    "multi-binary": MultiBinaryActions(3),
    "clipped": BoxActions((-1.0, 0.0), (1.0, 2.0)),
    "squashed": BoxActions((-1.0, -math.inf), (1.0, 2.0), SQUASH),
}


def graphed(
    batches: int = 1, network: str = "mlp", reduces: bool | None = None, **settings: Any
) -> Collecting:
    """A learner with graphs."""
    here = Collecting(GPU, batches, network, **settings)
    here.collector.record(reduces)
    return here


def assert_same(left: Collecting, right: Collecting, rollouts: int, **more: Any) -> None:
    """Have both learn: the same actions, the same parameters, the same numbers drawn."""
    mine, learned = left.learn(rollouts, **more)
    theirs, expected = right.learn(rollouts, **more)
    for one, other in zip(learned, expected, strict=True):
        assert (one.log_probs is None) == (other.log_probs is None)
        for name, tensor in vars(one).items():
            assert tensor is None or torch.equal(tensor, getattr(other, name)), name
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
    assert left.algorithm.version == right.algorithm.version
    states = [each.algorithm.generator.get_state().tolist() for each in (left, right)]
    assert states[0] == states[1]
    assert any(bool(one.actions.any()) for one in learned)


# Launches and waits


@pytest.mark.parametrize("network", ["mlp", also("gala")])
@on_gpus()
def test_an_act_is_one_launch_and_one_wait(network: str) -> None:
    plain, here = Collecting(GPU, 2, network), graphed(2, network)
    for each in (plain, here):
        each.learn(1)
    envs = slice(0, ENVS // 2)
    act = counted(lambda: here.collector._actor.act(1, 2, envs))
    assert (act["graphs"], act["kernels"], act["waits"]) == (1, 0, 1), act
    assert (act["to_device"], act["to_host"], act["non_blocking"]) == (1, 0, 1), "the row"
    act = counted(lambda: plain.collector._actor.act(1, 2, envs))
    assert act["graphs"] == 0
    assert act["kernels"] <= MOST_KERNELS_OF_AN_ACT, act
    assert (act["waits"], act["to_device"], act["to_host"], act["non_blocking"]) == (1, 2, 1, 3)


@pytest.mark.parametrize("network", ["mlp", also("gala")])
@pytest.mark.parametrize("reduces", [None, False, True])
@on_gpus()
def test_an_update_is_one_launch_or_two_and_one_wait(network: str, reduces: bool | None) -> None:
    here = graphed(1, network, reduces)
    reduce = None if reduces is None else lambda: reduces
    one = here.collector.collect(0)
    update = counted(lambda: here.algorithm.update(one, reduce))
    assert update.pop("graphs") == (1 if reduces is None else 2)
    assert update.pop("waits") == 1
    assert not any(update.values()), update


@on_gpus()
def test_what_comes_with_a_rollout_is_one_copy_that_nobody_waits_for() -> None:
    for here in (Collecting(GPU), graphed()):
        here.learn(1)
        move = counted(lambda here=here: here.collector._actor.rollout(1, here.port.valid_mask))
        assert (move.pop("to_device"), move.pop("non_blocking")) == (1, 1)
        assert not any(move.values()), move


@pytest.mark.parametrize("batches", [1, 2])
@on_gpus()
def test_a_turn_waits_once_for_each_batch_of_actions_and_once_for_the_update(batches: int) -> None:
    here = graphed(batches)
    here.learn(2)
    turn = counted(lambda: here.algorithm.update(here.collector.collect(2)))
    assert turn["waits"] == turn["graphs"] == STEPS * batches + 1
    assert turn["to_device"] == turn["non_blocking"] == (STEPS + 1) * batches + 1
    assert (turn["kernels"], turn["to_host"]) == (0, 0)


# The same as without graphs


@on_gpus(hold=1)
def test_a_hundred_updates_are_the_same_as_without_graphs() -> None:
    assert_same(graphed(2), Collecting(GPU, 2), 100)


@pytest.mark.parametrize("form", ["torch", also("tf")])
@on_gpus()
def test_a_learning_rate_that_changes_is_not_recorded_as_it_was(form: str) -> None:
    settings = {"lr_schedule": "linear", "rmsprop_form": form}
    here, plain = graphed(2, **settings), Collecting(GPU, 2, **settings)
    for done in (0, 90):
        for each in (here, plain):
            each.algorithm.schedule(done, 100)
        assert_same(here, plain, 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"precision": "bf16"},
        {"rmsprop_form": "tf"},
        {"updates_per_rollout": 2},
        also({"network": "gala"}),
        also({"network": "nature", "precision": "bf16"}),
    ],
    ids=str,
)
@on_gpus(hold=1)
def test_every_form_of_a_learner_is_the_same_as_without_graphs(settings: dict[str, Any]) -> None:
    assert_same(graphed(**settings), Collecting(GPU, **settings), 3)


@pytest.mark.parametrize("kind", list(ACTIONS))
@on_gpus(hold=1)
def test_actions_of_every_kind_are_the_same_as_without_graphs(kind: str) -> None:
    here = graphed(2, actions=ACTIONS[kind])
    assert not here.row["graph_refusal"]
    assert_same(here, Collecting(GPU, 2, actions=ACTIONS[kind]), 5)


@on_gpus(hold=1)
def test_log_probs_and_first_observations_are_the_same_as_without_graphs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(A2C, "keeps_log_probs", True)
    told: list[Tensor] = []
    act = A2C.act

    def noted(self: A2C, observations: Tensor, first: Tensor, *place: Any) -> Any:
        told.append(first)
        return act(self, observations, first, *place)

    monkeypatch.setattr(A2C, "act", noted)
    here, plain = graphed(2), Collecting(GPU, 2)
    assert_same(here, plain, 3)
    assert len(told) > 4 * 2, "recorded for two batches, and acted on by the other"
    collected = [each.collector.collect(3).mapped(Tensor.cpu) for each in (here, plain)]
    for one in collected:
        assert one.log_probs is not None
        model = plain.algorithm._model  # type: ignore[attr-defined]
        seen = one.observations[:-1].flatten(0, 1).to(GPU)
        log_policy = model(seen)[0].log_softmax(-1).cpu().view(STEPS, ENVS, -1)
        taken = log_policy.gather(-1, one.actions.unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(one.log_probs, taken, rtol=1e-4, atol=1e-5)
        assert one.first.any()
        assert torch.equal(one.first[1:], ~one.valid)


@pytest.mark.parametrize("reduces", [False, True])
@on_gpus(hold=1)
def test_the_gradient_may_be_changed_in_the_middle(reduces: bool) -> None:
    """By what looks at it, as other learners do."""
    left, right = graphed(reduces=reduces), Collecting(GPU)
    seen: dict[str, list[list[float]]] = {"left": [], "right": []}

    def reducing(name: str, here: Collecting) -> Callable[[], bool]:
        def reduce() -> bool:
            gradient = here.algorithm.parameters.grad
            seen[name].append(gradient[:9].tolist())
            gradient.mul_(0.5).add_(1e-4)
            return reduces

        return reduce

    for _ in range(10):
        mine, _ = left.learn(1, reducing("left", left))
        theirs, _ = right.learn(1, reducing("right", right))
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
    assert seen["left"] == seen["right"]
    assert left.algorithm.version == right.algorithm.version == 10
    with pytest.raises(AssertionError, match="a different update was recorded"):
        left.learn(1)


@pytest.mark.parametrize("from_all", [False, True])
@on_gpus()
def test_a_rollout_of_which_nothing_counts_changes_nothing(from_all: bool) -> None:
    """Unless the gradient is everyone's."""
    for here in (graphed(reduces=from_all), Collecting(GPU)):
        here.learn(2, lambda: from_all)
        before = {name: value.clone() for name, value in here.algorithm.state().items()}
        here.collector.collect(2)
        nothing = np.zeros((STEPS, ENVS), np.bool_)
        here.algorithm.update(here.collector._actor.rollout(0, nothing), lambda: from_all)
        assert here.algorithm.version == 2 + from_all
        same = [torch.equal(before[name], value) for name, value in here.algorithm.state().items()]
        assert same == [True, not from_all], "of a gradient of zeros only the mean square shrinks"


@on_gpus()
def test_recording_changes_nothing_that_was_learned_or_drawn() -> None:
    for reduces in (None, True):
        here = Collecting(GPU, 2)
        here.algorithm.state()["square_average"].fill_(0.5)
        learned = {name: value.clone() for name, value in here.algorithm.state().items()}
        drawn = here.algorithm.generator.get_state()
        stream = torch.cuda.current_stream()
        here.collector.record(reduces)
        assert torch.cuda.current_stream() == stream
        assert torch.equal(here.algorithm.generator.get_state(), drawn)
        assert here.algorithm.version == 0
        for name, value in here.algorithm.state().items():
            assert torch.equal(value, learned[name]), name


@on_gpus(hold=1)
def test_a_learner_with_graphs_goes_on_from_a_saved_state() -> None:
    """It is written into the learner as a former incarnation or a checkpoint left it."""
    resume_point = graphed(2)
    resume_point.learn(3)
    state = {name: value.cpu() for name, value in resume_point.algorithm.state().items()}
    drawn = resume_point.algorithm.generator.get_state()
    learners = graphed(2), Collecting(GPU, 2)
    for here in learners:
        for name, value in here.algorithm.state().items():
            value.copy_(state[name])
        here.algorithm.generator.set_state(drawn)
    assert_same(*learners, 5)


# What is missing tells


@on_gpus(hold=1)
def test_actions_that_are_not_waited_for_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters, learned = graphed().learn(3)
    assert any(bool(one.actions.any()) for one in learned)
    here = graphed()
    left = here.collector._actor._actions.clone()  # by the recording
    monkeypatch.setattr(acting, "finish", lambda: None)
    without, (first, *_) = here.learn(3)
    assert torch.equal(first.actions, left.expand(STEPS, -1))
    assert not torch.equal(parameters, without)


@on_gpus(hold=1)
def test_numbers_that_are_not_waited_for_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    here = graphed()
    metrics = here.algorithm.update(here.collector.collect(0))
    assert metrics["entropy"] > 0.5
    here = graphed()
    monkeypatch.setattr(graphed_update, "finish", lambda: None)
    assert set(here.algorithm.update(here.collector.collect(0)).values()) == {0.0}


def with_a_number_read_early(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = A2C._targets

    def hidden(
        self: A2C, rollout: Rollout, logits: Tensor, values: Tensor, weights: Tensor
    ) -> Targets:
        float(values.sum())
        return targets(self, rollout, logits, values, weights)

    monkeypatch.setattr(A2C, "_targets", hidden)


# Where nothing can be recorded


def assert_no_graphs(here: Collecting) -> None:
    """It has told so, and learns the same without."""
    assert here.row["graph_refusal"] == 1
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert counted(lambda: here.learn(1))["graphs"] == 0
    plain = Collecting(GPU, 2)
    plain.learn(1)
    assert_same(here, plain, 3)


@on_gpus(no_graphs=1)
def test_without_graphs_the_same_is_learned() -> None:
    assert_no_graphs(graphed(2))


@on_gpus(host_alloc=2)
def test_without_any_page_locked_memory_the_same_is_learned() -> None:
    assert_no_graphs(graphed(2))


@pytest.mark.parametrize("reduces", [None, True])
@on_gpus()
def test_an_update_that_waits_for_a_number_cannot_be_recorded(reduces: bool | None) -> None:
    with pytest.MonkeyPatch.context() as patched:
        with_a_number_read_early(patched)
        here = graphed(2, reduces=reduces)
    assert_no_graphs(here)


@on_gpus()
def test_an_act_that_waits_for_a_number_cannot_be_recorded() -> None:
    act = A2C.act

    def hidden(self: A2C, observations: Tensor, *more: Any) -> Tensor:
        float(observations.sum())
        return act(self, observations, *more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(A2C, "act", hidden)
        here = graphed(2)
    assert_no_graphs(here)


@on_gpus(host_register=801)
def test_rows_that_are_not_page_locked_are_no_obstacle() -> None:
    here = graphed(2)
    assert (here.row.metrics["page_lock_refusal"], here.row["graph_refusal"]) == (801, 0)
    assert counted(lambda: here.learn(1))["graphs"] == 2 * STEPS + 1
    plain = Collecting(GPU, 2)
    plain.learn(1)
    assert_same(here, plain, 3)


@on_gpus()
def test_what_a_former_incarnation_could_not_record_is_not_tried_again() -> None:
    here = Collecting(GPU, 2)
    here.row["graph_refusal"] = 1
    assert counted(lambda: here.collector.record(None))["kernels"] == 0
    assert_no_graphs(here)


def test_on_a_cpu_there_is_nothing_to_record() -> None:
    here, plain = Collecting("cpu", 2), Collecting("cpu", 2)
    here.collector.record(None)
    assert here.row["graph_refusal"] == 0
    assert_same(here, plain, 2)


# The setting


def test_the_flag_reaches_the_config() -> None:
    for flags, expected in (([], True), (["--no-graphs"], False), (["--graphs"], True)):
        config = config_from(build_parser().parse_args(["run", *flags]))
        assert config.resources.graphs is expected


def test_runs_of_before_the_setting_have_graphs() -> None:
    stored = to_dict(from_dict({"resources": {"graphs": False}}))
    assert stored["resources"]["graphs"] is False
    assert from_dict(stored).resources.graphs is False
    del stored["resources"]["graphs"]
    assert from_dict(stored).resources.graphs is True


# The bench's learners


@on_gpus()
def test_the_benchs_learners_do_by_graphs_what_those_of_a_run_do() -> None:
    learners = synthetic_learners(ATARI, learners=2, num_envs=2, network="gala", device="cuda:0")
    take_turns(learners, 1)
    numbers = counted(lambda: take_turns(learners, 1))
    assert [each.status["graph_refusal"] for each in learners] == [0, 0]
    batches = 2
    assert numbers["graphs"] == 2 * (STEPS * batches + 1), numbers
    gauges = take_turns(learners, 1)
    assert all(np.isfinite(value) for value in gauges.values())
