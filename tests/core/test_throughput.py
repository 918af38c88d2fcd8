"""Throughput meters, over a window and over all."""

from __future__ import annotations

import numpy as np
import pytest

from galamp.core.throughput import ThroughputMeter


@pytest.mark.parametrize("window_s", [5.0, float("inf")])
def test_without_two_times_there_is_no_rate(window_s: float) -> None:
    meter = ThroughputMeter(window_s)
    assert (meter.gain, meter.seconds, meter.rate) == (0, 0.0, 0.0)
    meter.add(3.0, 700)
    assert (meter.gain, meter.seconds, meter.rate) == (0, 0.0, 0.0)
    meter.add(3.0, 800)
    assert (meter.gain, meter.rate) == (100, 0.0)


def test_all_is_measured_from_the_first_sample_to_the_last() -> None:
    meter = ThroughputMeter()
    for now_s, count in ((10.0, 50), (11.0, 50), (14.0, 90), (20.0, 100)):
        meter.add(now_s, count)
    assert (meter.gain, meter.seconds, meter.rate) == (50, 10.0, 5.0)


def test_what_is_older_than_the_window_counts_no_more() -> None:
    meter, literal = ThroughputMeter(10.0), []
    for step in range(100):
        now_s, count = step * 0.7, step**2
        literal.append((now_s, count))
        meter.add(now_s, count)
        first = next(each for each in literal if now_s - each[0] <= 10.0)
        if step > 1:
            assert meter.rate == pytest.approx((count - first[1]) / (now_s - first[0]))


def test_after_a_long_pause_the_rate_is_that_since_before_it() -> None:
    meter = ThroughputMeter(10.0)
    for now_s, count in ((0.0, 0), (1.0, 10), (101.0, 1010)):
        meter.add(now_s, count)
    assert meter.rate == 10.0


def test_several_counts_are_one_array() -> None:
    meter = ThroughputMeter()
    meter.add(0.0, np.array([1.0, 2.0]))
    meter.add(4.0, np.array([2.0, 5.0]))
    assert meter.gain.tolist() == [1.0, 3.0]


def test_a_restart_forgets() -> None:
    meter = ThroughputMeter()
    meter.add(0.0, 0)
    meter.add(1.0, 100)
    meter.restart()
    meter.add(2.0, 5)
    meter.add(4.0, 7)
    assert meter.rate == 1.0
