"""Seeds: one per process and per environment, all derived from the seed of the run.

    run seed, rank, start, worker, incarnation --seed_for--> seed --seed_generators--> this process

Used by every process that runs a user's code. Children are forked from one server, and a fork
copies the state of every generator: without its own seed each process would draw the same numbers.
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
"""Module with a process-wide generator -> function that seeds it."""


def seed_for(*entropy: int) -> int:
    """Mix integers, such as (seed, rank, env_index, start), into one seed below 2**31."""
    return int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)


def seed_generators(seed: int, seeded: frozenset[str] = frozenset()) -> frozenset[str]:
    """Seed the process-wide generators of all loaded modules that have one.

    Call it once before a user's code is loaded, and again after it, with the first result: the
    second call seeds modules that were loaded in between, and leaves other generators unchanged.

    Args:
        seed: from 0 to 2**31 - 1.
        seeded: modules that are seeded already.

    Returns:
        all modules that are seeded now.
    """
    loaded = frozenset(_SEEDERS) & frozenset(sys.modules)
    for name in sorted(loaded - seeded):
        _SEEDERS[name](sys.modules[name], seed)
    return loaded | seeded
