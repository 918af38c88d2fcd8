"""A sysfs tree as a folder: sockets with cores and hardware threads, one NUMA node each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Socket(NamedTuple):
    """One socket: physical cores."""

    cores: int


def build(root: Path, sockets: Sequence[Socket], threads: int) -> list[int]:
    """Write the tree; returns the numbers of all processors.

    As Linux numbers them on most machines: first one thread of each core, socket by socket, then
    the siblings in the same order.
    """
    total = sum(socket.cores for socket in sockets)
    first = 0
    for node, socket in enumerate(sockets):
        mine = []
        for core in range(socket.cores):
            for thread in range(threads):
                number = thread * total + first + core
                mine.append(number)
                topology = root / f"devices/system/cpu/cpu{number}/topology"
                topology.mkdir(parents=True)
                (topology / "physical_package_id").write_text(f"{node}\n")
                (topology / "core_id").write_text(f"{core}\n")
        folder = root / f"devices/system/node/node{node}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(",".join(map(str, sorted(mine))) + "\n")
        first += socket.cores
    return sorted(range(threads * total))
