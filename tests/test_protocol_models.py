"""The shared-memory protocols as models: sound over all interleavings, and what breaks them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.protocols import handshake, mailbox, slots, staleness
from tests.protocols.explorer import DEAD, DONE, STUCK, Model, Violated, World, explore

SOUND: dict[str, tuple[Model, int]] = {
    "slots": (slots.model(slots.Rules()), 12_000),
    # Stepping past an odd sequence is more than this reader needs: it accepts even ones only.
    "slots, the odd sequence repeated": (slots.model(slots.Rules(repeats_odd=True)), 12_000),
    "mailbox, newest first": (mailbox.model(mailbox.Rules()), 50_000),
    "mailbox, oldest first": (mailbox.model(mailbox.Rules(takes_oldest=True)), 35_000),
    "wait": (staleness.model(staleness.Rules()), 40_000),
    "wait, two rounds": (
        staleness.model(staleness.Rules(learners=2, rounds=3, bound=2, crashes=3)),
        14_000,
    ),
    "wait, the supervisor dies": (
        staleness.model(staleness.Rules(learners=2, rounds=3, supervisor_crashes=True)),
        2_000,
    ),
    "handshake": (handshake.model(handshake.Rules(crashes=1)), 40_000),
    "handshake, longer rollouts": (
        handshake.model(handshake.Rules(steps=2, rollouts=2, crashes=1)),
        20_000,
    ),
    "handshake, infinite patience": (
        handshake.model(handshake.Rules(patient=True, crashes=1)),
        20_000,
    ),
    "handshake, present tickets are ignored at the start": (
        handshake.model(handshake.Rules(remembers="the present ticket", crashes=1)),
        30_000,
    ),
}

LARGE: dict[str, tuple[Model, int]] = {
    "slots": (slots.model(slots.Rules(publications=5, crashes=3)), 100_000),
    "mailbox": (mailbox.model(mailbox.Rules(capacity=3, tokens=5)), 100_000),
    "wait": (staleness.model(staleness.Rules(bound=2, supervisor_crashes=True)), 70_000),
    "handshake": (handshake.model(handshake.Rules()), 200_000),
    "handshake, longer rollouts": (handshake.model(handshake.Rules(steps=2, crashes=1)), 100_000),
    "handshake, infinite patience": (handshake.model(handshake.Rules(patient=True)), 100_000),
}

MUTANTS: dict[str, tuple[Model, str]] = {
    "reader does not check again": (slots.model(slots.Rules(checks_again=False)), "torn"),
    "sequence is never odd": (slots.model(slots.Rules(marks_odd=False)), "torn"),
    "odd made even without writing": (slots.model(slots.Rules(repairs=True)), "torn"),
    "odd taken back, even value repeated": (slots.model(slots.Rules(takes_back=True)), "torn"),
    "restarted before it was reaped": (slots.model(slots.Rules(writers=2, crashes=0)), "torn"),
    "receiver does not check again": (mailbox.model(mailbox.Rules(checks_again=False)), "torn"),
    "receiver trusts one entry too many": (mailbox.model(mailbox.Rules(slack=1)), "torn"),
    "token counted before it is written": (mailbox.model(mailbox.Rules(counts_first=True)), "torn"),
    "tail kept private": (mailbox.model(mailbox.Rules(tail_shared=False)), "twice"),
    "former lives listened to": (mailbox.model(mailbox.Rules(knows_lives=False)), "former life"),
    "waits for the dead": (staleness.model(staleness.Rules(looks_at_alive=False)), STUCK),
    "waits before it publishes": (staleness.model(staleness.Rules(publishes_first=False)), STUCK),
    "outlives the supervisor": (
        staleness.model(staleness.Rules(supervisor_crashes=True, die_with_supervisor=False)),
        STUCK,
    ),
    "not acknowledged": (handshake.model(handshake.Rules(acknowledged=False)), "torn"),
    "ticket before its row": (handshake.model(handshake.Rules(row_first=False)), "torn"),
    "invited to the rollout after next": (handshake.model(handshake.Rules(ahead=2)), "torn"),
    "committed before it is whole": (handshake.model(handshake.Rules(commits_first=True)), "torn"),
    "an accepted ticket accepted again": (
        handshake.model(handshake.Rules(remembers="nothing")),
        "torn",
    ),
    "simulator restarted before it was reaped": (
        handshake.model(handshake.Rules(reaped_first=False)),
        "torn",
    ),
    "a life that has passed is not missed": (
        handshake.model(handshake.Rules(patient=True, watches="alive", crashes=1)),
        STUCK,
    ),
    "the life is looked at too late": (
        handshake.model(handshake.Rules(patient=True, watches="life since joining", crashes=1)),
        STUCK,
    ),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_over_all_interleavings(name: str) -> None:
    check_sound(*SOUND[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_sound_over_all_interleavings_of_more(name: str) -> None:
    check_sound(*LARGE[name])


def check_sound(model: Model, at_least: int) -> None:
    found = explore(model)
    assert found.fault is None, str(found)
    assert found.worlds >= at_least, "the model does not get far"


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_caught(name: str) -> None:
    model, kind = MUTANTS[name]
    found = explore(model)
    assert found.fault == kind, str(found)


# The explorer itself


class Counter(NamedTuple):
    value: int = 0


class Adder(NamedTuple):
    at: str = "read"
    read: int = 0


def read(world: World, me: int) -> Iterator[World]:
    yield world.after(me, Adder("write", world.memory.value))


def write(world: World, me: int) -> Iterator[World]:
    yield world.after(me, Adder(DONE), value=world.processes[me].read + 1)


def adders(count: int, *, crashes: int = 0, more: dict[str, Any] | None = None) -> Model:
    def compare(world: World, me: int) -> Iterator[World]:
        if world.memory.value != count:
            raise Violated("lost")
        yield world

    programs = [{"read": read, "write": write, DONE: compare, **(more or {})}] * count
    start = World(Counter(), (Adder(),) * count, crashes)
    everyone = frozenset(range(count))
    return Model(start, programs, everyone, lambda world: world.memory.value == count)


def test_explorer_finds_the_shortest_way_to_a_fault() -> None:
    found = explore(adders(2))
    assert found.fault == "lost"
    assert found.trace == ("start", "0: read", "0: write", "0: done")


def test_explorer_visits_each_world_once() -> None:
    found = explore(adders(1))
    assert (found.fault, found.worlds) == (None, 3)


def test_explorer_lets_a_process_crash_before_every_step() -> None:
    found = explore(adders(1, crashes=1))
    # Dead before it read and dead after are one world: it read what it began with.
    assert (found.fault, found.worlds) == (STUCK, 4)
    assert found.trace == ("start", "0: crashes at read", "ends up at dead")


def test_explorer_starts_the_dead_anew_where_the_program_does() -> None:
    def start_anew(world: World, me: int) -> Iterator[World]:
        yield world.after(me, Adder())

    assert explore(adders(1, crashes=1, more={DEAD: start_anew})).fault is None


def test_explorer_tells_a_wait_that_ends_from_one_that_does_not() -> None:
    def again(world: World, me: int) -> Iterator[World]:
        yield world.after(me, Adder())

    def luck(world: World, me: int) -> Iterator[World]:
        yield from again(world, me)
        yield from write(world, me)

    assert explore(adders(1, more={"write": luck})).fault is None
    assert explore(adders(1, more={"write": again})).fault == STUCK
