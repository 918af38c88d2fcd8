"""Cost of gossip per turn of a learner, for every topology: publishing and mixing only.

    n learners' vectors of P numbers, in one process --> Exchange.turn of each in turn --> ms, MB

Runs in the bench: on one core, whereas in a run several learners' vectors compete for the caches;
or on one GPU, which all of them share here, one after another.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

import torch
from rich.table import Table

from galamp.core.config import GossipConfig
from galamp.core.errors import UserError
from galamp.gossip.exchange import Exchange, exchange_specs
from galamp.gossip.topologies import TOPOLOGIES, make_topology
from galamp.gossip.topologies.base import Topology
from galamp.memory.arrays import SharedArrays, Wakeup
from galamp.memory.control import ControlBlock
from galamp.memory.status import StatusBoard
from galamp.telemetry.display.console import plain_table

TURNS = 40
WARM_UP_TURNS = 5
BYTES_PER_NUMBER = 4
SEED = 0


@dataclass(frozen=True)
class Cost:
    """Cost of one learner's turn under a topology.

    Attributes:
        topology: its name.
        peers: vectors of others that are mixed per turn, the mean over learners and turns.
        turn_ms: milliseconds of one turn, until a GPU has done all of it; the median over turns and
            learners.
        quick_ms: the minimum of the same.
        slow_ms: the maximum.
        read_mb: read from others per turn, in MB.
    """

    topology: str
    peers: float
    turn_ms: float
    quick_ms: float
    slow_ms: float
    read_mb: float


def costs(learners: int, size: int, device: torch.device | str = "cpu") -> Iterator[Cost]:
    """Yield the cost of each topology with `learners` learners and `size` numbers per vector.

    Raises:
        UserError: the device exists, and nothing can be computed on it.
    """
    device = torch.device(device)
    try:
        torch.ones(1, device=device).tolist()
    except RuntimeError as error:
        words = str(error).partition("\n")[0]
        raise UserError(f"--device {device}: {words}; use --device cpu") from None
    for name in TOPOLOGIES:
        topology = make_topology(name, learners, GossipConfig().gossip_weights, SEED)
        if topology.edges():
            yield _cost(name, topology, size, device)


def _cost(name: str, topology: Topology, size: int, device: torch.device) -> Cost:
    arrays, exchanges = _exchanges(topology, size, device)
    spent_ms = []
    for turn in range(WARM_UP_TURNS + TURNS):
        for exchange in exchanges:
            start_s = time.perf_counter()
            exchange.turn(turn + 1)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn >= WARM_UP_TURNS:
                spent_ms.append((time.perf_counter() - start_s) * 1e3)
    arrays.unlock_pages()
    ranks, turns = range(topology.size), range(TURNS)
    heard = sum(len(topology.in_peers(rank, turn)) for rank in ranks for turn in turns)
    peers = heard / (len(ranks) * len(turns))
    read_mb = peers * size * BYTES_PER_NUMBER / 1e6
    return Cost(name, peers, median(spent_ms), min(spent_ms), max(spent_ms), read_mb)


def _exchanges(
    topology: Topology, size: int, device: torch.device
) -> tuple[SharedArrays, list[Exchange]]:
    """Create every learner's exchange, all in this process."""
    count, config = topology.size, GossipConfig()
    specs = ControlBlock.specs(count) + StatusBoard.specs(count, 1)
    arrays = SharedArrays.create(specs + exchange_specs(config, topology, {"parameters": size}))
    ControlBlock(arrays).prepare()
    status_board, wakeups = StatusBoard(arrays, count), [Wakeup() for _ in range(count)]
    exchanges = []
    for rank in range(count):
        ControlBlock(arrays).set_alive(rank, True)
        exchange = Exchange(
            arrays,
            rank,
            topology,
            config,
            state={"parameters": torch.randn(size, device=device)},
            gradient=torch.zeros(size, device=device),
            seed=SEED,
            wakeups=wakeups,
            row=status_board.learner(rank),
            idle=lambda: None,
        )
        exchange.resume_from(0, 0)
        exchanges.append(exchange)
    return arrays, exchanges


def costs_table(found: list[Cost]) -> Table:
    """Return a line per topology."""
    result = plain_table(
        ("topology", "peers mixed", "ms per turn", "min - max", "MB read per turn")
    )
    for one in found:
        result.add_row(
            one.topology,
            f"{one.peers:.1f}",
            f"{one.turn_ms:.2f}",
            f"{one.quick_ms:.2f} - {one.slow_ms:.2f}",
            f"{one.read_mb:.1f}",
        )
    return result
