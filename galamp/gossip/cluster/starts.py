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

import numpy as np
import numpy.typing as npt

from galamp.core.decode import Range
from galamp.core.errors import RunFailed
from galamp.core.nodes import Ranks
from galamp.memory.cluster_board import LARGEST_EPOCH, OVERTAKEN_KEPT, ClusterBoard, Start

Steps = Annotated[int, Range(0, 10**15)]
CountArray = npt.NDArray[np.int64]
"""`Counts` of several learners: [learners, 2]."""


class Counts(NamedTuple):
    """Agent steps of a learner: before a start of its node, and since."""

    before: Steps
    since: Steps


class Starts:
    """What one node knows of the starts of all."""

    def __init__(self, ranks: Ranks, board: ClusterBoard) -> None:
        self._ranks, self._board = ranks, board

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
        board, ranks = self._board, self._ranks
        here = [Counts(*each) for each in board.counts(range(ranks.all)).tolist()]
        for rank, steps in own.items():
            at_start = board.rank(rank, "at_start")
            here[rank] = Counts(max(here[rank].before, at_start), max(0, steps - at_start))
        return [here[ranks.here(number)] for number in range(ranks.all)]

    def elsewhere(self) -> dict[int, int]:
        """Return the agent steps of other nodes' learners, by their number here, so far heard."""
        remote = self._ranks.remote
        return dict(zip(remote, self._board.counts(remote).sum(1).tolist(), strict=True))

    def hear(self, node: int, start: Start, counts: Sequence[Counts]) -> None:
        """Take what is told of a node, by itself or by another one."""
        if start.epoch == 0:
            return
        told = np.array(counts, np.int64)
        if node == self._ranks.node:
            self._hear_of_own(start, told)
            return
        known = self._board.start(node)
        if start.session == known.session:
            kept = self._board.counts(self._ranks.learners_of(node))
            np.maximum(kept, told, out=kept)
            if start.epoch > known.epoch:
                self._set_start(node, start)
        elif start.epoch > known.epoch:
            self._begin(node, start, told, known)

    def _begin(self, node: int, start: Start, told: CountArray, known: Start) -> None:
        """Take a newer start of a node in place of the one that is `known`."""
        kept = self._board.counts(self._ranks.learners_of(node))
        before = told[:, 0]
        if start.session not in known.after:  # else the start was counted before the known one
            before = np.maximum(before, kept.sum(1))
        kept[:, 1] = 0  # first, so that a bridge that is killed here doubles nothing
        kept[:, 0] = before
        self._set_start(node, start)
        kept[:, 1] = told[:, 1]

    def _set_start(self, node: int, start: Start) -> None:
        """Note the newest start of a node: frames of the one before are not taken any more."""
        board = self._board
        for rank in self._ranks.learners_of(node):
            board.set_rank(rank, "number", 0)
            board.set_rank(rank, "mirrored", 0)
        board.set_start(node, start)

    def _hear_of_own(self, start: Start, told: CountArray) -> None:
        """Take what another node knows of a start of this one: this, an earlier or a later one."""
        board, own = self._board, self._board.own
        mine = start.session == own.session
        overtaking = not mine and own.session in start.after
        if overtaking and start[:2] > own[:2]:
            board.overtake(start)
            return
        if not overtaking:  # else these are counted there, as made before
            kept = board.counts(range(self._ranks.lanes))[:, 0]
            np.maximum(kept, told[:, 0] if mine else told.sum(1), out=kept)
        if not mine and own.epoch <= start.epoch < LARGEST_EPOCH:
            after = (start.session, *start.after, *own.after)
            kept_sessions = tuple(dict.fromkeys(each for each in after if each != own.session))
            board.begin(start.epoch + 1, own.session, kept_sessions[:OVERTAKEN_KEPT])
