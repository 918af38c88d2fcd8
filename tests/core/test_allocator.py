"""What becomes of big blocks: returned at once, or kept for the next and returned when asked.

Each in a process of its own, whose allocator is set for good.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc's allocator"
    ),
]
BLOCK_BYTES = 7_000_000
MANY = 10
"""Page faults of a block that comes from the system, at least, be its pages large or small."""
PROGRAM = f"""
import re, resource, sys, threading
from galamp.core.processes import allocator

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def held():
    return 1024 * int(re.search(r"RssAnon:\\s*(\\d+)", open("/proc/self/status").read())[1])

def block():
    return bytearray({BLOCK_BYTES})

def in_another_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

getattr(allocator, sys.argv[1])()
small = [b"." * 1000 for _ in range(1000)]
before = held()
for _ in range(2):
    block()
    in_another_thread(block)
began = faults()
for _ in range(10):
    block()
    in_another_thread(block)
print((faults() - began) / 20)
many = []
for _ in range(20):
    many.append(block())
    small.append([b"-" * (1000 + at) for at in range(100)])  # lie between, and stay
many.clear()
print((held() - before) / {BLOCK_BYTES})
allocator.return_spare()
print((held() - before) / {BLOCK_BYTES})
"""


def measured(setting: str) -> list[float]:
    """Page faults of a block; blocks held after 20 were in use; and once all spare is returned."""
    words = [sys.executable, "-c", PROGRAM, setting]
    return list(map(float, subprocess.run(words, capture_output=True, check=True).stdout.split()))


def test_with_nothing_spare_memory_held_is_memory_in_use() -> None:
    faults, held, after = measured("keep_nothing_spare")
    assert faults > MANY
    assert max(held, after) < 1.0


def test_blocks_are_kept_for_the_next_ones_of_any_thread_until_they_are_returned() -> None:
    faults, held, after = measured("keep_until_returned")
    assert faults < MANY
    assert 15 < held < 25
    assert after < 1.0
