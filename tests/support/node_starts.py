"""Starts of nodes in this process: their boards and memberships, which tell each other in words."""

from __future__ import annotations

from galamp.core.nodes import Ranks
from galamp.gossip.cluster.membership import Lane, Membership
from galamp.memory.arrays import SharedArrays
from galamp.memory.cluster_board import ClusterBoard

NODES, LANES = 3, 2
ALL = frozenset(range(NODES))


class Node:
    """One start of a node: its board, its membership, and the steps that its learners have made."""

    def __init__(
        self,
        node: int,
        *,
        session: int,
        steps: int = 0,
        about: str = "a run",
        lanes: int = LANES,
        after: tuple[int, ...] = (),
    ) -> None:
        """Begin, from a checkpoint with so many `steps` of each learner, of starts `after`."""
        self.ranks, self.session = Ranks(node, NODES, lanes), session
        size = self.ranks.all
        self.arrays = SharedArrays.create(ClusterBoard.specs(NODES, size))
        self.board = ClusterBoard(self.arrays, NODES, size)
        self.board.begin(1, session, after)
        for lane in range(lanes):
            self.board.set_rank(lane, "at_start", steps)
        self.rows = dict.fromkeys(range(size), 0) | dict.fromkeys(range(lanes), steps)
        self.membership = Membership(self.ranks, self.board, about)

    def hello(self) -> bytes:
        lanes = self.ranks.lanes
        own = {lane: self.rows[lane] for lane in range(lanes)}
        return self.membership.hello([Lane(True, 3, 5)] * lanes, own)

    def told(self, node: int, text: bytes, now_s: float = 0.0) -> str | None:
        """Hear a text, and count as a bridge does."""
        said = self.membership.hear(node, text, now_s)
        for rank, steps in self.membership.starts.elsewhere().items():
            self.rows[rank] = max(self.rows[rank], steps)
        self.membership.update(ALL, now_s)
        return said

    def hear(self, *others: Node, now_s: float = 0.0) -> list[str | None]:
        """Hear what others tell now."""
        return [self.told(other.ranks.node, other.hello(), now_s) for other in others]

    @property
    def overtaken(self) -> bool:
        """Whether it is to end, as another process runs as this node."""
        return self.board.overtaken_by is not None

    @property
    def saved(self) -> int:
        """Agent steps of its learners, as a checkpoint has them."""
        lanes = range(self.ranks.lanes)
        return sum(self.rows[lane] + self.board.missing(lane) for lane in lanes)

    @property
    def total(self) -> int:
        """Agent steps over all nodes, as this one counts them."""
        return self.saved + sum(self.rows[rank] for rank in self.ranks.remote)


def talk(*nodes: Node, rounds: int = 3) -> None:
    """Have all hear all, but two processes of one node, which hear of each other by others."""
    for _ in range(rounds):
        for one in nodes:
            one.hear(*(other for other in nodes if other.ranks.node != one.ranks.node))
