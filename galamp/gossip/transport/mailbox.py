"""Mailboxes: one per edge, a bounded ring of tokens from one sender to one receiver.

    sender: put(token)  -->  [token, token, ...]  -->  receiver: newest() or oldest(), then accept

A token says which publication of the sender's slots to read. The sender never waits: it overwrites
the oldest token, and the receiver counts what it never saw. In lock-step the sender reads
first whether the oldest was read, and waits.
"""

from __future__ import annotations

from typing import NamedTuple

from galamp.core.failpoints import reach
from galamp.memory.arrays import WORDS_PER_LINE, ArraySpec, SharedArrays, memory_fence

CAPACITY = 4
_HEAD, _TAIL, _TOKENS = 0, WORDS_PER_LINE, 2 * WORDS_PER_LINE
_WORDS = _TOKENS + CAPACITY * 4


class Token(NamedTuple):
    """Publication `number` of the sender, made in `round` of its life `incarnation`."""

    number: int
    round: int
    incarnation: int


class Mailbox:
    """One directed edge along which vectors called `name` are exchanged."""

    def __init__(self, arrays: SharedArrays, sender: int, receiver: int, name: str) -> None:
        self._words = arrays.words(f"{name}.mailbox{sender}-{receiver}")

    @staticmethod
    def spec(sender: int, receiver: int, name: str) -> ArraySpec:
        """Return the array that holds the edge's mailbox, for what goes by `name`."""
        return ArraySpec(f"{name}.mailbox{sender}-{receiver}", (_WORDS,), "int64")

    @property
    def unread(self) -> int:
        """Tokens put and not yet accepted or passed over."""
        return int(self._words[_HEAD] - self._words[_TAIL])

    def put(self, token: Token) -> None:
        """Append a token (sender only)."""
        words = self._words
        at = _TOKENS + (words[_HEAD] % CAPACITY) * 4
        words[at], words[at + 1], words[at + 2] = token
        reach("mailbox.written")
        memory_fence()
        words[_HEAD] += 1
        reach("mailbox.counted")

    def newest(self) -> tuple[Token, int] | None:
        """Return the newest unread token and its index; None if there is none."""
        return self._at(self._words[_HEAD] - 1)

    def oldest(self) -> tuple[Token, int] | None:
        """Return the oldest unread token and its index; None if there is none."""
        return self._at(self._words[_TAIL])

    def accept(self, index: int) -> int:
        """Mark all up to `index` as read (receiver only); returns how many were passed over."""
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
        # The sender writes entry `head`, the place of `head - CAPACITY`, before it counts it.
        return (token, int(index)) if words[_HEAD] - index < CAPACITY else None
