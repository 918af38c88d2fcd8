r"""Starts: which start of each node is the newest, and the agent steps that were made in which.

    what a node tells of each node: Start, Counts --hear--> ClusterBoard --> epochs, agent steps

Epochs number the starts of a node, so that nothing of an earlier start is taken for news. A node
that starts in an empty folder cannot know how often it was started before; the others do. It begins
with epoch 1, and where another node knows a start of it that is as new as that but has another
random `session`, it renumbers itself past it, and tells which sessions it has so overtaken.

A start whose own session another one has overtaken has lost its place: two processes run as the
same node, and the one that the others know last stays. A start cannot overtake what it has never
heard of, so one that had ended before another began never ends that one, however late it is told.

Agent steps of a learner are counted in two parts: those of its node's earlier starts, and those of
the start that they are told with. Both only grow, so nodes keep the greatest that they have heard
of each, and pass them on. Where a newer start is heard of, the sum of both becomes the first part.
So no count falls, and none is doubled, whoever tells it; and a node that has lost its own count, or
a part of it, hears it from the others. Pure, but for the board. Runs in bridges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple

from galamp.core.decode import Range
from galamp.core.errors import RunFailed
from galamp.core.nodes import Ranks
from galamp.memory.cluster_board import LARGEST_EPOCH, OVERTAKEN_KEPT, ClusterBoard, Start

Steps = Annotated[int, Range(0, 10**15)]


class Counts(NamedTuple):
    """Agent steps of a learner: before a start of its node, and since."""

    before: Steps
    since: Steps


class Starts:
    """What one node knows of the starts of all."""

    def __init__(self, ranks: Ranks, board: ClusterBoard) -> None:
        self._ranks, self._board = ranks, board
        self.conflicts = 0
        """Number of times that a node was told of by another start than the one known here."""

    def of(self, node: int) -> Start:
        """Return the newest start of a node that is known; of this one its own."""
        return self._board.own if node == self._ranks.node else self._board.start(node)

    def check_place(self) -> None:
        """Check that no other start of this node has taken the place of this one.

        Raises:
            RunFailed: one has.
        """
        own, by = self._board.own, self._board.overtaken_by
        if by is not None:
            node = self._ranks.node
            raise RunFailed(
                f"has lost its place as node {node}: start {own.epoch} of node {node} (session "
                f"{own.session:016x}) ends, for the other nodes know start {by.epoch} (session "
                f"{by.session:016x}), another process with --node-rank {node}; end that one before "
                "this run is resumed"
            )

    def counts(self, own: Mapping[int, int]) -> list[Counts]:
        """Return the counts of all learners, by their number among all.

        `own` are the agent steps of those of this node since they ever began, as they know it.
        """
        return [self._counts(self._ranks.here(number), own) for number in range(self._ranks.all)]

    def _counts(self, rank: int, own: Mapping[int, int]) -> Counts:
        board = self._board
        before = board.rank(rank, "before")
        if rank not in own:
            return Counts(before, board.rank(rank, "since"))
        at_start = board.rank(rank, "at_start")
        return Counts(max(before, at_start), max(0, own[rank] - at_start))

    def elsewhere(self) -> dict[int, int]:
        """Return the agent steps of other nodes' learners, by their number here, so far heard."""
        return {rank: sum(self._counts(rank, {})) for rank in self._ranks.remote}

    def hear(self, node: int, start: Start, counts: Sequence[Counts]) -> None:
        """Take what is told of a node, by itself or by another one."""
        if start.epoch == 0:
            return
        if node == self._ranks.node:
            self._hear_of_own(start, counts)
            return
        known = self._board.start(node)
        if start.session == known.session or start.epoch > known.epoch:
            self._hear_of_newest(node, start, counts)
        elif start.session not in known.after:
            self.conflicts += 1

    def _hear_of_newest(self, node: int, start: Start, counts: Sequence[Counts]) -> None:
        """Take the counts of the newest start, which may be new."""
        board, known = self._board, self._board.start(node)
        newer = start.epoch > known.epoch
        for rank, told in zip(self._ranks.learners_of(node), counts, strict=True):
            since = board.rank(rank, "since")
            before = max(board.rank(rank, "before"), told.before)
            if start.session != known.session:
                # What a start that has overtaken this one tells as before holds this one's steps.
                if start.session not in known.after:
                    before = max(before, board.rank(rank, "before") + since)
                else:
                    before = told.before
                board.set_rank(rank, "since", 0)  # a bridge killed here doubles nothing
            board.set_rank(rank, "before", before)
            if newer:
                board.set_rank(rank, "number", 0)
                board.set_rank(rank, "mirrored", 0)
        if newer:
            board.set_start(node, start)
        for rank, told in zip(self._ranks.learners_of(node), counts, strict=True):
            board.set_rank(rank, "since", max(board.rank(rank, "since"), told.since))

    def _hear_of_own(self, start: Start, counts: Sequence[Counts]) -> None:
        """Take what another node knows of a start of this one: this, an earlier or a later one."""
        board, own = self._board, self._board.own
        mine = start.session == own.session
        overtaking = not mine and own.session in start.after
        if overtaking and start[:2] > own[:2]:
            board.overtake(start)
            return
        if not overtaking:
            for lane, told in enumerate(counts):
                before = told.before if mine else sum(told)
                board.set_rank(lane, "before", max(before, board.rank(lane, "before")))
        if not mine and own.epoch <= start.epoch < LARGEST_EPOCH:
            after = (start.session, *start.after, *own.after)
            kept = tuple(dict.fromkeys(each for each in after if each != own.session))
            board.begin(start.epoch + 1, own.session, kept[:OVERTAKEN_KEPT])
