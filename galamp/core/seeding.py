"""Seeds for everything random: one per process and per environment, all from the run's seed.

    run seed, rank, start, worker, incarnation --seed_for--> seed --seed_generators--> this process

Used by every process that runs foreign code. Children are forked from one server, and a fork copies
the state of every generator: without a seed of its own each process would draw the same numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, Final

import numpy as np

_SEEDERS: Final = MappingProxyType[str, Callable[[Any, int], object]](
    {
        "random": lambda module, seed: module.seed(seed),
        "numpy": lambda module, seed: module.random.seed(seed),
        "torch": lambda module, seed: module.manual_seed(seed),
        "cv2": lambda module, seed: module.setRNGSeed(seed),
    }
)
"""Modules with a generator that the whole process shares, and how it is seeded."""


def seed_for(*entropy: int) -> int:
    """Mix whole numbers, such as (seed, rank, lane, start), into one seed below 2**31."""
    return int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)


def seed_generators(seed: int, seeded: frozenset[str] = frozenset()) -> frozenset[str]:
    """Seed the process-wide generators of all loaded modules that have one.

    Call it once before foreign code is loaded and, with the first call's result, once more after:
    the second call seeds what was loaded in between and leaves the other generators as they are.

    Args:
        seed: from 0 to 2**31 - 1.
        seeded: modules to leave alone.

    Returns:
        the modules that are seeded now.
    """
    loaded = frozenset(_SEEDERS) & frozenset(sys.modules)
    for name in sorted(loaded - seeded):
        _SEEDERS[name](sys.modules[name], seed)
    return loaded | seeded
