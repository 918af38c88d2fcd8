"""Token bucket of a bridge: its share of the processor time, and never quite nothing."""

from __future__ import annotations

import itertools

import pytest

from galamp.gossip.cluster.token_bucket import BURST_S, LONGEST_PAUSE_S, SHARE, TokenBucket

TICK_S = 0.001


class Sender:
    """A process that takes `cost_s` of processor time to send, whenever it may."""

    def __init__(self, cores: float, cost_s: float) -> None:
        self.now_s = self.used_s = 0.0
        self.cost_s, self.times_s = cost_s, list[float]()
        self.bucket = TokenBucket(cores, clock=lambda: self.now_s, used=lambda: self.used_s)

    def work(self, seconds: float, *, idle: float = 0.0) -> None:
        """Send as often as it may; take a share `idle` of the time for other things."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            if self.bucket.may_send():
                self.times_s.append(self.now_s)
                self.used_s += self.cost_s
            self.now_s += TICK_S
            self.used_s += idle * TICK_S


@pytest.mark.parametrize("cores", [1, 2, 16])
@pytest.mark.parametrize("cost_s", [0.002, 0.012])
def test_what_is_sent_takes_its_share_of_all_cores(cores: int, cost_s: float) -> None:
    sender = Sender(cores, cost_s)
    sender.work(20.0)
    taken_s, given_s = len(sender.times_s) * cost_s, 20.0 * SHARE * cores
    assert given_s <= taken_s <= given_s + BURST_S + 2 * cost_s


def test_what_other_nodes_cost_is_taken_from_it_but_never_all() -> None:
    """A bridge that takes more than its share for what comes sends once a second all the same."""
    sender = Sender(1, 0.01)
    sender.work(60.0, idle=10 * SHARE)
    later_s = sender.times_s[-10:]
    pauses_s = [after - before for before, after in itertools.pairwise(later_s)]
    assert pauses_s == pytest.approx([LONGEST_PAUSE_S] * 9, abs=2 * TICK_S)


def test_what_was_owed_is_forgotten_soon() -> None:
    """After a burst of what came, long ago, it sends as before."""
    sender = Sender(1, 0.0)
    sender.work(0.1)
    sender.used_s += 100.0
    sender.work(BURST_S / SHARE + 0.1)
    before = len(sender.times_s)
    sender.work(1.0)
    assert len(sender.times_s) - before == pytest.approx(1.0 / TICK_S, abs=1)


def test_time_is_not_saved_up_for_ever() -> None:
    sender = Sender(1, 0.01)
    sender.now_s += 3600.0
    sender.work(1.0)
    assert len(sender.times_s) * 0.01 <= BURST_S + SHARE + 0.02
