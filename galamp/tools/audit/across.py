"""Audit across nodes: what a node has mirrored of another one, that one must have published.

    gossip.jsonl of each node --of_node--> Record --between--> Crossing: vectors, whether published

Runs in the process of `galamp audit`. No clock is compared: a vector is named by its learner, the
start of that learner's node, and its round and number of updates, on both sides. Where both records
have its checksum, that is compared, too. Within a start they must have come over in the order in
which they were published, without any twice.

Where a record has gaps, a vector that is not found may have been in one: it counts as unknown; but
not if it was published with another checksum. A learner that was killed may have published one
vector without a record, and its successor another one of the same round: then one more is unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from galamp.core.errors import UserError
from galamp.core.nodes import Ranks
from galamp.core.settings import shown
from galamp.gossip.transport.publication import FOLLOWS, Publication
from galamp.storage.gossip_log import GOSSIP, Lost, Start, read_gossip


class Vector(NamedTuple):
    """Round, and number of updates, of a published vector."""

    round: int
    version: int


class Copy(NamedTuple):
    """A vector in a record: its place among those of its learner, and its checksum; 0: none."""

    at: int
    checksum: int

    def may_be(self, checksum: int) -> bool:
        """Whether it may have this checksum."""
        return checksum == self.checksum or 0 in (checksum, self.checksum)


Published = dict[Vector, list[Copy]]
"""Of a learner. An incarnation that was killed may have published the same as its successor."""
Taken = list[tuple[Vector, int]]
"""Of a learner, in order, with checksums."""


@dataclass
class NodeStart:
    """What one start of a node has recorded, by number of the learner among all.

    Attributes:
        ranks: the node's place.
        published: its own learners' vectors, in order.
        gaps: own learners of which some publications are not known.
        newest: own learners' last publications so far.
        ended: how many of an own learner's processes may have published one vector that they did
            not record: they were killed in between, and its number is in no record.
        taken: other nodes' learners' vectors, in order, by start of their node, its epoch.
    """

    ranks: Ranks
    published: dict[int, Published] = field(default_factory=dict)
    gaps: set[int] = field(default_factory=set)
    newest: dict[int, Publication] = field(default_factory=dict)
    ended: dict[int, int] = field(default_factory=dict)
    taken: dict[int, dict[int, Taken]] = field(default_factory=dict)


class Crossing(NamedTuple):
    """Vectors that `receiver` has taken from `sender`, two nodes.

    `found` of them were published by it, `unknown` ones may be in gaps; all others are `false`, or
    came in another order than they were published in.
    """

    sender: int
    receiver: int
    vectors: int
    found: int
    unknown: int
    false: int


def of_node(run: Path) -> list[NodeStart]:
    """Return all starts in the record of one node.

    Raises:
        UserError: it is of a run on one machine, or of an older galamp.
    """
    starts: list[NodeStart] = []
    for entry in read_gossip(run / GOSSIP):
        if isinstance(entry, Start):
            if entry.place is None:
                raise UserError(f"{shown(run)}: is of a run on one machine; audit it alone")
            node, nodes = entry.place
            starts.append(NodeStart(Ranks(node, nodes, entry.learners // nodes)))
        elif starts and isinstance(entry, Publication):
            _add(starts[-1], entry)
        elif starts and isinstance(entry, Lost) and entry.learner < starts[-1].ranks.lanes:
            starts[-1].gaps.add(starts[-1].ranks.among_all(entry.learner))
    return starts


def _add(start: NodeStart, entry: Publication) -> None:
    number, vector = start.ranks.among_all(entry.learner), Vector(entry.round, entry.version)
    if entry.learner < start.ranks.lanes:
        known = start.published.setdefault(number, {})
        known.setdefault(vector, []).append(Copy(entry.number, entry.checksum))
        last = start.newest.get(number, entry)
        if entry.incarnation != last.incarnation and entry.number > last.number + 1:
            start.ended[number] = start.ended.get(number, 0) + 1
        start.newest[number] = entry
    elif entry.incarnation != FOLLOWS:
        epochs = start.taken.setdefault(number, {})
        epochs.setdefault(entry.incarnation, []).append((vector, entry.checksum))


def crossings(runs: Sequence[Path]) -> list[Crossing]:
    """Return what has come over between the nodes of these runs, oldest folder of a node first.

    Raises:
        UserError: a record is not of one of several nodes, or they are of different runs.
    """
    starts = [start for run in runs for start in of_node(run)]
    sizes = {start.ranks[1:] for start in starts}
    if len(sizes) > 1:
        told = ", ".join(f"{nodes} machines of {lanes} learners" for nodes, lanes in sorted(sizes))
        raise UserError(f"audit: these are of different runs: {told}")
    nodes = sorted({start.ranks.node for start in starts})
    return [
        _between([s for s in starts if s.ranks.node == sender], receiver, starts)
        for sender in nodes
        for receiver in nodes
        if sender != receiver
    ]


def _between(senders: list[NodeStart], receiver: int, starts: list[NodeStart]) -> Crossing:
    total = found = unknown = 0
    for start in (one for one in starts if one.ranks.node == receiver):
        for number, vectors in _taken_from(start, senders[0].ranks):
            sent = max(senders, key=lambda one: _in_order(vectors, one.published.get(number, {})))
            matched, maybe = _compared(vectors, sent, number)
            total, found = total + len(vectors), found + matched
            unknown += maybe
    return Crossing(senders[0].ranks.node, receiver, total, found, unknown, total - found - unknown)


def _compared(vectors: Taken, sent: NodeStart, number: int) -> tuple[int, int]:
    """Return how many vectors of a learner were published, and how many others may have been."""
    published = sent.published.get(number, {})
    matched = _in_order(vectors, published)
    if number in sent.gaps:
        maybe = len(vectors) - matched - sum(_is_altered(one, published) for one in vectors)
    else:  # a killed node has not recorded the last ones
        last = max((version for _, version in published), default=-1)
        maybe = sum(vector.version > last for vector, _ in vectors)
    return matched, min(len(vectors) - matched, maybe + sent.ended.get(number, 0))


def _taken_from(start: NodeStart, sender: Ranks) -> Iterator[tuple[int, Taken]]:
    """Yield what a node has taken of each learner of another one, by start of that one."""
    for lane in range(sender.lanes):
        number = sender.among_all(lane)
        for vectors in start.taken.get(number, {}).values():
            yield number, vectors


def _in_order(vectors: Taken, published: Published) -> int:
    """Return how many of the vectors were published, each later than the one before."""
    last, count = -1, 0
    for vector, checksum in vectors:
        copies = (each for each in published.get(vector, ()) if each.may_be(checksum))
        at = min((each.at for each in copies if each.at > last), default=None)
        if at is not None:
            last, count = at, count + 1
    return count


def _is_altered(taken: tuple[Vector, int], published: Published) -> bool:
    """Whether a vector was published, and as another one."""
    vector, checksum = taken
    copies = published.get(vector, ())
    return bool(copies) and not any(each.may_be(checksum) for each in copies)
