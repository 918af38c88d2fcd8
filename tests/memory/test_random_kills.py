"""A writer that is killed at random times again and again, while readers copy all the time."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import NamedTuple

import pytest

from galamp.memory.arrays import WORDS_PER_LINE, SharedArrays
from galamp.memory.versioned_slots import VersionedSlots
from tests.models.incarnations import (
    FELL,
    READS,
    REPORTS,
    TORN,
    fork_writers,
    read_flat_out,
    specs,
)

SIZE = 400_000
LONGEST_LIFE_S = 0.02
"""An incarnation publishes for so long at most: some dozen vectors."""
DEADLINE_S = 60.0
MOST_TIMES = 4
"""Where a kill falls is the machine's affair: so many times as many are tried at most."""


class Outcome(NamedTuple):
    publications: int
    half_written: int
    """Kills that left an odd sequence behind."""
    reports: list[list[int]]


@contextmanager
def child(target: Callable[..., None], *args: object) -> Iterator[multiprocessing.Process]:
    """A child that does not outlive the block."""
    process = multiprocessing.get_context("spawn").Process(target=target, args=args, daemon=True)
    process.start()
    try:
        yield process  # type: ignore[misc]
    finally:
        process.kill()
        process.join(DEADLINE_S)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < until_s, f"{what} took too long"
        time.sleep(0.001)


def kill_at_random(kills: int, seed: int) -> Outcome:
    draw = random.Random(seed)
    arrays = SharedArrays.create(specs(SIZE))
    reports = [arrays.words(report) for report in REPORTS]
    orders, theirs = multiprocessing.Pipe()
    with (
        orders,
        theirs,
        child(read_flat_out, arrays, REPORTS[0]) as one,
        child(read_flat_out, arrays, REPORTS[1]) as other,
        child(fork_writers, arrays, theirs),
    ):
        half_written = incarnation = 0
        while incarnation < kills or (not half_written and incarnation < MOST_TIMES * kills):
            for_s = draw.uniform(0, LONGEST_LIFE_S)
            half_written += live_and_die(arrays, orders, incarnation, for_s)
            incarnation += 1
        orders.send(incarnation)
        enough = [report[READS] + 1 for report in reports]
        wait_for(
            lambda: all(r[READS] >= n for r, n in zip(reports, enough, strict=True)),
            "a read of the last incarnation",
        )
        killed(orders)
        arrays["stop"][0] = 1
        for reader in (one, other):
            reader.join(DEADLINE_S)
            assert reader.exitcode == 0
    return Outcome(
        VersionedSlots(arrays, "h").published, half_written, [r.tolist() for r in reports]
    )


def killed(orders: Connection) -> None:
    """Have the writer killed and reaped."""
    orders.send("now")
    assert orders.poll(DEADLINE_S)
    assert orders.recv() == -signal.SIGKILL


def live_and_die(arrays: SharedArrays, orders: Connection, incarnation: int, for_s: float) -> bool:
    """Let a writer publish, kill and reap it; whether it left half of a vector behind."""
    slots = VersionedSlots(arrays, "h")
    before = slots.published
    orders.send(incarnation)
    wait_for(lambda: slots.published > before, f"the first vector of incarnation {incarnation}")
    time.sleep(for_s)
    killed(orders)
    sequences = arrays["h"].reshape(-1, WORDS_PER_LINE)[1:, 0]
    assert (sequences % 2).sum() < 2, "one of the two is whole"
    header = slots.read(lambda slot: None)
    assert header is not None
    assert header.incarnation == incarnation
    return bool((sequences % 2).any())


@pytest.mark.real
@pytest.mark.parametrize(
    "kills", [15, pytest.param(250, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_nothing_torn_is_accepted_and_numbers_never_fall(kills: int) -> None:
    outcome = kill_at_random(kills, seed=1)
    print(outcome)
    for report in outcome.reports:
        assert report[READS] > kills
        assert (report[TORN], report[FELL]) == (0, 0)
    assert outcome.publications > 2 * kills
    assert outcome.half_written > 0, "nobody was killed in the middle of a write"
