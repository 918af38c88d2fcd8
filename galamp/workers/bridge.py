"""Bridge: the process of a node through which its learners gossip with those of other nodes.

    learners' slots, mailboxes --Mirrors.leaving--> Port --network--> Port --put--> mirrors there
                                                     ^ hello, twice a second, by `Membership`
    supervisor <-- ClusterBoard: who is alive, notices

A learner never waits for it: it reads and writes shared memory as ever. Where the bridge is killed,
other nodes' learners are absent until the next one has come. It imports no torch, unless its port
needs it.
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections import deque
from functools import partial

from galamp.core.errors import StopRun
from galamp.core.failpoints import hit
from galamp.core.processes.allocator import keep_nothing_spare
from galamp.core.processes.tracing import TracingPermit
from galamp.gossip.cluster import port_class
from galamp.gossip.cluster.membership import HELLO_EVERY_S, Lane, Membership
from galamp.gossip.cluster.mirrors import Mirrors
from galamp.gossip.cluster.port import Port, PortContext
from galamp.gossip.cluster.rounding import Rounding
from galamp.gossip.cluster.wire import (
    BF16,
    Frame,
    FrameError,
    Halves,
    Vector,
    WireIdentity,
    bit_sum,
    header_of,
    pack,
    unpack,
)
from galamp.memory.cluster_board import ClusterBoard
from galamp.memory.control import ControlBlock
from galamp.memory.status import Phase, StatusBoard
from galamp.memory.versioned_slots import VersionedSlots
from galamp.workers.bridge_task import BridgeTask

TICK_S = 0.05
"""Longest sleep: within it the end of the run is noticed."""
GATHER_S = 0.001
"""Pause after a wake-up, in which a learner sends its tokens to all of its peers."""
JOIN_S, JOIN_LIMIT_S = 2.0, 12.0
"""How long learners wait at their start for other nodes to be heard, and then for their vectors."""
FETCH_EVERY_S = 2.0
FOLLOW_EVERY_S = 1.0
LOOK_EVERY_S = 0.05
"""Longest time until it is noticed that a node cannot be reached any more."""
REFUSALS_EVERY_S = 10.0
"""Interval of notices of what a node sends that is refused; in between it is only counted."""


def main(task: BridgeTask) -> None:
    """Carry vectors until the run is over.

    Raises:
        RunFailed: the port cannot be opened.
    """
    keep_nothing_spare()  # its library's threads take vectors, and give them back
    bridge = Bridge(task)
    try:
        bridge.run()
    finally:
        bridge.close()


class Bridge:
    """State of the bridge's loop."""

    def __init__(self, task: BridgeTask) -> None:
        ranks = self._ranks = task.ranks
        self._task, self._control = task, ControlBlock(task.arrays)
        self._tracing = TracingPermit(lambda: self._control.tracer)
        status = StatusBoard(task.arrays, ranks.lanes, len(ranks.remote))
        self._row, self._rows = status.bridge(), [status.learner(r) for r in range(ranks.all)]
        self._row.reset()
        self.board = ClusterBoard(task.arrays, ranks.nodes, ranks.all)
        self._mirrors = Mirrors(
            task.arrays, task.topology, ranks, task.wakeups, certificate=task.certificate
        )
        self._own = [
            VersionedSlots(task.arrays, f"parameters{r}.header") for r in range(ranks.lanes)
        ]
        size = self._mirrors.size
        self._identity = WireIdentity(task.run, task.model, size, ranks.all, task.wire)
        self._roundings = dict[tuple[int, int], Rounding]()
        if not self.board.session:
            self._begin()
        self._membership = Membership(ranks, self.board, task.about)
        self._lanes = dict[tuple[int, int], deque[int]]()
        self._superseded = dict.fromkeys(self._membership.others, 0)
        self._fetched, self._rung = dict[int, float](), dict[int, int]()
        self._refused_s = dict[int, float]()
        place, frame_bytes = task.place, self._identity.frame_bytes
        self._port: Port = port_class(task.port)(
            PortContext(
                place.node, place.nodes, ranks.all, place.listen, place.connect, frame_bytes,
                task.wakeup.signal, place.keys,
            )
        )  # fmt: skip
        self._opened_s = time.monotonic()
        self._hello_due_s = self._follow_due_s = self._look_due_s = self._opened_s
        self._follows = itertools.cycle(ranks.remote)

    def _begin(self) -> None:
        """Begin this start of the node; only its first bridge does so."""
        for rank in range(self._ranks.lanes):
            self.board.set_rank(rank, "at_start", self._rows[rank]["agent_steps"])
        self.board.begin(1, 1 + secrets.randbits(61))

    def run(self) -> None:
        """Repeat `step` until the run is over.

        Raises:
            StopRun: it is.
        """
        self._row.enter(Phase.GOSSIP)
        while not self._control.quit:
            self.step(time.monotonic())
            self._task.wakeup.wait(TICK_S)
            time.sleep(GATHER_S)
        self._tell()  # the last counts
        self._row["done"] = 1
        raise StopRun

    def close(self) -> None:
        """Leave the network."""
        self._port.close()

    def step(self, now_s: float) -> None:
        """Take what has come, send what has to go, and note who is there.

        Raises:
            RunFailed: another process runs as this node, and has taken its place.
        """
        self._row.heartbeat()
        self._tracing.follow()
        self._membership.starts.check_place()
        if self._listen(now_s) or now_s >= self._look_due_s:
            self._look_due_s = now_s + LOOK_EVERY_S
            for change in self._membership.update(self._port.alive(), now_s):
                self.board.notice(change)
            self._count()
        for node, packed in self._port.frames():
            self._take(node, packed, now_s)
        for node, number in self._port.asked():
            rank = self._ranks.here(number)
            if rank < self._ranks.lanes:
                self._offer(node, rank, 0)
        for leaving in self._mirrors.leaving():
            self._superseded[leaving.node] += leaving.superseded
            self._offer(leaving.node, leaving.rank, leaving.lanes)
        if now_s >= self._hello_due_s:
            self._hello_due_s = now_s + HELLO_EVERY_S
            self._tell()
        self._settle(now_s)
        self._follow(now_s)
        self._row["turns"] += 1

    # Membership

    def _listen(self, now_s: float) -> bool:
        """Take what the others tell, if anything; answer at once where it is new who they are."""
        told = self._port.told()
        if not told:
            return False
        board = self.board
        before = board.epoch, [board.node(n, "session") for n in self._membership.others]
        for node, text in told:
            refusal = self._membership.hear(node, text, now_s)
            if refusal is not None:
                self._refuse(node, refusal, now_s)
        after = board.epoch, [board.node(n, "session") for n in self._membership.others]
        if before != after:
            self._hello_due_s = now_s
        return True

    def _tell(self) -> None:
        lanes = map(self._lane, range(self._ranks.lanes))
        steps = {rank: self._rows[rank]["agent_steps"] for rank in range(self._ranks.lanes)}
        text = self._membership.hello(list(lanes), steps)
        for node in self._membership.others:
            self._port.tell(node, text)

    def _lane(self, rank: int) -> Lane:
        """Return the state of a learner here; one that starts up is not waited for elsewhere."""
        row = self._rows[rank]
        alive = self._control.alive(rank) and row.phase is not Phase.BOOT
        return Lane(alive, row["rounds"], self._own[rank].published)

    def _count(self) -> None:
        """Keep the counts that the learners and the supervisor add up."""
        for rank, steps in self._membership.starts.elsewhere().items():
            row = self._rows[rank]
            row["agent_steps"] = max(row["agent_steps"], steps)
        self._row["agent_steps"] = sum(map(self.board.missing, range(self._ranks.lanes)))
        for node in self._membership.others:
            self.board.set_node(node, "sent", self._port.sent(node))
            overwritten = self._port.overwritten(node) + self._superseded[node]
            self.board.set_node(node, "overwritten", overwritten)

    def _settle(self, now_s: float) -> None:
        """Let the learners begin, once the vectors of nodes that train already have come."""
        if self.board.settled:
            return
        waits = [self._waits_for(node, now_s) for node in self._membership.others]
        if not any(waits) or now_s - self._opened_s > JOIN_LIMIT_S:
            self.board.settle()

    def _waits_for(self, node: int, now_s: float) -> bool:
        membership = self._membership
        if not membership.present(node):
            return now_s - self._opened_s < JOIN_S
        if not membership.knows_this(node):
            return True
        waits = False
        for rank, lane in zip(
            self._ranks.learners_of(node), membership.lanes_of(node), strict=True
        ):
            if lane.published and not self.board.rank(rank, "mirrored"):
                waits = True
                if now_s - self._fetched.get(rank, -FETCH_EVERY_S) >= FETCH_EVERY_S:
                    self._fetched[rank] = now_s
                    self._port.fetch(node, self._ranks.among_all(rank))
        return waits

    # Vectors

    def _offer(self, node: int, rank: int, lanes: int) -> None:
        """Have a learner's newest vector sent, to a node that knows of this start."""
        if self._membership.present(node) and self._membership.knows_this(node):
            self._lanes.setdefault((node, rank), deque()).append(lanes)
            make = partial(self._make, node, rank)
            self._port.publish(node, self._ranks.among_all(rank), make)

    def _make(self, node: int, rank: int) -> bytearray | None:
        """Return the newest frame of a learner (in a thread of the port)."""
        lanes, waiting = 0, self._lanes[node, rank]
        while waiting:
            lanes |= waiting.popleft()
        found = self._mirrors.copy(rank)
        if found is None:
            return None
        of, vector = found
        number, epoch = self._ranks.among_all(rank), self.board.epoch
        numbers, checksum, distance = self._on_wire(node, rank, vector, of.checksum)
        frame = Frame(
            number, epoch, of.incarnation, of.number, of.round, of.version, lanes, checksum,
            distance,
        )  # fmt: skip
        return pack(frame, numbers, self._identity)

    def _on_wire(
        self, node: int, rank: int, vector: Vector, checksum: int
    ) -> tuple[Vector | Halves, int, float]:
        """Return what is sent of a vector, its checksum, and how far it is from the vector.

        Called by the thread of this node's outbox alone, in which the rounding is kept.
        """
        if self._identity.wire != BF16:
            return vector, checksum or bit_sum(vector), 0.0
        if (node, rank) not in self._roundings:
            self._roundings[node, rank] = Rounding(vector.size)
        rounded = self._roundings[node, rank].encode(vector)
        return rounded.halves, bit_sum(rounded.vector), rounded.distance

    def _take(self, node: int, packed: bytes, now_s: float) -> None:
        """Mirror a frame, if it is what it says, and newer than what there is."""
        try:
            frame = header_of(packed, self._identity)
            objection = self._membership.objection(node, frame)
            if objection is not None:
                if objection:
                    self._refuse(node, objection, now_s)
                elif self._membership.repeats(frame):
                    self._ring_again(frame)
                return
            frame, vector = unpack(packed, self._identity)
        except FrameError as error:
            self._refuse(node, f"node {node} sends what is refused: {error}", now_s)
            return
        rank = self._ranks.here(frame.rank)
        hit("bridge.taken")
        self._mirrors.put(rank, frame, vector)
        hit("bridge.mirrored")
        self._rung[rank] = frame.lanes
        self.board.set_rank(rank, "number", frame.number)
        self.board.set_rank(rank, "mirrored", 1)
        self.board.set_node(node, "received", self.board.node(node, "received") + 1)
        self._rows[rank]["rounds"] = frame.round + 1
        self._rows[rank]["updates"] = frame.version

    def _ring_again(self, frame: Frame) -> None:
        """Tell those that a publication was not for when it came first: its tokens came apart."""
        rank = self._ranks.here(frame.rank)
        rung = self._rung.get(rank, 0)
        self._mirrors.ring(rank, frame.lanes & ~rung)
        self._rung[rank] = rung | frame.lanes

    def _refuse(self, node: int, text: str, now_s: float) -> None:
        """Count a refusal; leave a notice of it, unless there was one a moment ago."""
        self.board.set_node(node, "refused", self.board.node(node, "refused") + 1)
        print(text, flush=True)
        if now_s - self._refused_s.get(node, -REFUSALS_EVERY_S) >= REFUSALS_EVERY_S:
            self._refused_s[node] = now_s
            self.board.notice(text)

    def _follow(self, now_s: float) -> None:
        """Have the mirrors of learners that are not heard follow those that train here, in turn."""
        if now_s >= self._follow_due_s and self.board.settled:
            remote = self._ranks.remote
            passed_s, each_s = now_s - self._follow_due_s, FOLLOW_EVERY_S / len(remote)
            self._follow_due_s = now_s + each_s
            for rank in itertools.islice(
                self._follows, min(len(remote), 1 + int(passed_s / each_s))
            ):
                if not self.board.rank(rank, "mirrored"):
                    self._mirrors.follow(rank)
