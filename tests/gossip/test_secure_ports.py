"""Ports with keys: the contract holds, and who has none, or another's, is not heard."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import time
from pathlib import Path

import pytest

from galamp.core.node_keys import NodeKeys, keys_in
from tests.contracts.port import End, PortContract
from tests.gossip.test_ports import free_address

zenoh = pytest.importorskip("zenoh")
pytest.importorskip("cryptography")

from galamp.tools.keys.certificates import make_keys  # noqa: E402

NOISE_S = 0.5
"""What is not to happen would have happened by then; a slow machine makes no test fail."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("keys") / "run"
    make_keys(made, 3, 30)
    return made


class TestWithKeys(PortContract):
    """zenoh, by mutual TLS."""

    name = "zenoh"

    @pytest.fixture(autouse=True)
    def _keys(self, folder: Path) -> None:
        self._folder, self._address = folder, free_address().replace("tcp/", "tls/")

    def address(self) -> str:
        return self._address

    def keys(self, node: int) -> NodeKeys:
        return keys_in(self._folder, node)

    @pytest.mark.real
    def test_nobody_else_is_heard_and_the_others_are_not_disturbed(
        self, pair: tuple[End, End], tmp_path: Path
    ) -> None:
        one, other = pair
        make_keys(tmp_path / "another", 2, 30)
        # Another run's authority, a third node under this number, and no certificate at all.
        strangers = [keys_in(tmp_path / "another", 1), keys_in(self._folder, 2)]
        ends = [End("zenoh", 1, self._address, keys) for keys in strangers]
        ends.append(End("zenoh", 1, self._address.replace("tls/", "tcp/")))
        host, port = "127.0.0.1", int(self._address.rpartition(":")[2])
        dice = random.Random(1)
        for _ in range(50):
            with socket.create_connection((host, port)) as noise:
                noise.sendall(dice.randbytes(dice.randrange(1, 3000)))
        for end in ends:
            end.port.publish(0, 2, lambda: b"false")
            end.port.tell(0, b"false")
            end.port.fetch(0, 0)
        time.sleep(NOISE_S)
        assert [end.port.alive() for end in ends] == [frozenset()] * 3
        other.port.tell(0, b"true")
        other.port.publish(0, 2, lambda: b"true")
        one.until(lambda: bool(one.texts and one.frames))
        assert (one.frames, one.texts, one.asked) == ([(1, b"true")], [(1, b"true")], [])
        assert one.port.alive() == {1}
        for end in ends:
            end.port.close()

    def test_a_node_cannot_speak_for_another(self) -> None:
        """Node 1, with its own keys, by zenoh itself, under the number of node 2."""
        from galamp.gossip.cluster.port import PortContext
        from galamp.gossip.cluster.zenoh_port import _config

        context = PortContext(0, 3, 6, (self._address,), (), 100, lambda: None, self.keys(0))
        from galamp.gossip.cluster import port_class

        port = port_class("zenoh")(context)
        config = _config(
            zenoh, PortContext(1, 3, 6, (), (self._address,), 100, lambda: None, self.keys(1))
        )
        config.insert_json5("access_control", '{"enabled": false}')
        with zenoh.open(config) as session:
            token = session.liveliness().declare_token("galamp/n/2/false")
            own = session.liveliness().declare_token("galamp/n/1/true")
            until_s = time.monotonic() + 60
            while port.alive() != {1} and time.monotonic() < until_s:
                time.sleep(0.01)
            for key in ("v/0/2/4", "v/0/0/0", "t/0/2", "f/0/2/4"):
                session.put(f"galamp/{key}", b"false")
            session.put("galamp/v/0/1/2", b"true")
            found: list[tuple[int, bytes]] = []
            while not found and time.monotonic() < until_s:
                found += port.frames()
                time.sleep(0.01)
            assert found == [(1, b"true")]
            assert (port.told(), port.asked(), port.alive()) == ([], [], {1})
            del token, own
        port.close()


def test_no_more_files_are_open_after_noise(folder: Path) -> None:
    address = free_address().replace("tcp/", "tls/")
    end = End("zenoh", 0, address, keys_in(folder, 0))
    port, dice = int(address.rpartition(":")[2]), random.Random(2)

    def files() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = files()
    for _ in range(100):
        with socket.create_connection(("127.0.0.1", port)) as noise:
            noise.sendall(dice.randbytes(500))
    until_s = time.monotonic() + 60
    while files() > before + 2 and time.monotonic() < until_s:
        time.sleep(0.05)
    assert files() <= before + 2
    end.port.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tcp", "tls"])
def test_10_000_random_inputs_disturb_nothing(folder: Path, kind: str) -> None:
    """Vectors go on between two nodes meanwhile, and nothing else arrives."""
    address = free_address().replace("tcp/", f"{kind}/")
    keys = [keys_in(folder, node) if kind == "tls" else None for node in range(2)]
    one, other = (End("zenoh", node, address, keys[node]) for node in range(2))
    PortContract.meet(one, other)
    dice, port = random.Random(3), int(address.rpartition(":")[2])
    before = len(os.listdir("/proc/self/fd"))
    for number in range(10_000):
        with socket.create_connection(("127.0.0.1", port)) as noise, contextlib.suppress(OSError):
            noise.sendall(dice.randbytes(dice.randrange(1, 3000)))
        if number % 1000 == 999:
            frame = str(number).encode()
            other.port.publish(0, 2, lambda frame=frame: frame)
            one.until(lambda frame=frame: bool(one.frames) and one.frames[-1] == (1, frame))
    assert one.frames == [(1, str(number).encode()) for number in range(999, 10_000, 1000)]
    assert (one.texts, one.asked, one.port.alive()) == ([], [], {1})
    if kind == "tcp":  # zenoh closes the connections of broken handshakes minutes later
        one.until(lambda: len(os.listdir("/proc/self/fd")) <= before + 2)
    for end in (one, other):
        end.port.close()
