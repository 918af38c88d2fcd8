"""Every port in the registry keeps the contract, and so does one from outside."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Callable

import pytest

from galamp.core.errors import RunFailed, UserError
from galamp.gossip import cluster
from galamp.gossip.cluster.port import PortContext
from tests.contracts.port import End, PortContract

COUNT = itertools.count()


def free_address() -> str:
    """An address of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"tcp/127.0.0.1:{free.getsockname()[1]}"


def needs_port(name: str) -> None:
    """Skip a test where what a port needs is not installed."""
    try:
        cluster.port_class(name)
    except UserError as error:
        pytest.skip(str(error))


class TestRegistered(PortContract):
    """Whatever is in the registry, under its name."""

    @pytest.fixture(autouse=True, params=sorted(cluster.PORTS))
    def _named(self, request: pytest.FixtureRequest) -> None:
        needs_port(request.param)
        self.name, self._address = request.param, free_address()

    def address(self) -> str:
        return self._address


class TestFromOutside(PortContract):
    """One that is added by a line."""

    name = "in-one-process"

    @pytest.fixture(autouse=True)
    def _added(self, monkeypatch: pytest.MonkeyPatch) -> None:
        toy = "tests.support.toy_port:InOneProcess"
        monkeypatch.setitem(cluster.PORTS, self.name, toy)
        self._address = f"toy/{next(COUNT)}"

    def address(self) -> str:
        return self._address


def test_without_zenoh_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "zenoh", None)
    with pytest.raises(UserError, match=r"needs the package zenoh.*pip install 'galamp\[cluster\]"):
        cluster.port_class(cluster.ZENOH)


@pytest.mark.timing
def test_a_connection_that_nobody_answers_is_given_up_soon() -> None:
    """As behind a silent cut; the node that listens there then is met by the next attempt."""
    needs_port(cluster.ZENOH)
    address = free_address()
    with socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        silent.bind(("127.0.0.1", int(address.rpartition(":")[2])))
        silent.listen()
        other = End(cluster.ZENOH, 1, address)
        connection, _ = silent.accept()
    began_s = time.monotonic()
    one = End(cluster.ZENOH, 0, address)
    try:
        PortContract.meet(one, other)
        passed_s = time.monotonic() - began_s
    finally:
        for end in (one, other):
            end.port.close()
        connection.close()
    assert passed_s < 5.0


@pytest.mark.parametrize("name", sorted(cluster.PORTS))
def test_an_address_in_use_is_said_in_one_line(name: str) -> None:
    needs_port(name)
    kind: Callable[[PortContext], object] = cluster.port_class(name)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = f"tcp/127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(RunFailed) as raised:
            kind(PortContext(0, 2, 2, (where,), (), 100, lambda: None))
    assert str(raised.value).startswith(f"cannot listen at {where}: ")
    assert "\n" not in str(raised.value)
