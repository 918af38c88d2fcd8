"""Cluster board: what a node's bridge knows of the other nodes, in shared memory.

    bridge --writes--> ClusterBoard --> supervisor: who is alive, notices; learners: settled
                            `--> the next incarnation of the bridge, which goes on from it

One writer, the bridge; but the supervisor writes what this start goes on from, before it starts any
process. Only runs on several machines have one.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt

from galamp.core.decode import Range
from galamp.memory.arrays import ArraySpec, SharedArrays, memory_fence

NOTICES, NOTICE_BYTES = 32, 1024
"""Notices that wait for the supervisor, and the length of one."""
SETTLE_LIMIT_S = 12.0
"""Longest wait at the start for other nodes' vectors: of the bridge, and of learners for it, which
may hang."""
_SETTLED, _EPOCH, _SESSION, _HEAD, _BY_EPOCH, _BY_SESSION, _WORDS = range(7)
OVERTAKEN_KEPT = 32
"""Most sessions that a start tells it has overtaken: the newest. A process of a node that was cut
off alone while more starts than these came and went elsewhere is not known to have lost its place,
and its agent steps may count twice."""
LARGEST_EPOCH = 2**40

NODE_WORDS = ("bank", "present", "received", "sent", "overwritten", "refused")
"""Of each node: which of two banks holds its newest start, whether it can be reached and agrees,
frames that were taken from it, that were sent to it, and that newer ones replaced, and what was
refused.
"""
BANKS = 2
"""Places for a start of a node and the counts of its learners: a new one is written where the known
one is not, and is taken by one word. So a bridge that is killed meanwhile leaves the known one."""
RANK_WORDS = ("alive", "number", "mirrored", "at_start")
"""Of each learner, by its number here: whether another node's runs, the number of its newest
publication that was taken, whether its slots hold one of those since its node came; of an own one
its agent steps at this start.
"""


class Start(NamedTuple):
    """One start of a node: its number, a random one, and those of the starts that it has overtaken.

    `after` are the sessions of the starts that it has renumbered itself past, newest first, and of
    those whose agent steps were in the checkpoint that it goes on from.
    """

    epoch: Annotated[int, Range(0, LARGEST_EPOCH)]
    session: int
    after: tuple[int, ...] = ()


class ClusterBoard:
    """The board of one node."""

    def __init__(self, arrays: SharedArrays, nodes: int, ranks: int) -> None:
        self._words = arrays.words("cluster")
        self._nodes = arrays["cluster.nodes"]
        self._ranks = arrays["cluster.ranks"]
        self._after = arrays["cluster.after"]
        self._starts = arrays["cluster.starts"]
        self._counts = arrays["cluster.counts"]
        self._notices = arrays["cluster.notices"]
        self.nodes, self.ranks = nodes, ranks
        self._read = 0

    @staticmethod
    def specs(nodes: int, ranks: int) -> list[ArraySpec]:
        """Return the arrays that hold the board."""
        return [
            ArraySpec("cluster", (_WORDS,), "int64"),
            ArraySpec("cluster.nodes", (nodes, len(NODE_WORDS)), "int64"),
            ArraySpec("cluster.ranks", (ranks, len(RANK_WORDS)), "int64"),
            ArraySpec("cluster.starts", (BANKS, nodes, 2 + OVERTAKEN_KEPT), "int64"),
            ArraySpec("cluster.after", (OVERTAKEN_KEPT,), "int64"),
            ArraySpec("cluster.counts", (BANKS, ranks, 2), "int64"),
            ArraySpec("cluster.notices", (NOTICES, NOTICE_BYTES), "uint8"),
        ]

    @property
    def settled(self) -> bool:
        """Whether learners may begin: from another node's vectors, or without any."""
        return bool(self._words[_SETTLED])

    def settle(self) -> None:
        """Let the learners begin."""
        self._words[_SETTLED] = 1

    @property
    def epoch(self) -> int:
        """Which start of this node this is, by what the other nodes know; 0 before the first."""
        return int(self._words[_EPOCH])

    @property
    def session(self) -> int:
        """Random number of this start, the same for all incarnations of its bridge."""
        return int(self._words[_SESSION])

    @property
    def own(self) -> Start:
        """This start of this node."""
        return Start(self.epoch, self.session, _sessions(self._after.tolist()))

    @property
    def sessions(self) -> tuple[int, ...]:
        """Sessions of this start, and of those that its agent steps may have been made in."""
        return tuple(filter(None, (self.session, *self.own.after)))

    def come_after(self, sessions: tuple[int, ...]) -> None:
        """Note the sessions of the starts that this one goes on from (supervisor only)."""
        self._after[:] = _row(sessions)

    def begin(self, epoch: int, session: int, after: tuple[int, ...] = ()) -> None:
        """Begin, or renumber, this start of the node; one with a session has begun.

        In this order: nodes take what it has overtaken with a new epoch only.
        """
        self._words[_EPOCH] = epoch
        self._after[:] = _row(after)
        self._words[_SESSION] = session

    @property
    def overtaken_by(self) -> Start | None:
        """The start of this node that has taken the place of this one, which is to end."""
        found = Start(int(self._words[_BY_EPOCH]), int(self._words[_BY_SESSION]))
        return found if found.epoch else None

    def overtake(self, start: Start) -> None:
        """Note which start has taken the place of this one."""
        self._words[_BY_SESSION] = start.session
        self._words[_BY_EPOCH] = start.epoch

    def start(self, node: int) -> Start:
        """Return the newest start of another node that is known; epoch 0: none is."""
        epoch, session, *after = self._starts[self.node(node, "bank"), node].tolist()
        return Start(epoch, session, _sessions(after))

    def replace(self, node: int, start: Start, ranks: range, counts: npt.NDArray[np.int64]) -> None:
        """Set the newest start of another node that is known, with the counts of its learners.

        Args:
            node: the node.
            start: its start.
            ranks: its learners.
            counts: `before` and `since` of each: [ranks, 2].
        """
        bank = 1 - self.node(node, "bank")
        self._starts[bank, node] = (start.epoch, start.session, *_row(start.after))
        self._counts[bank, ranks.start : ranks.stop] = counts
        memory_fence()
        self.set_node(node, "bank", bank)

    def node(self, node: int, name: str) -> int:
        """Return a word of a node."""
        return int(self._nodes[node, _NODE[name]])

    def set_node(self, node: int, name: str, value: int) -> None:
        """Set a word of a node."""
        self._nodes[node, _NODE[name]] = value

    def rank(self, rank: int, name: str) -> int:
        """Return a word of a learner."""
        return int(self._ranks[rank, _RANK[name]])

    def set_rank(self, rank: int, name: str, value: int) -> None:
        """Set a word of a learner."""
        self._ranks[rank, _RANK[name]] = value

    def counts(self, node: int, ranks: range) -> npt.NDArray[np.int64]:
        """Return the agent steps of learners of a node, which can be written: [ranks, 2].

        `before`: those that the other nodes know of its node's earlier starts; `since`: of another
        node's learner, those of the start that is known.
        """
        return self._counts[self.node(node, "bank"), ranks.start : ranks.stop]

    def missing(self, rank: int) -> int:
        """Return the agent steps of a learner here that only the other nodes know of."""
        before = int(self._counts[0, rank, 0])  # the start of this node is replaced by none
        return max(0, before - self.rank(rank, "at_start"))

    def notice(self, text: str) -> None:
        """Leave one line for the supervisor; of too many the newest stay."""
        head = int(self._words[_HEAD])
        line = np.frombuffer(text.encode()[:NOTICE_BYTES].ljust(NOTICE_BYTES, b"\0"), np.uint8)
        self._notices[head % NOTICES] = line
        memory_fence()
        self._words[_HEAD] = head + 1

    def notices(self) -> list[str]:
        """Return the lines since the last call (supervisor only)."""
        head = int(self._words[_HEAD])
        memory_fence()
        first = max(self._read, head - NOTICES + 1)
        self._read = head
        lines = (bytes(self._notices[at % NOTICES]) for at in range(first, head))
        return [line.rstrip(b"\0").decode(errors="replace") for line in lines]


_NODE = {name: at for at, name in enumerate(NODE_WORDS)}
_RANK = {name: at for at, name in enumerate(RANK_WORDS)}


def _sessions(row: list[int]) -> tuple[int, ...]:
    return tuple(filter(None, row))


def _row(sessions: tuple[int, ...]) -> tuple[int, ...]:
    kept = sessions[:OVERTAKEN_KEPT]
    return *kept, *(0,) * (OVERTAKEN_KEPT - len(kept))
