"""Recording processes by py-spy, all at once.

    {pid: title} --record--> a py-spy each, for some seconds --> Samples of each, failures in words

py-spy is a program of its own, and stops its process for each sample, for about a millisecond.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from galamp.core.errors import GalampError, UserError
from galamp.core.pip_commands import install_extra
from galamp.core.processes.tracing import ptrace_scope
from galamp.core.sanitize import one_line
from galamp.tools.profile.stacks import Samples, parse

MAX_RATE, MIN_RATE, ALL_RATES = 100, 10, 1000
"""Samples per second of a process: at most, at least, and of all together."""
START_S = 30.0
"""Longest wait for py-spy besides the recording: it reads the process's symbols first."""
POLL_S = 0.05
DENIED = ("permission denied", "operation not permitted", "not permitted")


class Recording(NamedTuple):
    """What was recorded.

    Attributes:
        samples: of the processes that could be recorded.
        failures: title -> why it could not be.
        rate: samples per second of each process.
    """

    samples: list[Samples]
    failures: dict[str, str]
    rate: int


def py_spy() -> str:
    """Return the path of py-spy: beside this Python, or on the PATH.

    Raises:
        UserError: it is not installed.
    """
    beside = os.path.dirname(sys.executable)
    found = shutil.which("py-spy", path=f"{beside}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise UserError(
            f"profile: needs py-spy, which is not installed: {install_extra('profile')}"
        )
    return found


def rate_for(processes: int) -> int:
    """Return the samples per second for that many processes."""
    return max(MIN_RATE, min(MAX_RATE, ALL_RATES // max(1, processes)))


def record(program: str, processes: Mapping[int, str], seconds: float) -> Recording:
    """Record processes by `program`, which is py-spy, for some seconds; returns what they did.

    Raises:
        UserError: the kernel lets none of them be recorded.
        GalampError: none could be recorded for another reason.
        KeyboardInterrupt: SIGINT, SIGTERM or SIGHUP came meanwhile; every py-spy has ended.
    """
    rate = rate_for(len(processes))
    with _signals_noted() as noted, tempfile.TemporaryDirectory(prefix="galamp-profile-") as folder:
        files = {pid: Path(folder) / str(pid) for pid in processes}
        spies: list[subprocess.Popen[bytes]] = []
        try:
            for pid, file in files.items():
                spies.append(_spy(program, pid, file, seconds, rate))
            _await(spies, seconds + START_S, noted)
        finally:
            for spy in spies:
                spy.kill()
                spy.wait()
        if noted:
            raise KeyboardInterrupt
        samples, failures = [], {}
        for pid, title in processes.items():
            try:
                samples.append(parse(pid, title, files[pid].read_text(errors="replace")))
            except OSError:
                failures[title] = _why(files[pid])
    if failures and not samples:
        raise _refused(next(iter(failures.values())))
    return Recording(samples, failures, rate)


def _spy(program: str, pid: int, file: Path, seconds: float, rate: int) -> subprocess.Popen[bytes]:
    """Start py-spy on one process; idle samples are kept, lines are those of functions.

    What it says goes to a file as well: a pipe that nobody reads would stop it once full.
    """
    words = ["--duration", str(max(1, round(seconds))), "--rate", str(rate), "--output", str(file)]
    flags = ["--format", "raw", "--idle", "--function"]
    with _said(file).open("wb") as said:
        return subprocess.Popen(
            [program, "record", "--pid", str(pid), *words, *flags],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said,
        )  # fmt: skip


def _said(file: Path) -> Path:
    """Return the file with what a py-spy says, beside that with its samples."""
    return file.with_suffix(".said")


@contextlib.contextmanager
def _signals_noted() -> Iterator[list[int]]:
    """Note SIGINT, SIGTERM and SIGHUP: one that raised at once could lose a py-spy being started.

    Nothing is noted outside the main thread, which alone takes signals.
    """
    noted: list[int] = []
    before = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) in (signal.SIG_IGN, None):  # None: not Python's to restore
                continue
            with contextlib.suppress(ValueError):
                before[number] = signal.signal(number, lambda number, _: noted.append(number))
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _await(spies: list[subprocess.Popen[bytes]], timeout_s: float, noted: list[int]) -> None:
    """Wait for the end of all, or a signal, at most `timeout_s`."""
    until_s = time.monotonic() + timeout_s
    while any(spy.poll() is None for spy in spies) and time.monotonic() < until_s and not noted:
        time.sleep(POLL_S)


def _why(file: Path) -> str:
    """Return the line in which a py-spy has said why it failed."""
    told = _said(file).read_text(errors="replace")
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("Error", "Reason"))]
    return one_line(" ".join(errors or lines[-1:]) or "py-spy said nothing")


def _refused(why: str) -> GalampError:
    """Return the error for a profile without any samples: one line that says what to do."""
    if not any(word in why.lower() for word in DENIED):
        return GalampError(f"profile: py-spy could record no process: {why}")
    scope = ptrace_scope()
    if scope == 3:
        do = "it forbids it to everyone until the next boot (kernel.yama.ptrace_scope is 3)"
    elif scope:
        do = "as root, or after sudo sysctl kernel.yama.ptrace_scope=0, it does"
    else:
        do = (
            "be the user who started the run, or root; in a container, start it with --cap-add "
            "SYS_PTRACE"
        )
    return UserError(f"profile: the kernel does not let py-spy read the run's processes: {do}")
