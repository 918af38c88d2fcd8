"""How this process handles signals: what a test has to leave as it found it."""

from __future__ import annotations

import ctypes
import signal
from typing import Any, NamedTuple

WATCHED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGTSTP,
    signal.SIGCONT,
)
_LIBC = ctypes.CDLL(None)
_POINTER = ctypes.sizeof(ctypes.c_void_p)


class Handling(NamedTuple):
    """Handlers by signal, of Python and of the kernel, and the signals that are blocked."""

    python: dict[str, Any]
    kernel: dict[str, int]
    blocked: frozenset[int]

    def changes(self, after: Handling) -> list[str]:
        """Return what is different afterwards, a line each."""
        pairs = (
            ("Python's", self.python, after.python),
            ("the kernel's", self.kernel, after.kernel),
        )
        found = [
            f"{whose} handler of {name}: {old[name]} -> {new[name]}"
            for whose, old, new in pairs
            for name in old
            if old[name] != new[name]
        ]
        if self.blocked != after.blocked:
            found.append(f"blocked: {sorted(self.blocked)} -> {sorted(after.blocked)}")
        return found

    def give_back(self) -> None:
        """Handle signals like this again, as far as Python's handlers and the mask go."""
        for name, handler in self.python.items():
            if handler is not None:  # one of a library's own, which Python cannot set
                signal.signal(signal.Signals[name], handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.blocked)


def handling() -> Handling:
    """Return how signals are handled now."""
    python = {number.name: signal.getsignal(number) for number in WATCHED}
    kernel = {number.name: _kernels(number) for number in WATCHED}
    return Handling(python, kernel, frozenset(signal.pthread_sigmask(signal.SIG_BLOCK, ())))


def _kernels(number: int) -> int:
    """Return the address of the handler, with which `struct sigaction` begins."""
    action = ctypes.create_string_buffer(256)
    _LIBC.sigaction(number, None, action)
    return int.from_bytes(action.raw[:_POINTER], "little")
