"""From what the user asked for and what the machine has to who runs where: no choice is left open.

    RunConfig + Machine --make_plan--> Plan: resolved RunConfig, a LearnerPlan per learner

Pure but for `inspect_machine`, `lacks_bf16` and `processor_name`, which look, and the soft limit
on open files, which `make_plan` raises to what the plan needs. Runs in the supervisor before any
process starts, so this is where a setting that does not fit the machine is refused.
"""

from __future__ import annotations

import math
import os
import platform
import re
import resource
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from galamp.config import GossipConfig, ResourceConfig, RunConfig
from galamp.errors import UserError
from galamp.forking import MOST_DESCRIPTORS
from galamp.options import AUTO

BASE_LEARNING_RATE = 7e-4
"""Step size of a single learner; n learners take it times sqrt(n) (published GALA code)."""

NO_GRAPH = "none"
ONLY_FOR_GOSSIP = (
    "topology", "gossip_weights", "gossip_every", "gossip_probability", "target_ball",
    "gossip_optimizer",
)  # fmt: skip

LEARNERS_PER_CORE = 8
LEARNERS_PER_GPU = 4
DESCRIPTORS_PER_CHILD = 4
DESCRIPTORS_OF_SUPERVISOR = 64


@dataclass(frozen=True)
class Machine:
    """What this process may use."""

    cores: tuple[int, ...]
    gpus: int
    descriptors: int


@dataclass(frozen=True)
class LearnerPlan:
    """Where one learner and its simulators run."""

    rank: int
    device: str
    cores: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """A run with every choice made."""

    config: RunConfig
    learners: tuple[LearnerPlan, ...]

    @property
    def simulators(self) -> int:
        """Simulator processes over all learners."""
        return len(self.learners) * self.config.resources.simulator_workers

    @property
    def agent_steps_per_update(self) -> int:
        """Agent steps of one rollout of one learner."""
        return self.config.algorithm.num_steps * self.config.environment.num_envs


def inspect_machine(device: str) -> Machine:
    """Look at cores, GPUs (unless `device` is `cpu`), and the limit on open files."""
    gpus = 0
    if device != "cpu":
        os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
        import torch.cuda  # only counted: the supervisor never makes a CUDA context

        gpus = torch.cuda.device_count()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    descriptors = 2**20 if hard == resource.RLIM_INFINITY else hard
    return Machine(tuple(sorted(os.sched_getaffinity(0))), gpus, descriptors)


def lacks_bf16() -> bool:
    """Whether this machine's processor computes bf16 slower than float32: it has no such units."""
    flags = _of_processor("flags", "Features").split()
    return not any(name in flags for name in ("avx512_bf16", "amx_bf16", "bf16"))


def processor_name() -> str:
    """Return the name of this machine's processor, as far as the kernel tells it."""
    return _of_processor("model name") or platform.machine()


def _of_processor(*names: str) -> str:
    """Return what the kernel says of the first processor under one of `names`; "" if nothing."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    fields = (line.partition(":") for line in text.splitlines())
    return next((value.strip() for name, _, value in fields if name.strip() in names), "")


def make_plan(config: RunConfig, machine: Machine) -> Plan:
    """Make every open choice.

    Raises:
        UserError: the machine has not the devices, cores or file handles that were asked for.
    """
    devices = _devices(config.resources.device, machine)
    count = config.resources.learners or _learners(devices, machine)
    config, count = _with_method(config, count)
    most = LEARNERS_PER_CORE * len(machine.cores)
    if count > most:
        raise UserError(
            f"--learners {count}: {len(machine.cores)} usable cores carry at most {most} "
            f"({LEARNERS_PER_CORE} per core); use fewer learners"
        )
    learners = _layout(devices, machine, count)
    resources = _resources(config, learners)
    plan = Plan(replace(config, resources=resources), learners)
    _check_descriptors(plan, machine)
    return plan


def with_learners(config: RunConfig, learners: int, machine: Machine) -> RunConfig:
    """Return a config with every choice made, opened for another number of learners.

    What the rules would have chosen for its own number is left open for them to choose anew; what
    they would not was somebody's wish, and stays.
    """
    count, resources = config.resources.learners, config.resources
    devices = resources.device.split(",")
    open_ = replace(resources, simulator_workers=AUTO, batches=AUTO, threads=AUTO)
    usual = _resources(replace(config, resources=open_), _layout(devices, machine, count))
    fixed: dict[str, Any] = {
        name: getattr(resources, name)
        for name in ("simulator_workers", "batches", "threads")
        if getattr(resources, name) != getattr(usual, name)
    }
    if resources.device != "cpu":
        used = [each.device for each in _layout(_devices("auto", machine), machine, count)]
        if devices == list(dict.fromkeys(used)):
            fixed["device"] = "auto"
    algorithm = config.algorithm
    if algorithm.learning_rate == _learning_rate(count):
        algorithm = replace(algorithm, learning_rate=None)
    resources = replace(open_, learners=learners, **fixed)
    return replace(config, algorithm=algorithm, resources=resources)


def _layout(devices: list[str], machine: Machine, count: int) -> tuple[LearnerPlan, ...]:
    return tuple(
        LearnerPlan(rank, devices[rank % len(devices)], _share(machine.cores, rank, count))
        for rank in range(count)
    )


def _learning_rate(count: int) -> float:
    return BASE_LEARNING_RATE * math.sqrt(count)


def _devices(wanted: str, machine: Machine) -> list[str]:
    if wanted == "auto":
        wanted = "cuda" if machine.gpus else "cpu"
    if wanted == "cpu":
        return ["cpu"]
    if wanted == "cuda":
        wanted = ",".join(f"cuda:{index}" for index in range(max(1, machine.gpus)))
    devices = wanted.split(",")
    for device in devices:
        # No leading zeros: torch takes none.
        if not re.fullmatch("cuda:(0|[1-9][0-9]{0,3})", device):
            raise UserError(
                f"--device {wanted}: expected auto, cpu, cuda, or a list such as cuda:0,cuda:1"
            )
        if int(device.removeprefix("cuda:")) >= machine.gpus:
            raise UserError(
                f"--device {device}: this machine shows {machine.gpus} GPUs to torch; "
                "use --device cpu, or a torch build and driver that see the GPU"
            )
    return devices


def _with_method(config: RunConfig, count: int) -> tuple[RunConfig, int]:
    """Apply `--method`: the same simulators, learning rate and all else, other ways to cooperate.

    Returns the config and the number of learners.

    Raises:
        UserError: settings that contradict one another.
    """
    gossip, algorithm = config.gossip, config.algorithm
    if gossip.target_ball is not None and gossip.lock_step:
        raise UserError(
            "--target-ball: in lock-step (--sync, --max-staleness 0, data-parallel) all gossip or "
            "nobody does, which a measured distance cannot decide in time; use --gossip-every"
        )
    if gossip.method != "gala":
        _refuse_gossip(gossip)
        certificate = gossip.certificate and gossip.method == "independent"
        gossip = replace(gossip, topology=NO_GRAPH, certificate=certificate)
    if algorithm.learning_rate is None:
        algorithm = replace(algorithm, learning_rate=_learning_rate(count))
    environment = config.environment
    if gossip.method == "a2c":
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
    """One learner per core on CPUs; on GPUs several each, with at least two cores apiece."""
    if devices == ["cpu"]:
        return min(LEARNERS_PER_CORE, len(machine.cores))
    return max(1, min(LEARNERS_PER_GPU * len(devices), len(machine.cores) // 2))


def _share(cores: tuple[int, ...], rank: int, count: int) -> tuple[int, ...]:
    if count > len(cores):
        return (cores[rank % len(cores)],)
    return cores[len(cores) * rank // count : len(cores) * (rank + 1) // count]


def _resources(config: RunConfig, learners: tuple[LearnerPlan, ...]) -> ResourceConfig:
    asked, lanes = config.resources, config.environment.num_envs
    share = min(len(learner.cores) for learner in learners)
    workers = asked.simulator_workers or min(lanes, share)
    if workers > lanes:
        raise UserError(
            f"--simulator-workers {workers}: more than the {lanes} simulators of --num-envs; "
            "use at most one worker per simulator"
        )
    batches = asked.batches or min(2, workers)
    if batches > workers:
        raise UserError(
            f"--batches {batches}: more than the {workers} of --simulator-workers; "
            "each batch needs a worker of its own"
        )
    on_cpu = learners[0].device == "cpu"
    return replace(
        asked,
        learners=len(learners),
        # In order of rank, so that a resumed run deals them out alike.
        device=",".join(dict.fromkeys(learner.device for learner in learners)),
        simulator_workers=workers,
        batches=batches,
        threads=asked.threads or (share if on_cpu else 1),
    )


def _check_descriptors(plan: Plan, machine: Machine) -> None:
    children = len(plan.learners) + plan.simulators
    needed = DESCRIPTORS_OF_SUPERVISOR + DESCRIPTORS_PER_CHILD * children
    if needed > machine.descriptors:
        raise UserError(
            f"{children} processes need {needed} open files, the limit is {machine.descriptors}: "
            "raise it (ulimit -Hn), or use fewer --learners or --simulator-workers"
        )
    learners, workers = len(plan.learners), plan.config.resources.simulator_workers
    if learners + workers > MOST_DESCRIPTORS:
        raise UserError(
            f"--learners {learners} with --simulator-workers {workers}: expected at most "
            f"{MOST_DESCRIPTORS} together, the files that one learner may hold open; use fewer"
        )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


assert AUTO == 0, "`or` above takes AUTO for unset"
