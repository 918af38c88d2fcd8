"""What the cached forward pass with its backward pass by hand buys, against plain autograd.

    Parts with the cache, Parts without --blocks that take turns--> ms per agent step of each

Runs in the bench, on one core and one thread, as a learner of a CPU run does. Both compute the same
network on the same observations; see `algorithms/cached_conv.py` and `RecomputedForward`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from statistics import median

import torch
from rich.table import Table

from galamp.telemetry.display.console import plain_table
from galamp.tools.bench.parts import ACT, LEARN, Parts, train_block

CACHED, AUTOGRAD = "cached, by hand", "plain autograd"
BLOCKS = 40
"""Blocks of each, of `parts.BLOCK_S` seconds."""

Blocks = Mapping[str, Sequence[Mapping[str, float]]]
"""Name of a forward pass -> milliseconds per agent step of every part, block by block."""


def measure(
    env_id: str, num_envs: int, network: str, precision: str, blocks: int = BLOCKS
) -> Blocks:
    """Measure both forward passes on one core; the first block of each is left out."""
    allowed, threads = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, [min(allowed)])
    torch.set_num_threads(1)
    try:
        both = {
            name: Parts(env_id, num_envs, network, precision, cached=name == CACHED)
            for name in (CACHED, AUTOGRAD)
        }
        found: dict[str, list[Mapping[str, float]]] = {name: [] for name in both}
        for number in range(blocks + 1):
            for name, parts in both.items():
                one = train_block(parts)
                if number:
                    found[name].append(one)
    finally:
        os.sched_setaffinity(0, allowed)
        torch.set_num_threads(threads)
    return found


def forwards_table(found: Blocks) -> Table:
    """Return a line per forward pass, and how often the cached one's time autograd takes."""
    table = plain_table(("forward pass", ACT, LEARN, "both, ms", "times the first"))
    total = {name: [sum(each.values()) for each in blocks] for name, blocks in found.items()}
    for name, blocks in found.items():
        cells = [f"{median(each[part] for each in blocks):.4f}" for part in (ACT, LEARN)]
        pairs = zip(total[name], total[CACHED], strict=True)
        ratios = [mine / cached for mine, cached in pairs]
        spread = f"{median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})"
        table.add_row(name, *cells, f"{median(total[name]):.4f}", spread)
    return table
