"""Processes of a measured program: started, measured and ended together.

Runs in the bench, and in `galamp sweep`. A program leads a session of its own, so that all its
processes can be found, orphans too, and a Ctrl-C in the terminal reaches the bench alone, which
ends the program. If the bench dies for any reason, the kernel sends the program SIGTERM.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from galamp.core.errors import EXIT_SIGTERM, RunFailed
from galamp.core.processes.titles import without_run

STOP_GRACE_S = 60.0
"""Grace period for a program to save its work after SIGTERM."""

ABORT_GRACE_S = 5.0
"""Grace period after SIGTERM where its work is not needed any more."""

KILL_TIMEOUT_S = 10.0
POLL_S = 0.05
BYTES_PER_MB = 1e6
THREAD_COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Removed from a program's environment: it chooses its own number of threads."""

OF_GALAMP, WARNING = "galamp: ", "galamp: warning: "
"""Prefixes of galamp's own lines for its user."""

_PR_SET_PDEATHSIG = 1
_PROC_STATE, _PROC_SESSION, _PROC_TIMES, _PROC_OWN_TIMES = 0, 3, slice(11, 15), slice(11, 13)
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_LIBC = ctypes.CDLL(None)


class Program:
    """A command in a session of its own; all its processes are killed at the block's end."""

    def __init__(
        self,
        command: Sequence[object],
        folder: Path,
        log: Path,
        *,
        cores: Collection[int] = (),
        environment: Mapping[str, str] = MappingProxyType({}),
        terminal: int | None = None,
    ) -> None:
        """Store the command, to be run in `folder` with all output appended to `log`.

        Args:
            command: its words.
            folder: its working directory.
            log: file of its output.
            cores: processors that it may use; none: those of this process.
            environment: variables that it has besides those of this process.
            terminal: descriptor of a terminal that takes its standard error instead of `log`.
        """
        self._terminal = terminal
        self._command, self._folder, self._log = [str(word) for word in command], folder, log
        self._cores, self._environment = tuple(cores), environment
        self._log_begins = 0

    def __enter__(self) -> Program:
        """Start it."""
        with self._log.open("ab") as output:
            self._log_begins = output.tell()
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output if self._terminal is None else self._terminal,
                env={k: v for k, v in os.environ.items() if k not in THREAD_COUNTS}
                | dict(self._environment),
                start_new_session=True,
                preexec_fn=_end_with(os.getpid(), self._cores),
            )
        return self

    def __exit__(self, *error: object) -> None:
        """Leave no process behind."""
        try:
            if self.exit_code is None:
                self._process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(ABORT_GRACE_S)
        finally:
            self.kill()

    @property
    def session(self) -> int:
        """Id of the session of all its processes."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Its exit code, or None while it runs."""
        return self._process.poll()

    def wait(self, deadline_s: float) -> int:
        """Return the exit code once it has ended.

        Raises:
            RunFailed: it still runs after `deadline_s`.
        """
        try:
            return self._process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise RunFailed(f"did not end within {deadline_s:.0f} s") from None

    def ends_within(self, seconds: float) -> bool:
        """Return whether it has ended, after waiting for at most `seconds`."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self.exit_code is not None

    def stop(self, grace_s: float | None = None) -> None:
        """Ask it to end within `grace_s` (default: `STOP_GRACE_S`), with all its processes.

        Raises:
            RunFailed: it had to be killed, ended in another way, or left processes behind.
        """
        self._process.terminate()
        code = self.wait(STOP_GRACE_S if grace_s is None else grace_s)
        if code not in (EXIT_SIGTERM, -signal.SIGTERM):
            raise RunFailed(f"asked to end, it ended with code {code}: {self.last_line()}")
        until_s = time.monotonic() + KILL_TIMEOUT_S
        while left := members(self.session):
            if time.monotonic() > until_s:
                raise RunFailed(f"left {len(left)} processes behind")
            time.sleep(POLL_S)

    def ask_to_end(self) -> None:
        """Have it save its work and end; its processes end it themselves."""
        self._process.terminate()

    def lines(self) -> list[str]:
        """Return all lines that it has written so far; the last one may be incomplete.

        What an earlier program has left in the log is not among them.
        """
        with self._log.open("rb") as log:
            log.seek(self._log_begins)
            with io.TextIOWrapper(log, "utf-8", errors="replace") as text:
                return text.read().split("\n")

    def last_line(self) -> str:
        """Return the last line that it wrote."""
        lines = reversed(self.lines())
        return next((line.strip() for line in lines if line.strip()), "it wrote nothing")

    def complaint(self) -> str:
        """Return why it ended: galamp's last line for its user, for a traceback may follow it.

        For another program, its last line.
        """
        own = (line for line in reversed(self.lines()) if line.startswith(OF_GALAMP))
        return next((line for line in own if not line.startswith(WARNING)), self.last_line())

    def kill(self) -> None:
        """Kill all its processes.

        Raises:
            RunFailed: they do not end.
        """
        until_s = time.monotonic() + KILL_TIMEOUT_S
        while (left := members(self.session)) and time.monotonic() < until_s:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.poll()
            time.sleep(POLL_S)
        self.wait(KILL_TIMEOUT_S)


def _end_with(parent: int, cores: Collection[int] = ()) -> Callable[[], None]:
    """Return the first function of a new process: it requests SIGTERM for when `parent` dies.

    Where `cores` are given, it binds the process to them, too.
    """

    def ask() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before the kernel knew
            os.kill(os.getpid(), signal.SIGTERM)
        if cores:
            os.sched_setaffinity(0, cores)

    return ask


def members(session: int) -> list[int]:
    """Return the ids of the living processes of a session."""
    return [pid for pid, fields in _processes(session) if fields[_PROC_STATE] not in "ZX"]


def titled(session: int, title: str) -> list[int]:
    """Return the ids of the living processes of a session with this title, of whatever run."""
    found = []
    for pid in members(session):
        with contextlib.suppress(OSError):
            line = Path("/proc", str(pid), "cmdline").read_bytes()
            if without_run(line.strip(b"\0 ").decode(errors="replace")) == title:
                found.append(pid)
    return found


def _processes(session: int) -> list[tuple[int, list[str]]]:
    """Return id and status fields (from the state on) of every process of a session."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                text = Path("/proc", entry, "stat").read_text(errors="replace")
                fields = text.rpartition(")")[2].split()  # the name before may hold anything
                if int(fields[_PROC_SESSION]) == session:
                    found.append((int(entry), fields))
    return found


def spent_s(pid: int) -> float:
    """Return the processor time that a living process has spent so far, in seconds."""
    text = Path("/proc", str(pid), "stat").read_text(errors="replace")
    return sum(map(int, text.rpartition(")")[2].split()[_PROC_OWN_TIMES])) / _TICKS_PER_S


def pss_mb(pids: Sequence[int]) -> float:
    """Return the memory of processes in MB: shared pages count in equal parts for each process."""
    total_bytes = 0
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            for line in Path("/proc", str(pid), "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total_bytes += int(line.split()[1]) * 1024
    return total_bytes / BYTES_PER_MB


@dataclass(frozen=True)
class Usage:
    """Processor time spent until one moment, in seconds: by a session, and by all others."""

    at_s: float
    session_s: float
    others_s: float

    @classmethod
    def of(cls, session: int) -> Usage:
        """Read it now; time that other virtual machines took from this one counts as others'."""
        ticks = sum(int(t) for _, fields in _processes(session) for t in fields[_PROC_TIMES])
        user, nice, system, _, _, irq, softirq, steal = (
            int(t) for t in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        )
        busy = user + nice + system + irq + softirq + steal
        return cls(time.monotonic(), ticks / _TICKS_PER_S, (busy - ticks) / _TICKS_PER_S)

    def shares_since(self, before: Usage, cores: int) -> tuple[float, float]:
        """Return the shares of all `cores` that the session and the others used since `before`."""
        available_s = (self.at_s - before.at_s) * cores
        others_s = max(0.0, self.others_s - before.others_s)
        return (self.session_s - before.session_s) / available_s, others_s / available_s
