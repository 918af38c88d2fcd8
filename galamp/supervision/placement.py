"""Which processors a learner and its simulators run on: near its GPU, no physical core twice.

    Cpus of the machine + a NUMA node (or none) per learner --place--> a Place per learner

A physical core goes to one learner with all its hardware threads, as long as there are as many
cores as learners. A learner's cores are on its GPU's node; cores of nodes that have too few
learners go, for simulators, to those who would have less than others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from galamp.core.machine.machine import Cpu

Core = tuple[Cpu, ...]
"""A physical core as its hardware threads."""


class Place(NamedTuple):
    """Numbers of the processors of one learner.

    Attributes:
        learner: where it computes.
        simulators: where its simulators run.
    """

    learner: tuple[int, ...]
    simulators: tuple[int, ...]

    @property
    def cores(self) -> tuple[int, ...]:
        """All of them, each once, in the order of their physical cores."""
        return tuple(dict.fromkeys(self.learner + self.simulators))


def place(cpus: Sequence[Cpu], nodes: Sequence[int | None], *, alone: bool) -> list[Place]:
    """Deal the processors out.

    Args:
        cpus: what can be used, at least one.
        nodes: the NUMA node that each learner should be on; None for any.
        alone: whether a learner has its first physical core for itself, where it has several.
            Otherwise it and its simulators share all of theirs.
    """
    cores = physical_cores(cpus)
    if len(nodes) > len(cores):  # too few: hardware threads are dealt out instead
        cores = [(cpu,) for core in cores for cpu in core]
    if len(nodes) > len(cores):
        return [_place([cores[rank % len(cores)]], alone=False) for rank in range(len(nodes))]
    return [_place(share, alone=alone) for share in _deal(cores, nodes)]


def physical_cores(cpus: Sequence[Cpu]) -> list[Core]:
    """Return the processors by physical core, in the order of node, socket and core."""
    found: dict[tuple[int, tuple[int, int]], list[Cpu]] = {}
    for cpu in sorted(cpus, key=lambda cpu: (cpu.node, cpu.core, cpu.number)):
        found.setdefault((cpu.node, cpu.core), []).append(cpu)
    return [tuple(core) for core in found.values()]


def _place(cores: Sequence[Core], *, alone: bool) -> Place:
    numbers = [tuple(cpu.number for cpu in core) for core in cores]
    everything = tuple(number for core in numbers for number in core)
    if not alone or len(numbers) == 1:
        return Place(everything, everything)
    return Place(numbers[0], everything[len(numbers[0]) :])


def _deal(cores: list[Core], nodes: Sequence[int | None]) -> list[list[Core]]:
    """Give each learner its part: no core twice, all cores used, at least one core each."""
    ranks = _by_node(cores, nodes)
    if ranks is None:
        return [_part(cores, rank, len(nodes)) for rank in range(len(nodes))]
    shares: list[list[Core]] = [[] for _ in nodes]
    spare: list[Core] = []
    for node, local in _local(cores).items():
        here = ranks.get(node, [])
        most = -(-len(cores) // len(nodes)) * len(here)  # no more than an equal share each
        for turn, rank in enumerate(here):
            shares[rank] = _part(local[:most], turn, len(here))
        spare += local[most:]
    for core in spare:
        min(shares, key=len).append(core)
    return shares


def _by_node(cores: list[Core], nodes: Sequence[int | None]) -> dict[int, list[int]] | None:
    """Return the ranks that go to each node; None where nodes are nobody's matter.

    Who has no node, or one without processors of this run, goes where most cores are left.
    """
    local = {node: len(those) for node, those in _local(cores).items()}
    if len(local) == 1 or all(node not in local for node in nodes):
        return None
    settled = Counter(node for node in nodes if node in local)
    if any(number > local[node] for node, number in settled.items() if node is not None):
        return None  # more learners than cores there: even shares of all are better
    ranks: dict[int, list[int]] = {}
    for rank, node in enumerate(nodes):
        if node is None or node not in local:
            node = max(local, key=lambda n: local[n] / (1 + settled[n]))
            settled[node] += 1
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
