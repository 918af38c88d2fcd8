"""Memory of a process whose ports carry vectors: what a burst takes is not held for good."""

from __future__ import annotations

import subprocess
import sys

import pytest

from galamp.gossip.cluster import PORTS
from tests.gossip.test_ports import free_address, needs_port

FRAME_BYTES, LEARNERS = 3_000_000, 8
"""Of the bursts: of each learner two frames wait, 48 MB in all, when nobody asks for them."""
PROGRAM = f"""
import re, sys, time
from galamp.core.processes.allocator import keep_until_returned, return_spare
from galamp.gossip.cluster import port_class
from galamp.gossip.cluster.port import PortContext

def held():
    return 1024 * int(re.search(r"RssAnon:\\s*(\\d+)", open("/proc/self/status").read())[1])

def until(holds):
    end_s = time.monotonic() + 60.0
    while not holds():
        time.sleep(0.01)
        assert time.monotonic() < end_s

def port(node, listen, connect, wake):
    ranks = 2 * {LEARNERS}
    return port_class(sys.argv[1])(
        PortContext(node, 2, ranks, listen, connect, {FRAME_BYTES}, wake)
    )

keep_until_returned()
woken = []
one = port(0, (sys.argv[2],), (), lambda: None)
other = port(1, (), (sys.argv[2],), lambda: woken.append(1))
until(lambda: one.alive() and other.alive())
woken.clear()
kept, offered = bytearray({FRAME_BYTES}), 0
found = []
for burst in range(8):
    for _ in range(2):
        for learner in range({LEARNERS}):
            one.publish(1, learner, lambda: kept)
        offered += {LEARNERS}
        until(lambda: one.sent(1) + one.overwritten(1) == offered)
    until(lambda: len(woken) >= one.sent(1))
    most = held()
    other.frames()
    return_spare()
    found.append((most, held()))
print(*(number / {FRAME_BYTES} for pair in found for number in pair))
for end in (one, other):
    end.close()
"""


@pytest.mark.real
@pytest.mark.parametrize("name", sorted(PORTS))
def test_what_a_burst_has_taken_is_returned(name: str) -> None:
    """In frames: beside what the libraries hold, up to some on the way, burst after burst."""
    needs_port(name)
    words = [sys.executable, "-c", PROGRAM, name, free_address()]
    said = subprocess.run(words, capture_output=True, check=True, text=True).stdout
    numbers = list(map(float, said.splitlines()[-1].split()))
    most, after = numbers[::2], numbers[1::2]
    assert max(most) > min(after) + LEARNERS, "a burst takes memory"
    assert max(after[2:]) < after[1] + 3.0, (most, after)
