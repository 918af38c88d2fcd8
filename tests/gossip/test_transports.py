"""Every transport in the registry keeps the contract, which finds what is broken."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import Tensor

from galamp.gossip.transport import TRANSPORTS
from galamp.gossip.transport.base import Message, TransportContext, VectorRead
from galamp.gossip.transport.shared_memory import SharedMemoryTransport
from galamp.memory.versioned_slots import Header
from tests.contracts.transport import TransportContract


class TestRegistered(TransportContract):
    """Whatever is in the registry, under its name."""

    @pytest.fixture(autouse=True, params=sorted(TRANSPORTS))
    def _named(self, request: pytest.FixtureRequest) -> None:
        self.name = request.param


class Trusting(SharedMemoryTransport):
    """Takes every copy for whole."""

    def unchanged(self, read: VectorRead) -> bool:
        return True


class Early(SharedMemoryTransport):
    """Shows a publication before it is written."""

    def begin_write(self) -> Tensor:
        slot = super().begin_write()
        super().end_write(incarnation=0, round_=0, version=0)
        return slot


class Impatient(SharedMemoryTransport):
    """Has always room."""

    def has_room(self) -> bool:
        return True


class Faithful(SharedMemoryTransport):
    """Waits for the dead as well."""

    def has_room(self) -> bool:
        return all(box.oldest() is None for box in self._outboxes.values())


class Credulous(SharedMemoryTransport):
    """Knows no incarnations."""

    def news(self, peer: int) -> Message | None:
        found = self._inboxes[peer].newest()
        return None if found is None else Message(peer, *found[0], found[1])


class Forgetful(SharedMemoryTransport):
    """Keeps to itself what it has read."""

    def __init__(self, context: TransportContext) -> None:
        super().__init__(context)
        self._last = -1

    def news(self, peer: int) -> Message | None:
        message = super().news(peer)
        return message if message is not None and message.place > self._last else None

    def accept(self, message: Message, number: int) -> int:
        skipped, self._last = message.place - self._last - 1, message.place
        return skipped


class Silent(SharedMemoryTransport):
    """Drops every third message."""

    def notify(self, peer: int, header: Header) -> None:
        if header.number % 3:
            super().notify(peer, header)


class Sharing(SharedMemoryTransport):
    """Gives its memory away."""

    def fetch(self, peer: int, size: int) -> Tensor | None:
        read = self._slots[peer].begin_read()
        return None if read is None else self._vectors[peer][read.slot][:size]


class Mixed(SharedMemoryTransport):
    """Has one exchange only."""

    def __init__(self, context: TransportContext) -> None:
        super().__init__(replace(context, name="parameters"))


BROKEN: dict[type[SharedMemoryTransport], str] = {
    Trusting: "a_writer_that_goes_on_during_a_read_is_noticed",
    Early: "a_publication_that_is_never_ended_is_forgotten",
    Impatient: "in_order_a_writer_has_room_until_its_messages_are_unread",
    Faithful: "a_dead_peer_takes_no_room",
    Credulous: "messages_of_former_incarnations_are_not_taken",
    Forgetful: "a_receiver_that_is_started_anew_reads_nothing_twice",
    Silent: "every_message_is_read_or_counted_as_skipped",
    Sharing: "what_nobody_was_told_of_is_no_news_and_can_be_fetched",
    Mixed: "exchanges_do_not_meet",
}
"""Ways to break a transport, and a test of the contract that finds each."""


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_the_contract_finds_what_is_broken(
    kind: type[SharedMemoryTransport], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TRANSPORTS, "broken", f"{__name__}:{kind.__name__}")
    contract = TransportContract()
    contract.name = "broken"
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        getattr(contract, f"test_{BROKEN[kind]}")()
