"""Run layout: all shared memory of a run, and every child's specification and task.

    Plan --RunLayout--> SharedArrays, wake-ups, a (ChildSpec, task) per child

Runs in the supervisor, which owns all of it before any child starts; children inherit their parts.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from galamp.algorithms.distributions import make_distribution
from galamp.algorithms.flat_parameters import Span
from galamp.algorithms.networks import resolve_network
from galamp.algorithms.networks.checks import check_network
from galamp.core.disk import Where, as_named
from galamp.core.normalisation import NORMALISER_GAUGES, NormaliserSpec, normaliser_spec
from galamp.core.processes.titles import run_name, title_of
from galamp.core.seeding import seed_for
from galamp.environments.base import EnvironmentSpec
from galamp.gossip.exchange import exchange_specs
from galamp.gossip.topologies.base import Topology
from galamp.gossip.topologies.from_node import FromNode
from galamp.memory.arrays import ArraySpec, SharedArrays, Wakeup
from galamp.memory.control import ControlBlock
from galamp.memory.learner_state import State, StateSlots
from galamp.memory.metrics import LEARNING_RATE, POLICY_LAG
from galamp.memory.moment_slots import MomentSlots
from galamp.memory.rollouts import (
    NUM_SLOTS,
    PIPELINE_SLOTS,
    RingWake,
    RolloutRing,
    RolloutShape,
)
from galamp.memory.status import StatusBoard
from galamp.supervision.plan import LearnerPlan, Plan
from galamp.workers.building import build_algorithm, build_normalised, seen_dtype
from galamp.workers.child import BRIDGE, ChildSpec
from galamp.workers.learner_task import LearnerTask
from galamp.workers.simulator import SimulatorTask

if TYPE_CHECKING:
    from galamp.memory.cluster_board import ClusterBoard
    from galamp.supervision.border import Border
    from galamp.workers.bridge_task import BridgeTask

PROCESS_SEED_OFFSET = 2**20
"""Seed offsets of processes, beyond those of all environments: the learner, then its simulators."""


@dataclass(frozen=True)
class ModelSketch:
    """Name, parameter layout and state sizes of the network, without the network itself.

    `normaliser` is what is normalised, None if nothing is.
    """

    network: str
    layout: tuple[Span, ...]
    state_sizes: dict[str, int]
    normaliser: NormaliserSpec | None = None

    @property
    def parameters(self) -> int:
        """Number of parameters P."""
        return self.state_sizes["parameters"]

    @property
    def normaliser_size(self) -> int:
        """Number of what a learner's normaliser keeps; 0 without one."""
        return 0 if self.normaliser is None else self.normaliser.saved_size


def sketch_model(plan: Plan, environment: EnvironmentSpec) -> ModelSketch:
    """Build the algorithm once, record its sizes, and discard it.

    Raises:
        UserError: the network does not fit the observations, or is the user's and cannot be used.
    """
    config = plan.config
    network = resolve_network(
        config.model.network,
        environment.observation_shape,
        values=config.algorithm.outputs_are_values,
    )
    normaliser = normaliser_spec(
        config.environment, environment.observation_shape, config.algorithm.gamma
    )
    check_network(
        network,
        environment.observation_shape,
        seen_dtype(environment.observation_dtype, normaliser),
        make_distribution(environment.actions).num_inputs,
        seed=plan.config.seed,
        scale=environment.observation_scale,
        twice=config.algorithm.pipeline,
    )
    seed = plan.config.seed
    seeds = {"model_seed": seed, "sampling_seed": seed}
    if normaliser is None:
        algorithm = build_algorithm(config.algorithm, network, environment, device="cpu", **seeds)
    else:
        algorithm, _ = build_normalised(
            config.algorithm, network, environment, normaliser, device="cpu", **seeds
        )
    sizes = {name: tensor.numel() for name, tensor in algorithm.state().items()}
    return ModelSketch(network, tuple(algorithm.parameters.layout()), sizes, normaliser)


def rollout_shape(plan: Plan, environment: EnvironmentSpec) -> RolloutShape:
    """Return the shape of every learner's rollouts."""
    config = plan.config
    return RolloutShape(
        num_steps=config.algorithm.num_steps,
        num_envs=config.environment.num_envs,
        workers=config.resources.simulator_workers,
        observation_shape=environment.observation_shape,
        observation_dtype=environment.observation_dtype,
        action_shape=environment.actions.shape,
        action_dtype=environment.actions.dtype,
        slots=PIPELINE_SLOTS if config.algorithm.pipeline else NUM_SLOTS,
    )


def array_specs(
    plan: Plan, topology: Topology, environment: EnvironmentSpec, sketch: ModelSketch
) -> list[ArraySpec]:
    """Return the specification of every shared array of a run."""
    count, simulators = len(plan.learners), plan.simulators
    gauges = {LEARNING_RATE: "", **plan.config.algorithm.gauges}
    if plan.config.algorithm.pipeline:
        gauges[POLICY_LAG] = ""
    if sketch.normaliser is not None:
        gauges |= NORMALISER_GAUGES
    ranks = plan.ranks
    specs = ControlBlock.specs(ranks.all, simulators)
    specs += StatusBoard.specs(count, simulators, gauges, len(ranks.remote))
    if plan.place is not None:
        from galamp.supervision.border import Border

        specs += Border.specs(plan)
    specs += exchange_specs(plan.config.gossip, topology, sketch.state_sizes)
    shape = rollout_shape(plan, environment)
    for rank in range(count):
        specs += RolloutRing.specs(rank, shape)
        specs += StateSlots.specs(rank, sketch.state_sizes, sketch.normaliser_size)
        if sketch.normaliser is not None:
            specs += MomentSlots.specs(rank, sketch.normaliser.own_size)
    return specs


class RunLayout:
    """The shared memory of a run and the tasks that work on it.

    Attributes:
        start: how often the run was started, this time included.
        where: returns where a path of the run folder is now.
    """

    def __init__(
        self,
        plan: Plan,
        topology: Topology,
        environment: EnvironmentSpec,
        sketch: ModelSketch,
        logs: Path,
        start: int,
        where: Where = as_named,
    ) -> None:
        self.plan, self.topology = plan, topology
        self.environment, self.sketch = environment, sketch
        self.count = len(plan.learners)
        self.shape = rollout_shape(plan, environment)
        self._logs, self.where, self.start = logs, where, start
        ranks = plan.ranks
        nodes = [learner.node for learner in plan.learners] + [None] * len(ranks.remote)
        specs = array_specs(plan, topology, environment, sketch)
        self.arrays = SharedArrays.create(specs, nodes if plan.config.resources.pin else ())
        self._wakes = [RingWake.create(self.shape.workers) for _ in plan.learners]
        self._gossip_wakeups = tuple(Wakeup() for _ in plan.learners)
        self.control = ControlBlock(self.arrays)
        self.control.prepare()
        self._border: Border | None = None
        if plan.place is not None:
            from galamp.supervision.border import Border

            self._border = Border(plan, plan.place, self.arrays)
            self._gossip_wakeups += self._border.wakeups()
        self.status_board = StatusBoard(self.arrays, self.count, len(ranks.remote))
        self.states = [
            StateSlots(self.arrays, rank, sketch.state_sizes) for rank in range(self.count)
        ]

    def learner(self, rank: int, incarnation: int) -> tuple[ChildSpec, LearnerTask]:
        """Return the specification and the task of one incarnation (from 0) of learner `rank`."""
        learner = self.plan.learners[rank]
        spec = self._spec("learner", learner, None, incarnation)
        return spec, self._learner_task(learner, incarnation)

    def simulator(
        self, rank: int, worker: int, incarnation: int
    ) -> tuple[ChildSpec, SimulatorTask]:
        """Return the specification and the task of one incarnation of a simulator."""
        learner = self.plan.learners[rank]
        index = self.simulator_index(rank, worker)
        spec = self._spec("simulator", learner, worker, incarnation)
        return spec, self._simulator_task(learner, worker, index, incarnation)

    @property
    def board(self) -> ClusterBoard | None:
        """What is known of other nodes; None in a run on one machine."""
        return None if self._border is None else self._border.board

    def bridge(self, incarnation: int) -> tuple[ChildSpec, BridgeTask]:
        """Return the specification and the task of one incarnation of the bridge."""
        assert self._border is not None, "a run on one machine has no bridge"
        from galamp.supervision.cluster import about_run

        spec = self._spec(BRIDGE, self.plan.learners[0], None, incarnation)
        network, env_id = (self.sketch.network, self.sketch.parameters), self.environment.env_id
        graph = self.topology.graph if isinstance(self.topology, FromNode) else self.topology
        about = about_run(self.plan.config, self.plan.ranks, env_id, *network, graph)
        wakeups, model = self._gossip_wakeups, self.sketch.layout
        task = self._border.task(self.topology, wakeups, about, model, self.sketch.parameters)
        return dataclasses.replace(spec, cores=()), task

    def simulator_index(self, rank: int, worker: int) -> int:
        """Return a simulator's number over all learners."""
        return rank * self.shape.workers + worker

    def publish_moments(self, rank: int, state: State) -> None:
        """Publish the statistics of a restored state, for all learners, before any is started."""
        spec = self.sketch.normaliser
        if spec is not None:
            slots, own = MomentSlots(self.arrays, rank), state.normaliser[: spec.own_size]
            slots.publish(own, incarnation=0, turn=state.counters["turns"])

    def wake_learner(self, rank: int) -> None:
        """Wake learner `rank` if it waits for its simulators: it reads the control block again."""
        self._wakes[rank].learner.signal()

    def _spec(
        self, role: str, learner: LearnerPlan, worker: int | None, incarnation: int
    ) -> ChildSpec:
        title = BRIDGE if role == BRIDGE else title_of(role, learner.rank, worker)
        name = title.replace(" ", "-") + ".log"
        cores = learner.cpus.simulators if role == "simulator" else learner.cpus.learner
        return ChildSpec(
            role=role,
            rank=learner.rank,
            worker=worker,
            target=f"galamp.workers.{role}:main",
            cores=cores if self.plan.config.resources.pin else (),
            nice=self.plan.config.resources.nice,
            incarnation=incarnation,
            log=str((self.where(self._logs) or self._logs) / name),
            run=run_name(self._logs.parent),
        )

    def _learner_task(self, learner: LearnerPlan, incarnation: int) -> LearnerTask:
        config = self.plan.config
        return LearnerTask(
            arrays=self.arrays,
            rank=learner.rank,
            learners=self.count,
            place=self.plan.ranks,
            device=learner.device,
            sharing=sum(each.device == learner.device for each in self.plan.learners),
            graphs=config.resources.graphs,
            threads=config.resources.threads,
            env_splits=config.resources.env_splits,
            shape=self.shape,
            wake=self._wakes[learner.rank],
            gossip_wakeups=self._gossip_wakeups,
            environment=self.environment,
            algorithm=config.algorithm,
            network=self.sketch.network,
            normaliser=self.sketch.normaliser,
            gossip=config.gossip,
            topology=self.topology,
            model_seed=config.seed,
            sampling_seed=self._seed(learner.rank, incarnation),
            process_seed=self._seed(learner.rank, incarnation, PROCESS_SEED_OFFSET),
            gossip_seed=config.seed,
            state_sizes=self.sketch.state_sizes,
            total_steps=config.total_steps,
        )

    def _simulator_task(
        self, learner: LearnerPlan, worker: int, index: int, incarnation: int
    ) -> SimulatorTask:
        config, envs = self.plan.config, self.shape.envs(worker)
        return SimulatorTask(
            arrays=self.arrays,
            rank=learner.rank,
            worker=worker,
            index=index,
            learners=self.count,
            remote=len(self.plan.ranks.remote),
            shape=self.shape,
            wake=self._wakes[learner.rank],
            environment=config.environment,
            seeds=tuple(
                self._seed(learner.rank, incarnation, 1 + env_index)
                for env_index in range(envs.start, envs.stop)
            ),
            process_seed=self._seed(learner.rank, incarnation, PROCESS_SEED_OFFSET + 1 + worker),
            threads=1,
            incarnation=incarnation,
        )

    def _seed(self, rank: int, incarnation: int, offset: int = 0) -> int:
        """Return the seed of a learner (offset 0), of an environment (1 + index) or process.

        Every incarnation gets different seeds.
        """
        entropy = [self.plan.config.seed, self.plan.ranks.among_all(rank), self.start]
        if incarnation:
            entropy += [offset, incarnation]
        elif offset:
            entropy += [offset]
        return seed_for(*entropy)
