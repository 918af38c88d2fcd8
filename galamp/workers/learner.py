"""A learner process: collect a rollout, learn from it, gossip, report; over and over.

    simulators --observations--> collect: act --actions--> simulators
                                    | a full rollout
                                 update: one optimiser step
                                    | flat parameters
                                 gossip: publish to out-peers, mix with in-peers

It never waits for another learner, but in lock-step or at the staleness bound. One that is started
in the place of a dead one takes its peers' parameters, its own optimiser's state as it was a second
before, and its counters, which stand in shared memory; then it goes on as if nothing had been.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from galamp.algorithms import make_algorithm
from galamp.algorithms.base import Algorithm
from galamp.algorithms.networks import build_model
from galamp.core.algorithm_config import AlgorithmConfig
from galamp.core.config import GossipConfig
from galamp.core.errors import RunFailed, StopRun
from galamp.core.failpoints import reach
from galamp.core.machine.gpu_failures import MemoryUse, is_memory_full, memory_full
from galamp.core.seeding import seed_generators
from galamp.environments.base import EnvironmentSpec
from galamp.gossip.exchange import Exchange, averages_gradients
from galamp.gossip.topologies.base import Topology
from galamp.gossip.transport.parameter_slots import ParameterSlots
from galamp.memory.arrays import SharedArrays, Wakeup
from galamp.memory.control import NEVER, ControlBlock
from galamp.memory.learner_state import (
    FINAL,
    SAVE_EVERY_TURNS,
    STATE_COUNTERS,
    State,
    StateSlots,
)
from galamp.memory.rollout_ports import LearnerPort
from galamp.memory.rollouts import RingWake, RolloutShape
from galamp.memory.status import Phase, StatusBoard
from galamp.workers.collector import Collector

SAVE_EVERY_S = 1.0
"""So old at most is the optimiser's state that the successor of a killed learner starts with."""


@dataclass(frozen=True)
class LearnerTask:
    """All that learner `rank` needs; `sharing` learners are on its device, it is one of them."""

    arrays: SharedArrays
    rank: int
    learners: int
    device: str
    sharing: int
    graphs: bool
    threads: int
    env_splits: int
    shape: RolloutShape
    wake: RingWake
    gossip_wakeups: tuple[Wakeup, ...]
    environment: EnvironmentSpec
    algorithm: AlgorithmConfig
    network: str
    gossip: GossipConfig
    topology: Topology
    model_seed: int
    sampling_seed: int
    process_seed: int
    gossip_seed: int
    state_sizes: dict[str, int]
    total_steps: int


def main(task: LearnerTask) -> None:
    """Learn until the run is over; the last state is left in shared memory.

    Raises:
        RunFailed: what it has learned is not finite, or its GPU has no more memory.
    """
    try:
        _learn(task)
    except RuntimeError as error:  # torch's own for memory is one; CUDA's libraries raise others
        if task.device == "cpu" or not is_memory_full(str(error)):
            raise
        raise RunFailed(_memory_full(task)) from error


def _learn(task: LearnerTask) -> None:
    torch.set_num_threads(task.threads)
    seed_generators(task.process_seed)
    if task.device != "cpu":
        settle_on_gpu(task.device, benchmark=task.graphs and not task.gossip.synchronous)
    learner = Learner(task)
    whole = True
    try:
        learner.run()
    except StopRun:
        # In the middle of a turn; in lock-step what was saved after whole turns is worth more.
        whole = not task.gossip.coupled
    if whole:
        learner.save(FINAL)
    learner.metrics["done"] = 1
    if task.device != "cpu":
        # Under MPS, who leaves with work under way may take others of its GPU along.
        torch.cuda.synchronize(task.device)


def _memory_full(task: LearnerTask) -> str:
    """Return what is told of a GPU that has no more memory."""
    use = None
    with contextlib.suppress(RuntimeError):  # where it has none even for a context
        free, total = torch.cuda.mem_get_info(task.device)
        use = MemoryUse(total - free, total, torch.cuda.memory_allocated(task.device))
    steps = task.shape.num_steps * task.shape.num_envs
    return memory_full(task.device, use, learners=task.sharing, steps=steps, graphs=task.graphs)


def settle_on_gpu(device: str, *, benchmark: bool) -> None:
    """Compute there: products of float32 in TF32, convolutions by cuDNN.

    Args:
        device: such as `cuda:0`.
        benchmark: whether cuDNN tries which of its ways is quickest, at the first call of each
            shape. That takes seconds, and which one it takes, and with it the last bits, may differ
            from run to run; otherwise it takes the same one each time, and none that adds up in an
            order of chance.
    """
    torch.cuda.set_device(device)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = benchmark
    torch.backends.cudnn.deterministic = not benchmark


class Learner:
    """The state of the loop."""

    def __init__(self, task: LearnerTask) -> None:
        self.task = task
        self.control = ControlBlock(task.arrays)
        self.status_board = StatusBoard(task.arrays, task.learners)
        self._incarnation = self.control.incarnation(task.rank)
        self.metrics = self.status_board.learner(task.rank)
        self.metrics.reset()
        self.algorithm = make_algorithm_for(task)
        self.port = LearnerPort(
            task.arrays,
            task.rank,
            task.shape,
            task.wake,
            self._life_of,
            patient=task.gossip.synchronous,
        )
        self.collector = Collector(
            self.port,
            self.algorithm,
            self.metrics,
            self.idle,
            device=torch.device(task.device),
            env_splits=task.env_splits,
            clip_rewards=task.environment.clip_rewards,
        )
        self.exchange = Exchange(
            task.arrays,
            task.rank,
            task.topology,
            task.gossip,
            state=self.algorithm.state(),
            gradient=self.algorithm.parameters.grad,
            seed=task.gossip_seed,
            wakeups=task.gossip_wakeups,
            row=self.metrics,
            idle=self.idle,
        )
        # An update is taken apart only where somebody is to see the gradient in the middle of it.
        shares = averages_gradients(task.gossip)
        seen = shares or task.gossip.gradient_correlation
        self._between = self._reduce if seen else None
        if (
            task.graphs
            and task.device != "cpu"
            and not self.collector.record(shares if seen else None)
        ):
            # What would be tried now would be tried in the first turn, which must not take long.
            torch.backends.cudnn.benchmark = False
        self._states = StateSlots(task.arrays, task.rank, task.state_sizes)
        self._saved_id = 0
        self._saved_s = time.monotonic()
        self._restore()

    def run(self) -> None:
        """Turn until the total is reached or the supervisor says stop."""
        number = self.port.first_rollout()
        while not self._finished():
            rollout = self.collector.collect(number)
            self.metrics.enter(Phase.UPDATE)
            gauges = self.algorithm.update(rollout, self._between)
            reach("learner.updated")
            self.metrics.enter(Phase.GOSSIP)
            self.exchange.turn(self.algorithm.version)
            reach("learner.mixed")
            self.metrics.enter(Phase.OTHER)
            self.metrics.report(gauges)
            self.metrics["overflows"] += not math.isfinite(gauges["grad_norm"])
            self.metrics["updates"] = self.algorithm.version
            self.metrics["turns"] += 1
            self.metrics["agent_steps"] += self.collector.agent_steps
            self.metrics["envs"] = self.port.envs
            reach("learner.counted")
            self._serve()
            number += 1

    def _reduce(self) -> bool:
        """Hand the gradient to the exchange; returns whether it is everyone's now."""
        self.metrics.enter(Phase.GOSSIP)
        self.exchange.reduce()
        self.metrics.enter(Phase.UPDATE)
        return self.exchange.reduces

    def idle(self) -> None:
        """Show life during a wait, and end it once the run is over."""
        self.metrics.beat()
        if self.control.quit:
            raise StopRun

    def _life_of(self, worker: int) -> int | None:
        """Return which life simulator `worker` of this learner is in; None if it has none."""
        return self.control.simulator_incarnation(self.task.rank * self.task.shape.workers + worker)

    def save(self, save_id: int) -> None:
        """Leave the whole learned state where the supervisor, or the next life, finds it.

        Raises:
            RunFailed: it is not finite; the last one stays.
        """
        tensors = {name: t.detach().cpu().numpy() for name, t in self.algorithm.state().items()}
        if not all(np.isfinite(tensor.sum()) for tensor in tensors.values()):
            raise RunFailed(f"learner {self.task.rank} diverged: its state is not finite")
        counters = {name: self.metrics[name] for name in STATE_COUNTERS}
        generator = self.algorithm.generator.get_state().numpy()
        self._states.save(
            State(tensors, counters, generator),
            save_id=save_id,
            incarnation=self.control.incarnation(self.task.rank),
        )

    def _finished(self) -> bool:
        self.idle()
        turns = self.metrics["turns"]
        if turns >= self.control.stop_turn:
            return True
        if self.task.gossip.synchronous:
            by_all = self.task.shape.num_steps * self.task.shape.num_envs * self.task.learners
            return turns * by_all >= self.task.total_steps
        return self.status_board.agent_steps() >= self.task.total_steps

    def _serve(self) -> None:
        """Leave the state behind when asked to, and now and then in case of a sudden end."""
        save_id, at_turn = self.control.save_request
        turns = self.metrics["turns"]
        asked = save_id != self._saved_id and at_turn != NEVER and turns >= at_turn
        now_s = time.monotonic()
        due = now_s - self._saved_s > SAVE_EVERY_S
        if self.task.gossip.coupled:
            due = turns % SAVE_EVERY_TURNS == 0
        if asked or due:
            self._saved_id = save_id if asked else self._saved_id
            self._saved_s = now_s
            self.save(self._saved_id)

    def _restore(self) -> None:
        """Take over the state that a former life or a checkpoint left, if there is one."""
        found = self._states.restore()
        if found is None:
            self.exchange.begin(0, 0)
            self.save(0)
            return
        state, header = found
        for name, tensor in self.algorithm.state().items():
            tensor.copy_(torch.from_numpy(state.tensors[name]).view_as(tensor))
        if self._incarnation == 0:
            go_on_drawing(self.algorithm.generator, state.generator)
            for name, value in state.counters.items():
                self.metrics[name] = value
        else:
            self._saved_id = header.version
            self._rejoin(state)
        self.algorithm.version = self.metrics["updates"]
        self.exchange.begin(self.metrics["turns"], self.metrics["rounds"])

    def _rejoin(self, state: State) -> None:
        """Take over the parameters of those who went on meanwhile, and owe nobody anything.

        What was done is counted in shared memory, where the former life left it. In lock-step
        everyone goes back to the turn of the saved state, to do again what came after it.
        """
        self.metrics["staleness"] = 0
        if self.task.gossip.coupled:
            for name in ("turns", "rounds", "updates"):
                self.metrics[name] = state.counters[name]
            return
        mean = mean_of_peers(self.task, self.control)
        if mean is not None:
            self.algorithm.state()["parameters"].copy_(mean)


def go_on_drawing(generator: torch.Generator, saved: npt.NDArray[np.uint8]) -> bool:
    """Go on from a saved state, `[G]` bytes, if it is one of the same kind of device.

    Otherwise the generator keeps the seed that this start gave it. Returns whether it goes on.
    """
    if saved.size != generator.get_state().numel():
        return False
    generator.set_state(torch.from_numpy(saved))
    return True


def mean_of_peers(task: LearnerTask, control: ControlBlock) -> Tensor | None:
    """Return the mean of what the in-peers that live have published last, [P].

    None where there is none that is whole and finite.
    """
    in_peers = {sender for sender, receiver in task.topology.edges() if receiver == task.rank}
    vectors = []
    for peer in sorted(in_peers):
        slots = ParameterSlots(task.arrays, peer)
        vector = slots.copy(task.state_sizes["parameters"]) if control.alive(peer) else None
        if vector is not None and bool(torch.isfinite(vector.sum())):
            vectors.append(vector)
    return torch.stack(vectors).mean(0) if vectors else None


def make_algorithm_for(task: LearnerTask) -> Algorithm:
    """Build the network and its algorithm; all learners start from the same parameters."""
    environment = task.environment
    model = build_model(
        task.network,
        environment.observation_shape,
        environment.observation_dtype,
        environment.num_actions,
        seed=task.model_seed,
    )
    return make_algorithm(task.algorithm, model, device=task.device, seed=task.sampling_seed)
