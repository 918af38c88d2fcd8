r"""Membership: which nodes of the run are there, and agree on it; without a clock in common.

    own state --hello--> text --network--> hear --> ClusterBoard: present, epochs, steps

Each node tells each other twice a second what it is, and what it knows of all nodes. Pure, but for
the board and the rows of other nodes' learners, which it writes. Runs in bridges.

Epochs number the starts of a node, so that nothing of an earlier start is taken for news. A node
that starts in an empty folder cannot know how often it was started before; the others do. It begins
with epoch 1, and where another node knows a start of it that is as new as that but has another
random `session`, it renumbers itself past it. Until a node has heard that another one knows its
epoch, it sends that one no vectors.

Agent steps of a learner are counted by its node over all of its starts. The others keep the
greatest number that they have heard of, and pass it on: so no count falls, and none is doubled. A
node that has lost its own count, or a part of it, hears it from them, and adds what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, NamedTuple

from galamp.core.decode import Limits, Range, decode
from galamp.core.json_values import DecodeError, json_object
from galamp.core.nodes import Ranks
from galamp.core.sanitize import clean
from galamp.gossip.cluster.wire import Frame
from galamp.memory.cluster_board import ClusterBoard

HELLO_EVERY_S = 0.5
ABSENT_S = 2.0
"""A node that was not heard for so long is absent, connected or not."""
TEXT_BYTES = 2**17
"""Longest text that is decoded."""
LARGEST_EPOCH = 2**40
_LIMITS = Limits(whole=Range(0, 2**62), items=4096, characters=1024)
Epoch = Annotated[int, Range(0, LARGEST_EPOCH)]
Steps = Annotated[int, Range(0, 10**15)]


@dataclass(frozen=True)
class Lane:
    """State of one learner of the node that tells it: its process, rounds, and publications."""

    alive: bool
    rounds: int
    published: int


@dataclass(frozen=True)
class Hello:
    """What a node tells.

    Attributes:
        about: what all nodes must agree on, in words.
        node: its number.
        epoch: which start of it this is.
        session: random number of that start.
        knows: epoch and session of every node, as far as it knows; 0, 0 of one never heard of.
        steps: agent steps of every learner, by its number among all.
        lanes: its own learners.
    """

    about: str
    node: int
    epoch: Epoch
    session: int
    knows: tuple[tuple[Epoch, int], ...]
    steps: tuple[Steps, ...]
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
        self._steps = dict.fromkeys(ranks.remote, 0)
        self._differs = set[tuple[int, int]]()
        self.others = tuple(node for node in range(ranks.nodes) if node != ranks.node)

    def hello(self, lanes: Sequence[Lane], steps: Mapping[int, int]) -> bytes:
        """Return what to tell: the state of the own learners, the steps of all by number here."""
        ranks, board = self._ranks, self._board
        known = [(board.node(n, "epoch"), board.node(n, "session")) for n in range(ranks.nodes)]
        known[ranks.node] = board.epoch, board.session
        told = tuple(steps[ranks.here(number)] for number in range(ranks.all))
        hello = Hello(
            self._about, ranks.node, board.epoch, board.session, tuple(known), told, tuple(lanes)
        )
        return json.dumps(asdict(hello), separators=(",", ":")).encode()

    def hear(self, node: int, text: bytes, now_s: float) -> str | None:
        """Take what a node tells; return why it is refused, None if it is not."""
        try:
            if len(text) > TEXT_BYTES:
                raise DecodeError(f"a text of {len(text)} bytes")
            hello = decode(Hello, json_object(text), _LIMITS)
        except DecodeError as error:
            return f"node {node} tells what cannot be read: {clean(str(error))}"
        ranks = self._ranks
        if hello.node != node:
            return f"node {node} takes itself for node {hello.node}"
        if hello.about != self._about:
            return self._disagreement(node, hello)
        sizes = len(hello.knows), len(hello.steps), len(hello.lanes)
        if sizes != (ranks.nodes, ranks.all, ranks.lanes):
            return f"node {node} tells of {sizes} nodes, learners and lanes"
        self._renumber(hello)
        for rank in ranks.remote:
            self._steps[rank] = max(self._steps[rank], hello.steps[ranks.among_all(rank)])
        if self._is_newest(node, hello):
            self._heard[node] = _Heard(hello, now_s)
        return None

    def _disagreement(self, node: int, hello: Hello) -> str | None:
        """Return the difference, once for each start of the node."""
        start = node, hello.session
        if start in self._differs or len(self._differs) > 1000:
            return None
        self._differs.add(start)
        return f"node {node} differs: {clean(hello.about)}; this one: {self._about}"

    def _renumber(self, hello: Hello) -> None:
        """Pass what another node knows of earlier starts of this one."""
        board, own = self._board, self._ranks.node
        epoch, session = hello.knows[own]
        if epoch == 0 or (epoch, session) == (board.epoch, board.session):
            return
        if board.epoch <= epoch < LARGEST_EPOCH and session != board.session:
            board.begin(epoch + 1, board.session)
        for lane in range(self._ranks.lanes):
            before = hello.steps[self._ranks.among_all(lane)]
            board.set_rank(lane, "before", max(before, board.rank(lane, "before")))

    def _is_newest(self, node: int, hello: Hello) -> bool:
        """Whether a hello is of the newest start of its node that is known."""
        board = self._board
        known = board.node(node, "epoch"), board.node(node, "session")
        if hello.epoch > known[0]:
            board.set_node(node, "epoch", hello.epoch)
            board.set_node(node, "session", hello.session)
            for rank in self.learners_of(node):
                board.set_rank(rank, "number", 0)
                board.set_rank(rank, "mirrored", 0)
            return True
        return known == (hello.epoch, hello.session)

    def learners_of(self, node: int) -> range:
        """Return a node's learners, as they are numbered here."""
        first = self._ranks.here(node * self._ranks.lanes)
        return range(first, first + self._ranks.lanes)

    def update(self, reached: frozenset[int], now_s: float) -> list[str]:
        """Write to the board who is there, of the nodes that are `reached`; return what changed."""
        changes, board = [], self._board
        for node in self.others:
            found = self._heard.get(node)
            present = found is not None and node in reached and now_s - found.at_s < ABSENT_S
            if present != bool(board.node(node, "present")):
                board.set_node(node, "present", present)
                changes.append(_change(node, present=present))
            for lane, rank in enumerate(self.learners_of(node)):
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
        own = self._board.epoch, self._board.session
        return found is not None and found.hello.knows[self._ranks.node] == own

    def lanes_of(self, node: int) -> tuple[Lane, ...]:
        """Return the last known state of a node's learners; none if it was never heard."""
        found = self._heard.get(node)
        return () if found is None else found.hello.lanes

    def steps(self) -> dict[int, int]:
        """Return the agent steps of other nodes' learners, by their number here, so far heard."""
        return self._steps

    def objection(self, node: int, frame: Frame) -> str | None:
        """Return why a frame that came from `node` is not taken; None if it is.

        An empty text: it is only late, as after a new start of its node.
        """
        rank = self._ranks.here(frame.rank)
        if rank not in self.learners_of(node):
            return f"node {node} publishes as learner {frame.rank}, which is not its own"
        if frame.epoch != self._board.node(node, "epoch"):
            return ""
        if frame.number <= self._board.rank(rank, "number"):
            return ""
        return None


def _change(node: int, *, present: bool) -> str:
    if present:
        return f"node {node} is there: its learners gossip with this node's"
    return f"node {node} is gone: this node's learners go on without its"
