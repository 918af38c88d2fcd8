"""Relay: a process between two nodes that forwards their connections, and disturbs them when told.

    node --connects--> Relay --connects--> 127.0.0.1:PORT, where the other node listens
    standard input: pass, cut, delay SECONDS, slow BYTES_PER_S, reset, count; its end ends the relay
    standard output: the port at which it listens; for `count`, bytes that went back to who connects

`python -m galamp.tools.chaos.relay PORT` needs no right that a user may lack, as network namespaces
and traffic control do, and TLS goes through it. While it is cut, nothing is read or written, and no
end of a connection is passed on: as with a broken cable, nobody is told anything. One difference
remains: what is in the kernel's buffers counts as sent. One thread; it waits for nobody but the
kernel.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import partial

HOST = "127.0.0.1"
CHUNK_BYTES, KEPT_BYTES = 2**16, 2**22
"""Most that is read at once, and that waits in one direction."""
IDLE_S = 0.2
CONNECT_TIMEOUT_S = 1.0
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing tells the other side that the connection is broken."""


class Mode:
    """How what arrives is forwarded: after `delay_s`, at most `rate` bytes/s (0: all), or `cut`."""

    def __init__(self) -> None:
        self.cut, self.delay_s, self.rate = False, 0.0, 0.0

    def set(self, word: str, value: float = 0.0) -> None:
        """Change it by one of the commands but `reset`."""
        self.cut = word == "cut"
        self.delay_s = value if word == "delay" else 0.0
        self.rate = value if word == "slow" else 0.0


class Direction:
    """Bytes from one connection to another, each chunk with the time at which it is due."""

    def __init__(self, source: socket.socket, sink: socket.socket, mode: Mode) -> None:
        self.source, self.sink, self._mode = source, sink, mode
        self._waiting = deque[tuple[float, bytes]]()
        self._bytes, self._due_s = 0, 0.0
        self.forwarded = 0
        """Bytes that have gone to the sink."""
        self.ended = self.over = False
        """Whether the source has ended, and whether the sink was told."""

    @property
    def reads(self) -> bool:
        """Whether there is room for more."""
        full = self._waiting if self._mode.rate else self._bytes >= KEPT_BYTES
        return not (self._mode.cut or self.ended or full)

    def writes(self, now_s: float) -> bool:
        """Whether something is due."""
        due = bool(self._waiting) and self._waiting[0][0] <= now_s
        return not self._mode.cut and due

    def waits_s(self, now_s: float) -> float:
        """Return the seconds until something becomes due, at most `IDLE_S`."""
        later = not self._mode.cut and self._waiting and self._waiting[0][0] > now_s
        return min(IDLE_S, self._waiting[0][0] - now_s) if later else IDLE_S

    def read(self, now_s: float) -> None:
        """Take what there is."""
        mode = self._mode
        chunk = self.source.recv(CHUNK_BYTES)
        self.ended = not chunk
        takes_s = len(chunk) / mode.rate if mode.rate else 0.0
        self._due_s = max(now_s + mode.delay_s, self._due_s) + takes_s
        self._bytes += len(chunk)
        self._waiting.append((self._due_s, chunk))

    def write(self) -> None:
        """Send what is due first; the end of the source is an empty chunk."""
        due_s, chunk = self._waiting.popleft()
        if not chunk:
            self.over = True
            self.sink.shutdown(socket.SHUT_WR)
            return
        sent = self.sink.send(chunk)
        self._bytes -= sent
        self.forwarded += sent
        if sent < len(chunk):
            self._waiting.appendleft((due_s, chunk[sent:]))


Pair = tuple[Direction, Direction]
"""Both directions of a connection: to the target, and back."""


class Relay:
    """All connections."""

    def __init__(self, port: int) -> None:
        """Listen at a port that is free; connect to `port` for each connection that comes."""
        self._target, self._mode = (HOST, port), Mode()
        self._listener = socket.create_server((HOST, 0))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._pairs: list[Pair] = []
        self._ended_bytes = 0

    @property
    def answered(self) -> int:
        """Bytes that were forwarded from the target to those who connect."""
        return self._ended_bytes + sum(answers.forwarded for _, answers in self._pairs)

    def close(self) -> None:
        """Break all connections, and listen no more."""
        self.obey("reset")
        self._listener.close()

    def obey(self, line: str) -> None:
        """Do what a command says."""
        word, *values = line.split()
        if word == "reset":  # and whole from then on
            for pair in list(self._pairs):
                self._break(pair)
        self._mode.set(word, *map(float, values))

    def step(self, commands: int) -> bool:
        """Forward what is due, and wait for more; returns whether `commands` can be read."""
        now_s = time.monotonic()
        directions = [(each, pair) for pair in self._pairs for each in pair]
        readers = {each.source: (each, pair) for each, pair in directions if each.reads}
        writers = {each.sink: (each, pair) for each, pair in directions if each.writes(now_s)}
        waits_s = min((each.waits_s(now_s) for each, _ in directions), default=IDLE_S)
        heard: list[int | socket.socket] = [commands]
        heard += [] if self._mode.cut else [self._listener, *readers]
        ready, writable, _ = select.select(heard, list(writers), [], waits_s)
        now_s = time.monotonic()
        for sink in writable:
            self._do(writers[sink][0].write, writers[sink][1])
        for direction, pair in [readers[each] for each in readers if each in ready]:
            self._do(partial(direction.read, now_s), pair)
        if self._listener in ready:
            self._accept()
        return commands in ready

    def _do(self, work: Callable[[], None], pair: Pair) -> None:
        """Read or write; a connection that is broken breaks the other one."""
        if pair not in self._pairs:
            return
        try:
            work()
        except BlockingIOError:
            return
        except OSError:
            self._break(pair)
        else:
            if all(each.over for each in pair):
                self._remove(pair)
                for each in pair:
                    each.source.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            near, _ = self._listener.accept()
            try:
                far = socket.create_connection(self._target, CONNECT_TIMEOUT_S)
            except OSError:  # the node is not there: nor is this one, then
                _reset(near)
                return
            for each in (near, far):
                each.setblocking(False)
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            mode = self._mode
            self._pairs.append((Direction(near, far, mode), Direction(far, near, mode)))

    def _break(self, pair: Pair) -> None:
        self._remove(pair)
        for each in pair:
            _reset(each.source)

    def _remove(self, pair: Pair) -> None:
        self._pairs.remove(pair)
        self._ended_bytes += pair[1].forwarded


def _reset(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    connection.close()


def main(port: int) -> None:
    """Forward until standard input ends."""
    relay, rest = Relay(port), b""
    print(relay.port, flush=True)
    commands = sys.stdin.fileno()
    while True:
        if relay.step(commands):
            read = os.read(commands, 4096)
            if not read:
                return
            *lines, rest = (rest + read).split(b"\n")
            for line in lines:
                if line == b"count":
                    print(relay.answered, flush=True)
                else:
                    relay.obey(line.decode())


if __name__ == "__main__":
    main(int(sys.argv[1]))
