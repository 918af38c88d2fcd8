"""Learner: a process that repeats: collect a rollout, update, gossip, report.

    simulators --observations--> collect: act --actions--> simulators
                                    | a full rollout
                                 update: one optimiser step
                                    | flat parameters
                                 gossip: publish to out-peers, mix with in-peers

It never waits for another learner, unless learners are synchronous or it is at the staleness bound.
The next incarnation of a dead learner starts with its peers' mean parameters, its own optimiser's
state of at most a second before the death, and its counters, which are in shared memory.
"""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
import torch

from galamp.core.errors import RunFailed, StopRun
from galamp.core.failpoints import hit
from galamp.core.machine.gpu_failures import is_memory_full
from galamp.core.processes.tracing import TracingPermit
from galamp.core.seeding import seed_generators
from galamp.gossip.exchange import Exchange, averages_gradients
from galamp.memory.control import NEVER, ControlBlock
from galamp.memory.learner_state import (
    FINAL,
    NOTHING,
    STATE_COUNTERS,
    State,
    StateSlots,
    save_every_turns,
)
from galamp.memory.rollout_ports import LearnerPort
from galamp.memory.status import Phase, StatusBoard
from galamp.memory.versioned_slots import Header
from galamp.workers.collector import Collector
from galamp.workers.gpu import memory_full_text, use_gpu
from galamp.workers.learner_task import LearnerTask, copy_for_acting, make_algorithm_for
from galamp.workers.pipeline import Pipeline
from galamp.workers.turns import Parts, PlainTurns, Turns

SAVE_EVERY_S = 1.0
"""Interval of saves: the optimiser's state after a restart is at most this old."""
SETTLE_POLL_S = 0.02
"""Pause between two looks, at the start, whether there is what other nodes have."""


def main(task: LearnerTask) -> None:
    """Learn until the run is over; then save the last state in shared memory.

    Raises:
        RunFailed: the learned state is not finite, or the GPU has no more memory.
    """
    try:
        _learn(task)
    except RuntimeError as error:  # of torch's allocator, or of CUDA's libraries
        if task.device == "cpu" or not is_memory_full(str(error)):
            raise
        steps = task.shape.num_steps * task.shape.num_envs
        raise RunFailed(
            memory_full_text(task.device, learners=task.sharing, steps=steps, graphs=task.graphs)
        ) from error


def _learn(task: LearnerTask) -> None:
    torch.set_num_threads(task.threads)
    seed_generators(task.process_seed)
    if task.device != "cpu":
        use_gpu(task.device, benchmark=task.graphs and not task.gossip.synchronous)
    learner = Learner(task)
    complete = True
    try:
        learner.run()
    except StopRun:
        # Within a turn. Synchronous learners keep the states that were saved after the same turn.
        complete = not task.gossip.exchanges_in_lock_step
    if complete:
        learner.save(FINAL)
    learner.status["done"] = 1
    if task.device != "cpu":
        # Under MPS, a process that exits with work in progress may break others on its GPU.
        torch.cuda.synchronize(task.device)


class Learner:
    """State of the learner's loop."""

    def __init__(self, task: LearnerTask) -> None:
        self.task = task
        self.control = ControlBlock(task.arrays)
        self._tracing = TracingPermit(lambda: self.control.tracer)
        self.status_board = StatusBoard(task.arrays, task.learners, len(task.place.remote))
        self._incarnation = self.control.incarnation(task.rank)
        self.status = self.status_board.learner(task.rank)
        self.status.reset()
        self.algorithm, self.normaliser = make_algorithm_for(task, self.idle)
        self.algorithm.heartbeat = self.status.heartbeat
        self.port = LearnerPort(
            task.arrays,
            task.rank,
            task.shape,
            task.wake,
            self._simulator_incarnation,
            synchronous=task.gossip.synchronous,
        )
        pipelined, device = task.algorithm.pipeline, torch.device(task.device)
        behaviour = copy_for_acting(task, self.algorithm) if pipelined else self.algorithm
        self.collector = Collector(
            self.port,
            behaviour,
            self.status,
            self.idle,
            device=device,
            env_splits=task.env_splits,
            clip_rewards=task.environment.clip_rewards,
            scaling=None if self.normaliser is None else self.normaliser.scaling,
            learner=self.algorithm if pipelined else None,
        )
        self.exchange = Exchange(
            task.arrays,
            task.rank,
            task.topology,
            task.gossip,
            state=self.algorithm.state(),
            gradient=self.algorithm.parameters.grad,
            reductions=self.algorithm.reductions,
            seed=task.gossip_seed,
            number=task.place.among_all(task.rank),
            wakeups=task.gossip_wakeups,
            row=self.status,
            idle=self.idle,
        )
        # An update is split in two halves only if its gradient is averaged or published in between.
        averages = averages_gradients(task.gossip)
        split = averages or task.gossip.gradient_correlation
        self._reduce_gradient = self._reduce if split else None
        if (
            task.graphs
            and task.device != "cpu"
            and not self.collector.record(averages if split else None)
        ):
            # Otherwise cuDNN would measure in the first turn, which must not take long.
            torch.backends.cudnn.benchmark = False
        parts = Parts(
            self.algorithm,
            self.collector,
            self.port,
            self.exchange,
            self._reduce_gradient,
            self.normaliser,
            self.status,
            task.total_steps,
        )
        self._turns: Turns = PlainTurns(parts)
        if pipelined:
            self._turns = Pipeline(parts, behaviour, device)
        self._states = StateSlots(task.arrays, task.rank, task.state_sizes)
        self._saved_id = 0
        self._saved_s = time.monotonic()
        self._restore()

    def run(self) -> None:
        """Run turns until the total of steps is reached or the supervisor requests a stop."""
        try:
            self._run()
            self._turns.drain()
        finally:
            self._turns.close()
            self.status["updates"] = self.algorithm.version

    def _run(self) -> None:
        number = self.port.first_rollout()
        while not self._finished():
            self._turns.turn(number, self.status["turns"], self._agent_steps())
            self.status.enter(Phase.OTHER)
            self.status["updates"] = self.algorithm.version
            self.status["turns"] += 1
            self.status["agent_steps"] += self.collector.agent_steps
            self.status.metrics["envs"] = self.port.envs
            hit("learner.counted")
            if self.normaliser is not None:
                self.normaliser.publish(self.status["turns"])
            self._save_if_due()
            number += 1

    def _reduce(self) -> bool:
        """Pass the gradient to the exchange; return whether it is the mean of all learners now."""
        self.status.enter(Phase.GOSSIP)
        self.exchange.reduce()
        self.status.enter(Phase.UPDATE)
        return self.exchange.reduces

    def idle(self) -> None:
        """Count a heartbeat during a wait, permit tracing; end the wait if the run is over.

        Raises:
            StopRun: the supervisor requests an exit.
        """
        self.status.heartbeat()
        self._tracing.follow()
        if self.control.quit:
            raise StopRun

    def _simulator_incarnation(self, worker: int) -> int | None:
        """Return the incarnation of simulator `worker` of this learner; None if it does not run."""
        return self.control.simulator_incarnation(self.task.rank * self.task.shape.workers + worker)

    def save(self, save_id: int) -> None:
        """Save the learner state in shared memory, for the supervisor and the next incarnation.

        Raises:
            RunFailed: the state is not finite; the previous one stays.
        """
        tensors = {name: t.detach().cpu().numpy() for name, t in self.algorithm.state().items()}
        if not all(np.isfinite(tensor.sum()) for tensor in tensors.values()):
            raise RunFailed(f"learner {self.task.rank} diverged: its state is not finite")
        counters = {name: self.status.counter(name) for name in STATE_COUNTERS}
        generator = self.algorithm.generator.get_state().numpy()
        self._states.save(
            State(tensors, counters, generator, self._normaliser_state()),
            save_id=save_id,
            incarnation=self.control.incarnation(self.task.rank),
        )

    def _normaliser_state(self) -> npt.NDArray[np.float64]:
        return NOTHING if self.normaliser is None else self.normaliser.saved()

    def _finished(self) -> bool:
        self.idle()
        return self._is_over()

    def _is_over(self) -> bool:
        if self.status["turns"] >= self.control.stop_turn:
            return True
        return self._agent_steps() >= self.task.total_steps

    def _agent_steps(self) -> int:
        """Return the agent steps of all learners; the same for each, if they are synchronous."""
        if self.task.gossip.synchronous:
            by_all = self.task.shape.num_steps * self.task.shape.num_envs * self.task.learners
            return self.status["turns"] * by_all
        return self.status_board.agent_steps()

    def _save_if_due(self) -> None:
        """Save the state on request, and at intervals in case this process is killed.

        In lock-step the last turn has but one state, that of the end: before, a pipeline has not
        learned from all, and all have to go back to the same.
        """
        save_id, at_turn = self.control.save_request
        turns = self.status["turns"]
        requested = save_id != self._saved_id and at_turn != NEVER and turns >= at_turn
        now_s = time.monotonic()
        due = now_s - self._saved_s > SAVE_EVERY_S
        if self.task.gossip.exchanges_in_lock_step:
            if self._is_over():
                return
            every = save_every_turns(self.task.shape.num_steps, self.task.learners)
            due = turns % every == 0
        if requested or due:
            self._saved_id = save_id if requested else self._saved_id
            self._saved_s = now_s
            self.save(self._saved_id)

    def _restore(self) -> None:
        """Load the state of an earlier incarnation or of a checkpoint, if there is one."""
        found = self._states.restore()
        if found is None:
            self._begin_where_others_are()
            self.exchange.resume_from(0, 0)
            self.save(0)
        else:
            self._restore_from(*found)
        if self.normaliser is not None:
            self.normaliser.publish(self.status["turns"])

    def _restore_from(self, state: State, header: Header) -> None:
        if self.normaliser is not None:
            self.normaliser.restore(state.normaliser)
        for name, tensor in self.algorithm.state().items():
            tensor.copy_(torch.from_numpy(state.tensors[name]).view_as(tensor))
        if self._incarnation == 0:
            restore_generator(self.algorithm.generator, state.generator)
            for name, value in state.counters.items():
                self.status.set_counter(name, value)
            self._begin_where_others_are()
        else:
            self._saved_id = header.version
            self._rejoin(state)
        self.algorithm.version = self.status["updates"]
        self.exchange.resume_from(self.status["turns"], self.status["rounds"])

    def _begin_where_others_are(self) -> None:
        """On one of several nodes, begin with the mean of those that train in the same lane.

        Where none of them does, with the mean of all that train on other nodes. It waits until its
        bridge knows them: a node that comes late, or again, must not pull the others back to what
        it has.
        """
        place = self.task.place
        if place.nodes == 1:
            return
        from galamp.memory.cluster_board import SETTLE_LIMIT_S, ClusterBoard

        board, until_s = ClusterBoard(self.task.arrays, place.nodes, place.all), time.monotonic()
        until_s += SETTLE_LIMIT_S
        while not board.settled and time.monotonic() < until_s:
            self.idle()
            time.sleep(SETTLE_POLL_S)
        twins = range(self.task.rank + place.lanes, place.all, place.lanes)
        train = [r for r in place.remote if board.rank(r, "alive") and board.rank(r, "mirrored")]
        mean = self.exchange.mean_of(rank for rank in train if rank in twins)
        self._adopt(self.exchange.mean_of(train) if mean is None else mean)

    def _rejoin(self, state: State) -> None:
        """Rejoin the run after a restart: start with the mean of the in-peers' parameters.

        The counters of the earlier incarnation are in shared memory, and continue. Synchronous
        learners all return to the turn of their saved states, and repeat the turns after it.
        """
        self.status["staleness"] = 0
        if self.task.gossip.exchanges_in_lock_step:
            for name in ("turns", "rounds", "updates"):
                self.status[name] = state.counters[name]
            return
        self._adopt(self.exchange.mean_of_peers())

    def _adopt(self, mean: torch.Tensor | None) -> None:
        """Take over parameters [P] that others have published, in raw scales, if there are any."""
        if mean is None:
            return
        self.algorithm.state()["parameters"].copy_(mean)
        if self.normaliser is not None:
            self.normaliser.rejoin()


def restore_generator(generator: torch.Generator, saved: npt.NDArray[np.uint8]) -> bool:
    """Set `generator` to a saved state, `[G]` bytes, if that is of the same kind of device.

    Otherwise it keeps the seed of this start. Returns whether the state was restored.
    """
    if saved.size != generator.get_state().numel():
        return False
    generator.set_state(torch.from_numpy(saved))
    return True
