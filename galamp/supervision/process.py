"""Child processes: what the parent knows of one, and the first lines that run in every one.

    supervisor: Worker.start --fork--> worker_main(spec, task) --> galamp.workers.learner or .simulator
    supervisor: Worker.failure() <-- exit code, signal, the child's own crash report and log

A child dies with its parent (however that one dies), leaves signals to the supervisor, writes
only to its own log, and shows its role and rank in its title (`ps`, `top`, `py-spy`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import importlib
import multiprocessing
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, NoReturn

from setproctitle import setproctitle

from galamp.core import failpoints
from galamp.core.disk import open_log
from galamp.core.errors import EXIT_FAILURE, EXIT_OK, GalampError, StopRun
from galamp.core.processes.exit_reports import (
    read_report,
    report_of,
    signal_name,
    tail,
    write_report,
)
from galamp.core.processes.reaper import adopt_orphans, die_with_parent
from galamp.supervision.launching import Child
from galamp.workers.forkserver import (
    ORPHANED,
    SERVER,
    SUPERVISED,
    ensure_tracker,
    take_own_limit,
    wake_server,
)

STACK_SIGNAL = signal.SIGUSR1
"""Asks a child for the stacks of all its threads, in its log."""

STACKS_S = 0.3
"""A hung child has so long to write down its stacks."""
OUT_OF_MEMORY_SCORES = {"simulator": 500, "learner": 300}
"""Whom the kernel ends first where memory runs out: who is missed least, never the supervisor."""


@dataclass(frozen=True)
class WorkerSpec:
    """Who a child is and where it runs."""

    role: str
    rank: int
    worker: int
    row: int
    target: str
    cores: tuple[int, ...]
    log: str
    incarnation: int = 0
    nice: int = 0
    life: str = ""
    """Names one life: no other one bears the same, of this start or any other."""

    @property
    def title(self) -> str:
        """Role and rank in words: `learner 0`, `simulator 0.1`."""
        return f"{self.role} {self.rank}" + (f".{self.worker}" if self.role == "simulator" else "")

    def report(self, pid: int) -> Path:
        """Return the file that the traceback of this child's life as process `pid` goes to."""
        return Path(self.log).with_suffix(f".crash-{pid}.json")


@dataclass(frozen=True)
class WorkerFailure:
    """Why a child ended: one line, and its own traceback or stacks where it left any."""

    title: str
    cause: str
    details: str = ""
    deliberate: bool = False
    """Whether the child itself found that it could not go on."""
    external: bool = False
    """Whether it was none of its doing: SIGKILL, the end of its server, or it never began."""

    def __str__(self) -> str:
        return f"{self.title} {self.cause}"


class Worker:
    """The parent's view of one child."""

    def __init__(self, spec: WorkerSpec, task: Any) -> None:
        self.spec = dataclasses.replace(spec, life=secrets.token_hex(8))
        self._process = Child(
            target=worker_main, args=(self.spec, Parcel(task)), name=f"galamp: {spec.title}"
        )
        self._stuck: str | None = None
        self._stuck_since_s = 0.0

    def start(self, hurried: Callable[[], bool]) -> None:
        """Have the server fork the child; signals are noted meanwhile.

        Args:
            hurried: whether this is to be left off, for something else is to be looked at first.

        Raises:
            Hurried: it was left off.
            OSError, EOFError: it could not be done.
        """
        ensure_tracker()
        wake_server()
        self._process.hurried = hurried
        self._process.start()

    @property
    def pid(self) -> int:
        """The child's process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def sentinel(self) -> int:
        """A descriptor that is ready once the child has ended."""
        return self._process.sentinel

    @property
    def running(self) -> bool:
        """Whether the child still runs; until it does not, nobody may take its place."""
        if self._process.is_alive():
            return True
        # Its server is no more and cannot tell; the kernel ends the child, but not at once.
        return self._process.server_lost and not _is_over(self.pid)

    @property
    def stuck(self) -> bool:
        """Whether the child hung, and was or is to be ended for it."""
        return self._stuck is not None

    @property
    def stuck_s(self) -> float:
        """How long it has been known to hang."""
        return time.monotonic() - self._stuck_since_s if self.stuck else 0.0

    def declare_stuck(self, cause: str) -> None:
        """Have a hung child leave its stacks in its log; `end_stuck` then ends it."""
        self._stuck, self._stuck_since_s = cause, time.monotonic()
        if self._process.is_alive():  # else its id may be another one's by now
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, STACK_SIGNAL)

    def end_stuck(self) -> None:
        """End a hung child, once it has had time to leave its stacks."""
        if self.stuck_s > STACKS_S:
            self.kill()

    def kill(self) -> None:
        """End the child now."""
        self._process.kill()

    def join(self, timeout_s: float) -> bool:
        """Wait for the child's end, at most `timeout_s`; returns whether it has ended."""
        self._process.join(timeout_s)
        if self.running and self._process.server_lost:  # then the line above does not wait
            time.sleep(timeout_s)
        return not self.running

    def close(self) -> None:
        """Give back what is held for a child that has ended."""
        self._process.close()

    def failure(self) -> WorkerFailure | None:
        """Say why the child ended; None while it runs or if it ended well."""
        code = self._process.exitcode
        title = self.spec.title
        if self._stuck is not None:
            return WorkerFailure(title, self._stuck, tail(self.spec.log))
        if code is None or code == EXIT_OK:
            return None
        report = read_report(self.spec.report(self.pid), self.spec.life)
        if report is not None:
            return WorkerFailure(title, *report)
        if self._process.server_lost:
            cause = "ended with the server that it was forked from"
            return WorkerFailure(title, cause, external=True)
        cause = f"called exit({code}) from native code"
        if code < 0:
            cause = f"was ended by {signal_name(-code)}"
        external = code == -signal.SIGKILL
        return WorkerFailure(title, cause, tail(self.spec.log), external=external)


def _is_over(pid: int) -> bool:
    """Whether a process that has lost its parent has ended; takes leave of it if it is ours now."""
    try:
        over = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
    with contextlib.suppress(ChildProcessError):
        # A process whose first thread has ended looks over, and is not while it has others.
        return os.waitpid(pid, os.WNOHANG) != (0, 0)
    return over


class Parcel:
    """A child's task, still packed when it arrives.

    What unpacking finds wrong is then told as everything else is that goes wrong in the child.
    """

    def __init__(self, task: Any) -> None:
        self._task = task
        self._packed = b""

    def open(self) -> Any:
        """Return the task."""
        return ForkingPickler.loads(self._packed)

    def __getstate__(self) -> dict[str, Any]:
        return {"_packed": bytes(ForkingPickler.dumps(self._task))}


def worker_main(spec: WorkerSpec, parcel: Parcel) -> NoReturn:
    """Run `spec.target` in the child; the first and the last lines of its life."""
    server = os.environ.get(SERVER)
    die_with_parent(os.getppid() if server is None else int(server), signal.SIGKILL)
    signal.signal(ORPHANED, signal.SIG_DFL)
    _leave_signals_to_supervisor()
    take_own_limit()
    adopt_orphans()
    _own_log(spec.log)
    try:
        if server is None:
            raise GalampError("its server has not loaded galamp: is the installation whole?")
        _settle(spec)
        module, _, name = spec.target.partition(":")
        getattr(importlib.import_module(module), name)(parcel.open())
        code = EXIT_OK
    except StopRun:
        code = EXIT_OK
    except BaseException as error:  # KeyboardInterrupt, too: it is no signal that was taken here
        _write_report(spec, error)
        code = EXIT_FAILURE
    _leave(code)


def _leave_signals_to_supervisor() -> None:
    """Do nothing at the supervised signals; what this process starts takes them as usual.

    Ignored signals stay so across `exec` and `fork`: nobody could end a program by SIGTERM then.
    Only a hang-up is ignored by all below: a terminal that is closed sends it to everyone.
    """
    for number in SUPERVISED:
        signal.signal(number, signal.SIG_IGN if number == signal.SIGHUP else _pass_over)
        signal.siginterrupt(number, False)  # native code's calls go on by themselves
    os.register_at_fork(after_in_child=_take_signals_as_usual)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SUPERVISED)


def _pass_over(number: int, frame: object) -> None:
    """Take a signal that is the supervisor's to answer."""


def _take_signals_as_usual() -> None:
    for number in SUPERVISED:
        if signal.getsignal(number) is _pass_over:
            signal.signal(number, signal.SIG_DFL)


def _leave(code: int) -> NoReturn:
    """End this process at once.

    Not by way of Python's own end, which waits for threads of an environment that are no daemons,
    and may hang after a GPU's error. Children that are daemons end with it as they do there.
    """
    for child in multiprocessing.active_children():
        if child.daemon:
            child.terminate()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _own_log(path: str) -> None:
    """Write to a log of this child's alone; where there can be none, to nowhere."""
    with contextlib.suppress(OSError):
        log = open_log(path)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
    faulthandler.enable(2)
    faulthandler.register(STACK_SIGNAL, 2, all_threads=True)


def _settle(spec: WorkerSpec) -> None:
    setproctitle(f"galamp: {spec.title}")
    if not spec.incarnation:
        failpoints.as_role(spec.title)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OUT_OF_MEMORY_SCORES[spec.role]))
    os.nice(spec.nice)
    if spec.cores:
        try:
            os.sched_setaffinity(0, spec.cores)
        except OSError as error:  # they were taken from this machine, or container
            sys.stderr.write(
                f"galamp: warning: cores {list(spec.cores)} cannot be had ({error.strerror}): "
                f"{spec.title} runs on {sorted(os.sched_getaffinity(0))}\n"
            )


def _write_report(spec: WorkerSpec, error: BaseException) -> None:
    with contextlib.suppress(OSError):  # a full disk must not change how the child ends
        write_report(spec.report(os.getpid()), spec.life, report_of(error), time.time())
