"""Every state of shared memory that a kill can leave behind, by stepping real code through opcodes.

    a write --opcode by opcode--> states: the block's bytes, each distinct one once, in order
    a state --put back--> what readers find there, and what the next incarnation makes of it

A copy by numpy is one opcode: a payload should be copied piece by piece for half of it to show.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple

from galamp.memory.arrays import SharedArrays


class Steps(NamedTuple):
    """How many opcodes ran, and the states that memory went through, the first one included."""

    opcodes: int
    states: list[bytes]


def state_of(arrays: SharedArrays) -> bytes:
    return os.pread(arrays._fd, arrays.size_bytes, 0)


def put_back(arrays: SharedArrays, state: bytes) -> None:
    assert os.pwrite(arrays._fd, state, 0) == arrays.size_bytes


def step_through(arrays: SharedArrays, action: Callable[[], object]) -> Steps:
    """Run `action`, looking at the memory before every opcode of all its Python functions."""
    states = [state_of(arrays)]
    opcodes = 0

    def note_state(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal opcodes
        frame.f_trace_opcodes = True
        opcodes += event == "opcode"
        now = state_of(arrays)
        if now != states[-1]:
            states.append(now)
        return note_state

    before = sys.gettrace()  # perhaps that of a coverage tool
    sys.settrace(note_state)
    try:
        action()
    finally:
        sys.settrace(before)
    return Steps(opcodes, states)
