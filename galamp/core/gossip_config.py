"""Settings of the exchange between learners: a section of the config."""

from __future__ import annotations

from dataclasses import dataclass

from galamp.core.settings import option


@dataclass(frozen=True)
class GossipConfig:
    """Who exchanges parameters with whom and when, and how far apart learners may run."""

    method: str = option(
        "gossip",
        "gossip: average parameters with peers, as in GALA; single: one learner with all "
        "environments; allreduce: average gradients at every step; independent: no exchange; the "
        "settings below are for gossip",
        names=("gossip", "single", "allreduce", "independent"),
    )
    topology: str = option(
        "ring",
        "gossip graph, or file:PATH with a matrix of weights or links",
        registry="galamp.gossip.topologies:TOPOLOGIES",
        prefix="file:",
    )
    gossip_weights: str = option(
        "auto",
        "weights of the peers in an average: the same for all (uniform), by the peers' degrees "
        "(metropolis), or what suits the graph (auto)",
        names=("auto", "uniform", "metropolis"),
    )
    gossip_every: int = option(1, "gossip after every so many updates", low=1, high=10**6)
    gossip_probability: float = option(
        1.0, "probability that a round of gossip takes place", low=0.0, high=1.0
    )
    global_average_every: int | None = option(
        None,
        "every so many rounds of gossip, average with all learners instead of the graph's peers "
        "(default: never)",
        unit="rounds",
        low=1,
        high=10**6,
    )
    nodes_every: int = option(
        4,
        "with --topology hierarchical, learners exchange between machines once in so many rounds, "
        "and within their own in the others",
        unit="rounds",
        low=2,
        high=10**6,
    )
    target_ball: float | None = option(
        None,
        "gossip only while a learner is farther than this from the mean (default: always)",
        unit="L2 norm",
        low=0.0,
    )
    ball_floor: float | None = option(
        None,
        "leave out an average that would move a learner's parameters by less than this, so that "
        "learners do not become one; exploratory (default: none is left out)",
        unit="L2 norm",
        low=0.0,
    )
    outer_momentum: float = option(
        0.0,
        "Nesterov momentum of an outer step, which takes the place of an average: on the "
        "difference that updates and average have made since the last one",
        low=0.0,
        high=0.999,
    )
    outer_lr: float = option(
        1.0,
        "learning rate of the outer step; with 1, and no momentum, it is the average",
        low=1e-6,
        high=10.0,
    )
    gossip_optimizer: bool = option(False, "average the optimiser's state, too")
    sync: bool = option(
        False,
        "lock-step rounds: repeatable (on a CPU to the last bit, with the same --threads and "
        "--env-splits), but everyone waits for the slowest",
    )
    max_staleness: int | None = option(
        8,
        "a learner waits, at most 10 s, once it has gone so many rounds without mixing; 0 is "
        "lock-step, inf never waits",
        unit="rounds",
        low=0,
        high=10**9,
        none="inf",
    )
    certificate: bool = option(True, "record the gossip and bound the learners' distances")
    verify_gossip: bool = option(
        False, "put a checksum on what is published, and mix nothing that does not match it"
    )
    gradient_correlation: bool = option(
        False, "measure how alike the learners' gradients are (mean cosine)"
    )

    @property
    def synchronous(self) -> bool:
        """Whether all learners go from round to round together."""
        return self.sync or self.max_staleness == 0 or self.method == "allreduce"

    @property
    def graph(self) -> str:
        """The gossip graph in words."""
        every, name = self.global_average_every, self.topology
        if name == "hierarchical":
            name += f", between machines every {self.nodes_every} rounds"
        return name if every is None else f"{name}, all every {every} rounds"

    @property
    def outer_steps(self) -> bool:
        """Whether outer steps take the place of averages."""
        return self.outer_momentum != 0.0 or self.outer_lr != 1.0

    @property
    def has_radius(self) -> bool:
        """Whether theory may give a radius: all average together, by the graph's weights."""
        return self.synchronous and self.ball_floor is None

    @property
    def exchanges_in_lock_step(self) -> bool:
        """Whether learners exchange in every turn, so that none can continue without the others."""
        return self.synchronous and (self.method == "allreduce" or self.exchanges)

    @property
    def exchanges(self) -> bool:
        """Whether the gossip graph has edges."""
        return self.topology != "none" or self.global_average_every is not None
