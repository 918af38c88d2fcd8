r"""Membership: which nodes of the run are there, and agree on it; without a clock in common.

    own state --hello--> text --network--> hear --> ClusterBoard: present, epochs, steps

Each node tells each other twice a second what it is, and what it knows of all nodes: their starts
and the agent steps of their learners, see `starts`. Until a node has heard that another one knows
its start, it sends that one no vectors. Pure, but for the board. Runs in bridges.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

from galamp.core.decode import Limits, Range, decode
from galamp.core.json_values import DecodeError, json_object
from galamp.core.nodes import Ranks
from galamp.core.sanitize import clean
from galamp.gossip.cluster.starts import Counts, Starts
from galamp.gossip.cluster.wire import Frame
from galamp.memory.cluster_board import ClusterBoard, Start

HELLO_EVERY_S = 0.5
ABSENT_S = 2.0
"""A node that was not heard for so long is absent, connected or not."""
TEXT_BYTES = 2**17
"""Longest text that is decoded."""
_LIMITS = Limits(whole=Range(0, 2**62), items=4096, characters=1024)
_ANY_MORE = replace(_LIMITS, more_fields=True)


@dataclass(frozen=True)
class Lane:
    """State of one learner of the node that tells it: its process, rounds, and publications."""

    alive: bool
    rounds: int
    published: int


@dataclass(frozen=True)
class _About:
    """What a hello of any version of galamp has, whatever else it tells."""

    about: str


@dataclass(frozen=True)
class _Starts:
    starts: tuple[Start, ...]


@dataclass(frozen=True)
class Hello:
    """What a node tells.

    Attributes:
        about: what all nodes must agree on, in words.
        node: its number.
        starts: newest start of every node, as far as it knows; epoch 0 of one never heard of.
        steps: agent steps of every learner, by its number among all, of these starts.
        lanes: its own learners.
    """

    about: str
    node: int
    starts: tuple[Start, ...]
    steps: tuple[Counts, ...]
    lanes: tuple[Lane, ...]


class _Heard(NamedTuple):
    """The newest hello of a node, and when it came, by this node's clock."""

    hello: Hello
    at_s: float


class Membership:
    """One node's view of the others."""

    def __init__(self, ranks: Ranks, board: ClusterBoard, about: str) -> None:
        self._ranks, self._board, self._about = ranks, board, about
        self._heard = dict[int, _Heard]()
        self.starts = Starts(ranks, board)
        self.unknown = 0
        """Number of hellos of starts that are none of those known here: they have to be told so."""
        self._differs = set[tuple[int, int]]()
        self.others = tuple(node for node in range(ranks.nodes) if node != ranks.node)

    def hello(self, lanes: Sequence[Lane], own: Mapping[int, int]) -> bytes:
        """Return what to tell: the state of the own learners, their agent steps since ever."""
        starts = tuple(map(self.starts.of, range(self._ranks.nodes)))
        counts = tuple(self.starts.counts(own))
        hello = Hello(self._about, self._ranks.node, starts, counts, tuple(lanes))
        return json.dumps(asdict(hello), separators=(",", ":")).encode()

    def hear(self, node: int, text: bytes, now_s: float) -> str | None:
        """Take what a node tells; return why it is refused, None if it is not."""
        try:
            if len(text) > TEXT_BYTES:
                raise DecodeError(f"a text of {len(text)} bytes")
            told = json_object(text)
            about = decode(_About, told, _ANY_MORE).about
            if about != self._about:  # of another version perhaps, of which no more can be read
                return self._disagreement(node, about, _session(node, told))
            hello = decode(Hello, told, _LIMITS)
        except DecodeError as error:
            return f"node {node} tells what cannot be read: {clean(str(error))}"
        ranks = self._ranks
        if hello.node != node:
            return f"node {node} takes itself for node {hello.node}"
        sizes = len(hello.starts), len(hello.steps), len(hello.lanes)
        if sizes != (ranks.nodes, ranks.all, ranks.lanes):
            return f"node {node} tells of {sizes} nodes, learners and lanes"
        for of, start in enumerate(hello.starts):
            lanes = slice(of * ranks.lanes, (of + 1) * ranks.lanes)
            self.starts.hear(of, start, hello.steps[lanes])
        if self._is_known(hello):
            self._heard[node] = _Heard(hello, now_s)
        elif hello.starts[node].session not in self._board.start(node).after:
            self.unknown += 1
        for of in self.others:
            if of in self._heard and not self._is_known(self._heard[of].hello):
                del self._heard[of]  # another node knows of a newer start
        return None

    def _is_known(self, hello: Hello) -> bool:
        """Whether a hello is of the newest start of its node that is known."""
        known = self._board.start(hello.node)
        return known.epoch > 0 and known[:2] == hello.starts[hello.node][:2]

    def _disagreement(self, node: int, about: str, session: int) -> str | None:
        """Return the difference, once for each start of the node."""
        start = node, session
        if start in self._differs or len(self._differs) > 1000:
            return None
        self._differs.add(start)
        return f"node {node} differs: {clean(about)}; this one: {self._about}"

    def update(self, reached: frozenset[int], now_s: float) -> list[str]:
        """Write to the board who is there, of the nodes that are `reached`; return what changed."""
        changes, board = [], self._board
        for node in self.others:
            found = self._heard.get(node)
            present = found is not None and node in reached and now_s - found.at_s < ABSENT_S
            if present != bool(board.node(node, "present")):
                board.set_node(node, "present", present)
                changes.append(_change(node, present=present))
            for lane, rank in enumerate(self._ranks.learners_of(node)):
                runs = present and found is not None and found.hello.lanes[lane].alive
                board.set_rank(rank, "alive", runs)
                if not present:
                    board.set_rank(rank, "mirrored", 0)
        return changes

    def present(self, node: int) -> bool:
        """Whether a node is there."""
        return bool(self._board.node(node, "present"))

    def knows_this(self, node: int) -> bool:
        """Whether a node knows this start of this node, so that it takes vectors of it."""
        found = self._heard.get(node)
        own = self._board.own
        return found is not None and found.hello.starts[self._ranks.node][:2] == own[:2]

    def lanes_of(self, node: int) -> tuple[Lane, ...]:
        """Return the last known state of a node's learners; none if it was never heard."""
        found = self._heard.get(node)
        return () if found is None else found.hello.lanes

    def objection(self, node: int, frame: Frame) -> str | None:
        """Return why a frame that came from `node` is not taken; None if it is.

        An empty text: it is only late, as after a new start of its node.
        """
        rank = self._ranks.here(frame.rank)
        if rank not in self._ranks.learners_of(node):
            return f"node {node} publishes as learner {frame.rank}, which is not its own"
        if frame.epoch != self._board.start(node).epoch:
            return ""
        if frame.number <= self._board.rank(rank, "number"):
            return ""
        return None

    def repeats(self, frame: Frame) -> bool:
        """Whether a frame is the newest publication that was taken of its learner, once more."""
        board, rank = self._board, self._ranks.here(frame.rank)
        known = board.start(self._ranks.node_of(rank)).epoch, board.rank(rank, "number")
        return (frame.epoch, frame.number) == known


def _session(node: int, told: dict[str, object]) -> int:
    """Return the session of the node that tells; 0 if it cannot be read."""
    try:
        starts = decode(_Starts, told, _ANY_MORE).starts
    except DecodeError:
        return 0
    return starts[node].session if node < len(starts) else 0


def _change(node: int, *, present: bool) -> str:
    if present:
        return f"node {node} is there: its learners gossip with this node's"
    return f"node {node} is gone: this node's learners go on without its"
