"""The parent's side of the probe: start it, wait for its answer, leave nothing of it behind.

    Probe(config) --request as JSON--> keeper --fork--> galamp.environments.probe
    Probe.spec    <--answer as JSON--  in memory that all have open, and what it wrote to stderr

Nobody reads from a pipe here: a process that the environment has started and left behind may hold
one open for ever. The keeper (`galamp.reaper.keep`) ends as the probe has, once it has ended all
that the probe has left behind; both are in a session of their own.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
import weakref
from typing import Any

from galamp.config import EnvironmentConfig, ResourceConfig
from galamp.deaths import signal_name
from galamp.environments.base import EnvironmentSpec
from galamp.errors import UserError
from galamp.isolation import path_for_children
from galamp.memory import anonymous_file

START_TIMEOUT_S: float = ResourceConfig.start_timeout_s

POLL_S = 0.005
STACKS_S = 1.0
"""A probe that hangs has so long to write down its stacks."""
KILL_WAIT_S = 5.0
"""Whom the kernel has not ended so long after a kill is not waited for."""
ANSWER_BYTES = 2**26
"""No answer is longer: there, a million actions take ten megabytes."""
MOST_ERRORS_BYTES = 4 * 2**20
"""What a probe writes to standard error, for ever perhaps, takes no more memory than about this."""
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
TAIL_BYTES = 8192
"""So much of what a probe has written last is told."""

_START = """
import json, sys
request = json.loads(sys.argv[1])
sys.path[:] = request["path"]
from galamp.isolation import be_package
be_package()
from galamp.reaper import keep
def probe():
    from galamp.environments.probe import main
    main(request)
keep(request["parent"], probe)
"""
"""The program of the probe and its keeper: it searches for modules where its parent does, see
isolation.py."""

_FATAL = re.compile(r"^Fatal Python error: .*$", re.MULTILINE)


class Probe(subprocess.Popen[bytes]):
    """A process that tries an environment out."""

    def __init__(self, config: EnvironmentConfig, *, timeout_s: float, seed: int) -> None:
        """Start it; it has `timeout_s` for its answer, and `seed` for what is random in it."""
        self.env_id, self.timeout_s = config.env_id, timeout_s
        self._until_s, self._is_reaped = time.monotonic() + timeout_s, False
        self._answer, self._errors = map(anonymous_file, ("galamp-answer", "galamp-errors"))
        self._close = weakref.finalize(self, _close, self._answer, self._errors)
        request = {
            "environment": dataclasses.asdict(config),
            "timeout_s": timeout_s,
            "seed": seed,
            "parent": os.getpid(),
            "path": path_for_children(),
        }
        super().__init__(
            [sys.executable, "-P", "-c", _START, json.dumps(request)],
            stdin=subprocess.DEVNULL,
            stdout=self._answer,
            stderr=self._errors,
            start_new_session=True,
        )

    def spec(self) -> EnvironmentSpec:
        """Wait for the answer; the process and its helpers are gone afterwards.

        Raises:
            UserError: the probe's own complaint, or how it ended where it could not complain. Its
                `details` are the traceback, or what was written to standard error.
        """
        try:
            in_time = self._ended(self._until_s)
            if not in_time:
                self._ask(signal.SIGUSR1)  # the probe writes down where it is
                self._ended(time.monotonic() + STACKS_S)
        finally:
            self._stop()
        answer, errors = _read(self._answer, ANSWER_BYTES), _read(self._errors, TAIL_BYTES)
        self._close()
        return self._spec(answer, errors.strip(), in_time)

    def cancel(self) -> None:
        """End it, whatever it has to say."""
        self._stop()
        self._close()

    def kill(self) -> None:
        """End it and every process of its session's first group."""
        if self.returncode is None and not self._is_reaped:
            with contextlib.suppress(OSError):
                os.killpg(self.pid, signal.SIGKILL)

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
        except (
            ChildProcessError
        ):  # SIGCHLD is ignored here: it is gone, and its id may be another's
            self._is_reaped = True
        return True

    def _stop(self) -> None:
        """Leave nothing of it, within seconds: the keeper ends all, or else its group is killed."""
        if self.returncode is not None:
            return
        if not self._ended(0.0):
            self._ask(signal.SIGCONT)
            self._ask(signal.SIGTERM)
            self._ended(time.monotonic() + KILL_WAIT_S)
        self.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(KILL_WAIT_S)

    def _spec(self, answer: str, errors: str, in_time: bool) -> EnvironmentSpec:
        told: Any = None
        with contextlib.suppress(ValueError, RecursionError):
            told = json.loads(answer)
        if not isinstance(told, dict):
            told = {}
        if "spec" in told:
            return EnvironmentSpec.from_dict(told["spec"])
        if "problems" in told:
            raise _error(told["problems"], told["details"])
        if not in_time:
            late = f"{self.env_id}: did not start within {self.timeout_s:g} s"
            raise _error([f"{late}: if it needs longer, allow more with --start-timeout-s"], errors)
        fatal = _FATAL.search(errors)
        last = fatal[0] if fatal else (errors.splitlines() or ["it printed nothing"])[-1]
        more = errors if "\n" in errors else ""
        raise _error([f"{self.env_id}: did not start ({self._ending()}): {last}"], more)

    def _ending(self) -> str:
        if self.returncode is not None and self.returncode < 0:
            return f"killed by {signal_name(-self.returncode)}"
        return f"exit code {self.returncode}"


def start_probe(
    config: EnvironmentConfig, *, timeout_s: float = START_TIMEOUT_S, seed: int = 0
) -> Probe:
    """Start a process that tries the environment out, to be awaited by `finish_probe`."""
    return Probe(config, timeout_s=timeout_s, seed=seed)


def finish_probe(probe: Probe) -> EnvironmentSpec:
    """Wait for a probe and return the spec that it found; see `Probe.spec`.

    Raises:
        UserError: the environment cannot be used.
    """
    return probe.spec()


def _read(file: int, most_bytes: int) -> str:
    """Return what was written to a file, from its end where that is more than `most_bytes`."""
    size = os.fstat(file).st_size
    first = max(0, size - most_bytes)
    return os.pread(file, size - first, first).decode(errors="replace")


def _forget_all_but_end(file: int) -> None:
    """Give the memory of what was written to a file back, except its end, once it is large."""
    known = os.fstat(file)
    if known.st_blocks * 512 > MOST_ERRORS_BYTES:
        length = known.st_size - TAIL_BYTES
        ctypes.CDLL(None).fallocate(
            file, _PUNCH_HOLE | _KEEP_SIZE, ctypes.c_long(0), ctypes.c_long(length)
        )


def _close(*files: int) -> None:
    for file in files:
        os.close(file)


def _error(problems: list[str], details: str) -> UserError:
    error = UserError(*problems)
    error.details = details
    return error
