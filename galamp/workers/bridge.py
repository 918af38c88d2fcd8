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
import math
import os
import secrets
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from galamp.core.errors import StopRun
from galamp.core.machine.cpu_quota import allowed_processors
from galamp.core.processes.allocator import keep_until_returned, return_spare
from galamp.core.processes.tracing import TracingPermit
from galamp.gossip.cluster import port_class
from galamp.gossip.cluster.arrivals import Arrivals
from galamp.gossip.cluster.membership import HELLO_EVERY_S, Lane, Membership
from galamp.gossip.cluster.mirrors import Mirrors
from galamp.gossip.cluster.packing import Packing
from galamp.gossip.cluster.port import Port, PortContext
from galamp.gossip.cluster.silence import Silence
from galamp.gossip.cluster.token_bucket import TokenBucket
from galamp.gossip.cluster.wire import WireIdentity
from galamp.memory.cluster_board import SETTLE_LIMIT_S, ClusterBoard
from galamp.memory.control import ControlBlock
from galamp.memory.status import Phase, StatusBoard
from galamp.memory.versioned_slots import VersionedSlots
from galamp.workers.bridge_task import BridgeTask

TICK_S = 0.05
"""Longest sleep: within it the end of the run is noticed."""
GATHER_S = 0.001
"""Pause after a wake-up, in which a learner sends its tokens to all of its peers."""
JOIN_S = 2.0
"""How long learners wait at their start for other nodes to be heard; see `SETTLE_LIMIT_S`."""
FETCH_AGAIN_S, FETCH_EVERY_S = 0.5, 2.0
"""First pause until a vector that has not come is asked for again, and the longest."""
HELLO_PAUSE_S = 0.05
"""Least pause between two hellos: news is told at once, but not without end."""
WORK_S = 0.2
"""Time in a step for vectors that have come, and for mirrors that follow: the supervisor and the
other nodes are to hear of this one in between. One vector of each kind is always taken."""
FOLLOW_EVERY_S = 1.0
"""Interval in which a mirror follows; and how long it stays as it is when its node has left."""
LOOK_EVERY_S = 0.05
"""Longest time until it is noticed that a node cannot be reached any more."""
SPARE_EVERY_S = 10.0
"""Longest time that memory is held which vectors have left."""
REFUSALS_EVERY_S = 10.0
"""Interval of notices of what a node sends that is refused; in between it is only counted."""


def main(task: BridgeTask) -> None:
    """Carry vectors until the run is over.

    Raises:
        RunFailed: the port cannot be opened.
    """
    keep_until_returned()  # its library's threads take vectors, and give them back
    bridge = Bridge(task)
    if task.paced:
        bridge.may_send = TokenBucket(_cores(), bridge.sent, bridge.received).may_send
    try:
        bridge.run()
    finally:
        bridge.close()


def _cores() -> float:
    """Return how many cores' time the node has."""
    processors = len(os.sched_getaffinity(0))
    return min(processors, allowed_processors() or math.inf)


class Bridge:
    """State of the bridge's loop.

    Attributes:
        may_send: whether what learners have published may leave now; asked only if there is any.
    """

    def __init__(self, task: BridgeTask) -> None:
        self.may_send: Callable[[], bool] = lambda: True
        ranks = self._ranks = task.ranks
        self._task, self._control = task, ControlBlock(task.arrays)
        self._tracing = TracingPermit(lambda: self._control.tracer)
        status = StatusBoard(task.arrays, ranks.lanes, len(ranks.remote))
        self._row, self._rows = status.bridge(), [status.learner(r) for r in range(ranks.all)]
        self._row.reset()
        self.board = ClusterBoard(task.arrays, ranks.nodes, ranks.all)
        self._mirrors = Mirrors(
            task.arrays, task.topology, ranks, task.wakeups, parameters=task.parameters,
            certificate=task.certificate,
        )  # fmt: skip
        self._own = [
            VersionedSlots(task.arrays, f"parameters{r}.header") for r in range(ranks.lanes)
        ]
        size = self._mirrors.size
        self._identity = WireIdentity(task.run, task.model, size, ranks.all, task.wire)
        self._packings = dict[int, Packing]()
        if not self.board.session:
            self.board.begin(1, 1 + secrets.randbits(61), self.board.own.after)
        self._membership = Membership(ranks, self.board, task.about)
        self._arrivals = Arrivals(
            ranks, self._identity, self._membership, self._mirrors, self.board, self._rows,
            self._refuse,
        )  # fmt: skip
        self._lanes = dict[tuple[int, int], deque[int]]()
        others = self._membership.others
        self._superseded = dict.fromkeys(others, 0)
        self._earlier = {
            node: (self.board.node(node, "sent"), self.board.node(node, "overwritten"))
            for node in others
        }
        self._reached, self._frames = frozenset[int](), 0
        self._fetches = dict[int, tuple[float, float]]()
        self._refused_s = dict[int, float]()
        place, frame_bytes = task.place, self._identity.frame_bytes
        self._port: Port = port_class(task.port)(
            PortContext(
                place.node, place.nodes, ranks.all, place.listen, place.connect, frame_bytes,
                task.wakeup.signal, place.keys,
            )
        )  # fmt: skip
        self._opened_s = time.monotonic()
        self._silence = Silence(place, self._opened_s)
        self._hello_due_s = self._follow_due_s = self._look_due_s = self._opened_s
        self._now_s, self._told_s = self._opened_s, self._opened_s - HELLO_PAUSE_S
        self._spare_due_s = self._opened_s
        self._follows = itertools.cycle(ranks.remote)

    def sent(self) -> int:
        """Return how many frames have left, for all nodes."""
        return sum(map(self._port.sent, self._membership.others))

    def received(self) -> int:
        """Return how many frames have come, whatever is in them."""
        return self._frames

    def run(self) -> None:
        """Repeat `step` until the run is over.

        Raises:
            StopRun: it is.
        """
        self._row.enter(Phase.GOSSIP)
        while not self._control.quit:
            now_s = time.monotonic()
            self.step(now_s)
            if now_s >= self._spare_due_s:
                self._spare_due_s = now_s + SPARE_EVERY_S
                return_spare()
            if self._task.wakeup.wait(TICK_S):
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
        self._now_s = now_s
        self._row.heartbeat()
        self._tracing.follow()
        self._membership.starts.check_place()
        if self._listen(now_s) or now_s >= self._look_due_s:
            self._look_due_s = now_s + LOOK_EVERY_S
            self._look(now_s)
            self._count()
        if now_s >= self._hello_due_s:
            self._hello_due_s, self._told_s = now_s + HELLO_EVERY_S, now_s
            self._tell()
        for node, packed in self._port.frames():
            self._frames += 1
            self._arrivals.add(node, packed)
        self._take()
        for node, number in self._port.asked():
            rank = self._ranks.here(number)
            if rank < self._ranks.lanes:
                self._offer(node, rank, 0)
        if self._mirrors.waits and self.may_send():
            for leaving in self._mirrors.leaving():
                self._superseded[leaving.node] += leaving.superseded
                self._offer(leaving.node, leaving.rank, leaving.lanes)
        self._settle(now_s)
        self._follow(now_s)
        self._row["turns"] += 1

    # Membership

    def _look(self, now_s: float) -> None:
        """Note who is there; greet those that can be reached from now on."""
        reached = self._port.alive()
        if reached - self._reached:
            self._tell_soon(now_s)
        self._reached = reached
        before = self._present()
        changes = self._membership.update(reached, now_s)
        if before - self._present():  # the supervisor copies what they had, before it is replaced
            self._follow_due_s = now_s + FOLLOW_EVERY_S
        for line in changes + self._silence.reports(now_s):
            self.board.notice(line)

    def _present(self) -> set[int]:
        return {node for node in self._membership.others if self._membership.present(node)}

    def _tell_soon(self, now_s: float) -> None:
        """Have the others told at once."""
        self._hello_due_s = min(self._hello_due_s, max(now_s, self._told_s + HELLO_PAUSE_S))

    def _listen(self, now_s: float) -> bool:
        """Take what the others tell, if anything; answer at once where it is new who they are.

        Or where this node knows another start of theirs: they have to renumber themselves.
        """
        told = self._port.told()
        if not told:
            return False
        before, unknown = self._known(), self._membership.unknown
        for node, text in told:
            self._silence.heard(node)
            refusal = self._membership.hear(node, text, now_s)
            if refusal is not None:
                self._refuse(node, refusal)
        known = self._known()
        if known != before or self._membership.unknown != unknown:
            self._tell_soon(now_s)
        for node in self._membership.others:
            if known[node][1] != before[node][1]:  # rounds begin anew
                for rank in self._ranks.learners_of(node):
                    self._rows[rank]["rounds"] = 0
        return True

    def _known(self) -> list[tuple[int, int]]:
        """Return epoch and session of every node's newest start that is known."""
        starts = map(self._membership.starts.of, range(self._ranks.nodes))
        return [(start.epoch, start.session) for start in starts]

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
        for node in self._membership.others:
            self._count_of(node)
        self._row["agent_steps"] = sum(map(self.board.missing, range(self._ranks.lanes)))

    def _count_of(self, node: int) -> None:
        """Keep the counts of a node: rounds of its learners, of which not every vector comes here.

        And frames: those of the ports of earlier bridges are counted on.
        """
        lanes = self._membership.lanes_of(node)
        for rank, lane in zip(self._ranks.learners_of(node), lanes, strict=False):
            self._rows[rank]["rounds"] = max(self._rows[rank]["rounds"], lane.rounds)
        sent, overwritten = self._earlier[node]
        sent += self._port.sent(node)
        overwritten += self._port.overwritten(node) + self._superseded[node]
        for name, count in (("sent", sent), ("overwritten", overwritten)):
            self.board.set_node(node, name, max(count, self.board.node(node, name)))

    def _settle(self, now_s: float) -> None:
        """Let the learners begin, once the vectors of nodes that train already have come."""
        if self.board.settled:
            return
        waits = [self._waits_for(node, now_s) for node in self._membership.others]
        if not any(waits) or now_s - self._opened_s > SETTLE_LIMIT_S:
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
            if lane.alive and lane.published and not self.board.rank(rank, "mirrored"):
                waits = True
                due_s, pause_s = self._fetches.get(rank, (now_s, FETCH_AGAIN_S))
                if now_s >= due_s:
                    self._fetches[rank] = now_s + pause_s, min(2 * pause_s, FETCH_EVERY_S)
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
        """Return the newest frame of a learner (in the thread of the node's outbox)."""
        lanes, waiting = 0, self._lanes[node, rank]
        while waiting:
            lanes |= waiting.popleft()
        if node not in self._packings:
            self._packings[node] = Packing(self._mirrors, self._identity, self._ranks, self.board)
        return self._packings[node].frame(rank, lanes)

    def _take(self) -> None:
        """Mirror what has come, within a time; the next step, which comes at once, has the rest."""
        until_s = time.monotonic() + WORK_S
        while self._arrivals:
            self._arrivals.take()
            self._row.heartbeat()
            if time.monotonic() >= until_s:
                break
        if self._arrivals:
            self._task.wakeup.signal()

    def _refuse(self, node: int, text: str) -> None:
        """Count a refusal; leave a notice of it, unless there was one a moment ago."""
        now_s = self._now_s
        self.board.set_node(node, "refused", self.board.node(node, "refused") + 1)
        if now_s - self._refused_s.get(node, -REFUSALS_EVERY_S) >= REFUSALS_EVERY_S:
            self._refused_s[node] = now_s
            print(text, flush=True)
            self.board.notice(text)

    def _follow(self, now_s: float) -> None:
        """Have the mirrors of learners that are not heard follow those that train here, in turn."""
        if now_s >= self._follow_due_s and self.board.settled:
            remote = self._ranks.remote
            passed_s, each_s = now_s - self._follow_due_s, FOLLOW_EVERY_S / len(remote)
            self._follow_due_s = now_s + each_s
            most, until_s = min(len(remote), 1 + int(passed_s / each_s)), time.monotonic() + WORK_S
            for rank in itertools.islice(self._follows, most):
                if not self.board.rank(rank, "mirrored"):
                    self._mirrors.follow(rank)
                if time.monotonic() >= until_s:
                    break
