"""Analysis of a graph before a run, as one record for JSON and text.

    Topology, AnalysisRequest --plan--> Plan --as_json--> one object of plain numbers and words

Pure: no clock, no process, no file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from galamp.gossip.topologies.base import Topology
from galamp.tools.topology.forecast import Ball, Traffic, forecast, traffic
from galamp.tools.topology.mixing_matrices import Rounds
from galamp.tools.topology.spectrum import Spectrum, contraction_of, study


@dataclass(frozen=True)
class AnalysisRequest:
    """Parameters of the forecast besides the graph; norms in the unit of the parameters."""

    name: str
    gossip_weights: str
    parameters: int
    rounds_per_s: float
    update_norm: float
    delay: int
    nodes: int = 1
    """Machines that the learners are on, as many on each, in order of rank."""
    wire: str = "float32"
    """Numbers as they go between machines."""


@dataclass(frozen=True)
class Graph:
    """Properties of the graph; in-peers and weights as (minimum, maximum) over the shown rounds."""

    topology: Topology
    in_peers: tuple[int, int]
    own_weight: tuple[float, float]
    peer_weight: tuple[float, float] | None
    read_whole: bool


@dataclass(frozen=True)
class Plan:
    """The results, and the rounds to draw them from."""

    question: AnalysisRequest
    rounds: Rounds
    graph: Graph
    spectrum: Spectrum
    traffic: Traffic
    ball: Ball

    @property
    def before_averaging(self) -> float:
        """Root mean square distance to the mean after updates are added, before the next round."""
        fresh = self.question.update_norm**2 * (1.0 - 1.0 / self.rounds.size)
        return float((self.ball.radius**2 + fresh) ** 0.5)


def plan(topology: Topology, question: AnalysisRequest) -> Plan:
    """Return the whole analysis of `topology`."""
    rounds = Rounds(topology)
    contraction = contraction_of(rounds)
    spectrum = study(rounds, contraction)
    ball = forecast(rounds, spectrum, contraction, question.update_norm, question.delay)
    q = question
    cost = traffic(rounds, q.parameters, q.rounds_per_s, q.nodes, q.wire)
    return Plan(question, rounds, _graph(rounds), spectrum, cost, ball)


def _graph(rounds: Rounds) -> Graph:
    shown = list(rounds.union())
    heard = [mixing.peer_weights for mixing in shown if mixing.peer_weights.size]
    return Graph(
        topology=rounds.topology,
        in_peers=(
            min(int(mixing.degrees.min()) for mixing in shown),
            max(int(mixing.degrees.max()) for mixing in shown),
        ),
        own_weight=(
            min(float(mixing.own.min()) for mixing in shown),
            max(float(mixing.own.max()) for mixing in shown),
        ),
        peer_weight=(
            (
                min(float(weights[weights > 0].min()) for weights in heard),
                max(float(weights.max()) for weights in heard),
            )
            if heard and any(mixing.degrees.any() for mixing in shown)
            else None
        ),
        read_whole=rounds.period is not None,
    )


def as_json(plan: Plan) -> dict[str, Any]:
    """Return the plan as plain numbers and words; unknown values and "never" are None."""
    topology, spectrum, ball = plan.graph.topology, plan.spectrum, plan.ball
    return {
        "topology": plan.question.name,
        "learners": topology.size,
        "seed": topology.seed,
        "graph": {
            "in_peers_least": plan.graph.in_peers[0],
            "in_peers_most": plan.graph.in_peers[1],
            "period": topology.period(),
            "rounds_shown": plan.rounds.shown,
            "gossip_weights": plan.question.gossip_weights,
            "own_weight": list(plan.graph.own_weight),
            "peer_weight": list(plan.graph.peer_weight) if plan.graph.peer_weight else None,
            "doubly_stochastic": topology.doubly_stochastic,
            "symmetric": topology.symmetric,
        },
        "consensus": {
            "beta": spectrum.beta if topology.doubly_stochastic else None,
            "rate_per_round": spectrum.rate,
            "spectral_gap": spectrum.gap,
            "converged": spectrum.converged,
            "measured_rounds": spectrum.measured_rounds,
            "rounds_to_1_percent": spectrum.consensus,
            "rounds_to_1_percent_exact": spectrum.consensus_exact,
            "averages_exactly_after": spectrum.exactly_after,
        },
        "traffic": _traffic(plan),
        "epsilon_ball": {
            "update_norm": plan.question.update_norm,
            "delay": plan.question.delay,
            "method": ball.method,
            "settled": ball.settled,
            "simulated_rounds": ball.after,
            "consensus_distance": ball.radius,
            "before_averaging_rms": plan.before_averaging,
            "pairwise_distance": ball.pair,
            "worst_case_rms": ball.worst,
        },
    }


def _traffic(plan: Plan) -> dict[str, Any]:
    cost, learners = plan.traffic, plan.rounds.size
    return {
        "parameters": plan.question.parameters,
        "rounds_per_s": cost.rounds_per_s,
        "message_bytes": cost.message_bytes,
        "messages_per_round": cost.messages,
        "messages_per_round_per_learner": cost.messages / learners,
        "most_messages_received_per_round": cost.most_received,
        "bytes_per_round": cost.bytes,
        "bytes_per_round_per_learner": cost.bytes / learners,
        "bytes_per_s": cost.bytes_per_s,
        "bytes_per_s_per_learner": cost.bytes_per_s / learners,
        "nodes": plan.question.nodes,
        "bytes_per_s_per_node": cost.bytes_per_s_per_node,
    }
