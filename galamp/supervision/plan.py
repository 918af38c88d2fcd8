"""From what the user asked for and what the machine has to who runs where: no choice is left open.

    RunConfig + Machine --make_plan--> Plan: resolved RunConfig, a LearnerPlan per learner

Pure but for the soft limit on open files, which `make_plan` raises to what the plan needs. Runs in
the supervisor before any process starts, so this is where a setting that does not fit the machine
is refused.
"""

from __future__ import annotations

import re
import resource
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from galamp.core.config import GossipConfig, ResourceConfig, RunConfig
from galamp.core.errors import UserError
from galamp.core.machine.machine import Machine
from galamp.core.machine.process_limits import least_room
from galamp.core.settings import AUTO
from galamp.supervision.placement import Place, place
from galamp.workers.forkserver import MAX_DESCRIPTORS

NO_GRAPH = "none"
ONLY_FOR_GOSSIP = (
    "topology", "gossip_weights", "gossip_every", "gossip_probability", "target_ball",
    "gossip_optimizer",
)  # fmt: skip

CPU = "cpu"
LEARNERS_PER_CORE = 8
DESCRIPTORS_PER_CHILD = 4
DESCRIPTORS_OF_SUPERVISOR = 64

EMULATED = "ALE/"
"""How the id of an Atari game begins: its simulators have a thread that emulates beside their own.
What threads other environments have is known to nobody."""
THREADS_OF_CUDA = 16
"""About so many threads does the driver start in a learner on a GPU, and torch's autograd."""


@dataclass(frozen=True)
class LearnerPlan:
    """Where one learner and its simulators run.

    `node` is the NUMA node of the learner's processors; None where there is one node only, or they
    are on several.
    """

    rank: int
    device: str
    place: Place
    node: int | None = None


@dataclass(frozen=True)
class Plan:
    """A run with every choice made."""

    config: RunConfig
    learners: tuple[LearnerPlan, ...]
    device: str
    """The setting `device` as it was asked for; that of `config` names those that are used."""

    @property
    def asked(self) -> RunConfig:
        """What is stored: every choice made but for the devices, which each start chooses anew."""
        resources = replace(self.config.resources, device=self.device)
        return replace(self.config, resources=resources)

    @property
    def devices(self) -> tuple[str, ...]:
        """The learners' devices, in order of rank."""
        return tuple(learner.device for learner in self.learners)

    @property
    def simulators(self) -> int:
        """Simulator processes over all learners."""
        return len(self.learners) * self.config.resources.simulator_workers

    @property
    def descriptors(self) -> int:
        """Open files that the supervisor needs at most."""
        children = len(self.learners) + self.simulators
        return DESCRIPTORS_OF_SUPERVISOR + DESCRIPTORS_PER_CHILD * children

    @property
    def tasks(self) -> int:
        """Learners, simulators and the one who saves, as the kernel counts them: by threads."""
        resources, on_cpu = self.config.resources, self.learners[0].device == CPU
        # torch has two pools of threads for its work, in each of which the one who asks takes part.
        learner = 1 + 2 * (resources.threads - 1) + (0 if on_cpu else THREADS_OF_CUDA)
        simulator = 2 if self.config.environment.env_id.startswith(EMULATED) else 1
        return 1 + len(self.learners) * (learner + resources.simulator_workers * simulator)

    @property
    def agent_steps_per_update(self) -> int:
        """Agent steps of one rollout of one learner."""
        return self.config.algorithm.num_steps * self.config.environment.num_envs


def make_plan(config: RunConfig, machine: Machine, *, goes_on: bool = False) -> Plan:
    """Make every open choice.

    Args:
        config: the settings.
        machine: what there is to choose from.
        goes_on: whether the devices are those that a run had: it goes on without those that
            cannot be used now.

    Raises:
        UserError: the machine has not the devices, cores or file handles that were asked for.
    """
    device = config.resources.device
    devices = _devices(usable_devices(device, machine) if goes_on else device, machine)
    count = config.resources.learners or _learners(devices, machine)
    config, count = _with_method(config, count)
    most = LEARNERS_PER_CORE * len(machine.cores)
    if count > most:
        raise UserError(
            f"--learners {count}: {len(machine.cores)} usable cores carry at most {most} "
            f"({LEARNERS_PER_CORE} per core); use fewer learners"
        )
    learners = _layout(devices, machine, count)
    resources = _resources(config, learners, machine)
    plan = Plan(replace(config, resources=resources), learners, device)
    _check_descriptors(plan, machine)
    return plan


def left_out(machine: Machine) -> list[str]:
    """Return a line for each GPU that a run cannot use; one that was named was refused before."""
    return [f"{device} is left out: {why}" for device, why in machine.unusable.items()]


def usable_devices(device: str, machine: Machine) -> str:
    """Return a run's setting `device` for its next start, without the GPUs that cannot be used.

    Where none that can is left they stay, to be refused with their cause. Where torch shows none
    of them, as on another machine, `auto` chooses; they are still those that the run is to have.
    """
    if device in ("auto", CPU):
        return device
    every = [*(gpu.device for gpu in machine.gpus), *machine.unusable]
    every.sort(key=lambda name: int(name.removeprefix("cuda:")))
    shown = every if device == "cuda" else [d for d in device.split(",") if d in every]
    return ",".join([each for each in shown if each not in machine.unusable] or shown) or "auto"


def changes_kind(device: str, machine: Machine, ran: Sequence[LearnerPlan]) -> bool:
    """Whether learners that ran on GPUs go on on the CPU, or the other way round."""
    device = usable_devices(device, machine)
    on_cpu = device == CPU or (device == "auto" and not machine.gpus)
    return on_cpu != (ran[0].device == CPU)


def with_learners(
    config: RunConfig, learners: int, machine: Machine, ran: Sequence[LearnerPlan]
) -> RunConfig:
    """Return a config with every choice made, opened for other learners.

    What the rules would have chosen for those that it had is left open for them to choose anew;
    what they would not was somebody's wish, and stays.

    Args:
        config: the settings of the run.
        learners: how many it is to have.
        machine: what there is to choose from.
        ran: where those that it had were, by rank; another machine, maybe.
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
    if algorithm.learning_rate == algorithm.default_learning_rate(count):
        algorithm = replace(algorithm, learning_rate=None)
    resources = replace(open_, learners=learners, **fixed)
    return replace(config, algorithm=algorithm, resources=resources)


def _layout(devices: Sequence[str], machine: Machine, count: int) -> tuple[LearnerPlan, ...]:
    mine = [devices[rank % len(devices)] for rank in range(count)]
    nodes = {gpu.device: gpu.node for gpu in machine.gpus}
    # On a GPU it launches kernels, which must not wait for a simulator's turn on the same core.
    places = place(machine.cpus, [nodes.get(device) for device in mine], alone=mine[0] != CPU)
    near = [_node(each, machine) for each in places]
    return tuple(map(LearnerPlan, range(count), mine, places, near))


def _node(place: Place, machine: Machine) -> int | None:
    """Return the NUMA node that a learner's memory should lie on."""
    of = {cpu.number: cpu.node for cpu in machine.cpus}
    nodes = {of[number] for number in place.learner}
    return nodes.pop() if len(nodes) == 1 and len(set(of.values())) > 1 else None


def _devices(wanted: str, machine: Machine) -> list[str]:
    if wanted == "auto":
        return [gpu.device for gpu in machine.gpus] or [CPU]
    if wanted == CPU:
        return [CPU]
    if wanted == "cuda":
        wanted = ",".join([gpu.device for gpu in machine.gpus] + [*machine.unusable]) or "cuda:0"
    devices = wanted.split(",")
    for device in devices:
        # No leading zeros: torch takes none.
        if not re.fullmatch("cuda:(0|[1-9][0-9]{0,3})", device):
            raise UserError(
                f"--device {wanted}: expected auto, cpu, cuda, or a list such as cuda:0,cuda:1"
            )
        if device in machine.unusable:
            raise UserError(
                f"--device {device}: {machine.unusable[device]}; or use --device "
                f"{_instead(machine)}"
            )
        if device not in (gpu.device for gpu in machine.gpus):
            raise UserError(
                f"--device {device}: this machine shows {len(machine.gpus)} GPUs to torch; "
                "use --device cpu, or a torch build and driver that see the GPU"
            )
    return devices


def _instead(machine: Machine) -> str:
    """Return the devices that can be used, as a value of `--device`."""
    return ",".join(gpu.device for gpu in machine.gpus if gpu.name) or CPU


def _with_method(config: RunConfig, count: int) -> tuple[RunConfig, int]:
    """Apply `--method`: the same environments, learning rate and all else, other ways to cooperate.

    Returns the config and the number of learners.

    Raises:
        UserError: settings that contradict one another.
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
        rate = algorithm.default_learning_rate(count)
        algorithm = replace(algorithm, learning_rate=rate)
    environment = config.environment
    if gossip.method == "single":
        environment = replace(environment, num_envs=environment.num_envs * count)
        count = 1
    config = replace(config, gossip=gossip, algorithm=algorithm, environment=environment)
    return config, count


def _refuse_gossip(gossip: GossipConfig) -> None:
    """Refuse settings of gossip where learners do not gossip."""
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
    """One learner per core on CPUs; on GPUs one each, with at least two cores apiece."""
    if devices == [CPU]:
        return min(LEARNERS_PER_CORE, machine.usable)
    return max(1, min(len(devices), machine.usable // 2))


def _share(learners: Sequence[LearnerPlan], machine: Machine) -> int:
    """Return how many simulators of a learner can run at once.

    Where a control group allows less time than there are processors, all of these are dealt out
    none the less: which of them are free, the kernel sees better.
    """
    places = min(len(learner.place.simulators) for learner in learners)
    if not machine.throttled:
        return places
    itself = 0 if learners[0].device == CPU else 1
    return max(1, min(places, machine.usable // len(learners) - itself))


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
        # In order of rank, so that a resumed run deals them out alike.
        device=",".join(dict.fromkeys(learner.device for learner in learners)),
        simulator_workers=workers,
        env_splits=splits,
        threads=asked.threads or (share if on_cpu else 1),
    )


def check_processes(plan: Plan, running: int = 0) -> None:
    """Check that there is room for the tasks of a plan, in the place of those `running`.

    Raises:
        UserError: there is not.
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
