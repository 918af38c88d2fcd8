"""What every port must keep; inherit `PortContract` and say what it is called."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import pytest

from galamp.core.node_keys import NodeKeys
from galamp.gossip.cluster import port_class
from galamp.gossip.cluster.port import Port, PortContext
from galamp.memory.arrays import Wakeup

SIZE = 200_000
DEADLINE_S = 60.0
RANKS = 4
"""Two learners on each of two nodes."""


class End:
    """A node's port, and the wake-up that it has been given."""

    def __init__(self, name: str, node: int, address: str, keys: NodeKeys | None = None) -> None:
        self._wakeup = Wakeup()
        listen, connect = ((address,), ()) if node == 0 else ((), (address,))
        self.port: Port = port_class(name)(
            PortContext(node, 2, RANKS, listen, connect, SIZE, self._wakeup.signal, keys)
        )
        self.frames, self.texts = list[tuple[int, bytes]](), list[tuple[int, bytes]]()
        self.asked = list[tuple[int, int]]()

    def until(self, holds: Callable[[], bool]) -> None:
        """Take what arrives, woken by it, until something holds."""
        end_s = time.monotonic() + DEADLINE_S
        while not holds():
            self._wakeup.wait(0.05)
            self.frames += self.port.frames()
            self.texts += self.port.told()
            self.asked += self.port.asked()
            assert time.monotonic() < end_s, "nothing arrives"


class PortContract:
    name: str
    """In `PORTS`."""

    def address(self) -> str:
        """An address that only this test uses, the same at every call."""
        raise NotImplementedError

    def keys(self, node: int) -> NodeKeys | None:
        """The keys of a node, if it has some."""
        return None

    def end(self, node: int) -> End:
        """A node's end, open now."""
        return End(self.name, node, self.address(), self.keys(node))

    @pytest.fixture
    def pair(self) -> Iterator[tuple[End, End]]:
        ends = self.end(0), self.end(1)
        self.meet(*ends)
        yield ends
        for end in ends:
            end.port.close()

    @staticmethod
    def meet(one: End, other: End) -> None:
        one.until(lambda: one.port.alive() == {1})
        other.until(lambda: other.port.alive() == {0})

    def test_it_does_not_matter_who_comes_first(self) -> None:
        other = self.end(1)
        other.until(lambda: not other.port.alive())
        one = self.end(0)
        self.meet(one, other)
        for end in (one, other):
            end.port.close()

    def test_frames_texts_and_requests_arrive_with_who_sent_them(
        self, pair: tuple[End, End]
    ) -> None:
        one, other = pair
        frame = bytes(range(256)) * (SIZE // 256)
        one.port.publish(1, 0, lambda: frame)
        one.port.tell(1, b"hello")
        other.port.fetch(0, 1)
        other.until(lambda: bool(other.frames and other.texts))
        one.until(lambda: bool(one.asked) and one.port.sent(1) == 1)
        assert (other.frames, other.texts) == ([(0, frame)], [(0, b"hello")])
        assert one.asked == [(1, 1)]
        assert one.port.overwritten(1) == 0
        assert [*one.frames, *one.texts, *other.asked] == [], "nobody hears itself"

    def test_the_newest_wins_and_no_call_waits(self, pair: tuple[End, End]) -> None:
        """Whatever the pace: each frame is whole, newer than the last one, and all are counted."""
        one, other = pair
        numbers = itertools.count(1)

        def make() -> bytes:
            return next(numbers).to_bytes(8, "little") * (SIZE // 8)

        offered = 200
        for _ in range(offered):
            one.port.publish(1, 0, make)
        one.until(lambda: one.port.sent(1) + one.port.overwritten(1) == offered)
        last = (next(numbers) - 1).to_bytes(8, "little")
        other.until(lambda: bool(other.frames) and other.frames[-1][1][:8] == last)
        values = [int.from_bytes(frame[:8], "little") for _, frame in other.frames]
        assert values == sorted(set(values))
        assert all(frame == frame[:8] * (SIZE // 8) for _, frame in other.frames)

    def test_a_frame_may_be_made_where_the_last_one_was(self, pair: tuple[End, End]) -> None:
        """Whatever a port keeps of it, nothing of the next one arrives in it."""
        one, other = pair
        numbers, kept = itertools.count(1), bytearray(SIZE)

        def make() -> bytearray:
            kept[:] = next(numbers).to_bytes(8, "little") * (SIZE // 8)
            return kept

        for offered in range(1, 41):
            one.port.publish(1, offered % 2, make)
            one.until(lambda: one.port.sent(1) + one.port.overwritten(1) == offered)  # noqa: B023
        last = kept[:8]
        other.until(lambda: any(frame[:8] == last for _, frame in other.frames))
        assert all(frame == frame[:8] * (SIZE // 8) for _, frame in other.frames)
        assert len({bytes(frame[:8]) for _, frame in other.frames}) == len(other.frames)

    def test_what_there_is_none_of_any_more_is_not_sent(self, pair: tuple[End, End]) -> None:
        one, other = pair
        one.port.publish(1, 0, lambda: None)
        one.port.publish(1, 1, lambda: b"x" * 64)
        other.until(lambda: bool(other.frames))
        one.until(lambda: one.port.sent(1) > 0)
        assert other.frames == [(0, b"x" * 64)]
        assert one.port.sent(1) == 1

    def test_a_node_that_leaves_is_noticed_and_heard_again(self, pair: tuple[End, End]) -> None:
        one, other = pair
        other.port.close()
        one.until(lambda: not one.port.alive())
        one.port.publish(1, 0, lambda: b"to nobody")
        one.port.tell(1, b"to nobody")
        one.port.fetch(1, 2)
        one.until(lambda: one.port.sent(1) == 1)
        successor = self.end(1)
        other.port = successor.port  # which the fixture closes
        self.meet(one, successor)
        successor.port.publish(0, 2, lambda: b"back")
        one.until(lambda: bool(one.frames))
        assert one.frames == [(1, b"back")]
