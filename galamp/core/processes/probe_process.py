"""Probe process: runs a module's `main` for its parent, and leaves no process behind.

    Probing(module, request) --request as JSON--> keeper --fork--> module.main(request)
    Probing.answer  <--its answer, and what it wrote to stderr--  in memory that all have open

The parent reads files, not pipes: a descendant that the probe has left behind could hold a pipe
open for ever. The keeper (`galamp.core.processes.reaper.run_contained`) ends all descendants that
the probe has left behind, and then exits as the probe did. Both are in a session of their own.
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
from galamp.core.machine.memory import anonymous_files
from galamp.core.processes.exit_reports import signal_name

POLL_S = 0.005
STACKS_S = 1.0
"""Time for a probe that hangs to write its stacks."""
KILL_TIMEOUT_S = 5.0
"""Longest wait for a killed process."""
ANSWER_BYTES = 2**26
"""Longest answer: a million actions need ten megabytes."""
MAX_ERRORS_BYTES = 4 * 2**20
"""About the most memory for the standard error of a probe, which may write without end."""
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
TAIL_BYTES = 8192
"""Length of the end of standard error that is reported."""

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
"""Program of the probe and its keeper; it searches for modules in the same folders as its parent,
see isolation.py."""


class Answer(NamedTuple):
    """Result of a probe: its answer, the end of its standard error, and whether it was in time."""

    text: str
    errors: str
    in_time: bool


class Probing(subprocess.Popen[bytes]):
    """Probe process."""

    def __init__(self, module: str, request: dict[str, Any], *, timeout_s: float) -> None:
        """Start the probe: `main` of a module, with its request; it must answer in `timeout_s`."""
        self.timeout_s = timeout_s
        self._until_s, self._is_reaped = time.monotonic() + timeout_s, False
        self._answer, self._errors = anonymous_files("galamp-answer", "galamp-errors")
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

    @property
    def has_ended(self) -> bool:
        """Whether it has ended, or its time is over: `answer` then waits for seconds at most."""
        return self._ended(0.0) or time.monotonic() > self._until_s

    def answer(self) -> Answer:
        """Wait for the answer; the process and its descendants have ended afterwards."""
        try:
            in_time = self._ended(self._until_s)
            if not in_time:
                self._signal(signal.SIGUSR1)  # the probe writes its stacks
                self._ended(time.monotonic() + STACKS_S)
        finally:
            self._stop()
        answer, errors = _read(self._answer, ANSWER_BYTES), _read(self._errors, TAIL_BYTES)
        self._close()
        return Answer(answer, errors.strip(), in_time)

    def cancel(self) -> None:
        """End the probe without an answer."""
        self._stop()
        self._close()

    def kill(self) -> None:
        """Kill the keeper and all processes of its process group."""
        if self.returncode is None and not self._is_reaped:
            with contextlib.suppress(OSError):
                os.killpg(self.pid, signal.SIGKILL)

    @property
    def ending(self) -> str:
        """How the process has ended, as text."""
        if self.returncode is not None and self.returncode < 0:
            return f"killed by {signal_name(-self.returncode)}"
        return f"exit code {self.returncode}"

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal to the keeper."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def _ended(self, until_s: float) -> bool:
        """Wait for its end, without reaping it: so its id, and its group's, are not used again."""
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        try:
            while os.waitid(os.P_PID, self.pid, options) is None:
                if time.monotonic() > until_s:
                    return False
                _free_all_but_end(self._errors)
                time.sleep(POLL_S)
        except ChildProcessError:
            self._is_reaped = True  # SIGCHLD is ignored here: its id may be in use again
        return True

    def _stop(self) -> None:
        """End all its processes within seconds: the keeper does it, or else its group is killed."""
        if self.returncode is not None:
            return
        if not self._ended(0.0):
            self._signal(signal.SIGCONT)
            self._signal(signal.SIGTERM)
            self._ended(time.monotonic() + KILL_TIMEOUT_S)
        self.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(KILL_TIMEOUT_S)


def _read(file: int, most_bytes: int) -> str:
    """Return the last `most_bytes` of a file."""
    size = os.fstat(file).st_size
    first = max(0, size - most_bytes)
    return os.pread(file, size - first, first).decode(errors="replace")


def _free_all_but_end(file: int) -> None:
    """Free the memory of a large file in memory, except its end."""
    known = os.fstat(file)
    if known.st_blocks * 512 > MAX_ERRORS_BYTES:
        length = known.st_size - TAIL_BYTES
        ctypes.CDLL(None).fallocate(
            file, _PUNCH_HOLE | _KEEP_SIZE, ctypes.c_long(0), ctypes.c_long(length)
        )


def _close(*files: int) -> None:
    for file in files:
        os.close(file)
