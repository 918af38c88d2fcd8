"""Mailbox: a bounded ring of tokens from one sender to one receiver; one per edge of the graph.

    sender: put(token)  -->  [token, token, ...]  -->  receiver: newest() or oldest(), then accept

A token names the publication to read in the sender's slots. The sender never waits: it overwrites
the oldest token, and the receiver counts tokens that it never saw. A synchronous sender checks
first that the oldest token was read, and waits otherwise.
"""

from __future__ import annotations

from typing import NamedTuple

from galamp.core.failpoints import hit
from galamp.memory.arrays import WORDS_PER_LINE, ArraySpec, SharedArrays, memory_fence

CAPACITY = 4
_HEAD, _TAIL, _TOKENS = 0, WORDS_PER_LINE, 2 * WORDS_PER_LINE
_WORDS = _TOKENS + CAPACITY * 4


class Token(NamedTuple):
    """Notice of the sender's publication `number`, of round `round`, by its `incarnation`."""

    number: int
    round: int
    incarnation: int


class Mailbox:
    """Mailbox of one directed edge, for the exchange of vectors called `name`."""

    def __init__(self, arrays: SharedArrays, sender: int, receiver: int, name: str) -> None:
        self._words = arrays.words(f"{name}.mailbox{sender}-{receiver}")

    @staticmethod
    def spec(sender: int, receiver: int, name: str) -> ArraySpec:
        """Return the array that holds the mailbox of an edge, for vectors called `name`."""
        return ArraySpec(f"{name}.mailbox{sender}-{receiver}", (_WORDS,), "int64")

    @property
    def unread(self) -> int:
        """Number of tokens that were put, but not yet accepted or skipped."""
        return int(self._words[_HEAD] - self._words[_TAIL])

    def put(self, token: Token) -> None:
        """Append a token (sender only)."""
        words = self._words
        at = _TOKENS + (words[_HEAD] % CAPACITY) * 4
        words[at], words[at + 1], words[at + 2] = token
        hit("mailbox.written")
        memory_fence()
        words[_HEAD] += 1
        hit("mailbox.counted")

    def newest(self) -> tuple[Token, int] | None:
        """Return the newest unread token and its index; None if there is none."""
        return self._at(self._words[_HEAD] - 1)

    def oldest(self) -> tuple[Token, int] | None:
        """Return the oldest unread token and its index; None if there is none."""
        return self._at(self._words[_TAIL])

    def accept(self, index: int) -> int:
        """Mark all tokens up to `index` as read (receiver only); return how many were skipped."""
        skipped = index - self._words[_TAIL]
        self._words[_TAIL] = index + 1
        return int(skipped)

    def _at(self, index: int) -> tuple[Token, int] | None:
        words = self._words
        if not words[_TAIL] <= index < words[_HEAD]:
            return None
        memory_fence()
        at = _TOKENS + (index % CAPACITY) * 4
        token = Token(words[at], words[at + 1], words[at + 2])
        memory_fence()
        # The sender overwrites entry `head - CAPACITY` by entry `head` before it counts the latter.
        return (token, int(index)) if words[_HEAD] - index < CAPACITY else None
