"""Token bucket of a bridge: its share of the processor time, and never quite nothing."""

from __future__ import annotations

import itertools

import pytest

from galamp.gossip.cluster.token_bucket import BURST_S, LONGEST_PAUSE_S, SHARE, TokenBucket

TICK_S = 0.001


class Sender:
    """A bridge that takes `cost_s` of processor time for a frame that it sends, whenever it may.

    And `taking_s` for one that comes; `replies` come for each that it sends.
    """

    def __init__(
        self, cores: float, cost_s: float, taking_s: float = 0.0, *, replies: int = 0
    ) -> None:
        self.now_s = self.used_s = 0.0
        self.cost_s, self.taking_s, self.replies = cost_s, taking_s, replies
        self.times_s, self.received = list[float](), 0
        self.bucket = TokenBucket(
            cores, lambda: len(self.times_s), lambda: self.received,
            clock=lambda: self.now_s, used=lambda: self.used_s,
        )  # fmt: skip

    def take(self, frames: int) -> None:
        """Receive so many frames."""
        self.received += frames
        self.used_s += frames * self.taking_s

    def tick(self) -> bool:
        """Send, if it may; return whether."""
        sends = self.bucket.may_send()
        if sends:
            self.times_s.append(self.now_s)
            self.used_s += self.cost_s
            self.take(self.replies)
        self.now_s += TICK_S
        return sends

    def work(self, seconds: float, *, idle: float = 0.0) -> None:
        """Send as often as it may; take a share `idle` of the time for other things."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.tick()
            self.used_s += idle * TICK_S


@pytest.mark.parametrize("cores", [1, 2, 16])
@pytest.mark.parametrize("cost_s", [0.002, 0.012])
def test_what_is_sent_and_as_much_that_comes_takes_its_share_of_all_cores(
    cores: int, cost_s: float
) -> None:
    sender = Sender(cores, cost_s, 1.5 * cost_s, replies=1)
    sender.work(20.0, idle=0.1 * SHARE)
    given_s, each_s = 20.0 * SHARE * cores, 2.5 * cost_s
    assert 0.95 * given_s <= sender.used_s <= 1.05 * given_s + BURST_S + 2 * each_s


def test_what_is_sent_alone_takes_half_of_it() -> None:
    sender = Sender(4, 0.01)
    sender.work(60.0)
    assert sender.used_s == pytest.approx(0.5 * (60.0 * SHARE * 4 + BURST_S), rel=0.05)


@pytest.mark.parametrize("taking_s", [0.005, 0.01, 0.015, 0.05])
@pytest.mark.parametrize("ahead", [0, 10])
def test_two_nodes_that_send_to_each_other_send_alike(taking_s: float, ahead: int) -> None:
    """Whichever is first, and whatever receiving costs: one must not silence the other."""
    one, other = Sender(4, 0.01, taking_s), Sender(4, 0.01, taking_s)
    other.take(ahead)
    for _ in range(int(60.0 / TICK_S)):
        for sender, receiver in ((one, other), (other, one)):
            if sender.tick():
                receiver.take(1)
    counts = len(one.times_s), len(other.times_s)
    assert max(counts) <= 1.5 * min(counts)
    share_s = 60.0 * SHARE * 4
    for each in (one, other):
        assert each.used_s <= 1.1 * share_s + BURST_S + ahead * taking_s


def test_a_small_node_beside_a_large_one_has_its_own_share() -> None:
    small, large = Sender(2, 0.01, 0.015), Sender(32, 0.01, 0.015)
    for _ in range(int(60.0 / TICK_S)):
        for sender, receiver in ((large, small), (small, large)):
            if sender.tick():
                receiver.take(1)
    assert len(small.times_s) >= 60.0 * SHARE * 2 / (2 * 0.015)


def test_whatever_a_frame_costs_one_is_sent_once_a_second() -> None:
    sender = Sender(1, 0.01)
    sender.work(60.0, idle=10 * SHARE)
    later_s = sender.times_s[-10:]
    pauses_s = [after - before for before, after in itertools.pairwise(later_s)]
    assert pauses_s == pytest.approx([LONGEST_PAUSE_S] * 9, abs=2 * TICK_S)


def test_what_was_owed_is_forgotten_soon() -> None:
    """A burst takes no more of what is sent later than the bucket holds."""
    sender = Sender(1, 0.01, 0.01)
    sender.work(1.0)
    sender.times_s += [sender.now_s] * 1000
    sender.used_s += 1000 * sender.cost_s
    sender.work(BURST_S / (SHARE - 2 * sender.cost_s))  # once a second it sends meanwhile
    before = len(sender.times_s)
    sender.work(20.0)
    assert len(sender.times_s) - before == pytest.approx(20.0 * SHARE / 0.02, rel=0.1)


def test_an_hour_without_frames_makes_none_dear_for_long() -> None:
    """What a bridge takes for itself meanwhile is no frame's."""
    sender = Sender(4, 0.01)
    sender.work(1.0)
    sender.now_s += 3600.0
    sender.used_s += 3600.0 * 0.005
    sender.work(15.0)
    before = len(sender.times_s)
    sender.work(20.0)
    assert len(sender.times_s) - before >= 0.5 * 20.0 * SHARE * 4 / 0.02


def test_time_is_not_saved_up_for_ever() -> None:
    sender = Sender(1, 0.01)
    sender.now_s += 3600.0
    sender.work(1.0)
    assert len(sender.times_s) * 0.01 <= BURST_S + SHARE + 0.02
