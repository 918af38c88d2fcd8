"""Agent steps over machines in any order of events: none is counted twice, and no count falls.

    train, save, die, start again or twice, be cut off --seeded--> hellos, late and again --> counts

Beside each hello goes what its sender knows really: how many steps were made in which start. The
sum of what a process has so heard is the most that it may count.
"""

from __future__ import annotations

import itertools
from random import Random
from typing import NamedTuple

import pytest

from galamp.memory.cluster_board import Start
from tests.support.node_starts import NODES, Node

HELLOS = 40
"""Hellos on their way between two nodes, of which any may come, or come once more."""
Made = tuple[dict[int, int], ...]
"""Of each node, the steps that were made in each of its starts, by session."""


class Hello(NamedTuple):
    """What is told, in words and really."""

    text: bytes
    made: Made


class Folder:
    """A run folder: its newest checkpoint, and what it holds really."""

    def __init__(self) -> None:
        self.steps, self.made = 0, dict[int, int]()
        self.sessions: tuple[int, ...] = ()

    def copy(self) -> Folder:
        """A copy of it, as on another machine."""
        folder = Folder()
        vars(folder).update(vars(self))
        return folder


class Process(Node):
    """A start whose counts are watched; it has one learner."""

    def __init__(self, node: int, session: int, folder: Folder) -> None:
        steps, after = folder.steps, folder.sessions
        super().__init__(node, session=session, steps=steps, lanes=1, after=after)
        self.node, self.folder, self.side = node, folder, 0
        self.seen = [0] * NODES
        self.made: Made = tuple({} for _ in range(NODES))
        self.made[node].update(folder.made)
        self.made[node][session] = 0

    def train(self, steps: int) -> None:
        self.rows[0] += steps
        self.made[self.node][self.session] += steps

    def save(self) -> None:
        folder = self.folder
        folder.steps, folder.sessions = self.saved, self.board.sessions
        folder.made = dict(self.made[self.node])

    def says(self) -> Hello:
        return Hello(self.hello(), tuple(map(dict, self.made)))

    def takes(self, other: Process, hello: Hello) -> None:
        self.told(other.node, hello.text)
        for mine, theirs in zip(self.made, hello.made, strict=True):
            for session, steps in theirs.items():
                mine[session] = max(mine.get(session, 0), steps)

    def check(self) -> None:
        """Check that no count is more than was made, and that none has fallen."""
        counts = [self.saved, *(self.rows[rank] for rank in self.ranks.remote)]
        for rank, steps in enumerate(counts):
            assert self.seen[rank] <= steps <= sum(self.made[self.ranks.node_of(rank)].values())
        self.seen = counts


class Cluster:
    """Three nodes, on two sides of a cut or on one; of a node two processes may run."""

    def __init__(self, seed: int, *, twins: bool) -> None:
        self.random, self._twins = Random(seed), twins
        self._numbers = itertools.count(1)
        self._sent = dict[tuple[int, int], list[Hello]]()
        self._lost = dict[int, Start | None]()
        self.live = list[Process]()
        for node in range(NODES):
            self._start(node, Folder())

    def _start(self, node: int, folder: Folder) -> None:
        session = next(self._numbers) * 7919 % 1009  # in no order
        process = Process(node, session, folder)
        process.side = self.random.randrange(2)
        self.live.append(process)

    def step(self) -> None:
        """One event, at one process."""
        process = self.random.choice(self.live)
        events = [self._train, self._save, self._cut, self._again, *[self._tell] * 6]
        self.random.choice([*events, self._twin] if self._twins else events)(process)
        self.check()

    def _train(self, process: Process) -> None:
        process.train(self.random.choice([1, 10, 100, 1000]))

    def _save(self, process: Process) -> None:
        process.save()

    def _cut(self, process: Process) -> None:
        process.side = self.random.randrange(2)

    def _again(self, process: Process) -> None:
        """It is killed, perhaps with others, and started: from its checkpoint, or with nothing."""
        for each in self.live[:]:
            if each is process or self.random.random() < 0.4:
                self.live.remove(each)
                self._start(each.node, self.random.choice([each.folder, Folder()]))

    def _twin(self, process: Process) -> None:
        """Its job is started twice: from its checkpoint, or with nothing."""
        if sum(each.node == process.node for each in self.live) == 1:
            self._start(process.node, self.random.choice([process.folder.copy(), Folder()]))

    def _tell(self, process: Process) -> None:
        """It hears another node: now, or what was told before, by another process perhaps."""
        others = (each for each in self.live if each.node != process.node)
        there = [each for each in others if each.side == process.side]
        if there:
            other = self.random.choice(there)
            sent = self._sent.setdefault((other.node, process.node), [])
            sent.append(other.says())
            del sent[:-HELLOS]
            late = self.random.random() < 0.1
            process.takes(other, self.random.choice(sent) if late else sent[-1])

    def check(self) -> None:
        for process in self.live[:]:
            process.check()
            if process.overtaken:
                self._lose(process)

    def _lose(self, process: Process) -> None:
        """It has lost its place to another one: it saves, and ends."""
        process.save()
        self.live.remove(process)
        by = process.board.overtaken_by
        while by is not None:
            assert by.session != process.session, "two that end for each other"
            by = self._lost.get(by.session)
        self._lost[process.session] = process.board.overtaken_by

    def heal(self) -> None:
        """All hear all, until nothing is new; of each node one process is left.

        Or none, where the last one lost its place to one that had died: then it is started again.
        """
        for _ in range(2):
            for node in range(NODES):
                if all(process.node != node for process in self.live):
                    self._start(node, Folder())
            for _ in range(4):
                for one, other in itertools.permutations(self.live, 2):
                    if one.node != other.node:
                        one.takes(other, other.says())
                self.check()
        assert sorted(process.node for process in self.live) == list(range(NODES))
        assert len({process.total for process in self.live}) == 1
        for process in self.live:
            assert all(map(process.membership.knows_this, process.membership.others))


@pytest.mark.parametrize("twins", [False, True])
@pytest.mark.parametrize(
    "seeds", [range(105, 125), pytest.param(range(1000, 4000), marks=pytest.mark.slow)]
)
def test_in_any_order_of_events_none_is_counted_twice_and_no_count_falls(
    seeds: range, twins: bool
) -> None:
    for seed in seeds:
        cluster = Cluster(seed, twins=twins)
        for _ in range(60):
            cluster.step()
        cluster.heal()
