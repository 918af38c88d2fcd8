"""A process that tries something out for its parent: started, waited for, and nothing left of it.

    Probing(module, request) --request as JSON--> keeper --fork--> module.main(request)
    Probing.answer  <--its answer, and what it wrote to stderr--  in memory that all have open

Nobody reads from a pipe here: a process that was started there and left behind may hold one open
for ever. The keeper (`galamp.core.processes.reaper.run_contained`) ends as the probe has, once it has ended
all that the probe has left behind; both are in a session of their own.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
import weakref
from typing import Any, NamedTuple

from galamp.core.isolation import path_for_children
from galamp.core.machine.memory import anonymous_file
from galamp.core.processes.exit_reports import signal_name

POLL_S = 0.005
STACKS_S = 1.0
"""A probe that hangs has so long to write down its stacks."""
KILL_TIMEOUT_S = 5.0
"""Whom the kernel has not ended so long after a kill is not waited for."""
ANSWER_BYTES = 2**26
"""No answer is longer: there, a million actions take ten megabytes."""
MAX_ERRORS_BYTES = 4 * 2**20
"""What a probe writes to standard error, for ever perhaps, takes no more memory than about this."""
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
TAIL_BYTES = 8192
"""So much of what a probe has written last is told."""

_START = """
import json, sys
request = json.loads(sys.argv[1])
sys.path[:] = request["path"]
from galamp.core.isolation import be_package
be_package()
from galamp.core.processes.reaper import run_contained
def probe():
    from importlib import import_module
    import_module(request["module"]).main(request)
run_contained(request["parent"], probe)
"""
"""The program of the probe and its keeper: it searches for modules where its parent does, see
isolation.py."""


class Answer(NamedTuple):
    """What a probe has left: its answer, the end of its standard error, whether it was in time."""

    text: str
    errors: str
    in_time: bool


class Probing(subprocess.Popen[bytes]):
    """A process that tries something out."""

    def __init__(self, module: str, request: dict[str, Any], *, timeout_s: float) -> None:
        """Start it: `main` of a module, with its request; it has `timeout_s` for its answer."""
        self.timeout_s = timeout_s
        self._until_s, self._is_reaped = time.monotonic() + timeout_s, False
        self._answer, self._errors = map(anonymous_file, ("galamp-answer", "galamp-errors"))
        self._close = weakref.finalize(self, _close, self._answer, self._errors)
        whole = request | {
            "module": module,
            "timeout_s": timeout_s,
            "parent": os.getpid(),
            "path": path_for_children(),
        }
        super().__init__(
            [sys.executable, "-P", "-c", _START, json.dumps(whole)],
            stdin=subprocess.DEVNULL,
            stdout=self._answer,
            stderr=self._errors,
            start_new_session=True,
        )

    def answer(self) -> Answer:
        """Wait for the answer; the process and its helpers are gone afterwards."""
        try:
            in_time = self._ended(self._until_s)
            if not in_time:
                self._ask(signal.SIGUSR1)  # the probe writes down where it is
                self._ended(time.monotonic() + STACKS_S)
        finally:
            self._stop()
        answer, errors = _read(self._answer, ANSWER_BYTES), _read(self._errors, TAIL_BYTES)
        self._close()
        return Answer(answer, errors.strip(), in_time)

    def cancel(self) -> None:
        """End it, whatever it has to say."""
        self._stop()
        self._close()

    def kill(self) -> None:
        """End it and every process of its session's first group."""
        if self.returncode is None and not self._is_reaped:
            with contextlib.suppress(OSError):
                os.killpg(self.pid, signal.SIGKILL)

    @property
    def ending(self) -> str:
        """How it has ended, in words."""
        if self.returncode is not None and self.returncode < 0:
            return f"killed by {signal_name(-self.returncode)}"
        return f"exit code {self.returncode}"

    def _ask(self, number: signal.Signals) -> None:
        """Send the keeper a signal."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def _ended(self, until_s: float) -> bool:
        """Wait for its end; it is not reaped, so that its id, and its group's, stay its own."""
        look = os.WEXITED | os.WNOHANG | os.WNOWAIT
        try:
            while os.waitid(os.P_PID, self.pid, look) is None:
                if time.monotonic() > until_s:
                    return False
                _forget_all_but_end(self._errors)
                time.sleep(POLL_S)
        except ChildProcessError:
            self._is_reaped = True  # SIGCHLD is ignored here: its id may be another's by now
        return True

    def _stop(self) -> None:
        """Leave nothing of it, within seconds: the keeper ends all, or else its group is killed."""
        if self.returncode is not None:
            return
        if not self._ended(0.0):
            self._ask(signal.SIGCONT)
            self._ask(signal.SIGTERM)
            self._ended(time.monotonic() + KILL_TIMEOUT_S)
        self.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(KILL_TIMEOUT_S)


def _read(file: int, most_bytes: int) -> str:
    """Return what was written to a file, from its end where that is more than `most_bytes`."""
    size = os.fstat(file).st_size
    first = max(0, size - most_bytes)
    return os.pread(file, size - first, first).decode(errors="replace")


def _forget_all_but_end(file: int) -> None:
    """Give the memory of what was written to a file back, except its end, once it is large."""
    known = os.fstat(file)
    if known.st_blocks * 512 > MAX_ERRORS_BYTES:
        length = known.st_size - TAIL_BYTES
        ctypes.CDLL(None).fallocate(
            file, _PUNCH_HOLE | _KEEP_SIZE, ctypes.c_long(0), ctypes.c_long(length)
        )


def _close(*files: int) -> None:
    for file in files:
        os.close(file)
