"""Gossip view: the edges as a matrix of ages, and each learner's distance to the mean. Pure.

    Snapshot.edges, .learners, .consensus --gossip_view--> lines of coloured text

Rows receive, columns send; learners of other machines have columns only. An age is in rounds of the
receiver since it last mixed a vector of the sender; its colour is by its share of the bound of
`--max-staleness`.
"""

from __future__ import annotations

from typing import NamedTuple

from rich.text import Text

from galamp.core.sanitize import clean
from galamp.telemetry.display import panels
from galamp.telemetry.display import text as words
from galamp.telemetry.display.panels import titled
from galamp.telemetry.display.text import clip, count
from galamp.telemetry.snapshot import EdgeSnapshot, LearnerSnapshot, Snapshot, WorkerState

CELL = 5
MAX_MATRIX = 16
"""More learners are listed by their oldest edges."""
SIDE, GAP = 36, 3
LEAST_BAR = 10


def gossip_view(snapshot: Snapshot, width: int, height: int) -> list[Text]:
    """Draw the graph and its ages, what was measured, and the learners, on `height` lines."""
    number = len(snapshot.learners)
    lines = [*titled(f"gossip: {clip(clean(snapshot.topology), max(1, width - 20))}", width)]
    if number < 2 and not snapshot.nodes:
        return [*lines, Text("one learner: nobody to gossip with", "dim")]
    columns = len(_senders(snapshot))
    matrix = columns <= MAX_MATRIX and 3 + CELL * (columns + 1) <= width
    left = _matrix(snapshot) if matrix else _oldest(snapshot, height // 2)
    across = max((line.cell_len for line in left), default=0)
    if across + GAP + SIDE <= width:
        right = panels.distances(snapshot, min(SIDE + 8, width - across - GAP))
        lines += _beside(left, across, right)
    else:
        lines += left + panels.distances(snapshot, min(SIDE, width))
    lines += _nodes(snapshot, width)
    notes = [Text(clip(text, width), "dim") for text in _notes(snapshot)]
    room = height - len(lines) - len(notes) - 2
    lines += [Text(), *notes, *titled("consensus distance of each learner", width)]
    return lines + _distances(snapshot, width, room)


class _Sender(NamedTuple):
    """A column: a learner, whether it is there, and whom it sends to now, as far as is known."""

    rank: int
    is_there: bool
    out_peers: tuple[int, ...]


def _senders(snapshot: Snapshot) -> list[_Sender]:
    """Return this machine's learners, then those of the others."""
    running = WorkerState.RUNNING
    own = [_Sender(one.rank, one.state == running, one.out_peers) for one in snapshot.learners]
    elsewhere = [
        _Sender(rank, node.present, ())
        for node in snapshot.nodes
        for rank in range(node.learners[0], node.learners[1] + 1)
    ]
    return own + sorted(elsewhere)


def _matrix(snapshot: Snapshot) -> list[Text]:
    """Return the matrix with its head."""
    ages = {(edge.receiver, edge.sender): edge for edge in snapshot.edges}
    senders = _senders(snapshot)
    head = Text("from ", "dim")
    for sender in senders:
        head.append(f"{sender.rank:>{CELL}}", "dim")
    lines = [head]
    for receiver in snapshot.learners:
        line = Text(f"to {receiver.rank:<2}", "dim")
        for sender in senders:
            line.append_text(_cell(snapshot, receiver, sender, ages))
        lines.append(line)
    return lines


def _cell(
    snapshot: Snapshot,
    receiver: LearnerSnapshot,
    sender: _Sender,
    ages: dict[tuple[int, int], EdgeSnapshot],
) -> Text:
    edge = ages.get((receiver.rank, sender.rank))
    if receiver.rank == sender.rank:
        return Text("\\".rjust(CELL), "bright_black")
    if not sender.is_there and edge is not None:
        return Text("✕".rjust(CELL), "bold red")
    if edge is not None:
        return Text(f"{count(edge.age):>{CELL}}", _style(edge.age, snapshot.max_staleness))
    if receiver.rank in sender.out_peers:
        return Text("→".rjust(CELL), "dim")
    return Text("·".rjust(CELL), "bright_black")


def _style(age: int, bound: int | None) -> str:
    """Return the colour of an age: by its share of the bound, where there is one."""
    share = age / bound if bound else 0.0
    return "green" if share < 0.5 else "yellow" if share < 1 else "bold red"


def _oldest(snapshot: Snapshot, rows: int) -> list[Text]:
    """Return the oldest edges, for graphs whose matrix has no room."""
    edges = sorted(snapshot.edges, key=lambda edge: -edge.age)[: max(1, rows)]
    head = Text("oldest edges     age   mixes", "dim")
    return [
        head,
        *(
            Text(
                f"{edge.sender:>5} → {edge.receiver:<5}{count(edge.age):>7}{count(edge.mixes):>8}",
                _style(edge.age, snapshot.max_staleness),
            )
            for edge in edges
        ),
    ]


def _nodes(snapshot: Snapshot, width: int) -> list[Text]:
    """Return a line for each other machine: whether it is there, and what was exchanged."""
    lines = []
    for node in snapshot.nodes:
        first, last = node.learners
        text = (
            f"machine {node.node} (learners {first}-{last}) {'there' if node.present else 'away '}"
            f"  in {count(node.received_per_s)}B/s  out {count(node.sent_per_s)}B/s"
            f"  received {count(node.received)}  sent {count(node.sent)}"
            f"  overwritten {count(node.overwritten)}  refused {count(node.refused)}"
        )
        lines.append(Text(clip(text, width), "default" if node.present else "bold red"))
    return [Text(), *lines] if lines else []


def _notes(snapshot: Snapshot) -> list[str]:
    if not snapshot.has_ages:
        return ["→ sends to it now; ages are recorded with --certificate only"]
    bound = snapshot.max_staleness
    limit = "no bound" if bound is None else f"after {bound} without any mix it waits"
    return [
        f"rounds since it last mixed from it; {limit}",
        "· no edge   → nothing mixed yet   ✕ the sender is away",
    ]


def _distances(snapshot: Snapshot, width: int, rows: int) -> list[Text]:
    """Return a bar per learner: its distance to the mean, as a share of the greatest."""
    known = [one for one in snapshot.learners if one.distance is not None]
    if not known:
        return [Text("not measured yet", "dim")] if rows > 0 else []
    exponent, number = words.one_exponent([one.distance for one in known])
    most = max((one.distance or 0.0 for one in known), default=0.0)
    bar = max(LEAST_BAR, width - 24)
    lines = []
    for one in known[: max(0, rows)]:
        share = (one.distance or 0.0) / most if most > 0 else 0.0
        share = share if share - share == 0 else 0.0
        line = Text(f"{one.rank:>3} ", "dim").append("━" * round(bar * share), "cyan")
        line.append("─" * (bar - round(bar * share)), "bright_black")
        lines.append(line.append(f" {number(one.distance):>6}{exponent}", "default"))
    return lines


def _beside(left: list[Text], width: int, right: list[Text]) -> list[Text]:
    lines = [line.copy() for line in left] + [Text() for _ in right[len(left) :]]
    for line, cell in zip(lines, right, strict=False):
        line.pad_right(width - line.cell_len + GAP)
        line.append_text(cell)
    return lines
