"""Real processes that die at named points of the real code, and what is left of their work."""

from __future__ import annotations

import ast
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from galamp.core import failpoints
from galamp.core.errors import UserError
from galamp.gossip.transport.mailbox import Mailbox
from galamp.gossip.transport.publication_ring import PublicationRing
from galamp.memory.arrays import SharedArrays
from galamp.memory.metrics import EpisodeRing
from galamp.memory.versioned_slots import VersionedSlots
from tests.models.incarnations import Incarnation, orders, publication, publish_until_it_dies, specs

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60
SIZE = 1000
TIME = 5
"""The fifth publication is the one that its writer does not survive."""

FOUND_OF_IT = {
    "slots.odd": "",
    "slots.filled": "",
    "slots.headed": "",
    "slots.even": "",
    "slots.published": "vector",
    "ring.written": "vector",
    "ring.counted": "vector entry",
    "mailbox.written": "vector entry",
    "mailbox.counted": "vector entry token",
    "episodes.written": "vector entry token",
    "episodes.counted": "vector entry token episode",
}
"""What readers find of the fifth publication, by the point at which its writer died."""


class Readers:
    """All who read what an incarnation leaves; each remembers how far it has come."""

    def __init__(self, arrays: SharedArrays) -> None:
        self._payload = arrays["p"]
        self._slots = VersionedSlots(arrays, "h")
        self._mailbox = Mailbox(arrays, 0, 1, "x")
        self._publication_ring = PublicationRing(arrays, 0)
        self._episodes, self._tail = EpisodeRing(arrays, 0), 0

    def newest_vector(self) -> tuple[int, int]:
        """Number and incarnation of the newest vector; it and what it was made from are whole."""
        copies = []
        header = self._slots.read(lambda slot: copies.append(self._payload[slot].copy()))
        assert header is not None
        assert header.number == header.round == header.version
        assert (copies[-1] == header.number).all()
        return header.number, header.incarnation

    def newest_token(self) -> tuple[int, int]:
        token, index = self._mailbox.newest() or pytest.fail("no token")
        assert token.number == token.round
        self._mailbox.accept(index)
        return token.number, token.incarnation

    def entries(self) -> list[tuple[int, int]]:
        publications = [each for _, each in self._publication_ring.drain()[0]]
        for each in publications:
            assert each == publication(each.number, each.incarnation)
        return [(each.number, each.incarnation) for each in publications]

    def episodes(self) -> list[tuple[int, int]]:
        rows, self._tail = self._episodes.drain(self._tail)
        assert (rows[:, 0] == rows[:, 1]).all()
        return [(int(row[0]), int(row[2])) for row in rows]


@pytest.mark.parametrize("point", FOUND_OF_IT)
def test_a_writer_killed_at(point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = SharedArrays.create(specs(SIZE))
    readers = Readers(arrays)
    die_at(point, arrays, monkeypatch)
    whole = [(number, 0) for number in range(1, TIME)]
    at_least = {name: [*whole, (TIME, 0)] for name in FOUND_OF_IT[point].split()}
    assert readers.newest_vector() == at_least.get("vector", whole)[-1]
    assert readers.newest_token() == at_least.get("token", whole)[-1]
    assert readers.entries() == at_least.get("entry", whole)
    assert readers.episodes() == at_least.get("episode", whole)
    # Whoever takes its place goes on where it was killed, and is read as a whole.
    following = TIME + ("vector" in at_least)
    successor = Incarnation(arrays, 1)
    for number in range(following, following + 3):
        assert successor.publish() == number
        assert readers.newest_vector() == readers.newest_token() == (number, 1)
        assert readers.entries() == readers.episodes() == [(number, 1)]


def die_at(point: str, arrays: SharedArrays, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(failpoints.VARIABLE, f"{point}:{TIME}@learner 0")
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=publish_until_it_dies, args=(arrays,), daemon=True)
    child.start()
    try:
        child.join(DEADLINE_S)
        assert child.exitcode == -signal.SIGKILL
    finally:
        child.kill()
        child.join(DEADLINE_S)


def test_all_points_of_an_incarnation_are_tried() -> None:
    assert set(orders()) == set(FOUND_OF_IT)


# The points themselves


def reached() -> list[str]:
    """The argument of every call of `hit` in the package."""
    found = []
    texts = (path.read_text() for path in (ROOT / "galamp").rglob("*.py"))
    for text in (text for text in texts if "hit" in text):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "hit":
                found.append(ast.literal_eval(node.args[0]))
    return found


def test_every_declared_point_is_in_one_place() -> None:
    assert sorted(reached()) == sorted(failpoints.POINTS)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("slots.od:1", r"no such point \(did you mean slots\.odd"),
        ("slots.odd", "expected point:time"),
        ("slots.odd:0", "expected point:time"),
        ("slots.odd:1@lerner 0", "expected point:time"),
        ("slots.odd:1@simulator 0", "expected point:time"),
    ],
)
def test_what_cannot_be_ordered_is_refused(
    text: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(failpoints.VARIABLE, text)
    with pytest.raises(UserError, match=complaint):
        failpoints.as_role("learner 0")
    failpoints.hit("slots.odd")


INCARNATION = """
import sys
from galamp.core.failpoints import *
{before}
for number in range(3):
    hit("slots.odd")
    hit("slots.even")
    print(number, flush=True)
"""


@pytest.mark.parametrize(
    ("order", "before", "printed"),
    [
        ("slots.odd:3", "as_role('learner 1')", 2),
        ("slots.odd:2@learner 1", "as_role('learner 1')", 1),
        ("slots.odd:1@simulator 0.1", "as_role('simulator 0.1')", 0),
        ("slots.odd:1@supervisor", "as_role('supervisor')", 0),
        ("slots.odd:1@learner 10", "as_role('learner 1')", 3),
        ("slots.odd:4", "as_role('learner 1')", 3),
        ("slots.odd:1", "", 3),
        ("slots.odd:1", "as_role('learner 1'); disarm()", 3),
        ("", "as_role('learner 1')", 3),
    ],
)
def test_only_who_is_meant_dies_and_when(order: str, before: str, printed: int) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", INCARNATION.format(before=before)],
        env=os.environ | {failpoints.VARIABLE: order, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert ended.stdout.split() == [str(number) for number in range(printed)], ended.stderr
    assert ended.returncode == (-signal.SIGKILL if printed < 3 else 0)
