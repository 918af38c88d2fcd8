"""Exchange of one learner with the others, turn by turn: parameters, and optionally gradients.

    backward --gradients--> Exchange.reduce --mean of all, or unchanged--> optimiser step
    optimiser step --parameters--> Exchange.turn --published, mixed--> the next rollout

Runs in a learner. The run's `GossipConfig` decides what is exchanged, and when.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from galamp.core.config import GossipConfig
from galamp.gossip.device_mixing import DeviceGossiper
from galamp.gossip.mixing import Gossiper
from galamp.gossip.schedule import Schedule
from galamp.gossip.topologies.base import Topology
from galamp.gossip.topologies.complete import Complete
from galamp.gossip.topologies.independent import Independent
from galamp.gossip.transport import SHARED_MEMORY, transport_class
from galamp.gossip.transport.base import Transport, TransportContext
from galamp.gossip.transport.publication_ring import PublicationRing
from galamp.memory.arrays import ArraySpec, SharedArrays, Wakeup
from galamp.memory.control import ControlBlock
from galamp.memory.status import StatusRow

WATCH_EVERY_S = 0.25
"""Interval at which parameters are published for the supervisor's measurements, without gossip."""
WATCH_EVERY_TURNS = 8
"""The same for synchronous learners, which all publish after the same turns."""
SAMPLE_EVERY = 8
"""Updates between two gradients that are published for the supervisor to compare."""
PARAMETERS, GRADIENTS = "parameters", "gradients"


def averages_gradients(config: GossipConfig) -> bool:
    """Whether learners average gradients instead of parameters."""
    return config.method == "allreduce"


def exchange_specs(
    config: GossipConfig,
    topology: Topology,
    sizes: Mapping[str, int],
    transport: str = SHARED_MEMORY,
) -> list[ArraySpec]:
    """Return the shared arrays of all learners' exchange, for state tensors of these sizes.

    `transport` is of `TRANSPORTS`.
    """
    kind, parameters = transport_class(transport), sizes["parameters"]
    size = sum(sizes.values()) if config.gossip_optimizer else parameters
    specs = kind.specs(topology, size, PARAMETERS)
    if averages_gradients(config):
        specs += kind.specs(Complete(topology.size), parameters, GRADIENTS)
    elif config.gradient_correlation:
        specs += kind.specs(Independent(topology.size), parameters, GRADIENTS)
    return specs + (PublicationRing.specs(topology) if config.certificate else [])


class Exchange:
    """Exchange of learner `rank`: `reduce` within an update, `turn` after an update."""

    def __init__(
        self,
        arrays: SharedArrays,
        rank: int,
        topology: Topology,
        config: GossipConfig,
        *,
        state: Mapping[str, Tensor],
        gradient: Tensor,
        reductions: int = 1,
        seed: int,
        number: int | None = None,
        wakeups: Sequence[Wakeup],
        row: StatusRow,
        idle: Callable[[], None],
        transport: str = SHARED_MEMORY,
    ) -> None:
        """Set up the exchange of a live `state`: `parameters` [P], then the optimiser's tensors.

        `arrays` hold the `exchange_specs` of the same config and transport; `reductions` is how
        many times `reduce` is called in a turn; `number` is the learner's among those of all nodes,
        by which it draws when to gossip (default: `rank`).
        """
        self._config, self._rank, self._gradient = config, rank, gradient
        self._control = ControlBlock(arrays)
        self._schedule = Schedule(config, seed, rank if number is None else number)
        self._reductions = reductions
        self._alone = not topology.edges()
        self._published_s = 0.0
        self._turn = 0
        vectors = [state["parameters"]]
        if config.gossip_optimizer:
            # Adam's number of steps, too: moments of counts 16 and 32 have, on average, nearly the
            # bias that the correction for their mean, 24, takes away; that for 32 takes too little.
            vectors += [tensor for name, tensor in state.items() if name != "parameters"]
        context = partial(
            TransportContext, arrays, rank, wakeups=wakeups, ordered=config.synchronous
        )
        kind = DeviceGossiper if gradient.is_cuda else Gossiper
        gossiper = partial(kind, config=config, control=self._control, row=row, idle=idle)
        new_transport = transport_class(transport)
        size = sum(vector.numel() for vector in vectors)
        self._transport = new_transport(context(topology, size, name=PARAMETERS))
        ring = PublicationRing(arrays, rank) if config.certificate else None
        self._parameters = gossiper(self._transport, vectors, publication_ring=ring)
        self._gradients: Gossiper | None = None
        self._samples: Transport | None = None
        size, every = gradient.numel(), topology.size
        if averages_gradients(config):
            gradients = new_transport(context(Complete(every), size, name=GRADIENTS))
            self._gradients = gossiper(gradients, [gradient])
        elif config.gradient_correlation:
            self._samples = new_transport(context(Independent(every), size, name=GRADIENTS))

    def resume_from(self, turn: int, rounds: int) -> None:
        """Continue from the live state as it is now, after this many turns and gossip rounds."""
        self._turn = turn
        self._parameters.resume_from(rounds)
        if self._gradients is not None:
            self._gradients.round = turn * self._reductions

    @property
    def reduces(self) -> bool:
        """Whether `reduce` replaces the gradient by the mean over all learners."""
        return self._gradients is not None

    def reduce(self) -> None:
        """Average, or publish, the gradient of this update, before it is clipped and applied.

        Raises:
            RunFailed: the gradient to be averaged is not finite.
        """
        if self._gradients is not None:
            self._gradients.turn(self._turn)
        elif self._samples is not None and self._turn % SAMPLE_EVERY == 0:
            self._samples.begin_write().copy_(self._gradient)
            self._samples.end_write(
                incarnation=self._control.incarnation(self._rank),
                round_=self._turn,
                version=self._turn,
            )

    def mean_of_peers(self) -> Tensor | None:
        """Return the mean of the newest parameters of all live in-peers, [P], on the CPU.

        None if there are no complete and finite ones.
        """
        status = self._transport.status
        return self.mean_of([peer for peer in self._transport.in_peers if status(peer).alive])

    def mean_of(self, learners: Iterable[int]) -> Tensor | None:
        """Return the mean of the newest parameters of these learners, [P], on the CPU.

        None if there are no complete and finite ones.
        """
        vectors = []
        for learner in learners:
            vector = self._transport.fetch(learner, self._gradient.numel())
            if vector is not None and bool(torch.isfinite(vector.sum())):
                vectors.append(vector)
        return torch.stack(vectors).mean(0) if vectors else None

    def turn(self, version: int) -> None:
        """End a turn, after an update: run a gossip round, if one is due.

        Raises:
            RunFailed: the parameters are not finite.
        """
        self._turn += 1
        due = self._schedule.due(self._turn) and self._control.gossip_enabled
        if due and not self._alone:
            self._parameters.turn(version)
        elif self._to_be_watched():
            self._parameters.publish(version, notify=False)

    def pass_turn(self) -> None:
        """End a turn without an update: nothing is published, and no round is run."""
        self._turn += 1
        if self._gradients is not None:
            self._gradients.round = self._turn * self._reductions

    def _to_be_watched(self) -> bool:
        """Whether it is time to publish parameters for measurements, without a gossip round."""
        if self._config.synchronous:
            return self._turn % WATCH_EVERY_TURNS == 0
        now_s = time.monotonic()
        if now_s - self._published_s < WATCH_EVERY_S:
            return False
        self._published_s = now_s
        return True
