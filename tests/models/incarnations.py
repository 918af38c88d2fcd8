"""What runs in children that are killed: incarnations of a learner that only publishes.

All that is published is a function of its number, so that whoever reads can tell what is whole.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection

import numpy as np

from galamp.core import failpoints
from galamp.gossip.topologies.ring import DirectedRing
from galamp.gossip.transport.mailbox import Mailbox, Token
from galamp.gossip.transport.publication import Publication, Source
from galamp.gossip.transport.publication_ring import PublicationRing
from galamp.memory.arrays import ArraySpec, SharedArrays
from galamp.memory.metrics import EpisodeRing
from galamp.memory.status import StatusBoard
from galamp.memory.versioned_slots import NUM_SLOTS, Header, VersionedSlots, header_spec

ROLE = "learner 0"
REPORTS = ("reader 0", "reader 1")
READS, TORN, FELL = range(3)
"""What a reader counts in its report: copies accepted, and what must not be among them."""


def specs(size: int) -> list[ArraySpec]:
    return [
        header_spec("h"),
        ArraySpec("p", (NUM_SLOTS, size), "float32"),
        ArraySpec("stop", (1,), "int64"),
        *(ArraySpec(report, (3,), "int64") for report in REPORTS),
        Mailbox.spec(0, 1, "x"),
        *PublicationRing.specs(DirectedRing(2)),
        *StatusBoard.specs(1, 1),
    ]


class Incarnation:
    """An incarnation of the learner: `publish` leaves a number everywhere, in the real order."""

    def __init__(self, arrays: SharedArrays, incarnation: int) -> None:
        self._incarnation = incarnation
        self._payload = arrays["p"]
        self._slots = VersionedSlots(arrays, "h")
        self._mailbox = Mailbox(arrays, 0, 1, "x")
        self._publication_ring = PublicationRing(arrays, 0)
        self._episodes = EpisodeRing(arrays, 0)

    def publish(self) -> int:
        header = self.write()
        number = header.number
        self._publication_ring.append(publication(number, self._incarnation))
        self._mailbox.put(Token(number, number, self._incarnation))
        self._episodes.append(float(number), number, self._incarnation)
        return number

    def write(self) -> Header:
        number = self._slots.published + 1
        return self._slots.write(
            lambda slot: self._payload[slot].fill(number),
            incarnation=self._incarnation,
            round_=number,
            version=number,
        )


def publication(number: int, incarnation: int) -> Publication:
    mixed = (Source(1, number, 0.5),)
    return Publication(0, number, number, number, incarnation, float(number), 0.5, mixed)


def publish_until_it_dies(arrays: SharedArrays) -> None:
    """Child: the first incarnation, which takes its order from the environment."""
    failpoints.as_role(ROLE)
    incarnation = Incarnation(arrays, 0)
    while os.getppid() != 1:
        incarnation.publish()


def publish_flat_out(arrays: SharedArrays, incarnation: int) -> None:
    """Child: write vectors and nothing else, until it is killed."""
    one, parent = Incarnation(arrays, incarnation), os.getppid()
    while os.getppid() == parent:
        one.write()


def fork_writers(arrays: SharedArrays, orders: Connection) -> None:
    """Child: fork a writer for each incarnation it is told; kill it at the next word.

    Then tell how it ended. A new Python for each of them would take most of a test's time.
    """
    while (incarnation := orders.recv()) is not None:
        if not (writer := os.fork()):
            publish_flat_out(arrays, incarnation)
            os._exit(0)
        try:
            orders.recv()
        finally:
            os.kill(writer, signal.SIGKILL)
            _, how = os.waitpid(writer, 0)
        orders.send(os.waitstatus_to_exitcode(how))


def read_flat_out(arrays: SharedArrays, report: str) -> None:
    """Child: copy the newest vector again and again, and report on what was accepted."""
    words = arrays.words(report)
    slots = VersionedSlots(arrays, "h")
    copy = np.empty_like(arrays["p"][0])
    newest = 0
    while not arrays["stop"][0] and os.getppid() != 1:
        header = slots.read(lambda slot: np.copyto(copy, arrays["p"][slot]))
        if header is not None:
            words[READS] += 1
            words[TORN] += not bool((copy == header.number).all())
            words[FELL] += header.number < newest
            newest = header.number


def orders() -> Iterator[str]:
    """Every point that an incarnation comes to."""
    rooms = ("slots.", "ring.", "mailbox.", "episodes.")
    yield from (point for point in failpoints.POINTS if point.startswith(rooms))
