"""A learner on a GPU: the same numbers as on a CPU, few launches, few waits, no missing wait.

The GPUs are host memory (tests/fakecuda): that nothing is mixed up, left behind or waited for too
often is seen there; how fast it is, is not.
"""

from __future__ import annotations

import itertools
import os

import numpy as np
import pytest
import torch
from torch import Tensor

from galamp.algorithms.a2c import A2C, Targets
from galamp.algorithms.base import Rollout
from galamp.algorithms.forward import Place
from galamp.core.config import GossipConfig
from galamp.core.normalisation import NormaliserSpec, Scales
from galamp.gossip.device_mixing import DeviceGossiper
from galamp.gossip.mixing import Gossiper
from galamp.memory.arrays import ArraySpec, SharedArrays
from galamp.memory.rollouts import RolloutSlot
from galamp.workers import acting
from galamp.workers.normaliser import Scaling
from tests.contracts.algorithm import acted
from tests.fakecuda.inside import on_gpus
from tests.support.engine import also
from tests.support.on_devices import (
    ENVS,
    STEPS,
    Collecting,
    Learners,
    a2c,
    counted,
    moved,
    rollout,
)

pytestmark = pytest.mark.real

UPDATES = 100
MOST_KERNELS_OF_AN_ACT = 20
MOST_KERNELS_OF_AN_UPDATE = 162
MOST_KERNELS_OF_A_TURN = 12
WAITS_OF_A_TURN = 1


# A2C


@on_gpus()
def test_it_is_given_on_a_gpu_what_it_is_given_on_the_cpu_by_a_normaliser() -> None:
    """Every row as it is acted on, the last one, and the rewards."""
    filled = [rollout("mlp", seed) for seed in range(2)]
    slots = [
        RolloutSlot(*(getattr(one, name).numpy() for name in RolloutSlot._fields)) for one in filled
    ]
    scales = Scales(True, np.full(4, 0.25), np.full(4, 0.125), 0.25)
    given = []
    for device in ("cpu", "cuda:1"):
        scaling = Scaling(NormaliserSpec(4, True), device)
        scaling.set(scales)
        algorithm = a2c("mlp", device)
        actor: acting.Actor = acting.HostActor(
            slots, algorithm, clip_rewards=False, scaling=scaling
        )
        if device != "cpu":
            actor = acting.DeviceActor(
                slots, algorithm, torch.device(device), clip_rewards=False, scaling=scaling
            )
        for step in range(STEPS):
            actor.act(1, step, slice(0, ENVS))
        actor.observe(1, STEPS, slice(0, ENVS))
        found = actor.rollout(1, np.ones((STEPS, ENVS), np.bool_))
        given.append((found.observations.cpu(), found.rewards.cpu()))
    assert torch.equal(given[0][0], given[1][0])
    assert torch.equal(given[0][1], given[1][1])
    assert (given[0][0] != filled[1].observations).any()


@pytest.mark.parametrize("network", ["mlp", also("gala"), also("nature")])
@on_gpus()
def test_it_learns_on_a_gpu_what_it_learns_on_the_cpu(network: str) -> None:
    host, device = a2c(network, "cpu"), a2c(network, "cuda:1")
    for seed in range(UPDATES):
        one = rollout(network, seed)
        metrics, expected = device.update(moved(one, "cuda:1")), host.update(one)
        assert metrics == pytest.approx(expected, rel=1e-3, abs=1e-4), metrics
    for name, tensor in device.state().items():
        assert tensor.device == torch.device("cuda:1"), name
        torch.testing.assert_close(tensor.cpu(), host.state()[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("network", ["gala", "mlp", also("nature")])
@on_gpus()
def test_acting_and_learning_launch_few_kernels_and_wait_once(network: str) -> None:
    device, one = a2c(network, "cuda:1"), moved(rollout(network, 0), "cuda:1")
    seen, place = (one.observations[0], one.first[0]), Place(0, slice(0, ENVS))
    act = counted(lambda: device.act(*seen, place).actions.cpu())
    assert act["kernels"] <= MOST_KERNELS_OF_AN_ACT, act
    assert (act["waits"], act["to_host"], act["to_device"]) == (1, 1, 0), act
    update = counted(lambda: device.update(one))
    assert update["kernels"] <= MOST_KERNELS_OF_AN_UPDATE, update
    assert (update["waits"], update["to_host"], update["to_device"]) == (1, 1, 0), update


@on_gpus()
def test_actions_are_drawn_by_the_generator_that_is_saved() -> None:
    first, second = (a2c("mlp", "cuda:1") for _ in range(2))
    seen = rollout("mlp", 0).observations[0].to("cuda:1").expand(64, ENVS, 4).flatten(0, 1)
    acted(first, seen)
    second.generator.set_state(first.generator.get_state())
    assert acted(first, seen).tolist() == acted(second, seen).tolist()
    assert acted(first, seen).tolist() != acted(first, seen).tolist()


@pytest.mark.parametrize("form", ["torch", "tf"])
@on_gpus()
def test_either_form_of_the_optimiser_waits_for_nothing(form: str) -> None:
    device, one = a2c("mlp", "cuda:0", rmsprop_form=form), moved(rollout("mlp", 0), "cuda:0")
    update = counted(lambda: device.update(one))
    assert (update["waits"], update["to_device"]) == (1, 0), update


@on_gpus()
def test_a_number_that_is_read_too_early_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    device, one = a2c("mlp", "cuda:0"), moved(rollout("mlp", 0), "cuda:0")
    targets = A2C._targets

    def hidden(
        self: A2C, rollout: Rollout, logits: Tensor, values: Tensor, weights: Tensor
    ) -> Targets:
        float(values.sum())
        return targets(self, rollout, logits, values, weights)

    monkeypatch.setattr(A2C, "_targets", hidden)
    assert counted(lambda: device.update(one))["waits"] == 2


@on_gpus()
def test_what_is_left_on_the_cpu_is_seen() -> None:
    device, one = a2c("mlp", "cuda:0"), rollout("mlp", 0)
    with pytest.raises(RuntimeError, match="same device"):
        device.update(one)
    device._optimiser.square_average = torch.zeros(  # type: ignore[attr-defined]
        device.parameters.data.shape
    )
    with pytest.raises(RuntimeError, match="same device"):
        device.update(moved(one, "cuda:0"))


# Gossip


VARIANTS = {
    "plain": GossipConfig(),
    "verified": GossipConfig(verify_gossip=True),
    "with the optimiser": GossipConfig(gossip_optimizer=True),
}


@pytest.mark.parametrize(("graph", "learners"), [("ring", 2), ("exponential", 4)])
@pytest.mark.parametrize("variant", VARIANTS)
@on_gpus()
def test_learners_of_several_gpus_mix_as_those_of_the_cpu(
    graph: str, learners: int, variant: str
) -> None:
    devices = [f"cuda:{rank}" for rank in range(learners)]
    there = Learners(graph, devices, VARIANTS[variant])
    here = Learners(graph, ["cpu"] * learners, VARIANTS[variant])
    there.turns(3), here.turns(3)
    for rank, (mine, theirs) in enumerate(zip(there.states, here.states, strict=True)):
        for name, tensor in mine.items():
            assert tensor.device == torch.device("cuda", rank)
            torch.testing.assert_close(tensor.cpu(), theirs[name], rtol=0, atol=1e-6)
    assert not torch.equal(here.states[0]["parameters"], torch.linspace(0, 1, 3000))


@on_gpus()
def test_a_turn_of_gossip_launches_few_kernels_and_waits_seldom() -> None:
    for turn in Learners("ring", ["cuda:0", "cuda:1"], GossipConfig()).turns(3):
        assert turn["kernels"] <= MOST_KERNELS_OF_A_TURN, turn
        assert turn["waits"] <= WAITS_OF_A_TURN, turn
        assert (turn["to_device"], turn["to_host"]) == (1, 2), turn
        assert turn["between"] == 0, turn


@on_gpus()
def test_a_vector_that_is_not_brought_to_the_gpu_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    learners = Learners("ring", ["cuda:0", "cuda:1"], GossipConfig())
    monkeypatch.setattr(DeviceGossiper, "_fetch", Gossiper._fetch)
    with pytest.raises(RuntimeError, match="same device"):
        learners.turns(3)


# Collecting


def assert_outcomes(learned: list[Rollout]) -> None:
    """What the simulators of `Collecting` write with their steps, from the first one on."""
    steps = torch.arange(1, len(learned) * STEPS + 1).unsqueeze(1).expand(-1, ENVS)
    for name, expected in {
        "rewards": (steps % 3).float(),
        "terminated": steps % 7 == 0,
        "truncated": torch.zeros_like(steps, dtype=torch.bool),
        "valid": steps % 7 != 1,
    }.items():
        assert torch.equal(torch.cat([getattr(one, name) for one in learned]), expected), name


def test_the_simulators_here_write_what_is_expected() -> None:
    _, learned = Collecting("cpu").learn(2)
    assert [len(one.observations) for one in learned] == [STEPS + 1] * 2
    assert torch.equal(learned[0].observations[-1], learned[1].observations[0])
    assert_outcomes(learned)


@pytest.mark.parametrize("env_splits", [1, 2])
@on_gpus(hold=1)
def test_what_is_learned_on_a_gpu_is_what_the_simulators_wrote(env_splits: int) -> None:
    """Copies are held back as long as they may be, so that a wait that is missing tells."""
    here = Collecting("cuda:1", env_splits)
    parameters, learned = here.learn(4)
    assert_outcomes(learned)
    for one, slot in zip(learned[-2:], here.port.slots, strict=True):
        assert torch.equal(one.actions, torch.from_numpy(slot.actions)), "as they were sent"
    # The same actions on the CPU: what follows is told by the rollouts alone.
    host = a2c("mlp", "cpu")
    for number, one in enumerate(learned):
        for row, env_index in itertools.product(range(STEPS + 1), range(ENVS)):
            step = (number * STEPS + row) * 10 + env_index
            expected = np.sin(step * np.arange(1.0, 5.0)).astype(np.float32)
            assert one.observations[row, env_index].numpy() == pytest.approx(expected), (
                number,
                row,
            )
        host.update(one)
    torch.testing.assert_close(parameters, host.parameters.data, rtol=0, atol=1e-6)


@on_gpus(hold=1)
def test_a_missing_wait_for_actions_changes_what_is_learned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parameters, learned = Collecting("cuda:1").learn(3)
    repeated, _ = Collecting("cuda:1").learn(3)
    assert torch.equal(parameters, repeated)
    assert any(bool(one.actions.any()) for one in learned)
    monkeypatch.setattr(acting, "finish", lambda: None)
    without, learned = Collecting("cuda:1").learn(3)
    assert not torch.equal(parameters, without)
    assert not learned[0].actions.any()


@on_gpus(hold=1)
def test_a_row_that_another_stream_copies_is_not_learned_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody waits for that stream."""
    here = Collecting("cuda:1")
    see, aside = here.collector._actor.observe, torch.cuda.Stream()

    def elsewhere(slot: int, step: int, envs: slice) -> None:
        with torch.cuda.stream(aside):
            see(slot, step, envs)

    monkeypatch.setattr(here.collector._actor, "observe", elsewhere)
    _, learned = here.learn(1)
    assert not learned[0].observations.any()


@pytest.mark.parametrize("env_splits", [1, 2])
@on_gpus()
def test_a_rollout_takes_one_wait_for_each_batch_of_actions(env_splits: int) -> None:
    here = Collecting("cuda:1", env_splits)
    here.learn(2)
    numbers = counted(lambda: here.collector.collect(2))
    assert numbers["waits"] == STEPS * env_splits, numbers
    rows, acts = (STEPS + 1) * env_splits, STEPS * env_splits
    assert numbers["to_device"] == rows + acts + 1, "flags of each act, and all else at once"
    assert numbers["to_host"] == STEPS * env_splits, numbers
    assert numbers["non_blocking"] == numbers["to_device"] + numbers["to_host"], numbers
    assert numbers["kernels"] <= STEPS * env_splits * MOST_KERNELS_OF_AN_ACT, numbers


# Page-locked memory


def refuse(code: int) -> None:
    os.environ["FAKE_CUDA_HOST_REGISTER"] = str(code)


@pytest.mark.parametrize("code", [801, 712, 2])
@on_gpus()
def test_without_page_locked_memory_the_same_is_learned(code: int) -> None:
    parameters, _ = Collecting("cuda:1").learn(2)
    plain = Learners("ring", ["cuda:0", "cuda:1"], GossipConfig())
    plain.turns(2)
    refuse(code)
    refused = Collecting("cuda:1")
    assert refused.row.metrics["page_lock_refusal"] == code
    assert torch.equal(refused.learn(2)[0], parameters)
    learners = Learners("ring", ["cuda:0", "cuda:1"], GossipConfig())
    assert [row.metrics["page_lock_refusal"] for row in learners.rows] == [code] * 2
    learners.turns(2)
    for mine, theirs in zip(learners.states, plain.states, strict=True):
        assert torch.equal(mine["parameters"], theirs["parameters"])


@pytest.mark.parametrize("code", [801, 712, 2])
@on_gpus()
def test_a_refusal_is_no_later_kernels_failure(code: int) -> None:
    arrays = SharedArrays.create([ArraySpec("a", (9,), "float32"), ArraySpec("b", (9,), "int64")])
    x = torch.ones(1, device="cuda")
    refuse(code)
    for name in ("a", "b", "a"):
        assert arrays.page_lock(name) == code
        assert (x + 1).item() == 2.0


@on_gpus()
def test_arrays_are_page_locked_whole_and_once() -> None:
    there = Collecting("cuda:1", env_splits=2)
    assert there.row.metrics["page_lock_refusal"] == there.port.page_lock() == 0
    for slot in there.port.slots:
        assert torch.from_numpy(slot.observations).is_pinned()
    whole = there.arrays["rollout0.observations"]
    again = torch.cuda.cudart().cudaHostRegister(whole.ctypes.data + whole.nbytes - 1, 1, 0)
    assert again == 712, "its last byte is locked, too"
    assert torch.cuda.cudart().cudaHostUnregister(whole.ctypes.data) == 0, "as one"


@on_gpus()
def test_two_learners_of_one_process_share_what_is_locked() -> None:
    learners = Learners("ring", ["cuda:0", "cuda:1"], GossipConfig())
    assert [row.metrics["page_lock_refusal"] for row in learners.rows] == [0, 0]
