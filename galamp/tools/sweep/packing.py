"""Packing: which cores and GPUs a run gets, and whether there is room for it now.

    needs of a run --Packing.take--> Place, or None while others have its cores --> Packing.free

Each run has cores of its own; only where more runs are wanted at once than have cores (`--jobs`),
they share the cores that have the fewest. Pure: nothing is bound to a core here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from galamp.core.settings import AUTO


@dataclass(frozen=True)
class Place:
    """Cores, and indices of GPUs, of one run."""

    cores: tuple[int, ...]
    gpus: tuple[int, ...] = ()


class Packing:
    """The cores and GPUs of a machine, and who has them."""

    def __init__(
        self, cores: Sequence[int], gpus: int = 0, *, jobs: int = AUTO, runs_per_gpu: int = 1
    ) -> None:
        """Pack onto these cores, neighbours beside one another, and GPUs `0` to `gpus` - 1.

        Args:
            cores: numbers of the processors, at least one.
            gpus: how many there are.
            jobs: runs at once; `AUTO`: as many as have cores and GPUs of their own.
            runs_per_gpu: runs that may share a GPU.
        """
        self._cores, self._gpus, self._jobs = tuple(cores), tuple(range(gpus)), jobs
        self._per_gpu = runs_per_gpu
        self._on: Counter[int] = Counter()
        self._on_gpu: Counter[int] = Counter()
        self._running = 0

    def cores_for(self, wanted: int) -> int:
        """Return how many cores a run gets that wants so many; 0 wants all."""
        most = len(self._cores)
        if self._jobs != AUTO:
            most = max(1, most // self._jobs)
        return min(wanted or most, most)

    def take(self, cores: int, gpus: int = 0) -> Place | None:
        """Return the place of a run that wants so many cores and GPUs; None if there is none now.

        A run gets no more GPUs than there are.
        """
        count, gpus = self.cores_for(cores), min(gpus, len(self._gpus))
        if self._jobs != AUTO and self._running >= self._jobs:
            return None
        mine = self._least(self._cores, self._on, count)
        mine_of_gpus = self._least(self._gpus, self._on_gpu, gpus)
        if self._jobs == AUTO and (
            any(self._on[core] for core in mine)
            or any(self._on_gpu[gpu] >= self._per_gpu for gpu in mine_of_gpus)
        ):
            return None
        self._on.update(mine)
        self._on_gpu.update(mine_of_gpus)
        self._running += 1
        return Place(mine, mine_of_gpus)

    def free(self, place: Place) -> None:
        """Take back a place."""
        self._on.subtract(place.cores)
        self._on_gpu.subtract(place.gpus)
        self._running -= 1

    @staticmethod
    def _least(all_of: tuple[int, ...], taken: Counter[int], count: int) -> tuple[int, ...]:
        """Return the `count` that the fewest runs have, in order."""
        order = sorted(range(len(all_of)), key=lambda at: (taken[all_of[at]], at))
        return tuple(all_of[at] for at in sorted(order[:count]))
