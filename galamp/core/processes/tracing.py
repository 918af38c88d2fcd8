"""Permission to be traced, as by py-spy, where the kernel's Yama asks for one.

    galamp profile --RUN/control--> supervisor --control block--> TracingPermit.follow in each child

With Yama's ptrace_scope at 1, as on Ubuntu, a process may be traced by its ancestors, and by one
process that it names itself (PR_SET_PTRACER), with all that this one starts. Without Yama the call
does nothing. Source: Documentation/admin-guide/LSM/Yama.rst of Linux.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

PTRACE_SCOPE = Path("/proc/sys/kernel/yama/ptrace_scope")
NOBODY = 0
_PR_SET_PTRACER = 0x59616D61


def permit_tracing(pid: int) -> None:
    """Let process `pid` and its descendants trace this one, or `NOBODY` besides ancestors."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PTRACER, ctypes.c_ulong(pid), 0, 0, 0)


def ptrace_scope() -> int:
    """Return Yama's scope: 0 without it; 1: ancestors and named ones; 2: root; 3: nobody."""
    try:
        return int(PTRACE_SCOPE.read_text())
    except (OSError, ValueError):
        return 0


class TracingPermit:
    """Permission of this process, kept as it is wished for."""

    def __init__(self, wished: Callable[[], int], permit: Callable[[int], None] = permit_tracing):
        """Follow `wished`, which returns the process that may trace this one, or `NOBODY`."""
        self._wished, self._permit, self._given = wished, permit, NOBODY

    def follow(self) -> None:
        """Permit what is wished for, if that has changed; called between two steps of work."""
        wished = self._wished()
        if wished != self._given:
            self._given = wished
            self._permit(wished)
