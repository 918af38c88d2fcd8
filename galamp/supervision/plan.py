"""Plan of a run: every open choice of the settings made for this machine.

    RunConfig + Machine --make_plan--> Plan: resolved RunConfig, a LearnerPlan per learner

Pure, except that `make_plan` raises the soft limit on open files to what the plan needs. Runs in
the
supervisor before any process starts, so a setting that does not fit the machine is refused here.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from galamp.algorithms import check_lag
from galamp.core.config import GossipConfig, ResourceConfig, RunConfig
from galamp.core.errors import UserError
from galamp.core.machine.machine import Machine
from galamp.core.machine.process_limits import least_room
from galamp.core.nodes import Place, Ranks, place_of
from galamp.core.settings import AUTO
from galamp.supervision.devices import CPU, devices_of, usable_devices
from galamp.supervision.placement import CpuSet, assign_cpus
from galamp.workers.forkserver import MAX_DESCRIPTORS

NO_GRAPH = "none"
ONLY_FOR_GOSSIP = (
    "topology", "gossip_weights", "gossip_every", "gossip_probability", "global_average_every",
    "nodes_every",
    "target_ball", "ball_floor", "outer_momentum", "outer_lr", "gossip_optimizer",
)  # fmt: skip

LEARNERS_PER_CORE = 8
"""Most learners, however many are asked for."""
USUAL_LEARNERS = 8
"""Most learners on CPUs where no number is asked for."""
DESCRIPTORS_PER_CHILD = 4
DESCRIPTORS_OF_SUPERVISOR = 64

EMULATED = "ALE/"
"""Prefix of Atari environment ids: their simulators run one emulator thread each beside the main
thread. The threads of other environments are unknown."""
THREADS_OF_CUDA = 16
"""Approximate number of threads that the CUDA driver and torch's autograd start in a GPU learner.
"""
THREADS_OF_NETWORK = 8
"""Approximate number of threads that a bridge's network library starts."""
THREADS_PER_EDGE = {"zenoh": 1, "gloo": 7}
"""Approximate number of threads that it starts for each other node besides."""


@dataclass(frozen=True)
class LearnerPlan:
    """Device and processors of one learner and its simulators.

    `node` is the NUMA node of the learner's processors; None where the machine has one node, or the
    processors are on several.
    """

    rank: int
    device: str
    cpus: CpuSet
    node: int | None = None


@dataclass(frozen=True)
class Plan:
    """A run with every choice made."""

    config: RunConfig
    learners: tuple[LearnerPlan, ...]
    device: str
    """The setting `device` as requested; that of `config` names the devices that are used."""
    place: Place | None = None
    """This node among those of the run; None for a run on one machine."""

    @property
    def asked(self) -> RunConfig:
        """Config as stored: every choice made but the devices, which each attempt chooses again."""
        resources = replace(self.config.resources, device=self.device)
        return replace(self.config, resources=resources)

    @property
    def devices(self) -> tuple[str, ...]:
        """The learners' devices, in order of rank."""
        return tuple(learner.device for learner in self.learners)

    @property
    def ranks(self) -> Ranks:
        """How the learners of all nodes are numbered; there may be but one node."""
        node, nodes = (0, 1) if self.place is None else self.place[:2]
        return Ranks(node, nodes, len(self.learners))

    @property
    def simulators(self) -> int:
        """Number of simulator processes over all learners."""
        return len(self.learners) * self.config.resources.simulator_workers

    @property
    def descriptors(self) -> int:
        """Open files that the supervisor needs at most."""
        children = len(self.learners) + self.simulators + (self.place is not None)
        return DESCRIPTORS_OF_SUPERVISOR + DESCRIPTORS_PER_CHILD * children

    @property
    def tasks(self) -> int:
        """Threads of learners, simulators and the checkpoint writer, as the kernel counts them."""
        resources, on_cpu = self.config.resources, self.learners[0].device == CPU
        # torch has two thread pools; the calling thread takes part in each.
        learner = 1 + 2 * (resources.threads - 1) + (0 if on_cpu else THREADS_OF_CUDA)
        # The update thread takes part in the first pool, and has one like the second of its own.
        learner += resources.threads if self.config.algorithm.pipeline else 0
        simulator = 2 if self.config.environment.env_id.startswith(EMULATED) else 1
        bridge = 0
        if self.place is not None:
            edges = self.place.nodes * THREADS_PER_EDGE[self.config.cluster.transport]
            bridge = 1 + THREADS_OF_NETWORK + edges
        return 1 + len(self.learners) * (learner + resources.simulator_workers * simulator) + bridge

    @property
    def agent_steps_per_update(self) -> int:
        """Agent steps of one rollout of one learner."""
        return self.config.algorithm.num_steps * self.config.environment.num_envs


def make_plan(config: RunConfig, machine: Machine, *, resumed: bool = False) -> Plan:
    """Make every open choice.

    Args:
        config: the settings.
        machine: the machine's cores, GPUs and limits.
        resumed: whether the devices are those of a stored run: GPUs that cannot be used now are
            then left out.

    Raises:
        UserError: the machine lacks devices, cores or file handles that the settings require.
    """
    if misfit := config.algorithm.misfit(config.gossip.method):
        raise UserError(f"{misfit}; leave out one of them")
    check_lag(config.algorithm)
    place = place_of(config.cluster, os.environ)
    device = config.resources.device
    devices = devices_of(usable_devices(device, machine) if resumed else device, machine)
    count = config.resources.learners or _learners(devices, machine)
    config, count = with_method(config, count)
    if place is not None:
        from galamp.supervision.cluster import check_cluster

        check_cluster(config, place, count)
    most = LEARNERS_PER_CORE * len(machine.cores)
    if count > most:
        raise UserError(
            f"--learners {count}: {len(machine.cores)} usable cores carry at most {most} "
            f"({LEARNERS_PER_CORE} per core); use fewer learners"
        )
    learners = _layout(devices, machine, count)
    resources = _resources(config, learners, machine)
    plan = Plan(replace(config, resources=resources), learners, device, place)
    _check_descriptors(plan, machine)
    return plan


def changes_kind(device: str, machine: Machine, ran: Sequence[LearnerPlan]) -> bool:
    """Return whether a run moves from GPUs to the CPU, or from the CPU to GPUs."""
    device = usable_devices(device, machine)
    on_cpu = device == CPU or (device == "auto" and not machine.gpus)
    return on_cpu != (ran[0].device == CPU)


def with_learners(
    config: RunConfig, learners: int, machine: Machine, ran: Sequence[LearnerPlan]
) -> RunConfig:
    """Return a resolved config, reopened for another number of learners.

    A value that equals the automatic choice for the old number is chosen again; any other value was
    set by the user, and stays.

    Args:
        config: the settings of the run.
        learners: the new number of learners.
        machine: the machine's cores, GPUs and limits.
        ran: the plans of the old learners, by rank; possibly of another machine.
    """
    count, resources = config.resources.learners, config.resources
    open_ = replace(resources, simulator_workers=AUTO, env_splits=AUTO, threads=AUTO)
    usual = _resources(replace(config, resources=open_), ran, machine)
    fixed: dict[str, Any] = {
        name: getattr(resources, name)
        for name in ("simulator_workers", "env_splits", "threads")
        if getattr(resources, name) != getattr(usual, name)
    }
    algorithm = config.algorithm
    if algorithm.learning_rate == algorithm.default_learning_rate(count * config.cluster.nodes):
        algorithm = replace(algorithm, learning_rate=None)
    resources = replace(open_, learners=learners, **fixed)
    return replace(config, algorithm=algorithm, resources=resources)


def _layout(devices: Sequence[str], machine: Machine, count: int) -> tuple[LearnerPlan, ...]:
    mine = [devices[rank % len(devices)] for rank in range(count)]
    nodes = {gpu.device: gpu.node for gpu in machine.gpus}
    # A GPU learner launches kernels, which must not wait for a simulator on the same core.
    cpu_sets = assign_cpus(
        machine.cpus, [nodes.get(device) for device in mine], alone=mine[0] != CPU
    )
    near = [_node(each, machine) for each in cpu_sets]
    return tuple(map(LearnerPlan, range(count), mine, cpu_sets, near))


def _node(cpus: CpuSet, machine: Machine) -> int | None:
    """Return the NUMA node for a learner's memory."""
    of = {cpu.number: cpu.node for cpu in machine.cpus}
    nodes = {of[number] for number in cpus.learner}
    return nodes.pop() if len(nodes) == 1 and len(set(of.values())) > 1 else None


def with_method(config: RunConfig, count: int) -> tuple[RunConfig, int]:
    """Apply `--method`: the same environments, learning rate and all else, other ways to cooperate.

    Returns the config and the number of learners.

    Raises:
        UserError: settings contradict one another.
    """
    gossip, algorithm = config.gossip, config.algorithm
    if gossip.target_ball is not None and gossip.synchronous:
        raise UserError(
            "--target-ball: in lock-step (--sync, --max-staleness 0, --method allreduce) all "
            "gossip or nobody does, which a measured distance cannot decide in time; use "
            "--gossip-every"
        )
    if gossip.method != "gossip":
        _refuse_gossip(gossip)
        certificate = gossip.certificate and gossip.method == "independent"
        gossip = replace(gossip, topology=NO_GRAPH, certificate=certificate)
    if algorithm.learning_rate is None:
        rate = algorithm.default_learning_rate(count * config.cluster.nodes)
        algorithm = replace(algorithm, learning_rate=rate)
    environment = config.environment
    if gossip.method == "single":
        environment = replace(environment, num_envs=environment.num_envs * count)
        count = 1
    config = replace(config, gossip=gossip, algorithm=algorithm, environment=environment)
    return config, count


def _refuse_gossip(gossip: GossipConfig) -> None:
    """Refuse gossip settings for a method without gossip."""
    usual = GossipConfig()
    given = {name: getattr(gossip, name) for name in ONLY_FOR_GOSSIP}
    if gossip.topology == NO_GRAPH:  # as a resumed run has it
        del given["topology"]
    for name, value in given.items():
        if value != getattr(usual, name):
            flag = "--" + name.replace("_", "-")
            raise UserError(
                f"--method {gossip.method}: learners do not gossip, so {flag} {value} has no "
                "meaning; leave one of the two out"
            )


def _learners(devices: list[str], machine: Machine) -> int:
    """Return one learner per core on CPUs, up to the usual; on GPUs one each, of two cores."""
    if devices == [CPU]:
        return min(USUAL_LEARNERS, machine.usable)
    return max(1, min(len(devices), machine.usable // 2))


def _share(learners: Sequence[LearnerPlan], machine: Machine) -> int:
    """Return how many simulators of a learner can run at once.

    Where a control group limits CPU time below the number of processors, all processors are
    assigned
    nevertheless: the kernel knows better which of them are free.
    """
    fit = min(len(learner.cpus.simulators) for learner in learners)
    if not machine.throttled:
        return fit
    itself = 0 if learners[0].device == CPU else 1
    return max(1, min(fit, machine.usable // len(learners) - itself))


def _resources(
    config: RunConfig, learners: Sequence[LearnerPlan], machine: Machine
) -> ResourceConfig:
    asked, envs = config.resources, config.environment.num_envs
    share = _share(learners, machine)
    workers = asked.simulator_workers or min(envs, share)
    if workers > envs:
        raise UserError(
            f"--simulator-workers {workers}: more than the {envs} environments of --num-envs; "
            "use at most one simulator per environment"
        )
    splits = asked.env_splits or min(2, workers)
    if splits > workers:
        raise UserError(
            f"--env-splits {splits}: more than the {workers} of --simulator-workers; "
            "each part needs a simulator of its own"
        )
    on_cpu = learners[0].device == CPU
    return replace(
        asked,
        learners=len(learners),
        # In order of rank, so that a resumed run assigns them the same way.
        device=",".join(dict.fromkeys(learner.device for learner in learners)),
        simulator_workers=workers,
        env_splits=splits,
        threads=asked.threads or (_threads(config, share) if on_cpu else 1),
    )


def _threads(config: RunConfig, share: int) -> int:
    """Return the compute threads of a learner that has `share` cores; with a pipeline, twice."""
    return max(1, share // 2) if config.algorithm.pipeline else share


def check_processes(plan: Plan, running: int = 0) -> None:
    """Check that the process limits allow the plan's tasks; `running` tasks end before.

    Raises:
        UserError: they do not.
    """
    needed, room = plan.tasks - running, least_room()
    if room is not None and needed > room.tasks:
        raise UserError(
            f"{needed} {'more ' if running else ''}processes and threads are needed, there is room "
            f"for {room.tasks} ({room.limit}): raise it, or use fewer --learners, --threads or "
            "--simulator-workers"
        )


def _check_descriptors(plan: Plan, machine: Machine) -> None:
    children, needed = len(plan.learners) + plan.simulators, plan.descriptors
    if needed > machine.descriptors:
        raise UserError(
            f"{children} processes need {needed} open files, the limit is {machine.descriptors}: "
            "raise it (ulimit -Hn), or use fewer --learners or --simulator-workers"
        )
    learners, workers = len(plan.learners), plan.config.resources.simulator_workers
    if learners + workers > MAX_DESCRIPTORS:
        raise UserError(
            f"--learners {learners} with --simulator-workers {workers}: expected at most "
            f"{MAX_DESCRIPTORS} together, the files that one learner may hold open; use fewer"
        )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


assert AUTO == 0, "`or` above takes AUTO for unset"
