"""Mailboxes whose real sender goes on, or is killed, between any two steps of the real receiver."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import pytest

from galamp.gossip.transport import mailbox
from galamp.gossip.transport.mailbox import Mailbox, Token
from galamp.memory.arrays import SharedArrays
from tests.models.stepping import put_back, state_of, step_through

SHORT = 2
"""Capacity of a mailbox here: so it is overrun soon."""


class Moving:
    """A mailbox's words to a receiver that is slow: from access to access they may go on.

    After the accesses that `schedule` has a state for, they stay as they are.
    """

    def __init__(self, states: Sequence[Sequence[int]], schedule: Sequence[int]) -> None:
        self._states, self._schedule = states, schedule
        self.at: list[int] = []
        """The state that each access saw."""

    def __getitem__(self, word: int) -> int:
        number = len(self.at)
        self.at.append(self._schedule[number] if number < len(self._schedule) else self.at[-1])
        return self._states[self.at[-1]][word]


Found = tuple[Token, int] | None


def ways_to_read(
    read: Callable[[Moving], Found], states: Sequence[Sequence[int]]
) -> Iterator[Found]:
    """Yield what a receiver finds, for every way in which the sender goes on between accesses."""
    schedules = [[first] for first in range(len(states))]
    while schedules:
        schedule = schedules.pop()
        words = Moving(states, schedule)
        yield read(words)
        for access in range(len(schedule), len(words.at)):
            later = range(words.at[access] + 1, len(states))
            schedules += [[*words.at[:access], state] for state in later]


def token(number: int, incarnation: int) -> Token:
    return Token(number, 100 + number, incarnation)


def overrun_after_a_kill(sender_class: type[Mailbox]) -> Iterator[list[list[int]]]:
    """A full mailbox; a sender killed anywhere in its next put; its successor puts twice."""
    arrays = SharedArrays.create([Mailbox.spec(0, 1, "x")])

    def put(before: bytes, *tokens: Token) -> list[bytes]:
        put_back(arrays, before)
        box = sender_class(arrays, 0, 1, "x")

        def put_all() -> None:
            for each in tokens:
                box.put(each)

        return step_through(arrays, put_all).states

    full = put(state_of(arrays), token(1, 0), token(2, 0))[-1]
    third = put(full, token(3, 0))
    for end in range(len(third)):
        states = third[: end + 1] + put(third[end], token(4, 1), token(5, 1))
        yield [np.frombuffer(state, np.int64).tolist() for state in states]


def tokens_found(
    sender_class: type[Mailbox] = Mailbox, receiver_class: type[Mailbox] = Mailbox
) -> Iterator[Token]:
    """Yield every token that a receiver trusts."""
    for states in overrun_after_a_kill(sender_class):
        for read in (receiver_class.newest, receiver_class.oldest):
            ways = ways_to_read(partial(read_with, read, receiver_class), states)
            yield from (found[0] for found in ways if found is not None)


def read_with(
    read: Callable[[Mailbox], Found], receiver_class: type[Mailbox], words: Moving
) -> Found:
    box = receiver_class.__new__(receiver_class)
    box._words = words  # type: ignore[assignment]
    return read(box)


WHOLE = {token(1, 0), token(2, 0), token(3, 0), token(4, 1), token(5, 1)}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "CAPACITY", SHORT)


@pytest.mark.usefixtures("short")
def test_tokens_are_whole_however_the_sender_goes_on_meanwhile() -> None:
    found = list(tokens_found())
    assert set(found) <= WHOLE
    assert len(found) > 1000


class CountingFirst(Mailbox):
    """A sender that counts a token before it is there."""

    def put(self, token: Token) -> None:
        self._words[mailbox._HEAD] += 1
        at = mailbox._TOKENS + ((self._words[mailbox._HEAD] - 1) % SHORT) * 4
        self._words[at], self._words[at + 1], self._words[at + 2] = token


class Hasty(Mailbox):
    """A receiver that does not look again."""

    def _at(self, index: int) -> Found:
        words = self._words
        if not words[mailbox._TAIL] <= index < words[mailbox._HEAD]:
            return None
        at = mailbox._TOKENS + (index % SHORT) * 4
        return Token(words[at], words[at + 1], words[at + 2]), index


@pytest.mark.usefixtures("short")
def test_the_search_finds_torn_tokens() -> None:
    assert any(each not in WHOLE for each in tokens_found(sender_class=CountingFirst))
    assert any(each not in WHOLE for each in tokens_found(receiver_class=Hasty))
