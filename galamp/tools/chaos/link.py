"""The connection to the other node, as chaos holds it: a relay that it disturbs, and what arrives.

    Fault --disturbance, update--> Link.tell --> relay: cut, slow, delayed, reset, whole
    ClusterBoard, ControlBlock --LinkView--> whether the other node counts as there, vectors taken

Runs in the supervisor; nothing here waits.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from galamp.core.errors import RunFailed
from galamp.supervision.layout import RunLayout
from galamp.tools.chaos.injector import InjectedFault
from galamp.tools.chaos.other_view import OtherView
from galamp.tools.chaos.schedule import Fault, Kind

RELAY = "galamp.tools.chaos.relay"
START_TIMEOUT_S, END_TIMEOUT_S = 60.0, 5.0
COUNT_BYTES = 64
DELAY_S, SLOW_BYTES_PER_S = 0.25, 2**20
"""How late a slow link is in each direction, and how many bytes a narrow one carries."""
COMMANDS = {
    Kind.CUT: "cut",
    Kind.DELAY: f"delay {DELAY_S}",
    Kind.NARROW: f"slow {SLOW_BYTES_PER_S}",
    Kind.RESET: "reset",
}
"""What the relay is told at the beginning of each disturbance; `WHOLE` at its end."""
WHOLE = "pass"


class Link:
    """A relay that listens at `port` of this machine, and connects to another port of it."""

    def __init__(self, target: int) -> None:
        """Start it.

        Raises:
            RunFailed: it does not start.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-m", RELAY, str(target)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C in the terminal is for the run
        )
        assert self._process.stdout is not None
        stdout = self._process.stdout
        there = select.select([stdout], [], [], START_TIMEOUT_S)[0]
        told = stdout.readline().strip() if there else b""  # empty if it ends before
        if not told.isdigit():
            self.close()
            raise RunFailed("the relay between the two machines did not start")
        self.port = int(told)
        self.whole = True
        self.answered = 0
        """Bytes that have come from the target, as was last told; see `count`."""
        self._lines, self._asked = b"", False

    @property
    def running(self) -> bool:
        """Whether it runs; nothing else than `close` ends it."""
        return self._process.poll() is None

    def tell(self, command: str) -> None:
        """Change how it forwards; see `relay`."""
        self.whole = command == WHOLE
        self._write(command)

    def _write(self, command: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it has ended: `running` says so
            self._process.stdin.write(f"{command}\n".encode())
            self._process.stdin.flush()

    def count(self) -> bool:
        """Take a new number for `answered`, if it has come, and ask for the next; whether it has.

        Never waits.
        """
        if not self.running:
            return False
        assert self._process.stdout is not None
        told = None
        while self._asked and select.select([self._process.stdout], [], [], 0.0)[0]:
            read = os.read(self._process.stdout.fileno(), COUNT_BYTES)
            *lines, self._lines = (self._lines + read).split(b"\n")
            if lines:
                told, self._asked = int(lines[-1]), False
            elif not read:
                return False
        if told is not None:
            self.answered = told
        if not self._asked:
            self._asked = True
            self._write("count")
        return told is not None

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(END_TIMEOUT_S)


class LinkView:
    """What this node has of the other one."""

    def __init__(self, run_layout: RunLayout, other: OtherView) -> None:
        """Observe it by this node's board, and by what the other one tells."""
        self.other = other
        assert run_layout.board is not None
        self._board, self._control = run_layout.board, run_layout.control
        ranks = run_layout.plan.ranks
        self._remote, self._other = ranks.remote, 1 - ranks.node

    @property
    def present(self) -> bool:
        """Whether a learner of the other node counts as there, for those of this one."""
        return any(map(self._control.alive, self._remote))

    @property
    def sent(self) -> int:
        """Number of this node's vectors that have left for the other one."""
        return self._board.node(self._other, "sent")

    @property
    def received(self) -> int:
        """Number of its vectors that were taken."""
        return self._board.node(self._other, "received")

    @property
    def received_there(self) -> int:
        """Number of vectors of this node that the other one's present start has taken."""
        return self.other.received

    @property
    def refused(self) -> int:
        """Number of its messages that were refused."""
        return self._board.node(self._other, "refused")


class Disturbance(InjectedFault):
    """A fault of the link, or of the node behind it, which is over when each has a new vector.

    It ends by itself. It counts as noticed when the other node counts as gone.
    """

    def __init__(
        self,
        fault: Fault,
        at_s: float,
        view: LinkView,
        begin: Callable[[], object],
        end: Callable[[], object],
    ) -> None:
        """Begin it by `begin`; `end` is to end it."""
        super().__init__(fault, at_s, [])
        self._view, self._end = view, end
        self._mended_s: float | None = None
        self._received = self._received_there = 0
        begin()

    def update(self, now_s: float) -> None:
        """End it when it is time; check whether the nodes mix again."""
        if self.noticed_s is None and not self._view.present:
            self.noticed_s = now_s
        if self._mended_s is None:
            if now_s >= self.at_s + self.fault.stop_s:
                self.mend(now_s)
        elif self._view.present and self._mixes_both_ways:
            self.back_s = now_s

    def mend(self, now_s: float) -> None:
        """End it, once."""
        if self._mended_s is None:
            self._end()
            self._mended_s, self._received = now_s, self._view.received
            self._received_there = self._view.received_there

    @property
    def _mixes_both_ways(self) -> bool:
        """Whether each node has taken a vector of the other one since the end."""
        there = self._view.received_there > self._received_there
        return there and self._view.received > self._received

    @property
    def since_s(self) -> float:
        """Time of its end, from which on the nodes can mix again."""
        return self.at_s if self._mended_s is None else self._mended_s

    def as_dict(self, began_s: float) -> dict[str, Any]:
        """Return it as JSON values, as other faults, and how long it lasted."""
        lasted = None if self._mended_s is None else self._mended_s - self.at_s
        return super().as_dict(began_s) | {"lasted_s": lasted}


def of_link(fault: Fault, at_s: float, link: Link, view: LinkView) -> Disturbance:
    """Begin a fault of the link."""
    begin, end = partial(link.tell, COMMANDS[fault.kind]), partial(link.tell, WHOLE)
    return Disturbance(fault, at_s, view, begin, end)
