r"""Starts: which start of each node is the newest, and the agent steps that were made in which.

    what a node tells of each node: Start, Counts --hear--> ClusterBoard --> epochs, agent steps

Epochs number the starts of a node, so that nothing of an earlier start is taken for news. A node
that starts in an empty folder cannot know how often it was started before; the others do. It begins
with epoch 1. Where another node knows a start of it that it does not know, it overtakes that one:
it renumbers itself past it, and tells which sessions, the random numbers of starts, it has so
overtaken, and which these had; a start that goes on from a checkpoint has overtaken those whose
agent steps are in it. A node takes a start in place of the one it knows only if it has overtaken
that one, and all that one has: a greater epoch alone says nothing, as it may be that of a start
which has ended long ago, and of which another node tells.

A start whose own session another one has overtaken has lost its place: two processes run as the
same node, or did, and the one that the others know last stays. A start cannot overtake what it has
never heard of, so one that had ended before another began never ends that one, however late it is
told.

Agent steps of a learner are counted in two parts: those of its node's earlier starts, and those of
the start that they are told with. Both only grow, so nodes keep the greatest that they have heard
of each, and pass them on. Where a start has overtaken the known one, the sum of both becomes the
first part. So no count falls, and none is doubled, whoever tells it; and a node that has lost its
own count, or a part of it, hears it from the others. Two processes of one node may overtake each
other, at once; what one has counted of the other is then taken off again, see `_joined`. Pure, but
for the board. Runs in bridges.
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
                f"{by.session:016x}), another process with --node-rank {node}, which runs or has "
                "run; if it runs, end it before this run is resumed"
            )

    def counts(self, own: Mapping[int, int]) -> list[Counts]:
        """Return the counts of all learners, by their number among all.

        `own` are the agent steps of those of this node since they ever began, as they know it.
        """
        board, every = self._board, range(self._ranks.nodes)
        found = [Counts(*each) for node in every for each in self._kept(node).tolist()]
        for rank, steps in own.items():
            number, at_start = self._ranks.among_all(rank), board.rank(rank, "at_start")
            before = max(found[number].before, at_start)
            found[number] = Counts(before, max(0, steps - at_start))
        return found

    def _kept(self, node: int) -> CountArray:
        """Return the counts of a node's learners, which can be written: [lanes, 2]."""
        return self._board.counts(node, self._ranks.learners_of(node))

    def elsewhere(self) -> dict[int, int]:
        """Return the agent steps of other nodes' learners, by their number here, so far heard."""
        remote, node_of = self._ranks.remote, self._ranks.node_of
        return {r: int(self._board.counts(node_of(r), range(r, r + 1)).sum()) for r in remote}

    def hear(self, node: int, start: Start, counts: Sequence[Counts]) -> None:
        """Take what is told of a node, by itself or by another one."""
        if start.epoch == 0:
            return
        told = np.array(counts, np.int64)
        if node == self._ranks.node:
            self._hear_of_own(start, told)
            return
        known, kept = self._board.start(node), self._kept(node)
        if start.session == known.session:
            np.maximum(kept, told, out=kept)
            if start.epoch > known.epoch:
                self._replace(node, start, kept)
        elif not known.epoch or _has_overtaken(start, known):
            self._replace(node, start, _joined(start, told, known, kept))

    def _replace(self, node: int, start: Start, counts: CountArray) -> None:
        """Note the newest start of a node: frames of the one before are not taken any more."""
        board, ranks = self._board, self._ranks.learners_of(node)
        for rank in ranks:
            board.set_rank(rank, "number", 0)
            board.set_rank(rank, "mirrored", 0)
        board.replace(node, start, ranks, counts)

    def _hear_of_own(self, start: Start, told: CountArray) -> None:
        """Take what another node knows of a start of this one: this, an earlier or a later one."""
        board, own = self._board, self._board.own
        if board.overtaken_by is not None:  # it ends, and must not overtake the one that stays
            return
        mine, overtaken = start.session == own.session, own.session in start.after
        if overtaken and not mine and start[:2] > own[:2]:
            board.overtake(start)
            return
        if not mine:
            self._pass(start)  # first: what is counted has been overtaken, wherever this is killed
        if mine or not overtaken:  # else it has counted steps of this one as made before
            kept = self._kept(self._ranks.node)[:, 0]
            np.maximum(kept, told[:, 0] if mine else told.sum(1), out=kept)

    def _pass(self, start: Start) -> None:
        """Renumber this start past another one of this node, unless that has been done."""
        own = self._board.own
        others = dict.fromkeys((start.session, *start.after, *own.after))
        others.pop(own.session, None)
        passed = start.session in own.after and start.epoch < own.epoch
        if passed and (len(own.after) == OVERTAKEN_KEPT or len(others) == len(own.after)):
            return
        epoch = 1 + max(own.epoch, start.epoch)
        if epoch <= LARGEST_EPOCH:
            self._board.begin(epoch, own.session, tuple(others)[:OVERTAKEN_KEPT])


def _has_overtaken(start: Start, known: Start) -> bool:
    """Whether a start has overtaken the known one of its node, and all that this one has.

    So it has overtaken whatever the counts of the known one hold. What is not told any more, as
    there are too many, is taken to be.
    """
    full = len(start.after) == OVERTAKEN_KEPT
    every = full or {start.session, *start.after}.issuperset(known.after)
    return start.epoch > known.epoch and known.session in start.after and every


def _joined(start: Start, told: CountArray, known: Start, kept: CountArray) -> CountArray:
    """Return the counts of a start in place of the `known` one: [lanes, 2].

    Where each has overtaken the other, the known one may have counted steps of this start as made
    before itself: but none that this start made after it had heard of the known one, so no more
    than are told now.
    """
    before, since = told.T
    mixed = start.session in known.after
    least = kept.sum(1) - since if mixed else kept.sum(1)
    return np.stack([np.maximum(before, least), since], axis=1)
