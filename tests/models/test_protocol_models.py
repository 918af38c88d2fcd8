"""The shared-memory protocols as models: sound over all interleavings, and what breaks them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from tests.models import handshake, mailbox, slots, staleness
from tests.models.explorer import DEAD, DONE, STUCK, Model, Violated, World, explore
from tests.models.handshake import Rules as Handshake
from tests.models.mailbox import Rules as Mailbox
from tests.models.slots import Rules as Slots
from tests.models.staleness import Rules as Wait
from tests.support.engine import also

MODELS: dict[type[Any], Callable[[Any], Model]] = {
    Slots: slots.model,
    Mailbox: mailbox.model,
    Wait: staleness.model,
    Handshake: handshake.model,
}

SOUND: dict[str, tuple[Any, int]] = {
    "slots": (Slots(), 12_000),
    # Stepping past an odd sequence is more than this reader needs: it accepts even ones only.
    "slots, the odd sequence repeated": (Slots(repeats_odd=True), 12_000),
    "slots, filled by a GPU": (Slots(by_engine=True), 15_000),
    "mailbox, newest first": (Mailbox(), 50_000),
    "mailbox, oldest first": (Mailbox(takes_oldest=True), 35_000),
    "wait": (Wait(crashes=1), 9_000),
    "wait, in every round": (Wait(bound=0, crashes=1), 5_000),
    "wait, bound of two": (Wait(learners=2, rounds=3, bound=2, crashes=3), 14_000),
    "wait, the supervisor dies": (Wait(learners=2, rounds=3, supervisor_crashes=True), 2_000),
    "handshake": (Handshake(crashes=1), 40_000),
    "handshake, longer": (Handshake(steps=2, rollouts=2, crashes=1), 20_000),
    "handshake, patient": (Handshake(patient=True, crashes=1), 20_000),
    "handshake, present tickets ignored": (
        Handshake(remembers="the present ticket", crashes=1),
        30_000,
    ),
    "handshake, the learner crashes": (
        Handshake(learner_resumes="beyond", rollouts=2, crashes=1),
        30_000,
    ),
}
"""How a protocol is played, and the least number of worlds that there must be."""

UNUSED = ("mailbox, oldest first", "handshake, present tickets ignored")
"""Ways that would be sound as well, but are not those of galamp."""
SECOND = ("handshake, longer",)
"""Longer plays of others, by the same rules; the slow set has longer ones still."""

LARGE: dict[str, tuple[Any, int]] = {
    "slots": (Slots(publications=5, crashes=3), 200_000),
    "slots, filled by a GPU": (Slots(by_engine=True, publications=4, crashes=3), 100_000),
    "mailbox": (Mailbox(capacity=3, tokens=5), 100_000),
    "wait": (Wait(), 40_000),
    "wait, bound of two": (Wait(bound=2, supervisor_crashes=True), 70_000),
    "handshake": (Handshake(), 200_000),
    "handshake, longer": (Handshake(steps=2, crashes=1), 100_000),
    "handshake, patient": (Handshake(patient=True), 100_000),
    "handshake, the learner crashes": (Handshake(learner_resumes="beyond", crashes=1), 200_000),
    "handshake, rows begin anew": (
        Handshake(learner_resumes="at zero, nothing sent", crashes=1),
        100_000,
    ),
    "handshake, learner and simulator crash": (
        Handshake(learner_resumes="beyond", rollouts=1, patient=True),
        20_000,
    ),
}

MUTANTS: dict[str, tuple[Any, str]] = {
    "reader does not check again": (Slots(checks_again=False), "torn"),
    "sequence is never odd": (Slots(marks_odd=False), "torn"),
    "odd made even without writing": (Slots(repairs=True), "torn"),
    "odd taken back, an even value repeated": (Slots(takes_back=True), "torn"),
    "even before the GPU has filled it": (
        Slots(by_engine=True, waits_for_engine=False),
        "misnumbered",
    ),
    "a GPU fills it for one who is dead": (Slots(by_engine=True, outlives=True), "torn"),
    "reader checks before its copy is over": (Slots(checks_early=True), "torn"),
    "writer restarted before it was reaped": (Slots(writers=2, crashes=0), "torn"),
    "receiver does not check again": (Mailbox(checks_again=False), "torn"),
    "receiver trusts one entry too many": (Mailbox(slack=1), "torn"),
    "token counted before it is written": (Mailbox(counts_first=True), "torn"),
    "tail kept private": (Mailbox(tail_shared=False), "twice"),
    "former incarnations listened to": (Mailbox(knows_incarnations=False), "former incarnation"),
    "waits for the dead": (Wait(learners=2, looks_at_alive=False), STUCK),
    # From a bound of one on, everyone has published before anyone waits.
    "waits before it publishes": (Wait(learners=2, bound=0, publishes_first=False), STUCK),
    "outlives the supervisor": (
        Wait(learners=2, supervisor_crashes=True, die_with_supervisor=False),
        STUCK,
    ),
    "not acknowledged": (Handshake(acknowledged=False), "torn"),
    "ticket before its row": (Handshake(row_first=False), "torn"),
    "invited to the rollout after next": (Handshake(ahead=2), "torn"),
    "committed before it is whole": (Handshake(commits_first=True), "torn"),
    "an accepted ticket accepted again": (Handshake(remembers="nothing"), "torn"),
    "simulator restarted before it was reaped": (Handshake(reaped_first=False), "torn"),
    "rows begin anew, what was sent stays": (
        Handshake(learner_resumes="at zero", crashes=1),
        "torn",
    ),
    "an incarnation that has passed is not missed": (
        Handshake(patient=True, watches="alive", crashes=1),
        STUCK,
    ),
    "the incarnation is looked at too late": (
        Handshake(patient=True, watches="incarnation since joining", crashes=1),
        STUCK,
    ),
}
"""What breaks a protocol, and how that shows."""


@pytest.mark.real
@pytest.mark.parametrize(
    "name", [also(name) if name in UNUSED + SECOND else name for name in SOUND]
)
def test_sound_over_all_interleavings(name: str) -> None:
    check_sound(*SOUND[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_sound_over_all_interleavings_of_more(name: str) -> None:
    check_sound(*LARGE[name])


def check_sound(rules: Any, at_least: int) -> None:
    found = explore(MODELS[type(rules)](rules))
    assert found.fault is None, str(found)
    assert found.worlds >= at_least, "the model does not get far"


@pytest.mark.real
@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_caught(name: str) -> None:
    rules, kind = MUTANTS[name]
    found = explore(MODELS[type(rules)](rules))
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
