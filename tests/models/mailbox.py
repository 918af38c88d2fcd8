"""Model of `Mailbox`: a sender that overwrites, a receiver that takes each token once at most.

Both crash and are started anew; the supervisor opens a new incarnation of the sender before it
starts. A token is three words, as in memory. Each of them also says which token it is of, so that
half a token shows; `accepted` is no part of the protocol, it remembers what was accepted in all
incarnations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.models.explorer import DEAD, DONE, Model, Program, Violated, World

SENDER, RECEIVER = 0, 1
Token = tuple[int, int, tuple[int, int]]
"""Number, round, incarnation; the round stands for the number here."""
EMPTY: Token = (0, 0, (0, 0))


class Memory(NamedTuple):
    tokens: tuple[Token, ...]
    head: int = 0
    tail: int = 0
    number: int = 0
    """Of the sender's newest publication."""
    incarnation: int = 0
    """Of the sender, as the supervisor tells everyone."""
    accepted: int = 0


class Sender(NamedTuple):
    at: str = "publish"
    incarnation: int = 0
    number: int = 0


class Receiver(NamedTuple):
    at: str = "start"
    entry: int = 0
    token: Token = EMPTY
    tail: int = 0
    """Where it has read to, for a mutant that keeps this to itself."""


@dataclass(frozen=True)
class Rules:
    """How the protocol is played; every default is as in `galamp.gossip.transport.mailbox`."""

    capacity: int = 2
    tokens: int = 4
    crashes: int = 2
    takes_oldest: bool = False
    checks_again: bool = True
    """The receiver looks at the head once more after it has copied."""
    slack: int = 0
    """Entries beyond those of a full ring that the receiver still trusts."""
    counts_first: bool = False
    """The sender counts a token before it has written it."""
    tail_shared: bool = True
    """The receiver marks in shared memory what it has accepted."""
    knows_incarnations: bool = True
    """The receiver ignores tokens of the sender's former incarnations."""


def model(rules: Rules) -> Model:
    memory = Memory((EMPTY,) * rules.capacity)
    return Model(
        World(memory, (Sender(), Receiver()), rules.crashes),
        [SenderSteps(rules).program(), ReceiverSteps(rules).program()],
        frozenset((SENDER, RECEIVER)),
        lambda world: all(process.at == DONE for process in world.processes),
    )


def with_word(token: Token, source: Token, which: int) -> Token:
    """Return `token` with one word of `source`."""
    words: list[Any] = list(token)
    words[which] = source[which]
    return (words[0], words[1], words[2])


class SenderSteps:
    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def program(self) -> Program:
        last = "publish" if self._rules.counts_first else "count"
        return {
            "publish": self.publish,
            **self.word(0, "word 1"),
            **self.word(1, "word 2"),
            **self.word(2, last),
            "count": self.count,
            DEAD: self.new_incarnation,
        }

    def publish(self, world: World, me: int) -> Iterator[World]:
        sender, number = world.processes[me], world.memory.number + 1
        if number > self._rules.tokens:
            yield world.after(me, sender._replace(at=DONE))
            return
        at = "count" if self._rules.counts_first else "word 0"
        yield world.after(me, sender._replace(at=at, number=number), number=number)

    def word(self, which: int, following: str) -> Program:
        def write(world: World, me: int) -> Iterator[World]:
            memory, sender = world.memory, world.processes[me]
            at = (memory.head - self._rules.counts_first) % self._rules.capacity
            whole = (sender.number, sender.number, (sender.number, sender.incarnation))
            token = with_word(memory.tokens[at], whole, which)
            tokens = (*memory.tokens[:at], token, *memory.tokens[at + 1 :])
            yield world.after(me, sender._replace(at=following), tokens=tokens)

        return {f"word {which}": write}

    def count(self, world: World, me: int) -> Iterator[World]:
        at = "word 0" if self._rules.counts_first else "publish"
        sender = world.processes[me]._replace(at=at)
        yield world.after(me, sender, head=world.memory.head + 1)

    def new_incarnation(self, world: World, me: int) -> Iterator[World]:
        incarnation = world.memory.incarnation + 1
        yield world.after(me, Sender(incarnation=incarnation), incarnation=incarnation)


class ReceiverSteps:
    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def program(self) -> Program:
        return {
            "start": self.start,
            "compare tail": self.compare_tail,
            "compare head": self.compare_head,
            **self.word(0, "word 1"),
            **self.word(1, "word 2"),
            **self.word(2, "check"),
            "check": self.check,
            "judge": self.judge,
            "accept": self.accept,
            "pass over": self.pass_over,
            DEAD: self.start_anew,
        }

    def tail_of(self, world: World, me: int) -> int:
        return int(world.memory.tail if self._rules.tail_shared else world.processes[me].tail)

    def give_up(self, world: World, me: int) -> World:
        return world.after(me, Receiver(tail=world.processes[me].tail))

    def start(self, world: World, me: int) -> Iterator[World]:
        """Look for a token, or have enough."""
        yield world.after(me, Receiver(DONE))
        entry = self.tail_of(world, me) if self._rules.takes_oldest else world.memory.head - 1
        yield world.after(me, world.processes[me]._replace(at="compare tail", entry=entry))

    def compare_tail(self, world: World, me: int) -> Iterator[World]:
        receiver = world.processes[me]
        if self.tail_of(world, me) <= receiver.entry:
            yield world.after(me, receiver._replace(at="compare head"))
        else:
            yield self.give_up(world, me)

    def compare_head(self, world: World, me: int) -> Iterator[World]:
        receiver = world.processes[me]
        if receiver.entry < world.memory.head:
            yield world.after(me, receiver._replace(at="word 0"))
        else:
            yield self.give_up(world, me)

    def word(self, which: int, following: str) -> Program:
        def read(world: World, me: int) -> Iterator[World]:
            receiver = world.processes[me]
            there = world.memory.tokens[receiver.entry % self._rules.capacity]
            token = with_word(receiver.token, there, which)
            yield world.after(me, receiver._replace(at=following, token=token))

        return {f"word {which}": read}

    def check(self, world: World, me: int) -> Iterator[World]:
        receiver = world.processes[me]
        overrun = world.memory.head - receiver.entry >= self._rules.capacity + self._rules.slack
        if self._rules.checks_again and overrun:
            yield self.give_up(world, me)
            return
        number, round_, (of_number, _) = receiver.token
        if not number == round_ == of_number:
            raise Violated("torn")
        yield world.after(me, receiver._replace(at="judge"))

    def judge(self, world: World, me: int) -> Iterator[World]:
        """Take the token as news if it is of the sender's present incarnation."""
        receiver = world.processes[me]
        if receiver.token[2][1] == world.memory.incarnation:
            at = "accept"
        elif self._rules.knows_incarnations:
            at = "pass over"
        else:
            raise Violated("former incarnation")
        yield world.after(me, receiver._replace(at=at))

    def accept(self, world: World, me: int) -> Iterator[World]:
        number = world.processes[me].token[0]
        if number <= world.memory.accepted:
            raise Violated("twice")
        yield from self.mark(world, me, accepted=number)

    def pass_over(self, world: World, me: int) -> Iterator[World]:
        yield from self.mark(world, me)

    def mark(self, world: World, me: int, **words: int) -> Iterator[World]:
        tail = world.processes[me].entry + 1
        if self._rules.tail_shared:
            yield world.after(me, Receiver(), tail=tail, **words)
        else:
            yield world.after(me, Receiver(tail=tail), **words)

    def start_anew(self, world: World, me: int) -> Iterator[World]:
        yield world.after(me, Receiver())
