"""A plan as plain text of at most 80 columns: the picture, then its meaning.

Pure functions: a Plan goes in, lines come out; no colour, so that it reads the same when piped.
"""

from __future__ import annotations

import textwrap

from rich.console import RenderableType

from galamp.core.sanitize import clean
from galamp.telemetry.display.console import plain_grid, plain_table, text_lines
from galamp.telemetry.display.quantities import CONSENSUS_DISTANCE, PAIRWISE_DISTANCE
from galamp.telemetry.display.text import clip_path
from galamp.tools.topology.analysis import Plan
from galamp.tools.topology.ascii_graph import picture

WIDTH = 80
LABEL, VALUE = 22, 12
RMS = "root mean square"
INDENT = "  "


def lines_of(plan: Plan) -> list[str]:
    """Return everything to print."""
    name = clip_path(clean(plan.question.name), 50)
    nodes = plan.question.nodes
    return [
        f"{name}, {plan.rounds.size:,} learners" + (f" on {nodes:,} machines" if nodes > 1 else ""),
        "",
        *picture(plan.rounds),
        "",
        *_wrapped(caption(plan)),
        "",
        *graph_lines(plan),
        "",
        *consensus_lines(plan),
        "",
        *traffic_lines(plan),
        "",
        *ball_lines(plan),
    ]


def caption(plan: Plan) -> str:
    """Return what the picture shows, and one learner's peers."""
    topology, shown = plan.graph.topology, plan.rounds.shown
    heard = topology.in_peers(0, 0)
    names = ", ".join(map(str, heard[:6])) + (
        f" and {len(heard) - 6:,} more" if len(heard) > 6 else ""
    )
    both = "exchanges with" if topology.symmetric else "hears"
    if shown > 1:
        first = f"All links of {shown} rounds; in the first,"
        return f"{first} learner 0 {f'{both} {names}' if heard else 'is alone'}."
    return f"Learner 0 {both} {names}." if heard else "Learner 0 receives from no one."


def graph_lines(plan: Plan) -> list[str]:
    """Return the properties of the graph."""
    graph, topology = plan.graph, plan.graph.topology
    period = topology.period()
    peers = "none" if graph.peer_weight is None else _span(*graph.peer_weight)
    repeats = {None: "none: drawn again in every round", 1: "1 round: it never changes"}
    return [
        "graph",
        *_row("in-peers", _span(*graph.in_peers)),
        *_row("period", repeats.get(period) or f"{period:,} rounds"),
        *_row(
            f"weights ({plan.question.gossip_weights})",
            f"own {_span(*graph.own_weight)}, peers {peers}",
        ),
        *_row(
            "doubly stochastic",
            "yes: averaging keeps the mean over learners"
            if topology.doubly_stochastic
            else "no: averaging does not keep the mean over learners",
        ),
        *_row("symmetric", "yes: whoever sends also receives" if topology.symmetric else "no"),
    ]


def consensus_lines(plan: Plan) -> list[str]:
    """Return how fast learners agree."""
    lines = ["agreement in lock-step, without updates"]
    lines += _rate_lines(plan)
    spectrum = plan.spectrum
    if spectrum.exactly_after is not None:
        lines += _row("in the end", f"averages exactly after {_rounds(spectrum.exactly_after)}")
    if spectrum.consensus is None:
        lines += _row("consensus to 1 %", "never: the learners stay apart")
    else:
        about = "" if spectrum.consensus_exact else "about "
        random = plan.graph.topology.period() is None
        note = ", the first of this seed" if random else ""
        after = f"after {about}{_rounds(spectrum.consensus)}{note}"
        lines += _row("consensus to 1 %", f"{after}, whatever the disagreement")
    return lines


def _rate_lines(plan: Plan) -> list[str]:
    spectrum, period = plan.spectrum, plan.rounds.period
    bound = "" if spectrum.converged else ">= "
    rate, gap = _factor(spectrum.rate), f"{'' if spectrum.converged else '<= '}{spectrum.gap:.4g}"
    if period is None:
        note = f"per round; an estimate, measured over {_rounds(spectrum.measured_rounds)}"
        return [
            *_row("contraction", rate, note),
            *_row("spectral gap", f"{spectrum.gap:.4g}", "1 - contraction"),
        ]
    if not plan.graph.topology.doubly_stochastic:
        of = "P" if period == 1 else f"{period} rounds, per round"
        note = f"modulus of the 2nd largest eigenvalue of {of}"
        return [*_row("rate", f"{bound}{rate}", note), *_row("gap", gap, "1 - rate")]
    if period == 1:
        note = "2nd largest singular value of P"
        return [*_row("beta", f"{bound}{rate}", note), *_row("spectral gap", gap, "1 - beta")]
    assert spectrum.beta is not None
    note = f"2nd largest singular value of {period} rounds"
    return [
        *_row("beta of a period", f"{bound}{_factor(spectrum.beta)}", note),
        *_row("beta per round", f"{bound}{rate}", "its root of that order"),
        *_row("spectral gap", gap, "1 - beta per round"),
    ]


def traffic_lines(plan: Plan) -> list[str]:
    """Return the cost of the messages."""
    cost, learners = plan.traffic, plan.rounds.size
    each = cost.messages / learners
    size = _bytes(cost.message_bytes)
    lines = [
        f"messages of {plan.question.parameters:,} float32 parameters ({size})"
        f" at {cost.rounds_per_s:g} rounds/s",
    ]
    table = plain_table(("", "per learner", "all learners"), text=range(3))
    digits = 0 if cost.messages.is_integer() else 2
    table.add_row("messages per round", _few(each), f"{cost.messages:,.{digits}f}")
    table.add_row("bytes per round", _bytes(cost.bytes / learners), _bytes(cost.bytes))
    per_s = _bytes(cost.bytes_per_s / learners), _bytes(cost.bytes_per_s)
    table.add_row("bytes per second", *per_s)
    lines += (f"{INDENT}{line}" for line in text_lines(table, WIDTH - len(INDENT)))
    if plan.question.nodes > 1:
        leaves = f"sends {_bytes(cost.bytes_per_s_per_node)}/s to others"
        some = "message" if cost.leaving == 1 else "messages"
        lines += _row("a machine", f"{leaves}, {cost.leaving:,.4g} {some} per round")
    if cost.most_received > 2 * each:
        most = cost.most_received * cost.message_bytes * cost.rounds_per_s
        lines += _row("the busiest", f"receives {cost.most_received:,} per round, {_bytes(most)}/s")
    return lines


def ball_lines(plan: Plan) -> list[str]:
    """Return the distances between learners, and how they were found."""
    ball, question = plan.ball, plan.question
    old = f", messages {_rounds(question.delay)} old" if question.delay else ""
    two = f"{RMS} of the two furthest apart"
    return [
        f"epsilon-ball for updates of norm {question.update_norm:g}{old}",
        *_row(CONSENSUS_DISTANCE, f"{ball.radius:.4g}", "root mean square, independent updates"),
        *_row("before averaging", f"{plan.before_averaging:.4g}", "once new updates are added"),
        *_row(
            PAIRWISE_DISTANCE,
            f"{ball.pair:.4g}",
            two if ball.method == "exact" else "the furthest apart, at the end",
        ),
        *_row("how it is known", _known(plan)),
        *_row("at worst", *_worst(plan)),
    ]


def _known(plan: Plan) -> str:
    """Return the method by which the ball was found."""
    ball, consensus = plan.ball, plan.spectrum.consensus
    if ball.method == "exact":
        settled = f"; it fills in about {_rounds(consensus)}" if consensus else ""
        return f"exactly{settled}"
    directions = f"simulated: {_rounds(ball.after)} in 64 directions"
    return directions if ball.settled else f"{directions}; the ball is still growing"


def _worst(plan: Plan) -> tuple[str, str]:
    worst, period = plan.ball.worst, plan.rounds.period
    if worst is not None:
        formula = "beta L / (1 - beta)" if period == 1 else "summed over a period"
        return f"{worst:.4g}", f"{RMS}, whatever the updates are: {formula}"
    if plan.question.delay:
        return "unknown", "the bound holds without delay only"
    if not plan.graph.topology.doubly_stochastic:
        return "unknown", "the bound needs doubly stochastic weights"
    if period is None:
        return "unknown", "rounds repeat too late for a bound, or never"
    return "unknown", "no bound could be computed"


def _row(label: str, value: str, note: str = "") -> list[str]:
    """Return a property, in lines; its note stands beside the value if that is short."""
    if note and len(value) <= VALUE:
        grid = plain_grid(VALUE, None)
        grid.add_row(value, note)
        cell: RenderableType = grid
    else:
        cell = f"{value} {note}".rstrip()
    row = plain_grid(len(INDENT) + LABEL - 1, None)
    row.add_row(f"{INDENT}{label}", cell)
    return text_lines(row, WIDTH)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH)


def _span(least: float, most: float) -> str:
    return f"{least:.4g}" if most - least < 1e-9 else f"{least:.4g} to {most:.4g}"


def _rounds(count: int) -> str:
    return "1 round" if count == 1 else f"{count:,} rounds"


def _factor(value: float) -> str:
    """Return a number below 1 that is not rounded to 1."""
    return f"{value:.6g}" if value < 0.9999 else f"{value:.10g}"


def _few(value: float) -> str:
    """Return a count per learner, which need not be whole."""
    return f"{value:,.0f}" if value.is_integer() else f"{value:,.4g}"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000.0
    return f"{count:,.3g} PB"
