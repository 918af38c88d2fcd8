"""A learner on a GPU: the same numbers as on a CPU, few launches, few waits, no missing wait.

The GPUs are host memory (tests/fakecuda): that nothing is mixed up, left behind or waited for too
often is seen there; how fast it is, is not.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from galamp import collector as collecting
from galamp.algorithms import make_algorithm
from galamp.algorithms.a2c import A2C
from galamp.algorithms.base import Algorithm, Rollout
from galamp.algorithms.tape import Place
from galamp.config import AlgorithmConfig, GossipConfig
from galamp.control import ControlBlock
from galamp.gossip.exchange import Exchange, exchange_specs
from galamp.gossip.topologies import make_topology
from galamp.metrics import MetricsBoard, MetricsRow
from galamp.models import build_model
from galamp.ports import LearnerPort, SimulatorPort
from galamp.rollouts import RingWake, RolloutRing, RolloutShape
from galamp.shm import SharedArrays, Wakeup
from tests.engine import also
from tests.fakecuda.inside import counts, on_gpus, reset_counts

pytestmark = pytest.mark.real

ACTIONS, STEPS, LANES = 4, 5, 4
SHAPES = {"gala": (4, 84, 84), "nature": (4, 84, 84), "mlp": (4,)}
DTYPES = {"gala": "uint8", "nature": "uint8", "mlp": "float32"}

MOST_KERNELS_OF_AN_ACT = 20
MOST_KERNELS_OF_AN_UPDATE = 163
MOST_KERNELS_OF_A_TURN = 16
WAITS_OF_A_TURN = 4
"""The norm, the copy out, the copy in, and whether the mean is finite."""
WAITS_OF_A_MOVE = 5
"""Actions, rewards, two flags and the validity, each copied while the host waits."""


def a2c(network: str, device: str, precision: str = "float32") -> Algorithm:
    model = build_model(network, SHAPES[network], DTYPES[network], ACTIONS, seed=1)
    config = AlgorithmConfig(learning_rate=1e-3, precision=precision)
    return make_algorithm(config, model, device=device, seed=1)


def rollout(network: str, seed: int) -> Rollout:
    generator = torch.Generator().manual_seed(seed)
    shape = (STEPS + 1, LANES, *SHAPES[network])
    pixels = torch.randint(0, 255, shape, generator=generator, dtype=torch.uint8)
    flags = [torch.rand(STEPS, LANES, generator=generator) for _ in range(3)]
    return Rollout(
        observations=pixels if DTYPES[network] == "uint8" else pixels / 255.0,
        actions=torch.randint(0, ACTIONS, (STEPS, LANES), generator=generator),
        rewards=torch.randn(STEPS, LANES, generator=generator),
        terminated=flags[0] < 0.1,
        truncated=flags[1] < 0.1,
        valid=flags[2] < 0.9,
    )


def moved(rollout: Rollout, device: str) -> Rollout:
    return Rollout(**{name: value.to(device) for name, value in vars(rollout).items()})


def counted(work: Callable[[], object]) -> dict[str, int]:
    """Return what `work` counts."""
    reset_counts()
    work()
    return counts()


# A2C


@pytest.mark.parametrize("network", ["gala", "mlp", also("nature")])
@on_gpus()
def test_it_learns_on_a_gpu_what_it_learns_on_the_cpu(network: str) -> None:
    host, device = a2c(network, "cpu"), a2c(network, "cuda:1")
    for seed in range(4):
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
    act = counted(lambda: device.act(one.observations[0], Place(0, slice(0, LANES))).cpu())
    assert act["kernels"] <= MOST_KERNELS_OF_AN_ACT, act
    assert (act["waits"], act["to_host"], act["to_device"]) == (1, 1, 0), act
    update = counted(lambda: device.update(one))
    assert update["kernels"] <= MOST_KERNELS_OF_AN_UPDATE, update
    assert (update["waits"], update["to_host"], update["to_device"]) == (1, 1, 0), update


@on_gpus()
def test_actions_are_drawn_by_the_generator_that_is_saved() -> None:
    first, second = (a2c("mlp", "cuda:1") for _ in range(2))
    seen = rollout("mlp", 0).observations[0].to("cuda:1").expand(64, LANES, 4).flatten(0, 1)
    first.act(seen)
    second.generator.set_state(first.generator.get_state())
    assert first.act(seen).tolist() == second.act(seen).tolist()
    assert first.act(seen).tolist() != first.act(seen).tolist()


@on_gpus()
def test_a_number_that_is_read_too_early_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    device, one = a2c("mlp", "cuda:0"), moved(rollout("mlp", 0), "cuda:0")
    returns = A2C._returns

    def hidden(self: A2C, rollout: Rollout, known: Tensor, bootstrap: Tensor) -> Tensor:
        float(bootstrap.sum())
        return returns(self, rollout, known, bootstrap)

    monkeypatch.setattr(A2C, "_returns", hidden)
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


class Learners:
    """The exchange of learners on a GPU each, all in this process."""

    def __init__(self, graph: str, devices: Sequence[str], config: GossipConfig) -> None:
        count, size = len(devices), 3000
        sizes = {"parameters": size, "square_average": size}
        topology = make_topology(graph, count)
        specs = ControlBlock.specs(count) + MetricsBoard.specs(count, 1)
        arrays = SharedArrays.create(specs + exchange_specs(config, topology, sizes))
        control, wakeups = ControlBlock(arrays), [Wakeup() for _ in devices]
        control.prepare()
        self.states = [
            {
                name: torch.linspace(rank, rank + 1, size).to(device)
                for name, size in sizes.items()
            }
            for rank, device in enumerate(devices)
        ]
        self.exchanges = []
        for rank, state in enumerate(self.states):
            control.set_alive(rank, True)
            one = Exchange(
                arrays,
                rank,
                topology,
                config,
                state=state,
                gradient=torch.zeros_like(state["parameters"]),
                seed=0,
                wakeups=wakeups,
                row=MetricsBoard(arrays, count).learner(rank),
                idle=lambda: None,
            )
            one.begin(0, 0)
            self.exchanges.append(one)

    def turns(self, count: int) -> list[dict[str, int]]:
        """Let each take so many turns; returns what each of the last ones counted."""
        for turn in range(count - 1):
            for one in self.exchanges:
                one.turn(turn + 1)
        return [counted(lambda one=one: one.turn(count)) for one in self.exchanges]  # type: ignore[misc]


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
        assert (turn["to_device"], turn["to_host"]) == (1, 1), turn
        assert turn["between"] == 0, turn


@on_gpus()
def test_a_vector_that_is_not_brought_to_the_gpu_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    learners = Learners("ring", ["cuda:0", "cuda:1"], GossipConfig())
    monkeypatch.setattr(Tensor, "to", lambda self, *to: self)
    with pytest.raises(RuntimeError, match="same device"):
        learners.turns(3)


# Collecting


class Collecting:
    """A learner on `device` and one simulator, which counts its steps, in this process."""

    def __init__(self, device: str, batches: int = 1) -> None:
        self.shape = RolloutShape(STEPS, LANES, batches, (4,), "float32")
        count = 1
        specs = RolloutRing.specs(0, self.shape) + MetricsBoard.specs(count, batches)
        self.arrays, self.wake = SharedArrays.create(specs), RingWake.create(batches)
        self.simulators = [
            SimulatorPort(self.arrays, 0, self.shape, self.wake, worker, 0)
            for worker in range(batches)
        ]
        self.row: MetricsRow = MetricsBoard(self.arrays, count).learner(0)
        self.port = LearnerPort(
            self.arrays, 0, self.shape, self.wake, {w: 0 for w in range(batches)}.get
        )
        self.algorithm = a2c("mlp", device)
        self.collector = collecting.Collector(
            self.port,
            self.algorithm,
            self.row,
            self._simulate,
            device=torch.device(device),
            batches=batches,
            clip_rewards=False,
        )
        self.written = [0] * batches
        for simulator in self.simulators:
            simulator.arrive()

    def _simulate(self) -> None:
        """Have every simulator that has been sent actions take its step."""
        for worker, simulator in enumerate(self.simulators):
            try:
                simulator.actions(self._seen(worker), self._nothing_yet)
            except BlockingIOError:
                continue
            self.written[worker] += 1
            lanes = simulator.lanes.stop - simulator.lanes.start
            simulator.write(
                self._seen(worker),
                rewards=np.full(lanes, self.written[worker] % 3, np.float32),
                terminated=np.zeros(lanes, np.bool_),
                truncated=np.zeros(lanes, np.bool_),
                valid=np.ones(lanes, np.bool_),
            )

    def _seen(self, worker: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        lanes = self.simulators[worker].lanes
        number = self.written[worker] * 10 + np.arange(lanes.start, lanes.stop)
        return np.sin(number[:, None] * np.arange(1.0, 5.0)).astype(np.float32)

    @staticmethod
    def _nothing_yet() -> None:
        raise BlockingIOError

    def learn(self, rollouts: int) -> tuple[Tensor, list[Rollout]]:
        """Collect and learn; returns the parameters then, and each rollout as it was learned."""
        learned = []
        for number in range(rollouts):
            one = self.collector.collect(number)
            self.algorithm.update(one)
            learned.append(Rollout(**{k: v.cpu().clone() for k, v in vars(one).items()}))
        return self.algorithm.parameters.data.cpu(), learned


def test_the_simulators_here_write_what_is_expected() -> None:
    _, learned = Collecting("cpu").learn(2)
    assert [len(one.observations) for one in learned] == [STEPS + 1] * 2
    assert torch.equal(learned[0].observations[-1], learned[1].observations[0])
    assert all(bool(one.valid.all()) for one in learned)


@pytest.mark.parametrize("batches", [1, 2])
@on_gpus(hold=1)
def test_what_is_learned_on_a_gpu_is_what_the_simulators_wrote(batches: int) -> None:
    """Copies are held back as long as they may be, so that a wait that is missing tells."""
    parameters, learned = Collecting("cuda:1", batches).learn(4)
    # The same actions on the CPU: what follows is told by the rollouts alone.
    host = a2c("mlp", "cpu")
    for number, one in enumerate(learned):
        for row, lane in itertools.product(range(STEPS + 1), range(LANES)):
            step = (number * STEPS + row) * 10 + lane
            expected = np.sin(step * np.arange(1.0, 5.0)).astype(np.float32)
            assert one.observations[row, lane].numpy() == pytest.approx(expected), (number, row)
        host.update(one)
    torch.testing.assert_close(parameters, host.parameters.data, rtol=0, atol=1e-6)


@on_gpus(hold=1)
def test_a_missing_wait_for_copies_changes_what_is_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters, _ = Collecting("cuda:1").learn(3)
    repeated, _ = Collecting("cuda:1").learn(3)
    assert torch.equal(parameters, repeated)
    monkeypatch.setattr(torch.cuda.Stream, "wait_stream", lambda self, other: None)
    without, learned = Collecting("cuda:1").learn(3)
    assert not torch.equal(parameters, without)
    assert not learned[0].observations.any()


@on_gpus()
def test_a_rollout_is_brought_to_the_gpu_with_few_waits() -> None:
    here = Collecting("cuda:1")
    here.learn(2)
    numbers = counted(lambda: here.collector.collect(2))
    assert numbers["waits"] <= STEPS + WAITS_OF_A_MOVE, numbers
    assert numbers["non_blocking"] == STEPS + 1, numbers
    assert numbers["to_device"] <= STEPS + 1 + WAITS_OF_A_MOVE, numbers
