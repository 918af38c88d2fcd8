"""Processors of a learner and its simulators: near its GPU, no physical core used twice.

    Cpus of the machine + a NUMA node (or None) per learner --assign_cpus--> a CpuSet per learner

A physical core goes to one learner, with all its hardware threads, as long as there are at least as
many cores as learners. A learner's cores are on the node of its GPU. Cores on nodes with too few
learners go, for simulators, to the learners that have the fewest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from galamp.core.machine.machine import Cpu

Core = tuple[Cpu, ...]
"""A physical core, as its hardware threads."""


class CpuSet(NamedTuple):
    """Processor numbers of one learner.

    Attributes:
        learner: processors of the learner process.
        simulators: processors of its simulators.
    """

    learner: tuple[int, ...]
    simulators: tuple[int, ...]

    @property
    def cores(self) -> tuple[int, ...]:
        """All of them, each once, in the order of their physical cores."""
        return tuple(dict.fromkeys(self.learner + self.simulators))


def assign_cpus(cpus: Sequence[Cpu], nodes: Sequence[int | None], *, alone: bool) -> list[CpuSet]:
    """Divide the processors among the learners.

    Args:
        cpus: usable processors, at least one.
        nodes: the NUMA node that each learner should be on; None for any.
        alone: whether a learner has its first physical core for itself, where it has several.
            Otherwise it shares all of its cores with its simulators.
    """
    cores = physical_cores(cpus)
    if len(nodes) > len(cores):  # too few: assign hardware threads instead
        cores = [(cpu,) for core in cores for cpu in core]
    if len(nodes) > len(cores):
        return [_cpu_set([cores[rank % len(cores)]], alone=False) for rank in range(len(nodes))]
    return [_cpu_set(share, alone=alone) for share in _divide(cores, nodes)]


def physical_cores(cpus: Sequence[Cpu]) -> list[Core]:
    """Return the processors by physical core, in the order of node, socket and core."""
    found: dict[tuple[int, tuple[int, int]], list[Cpu]] = {}
    for cpu in sorted(cpus, key=lambda cpu: (cpu.node, cpu.core, cpu.number)):
        found.setdefault((cpu.node, cpu.core), []).append(cpu)
    return [tuple(core) for core in found.values()]


def _cpu_set(cores: Sequence[Core], *, alone: bool) -> CpuSet:
    numbers = [tuple(cpu.number for cpu in core) for core in cores]
    everything = tuple(number for core in numbers for number in core)
    if not alone or len(numbers) == 1:
        return CpuSet(everything, everything)
    return CpuSet(numbers[0], everything[len(numbers[0]) :])


def _divide(cores: list[Core], nodes: Sequence[int | None]) -> list[list[Core]]:
    """Divide the cores: none twice, all used, at least one for each learner."""
    ranks = _by_node(cores, nodes)
    if ranks is None:
        return [_part(cores, rank, len(nodes)) for rank in range(len(nodes))]
    shares: list[list[Core]] = [[] for _ in nodes]
    spare: list[Core] = []
    for node, local in _local(cores).items():
        local_ranks = ranks.get(node, [])
        most = -(-len(cores) // len(nodes)) * len(local_ranks)  # no more than an equal share each
        for turn, rank in enumerate(local_ranks):
            shares[rank] = _part(local[:most], turn, len(local_ranks))
        spare += local[most:]
    for core in spare:
        min(shares, key=len).append(core)
    return shares


def _by_node(cores: list[Core], nodes: Sequence[int | None]) -> dict[int, list[int]] | None:
    """Return the ranks that go to each node; None where nodes make no difference.

    A learner without a node, or on a node without usable processors, goes where most cores are
    left.
    """
    local = {node: len(cores) for node, cores in _local(cores).items()}
    if len(local) == 1 or all(node not in local for node in nodes):
        return None
    assigned = Counter(node for node in nodes if node in local)
    if any(number > local[node] for node, number in assigned.items() if node is not None):
        return None  # more learners than cores there: even shares of all are better
    ranks: dict[int, list[int]] = {}
    for rank, node in enumerate(nodes):
        if node is None or node not in local:
            node = max(local, key=lambda n: local[n] / (1 + assigned[n]))
            assigned[node] += 1
        ranks.setdefault(node, []).append(rank)
    return ranks


def _local(cores: list[Core]) -> dict[int, list[Core]]:
    """Return the cores of each node."""
    found: dict[int, list[Core]] = {}
    for core in cores:
        found.setdefault(core[0].node, []).append(core)
    return found


def _part(cores: list[Core], turn: int, count: int) -> list[Core]:
    return cores[len(cores) * turn // count : len(cores) * (turn + 1) // count]
