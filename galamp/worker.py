"""Child processes: what the parent knows of one, and the first lines that run in every one.

    supervisor: Worker.start --fork--> worker_main(spec, task) --> galamp.learner or .simulator
    supervisor: Worker.failure() <-- exit code, signal, the child's own crash report and log

A child dies with its parent (however that one dies), leaves signals to the supervisor, writes
only to its own log, and shows its role and rank in its title (`ps`, `top`, `py-spy`).
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import json
import multiprocessing.process
import multiprocessing.resource_tracker
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, NoReturn, Protocol

from setproctitle import setproctitle

from galamp import crashpoints
from galamp.errors import EXIT_FAILURE, EXIT_OK, GalampError, StopRun
from galamp.forking import SERVER, wake_server
from galamp.storage.disk import open_log

SUPERVISED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Signals that only the supervisor answers, even when the terminal sends them to all."""

STACK_SIGNAL = signal.SIGUSR1
"""Asks a child for the stacks of all its threads, in its log."""

UNKNOWN_TO_SERVER = 255
"""The exit code that the standard library makes up for a child whose server is no more."""

STACKS_S = 0.3
"""A hung child has so long to write down its stacks."""
OUT_OF_MEMORY_SCORES = {"simulator": 500, "learner": 300}
"""Whom the kernel ends first where memory runs out: who is missed least, never the supervisor."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


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
    """Whether somebody else has ended it: nothing that it does brings SIGKILL about."""

    def __str__(self) -> str:
        return f"{self.title} {self.cause}"


class Context(Protocol):
    """What is needed of a `multiprocessing` context."""

    def Process(
        self, *, target: Any, args: tuple[Any, ...], name: str
    ) -> multiprocessing.process.BaseProcess:
        """Make a process that is not started yet."""


class Worker:
    """The parent's view of one child."""

    def __init__(self, spec: WorkerSpec, task: Any, context: Context) -> None:
        self.spec = spec
        self._process = context.Process(
            target=worker_main, args=(spec, Parcel(task)), name=f"galamp: {spec.title}"
        )
        self._stuck: str | None = None
        self._stuck_since_s = 0.0

    def start(self) -> None:
        """Spawn the child; signals sent meanwhile arrive afterwards."""
        # The tracker lifts the mask on SIGINT and SIGTERM when it starts: let it do so first.
        multiprocessing.resource_tracker.ensure_running()
        wake_server()
        with blocked_signals():
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
        return self._process.exitcode == UNKNOWN_TO_SERVER and not _is_over(self.pid)

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
        return not self.running

    def close(self) -> None:
        """Give back what is held for a child that has ended."""
        self._process.close()

    def failure(self) -> WorkerFailure | None:
        """Say why the child ended; None while it runs or if it ended well."""
        code = self._process.exitcode
        title = self.spec.title
        if self._stuck is not None:
            return WorkerFailure(title, self._stuck, _tail(self.spec.log))
        if code is None or code == EXIT_OK:
            return None
        report = self.spec.report(self.pid)
        if report.exists():
            told = json.loads(report.read_text())
            return WorkerFailure(title, told["cause"], told["details"], told["deliberate"])
        if code == UNKNOWN_TO_SERVER:
            return WorkerFailure(title, "ended with the server that it was forked from")
        if code < 0:
            number = signal.Signals(-code)
            return WorkerFailure(
                title,
                f"was ended by {number.name}",
                _tail(self.spec.log),
                external=number is signal.SIGKILL,
            )
        return WorkerFailure(title, f"called exit({code}) from native code", _tail(self.spec.log))


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


def adopt_orphans() -> None:
    """Become the parent of children whose server has ended, so that none is left unreaped."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _tail(log: str, most_bytes: int = 8192) -> str:
    try:
        return Path(log).read_bytes()[-most_bytes:].decode(errors="replace")
    except OSError:
        return ""


@contextmanager
def blocked_signals() -> Iterator[None]:
    """Hold back the supervised signals, in this process and in what it spawns."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SUPERVISED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
    die_with_parent(int(os.environ[SERVER]), signal.SIGKILL)
    signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    for number in SUPERVISED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SUPERVISED)
    _own_log(spec.log)
    _settle(spec)
    module, _, name = spec.target.partition(":")
    try:
        getattr(importlib.import_module(module), name)(parcel.open())
        code = EXIT_OK
    except StopRun:
        code = EXIT_OK
    except (Exception, SystemExit) as error:
        _write_report(spec, error)
        code = EXIT_FAILURE
    _leave(code)


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


def die_with_parent(parent: int, by: signal.Signals) -> None:
    """Ask the kernel for signal `by` when the parent ends; leave if that has happened."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, by, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(EXIT_FAILURE)


def _own_log(path: str) -> None:
    log = open_log(path)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    faulthandler.enable()
    faulthandler.register(STACK_SIGNAL, all_threads=True)


def _settle(spec: WorkerSpec) -> None:
    setproctitle(f"galamp: {spec.title}")
    if not spec.incarnation:
        crashpoints.as_role(spec.title)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OUT_OF_MEMORY_SCORES[spec.role]))
    os.nice(spec.nice)
    if spec.cores:
        os.sched_setaffinity(0, spec.cores)


def _write_report(spec: WorkerSpec, error: BaseException) -> None:
    known = isinstance(error, GalampError)
    cause = f"failed: {error}" if known else f"raised {type(error).__name__}: {error}"
    details = "".join(traceback.format_exception(error))
    with contextlib.suppress(OSError):  # a full disk must not change how the child ends
        told = {"cause": cause, "details": details, "deliberate": known, "time": time.time()}
        _leave_report(spec, told)


def _leave_report(spec: WorkerSpec, report: dict[str, Any]) -> None:
    sys.stderr.write(str(report["details"]))
    sys.stderr.flush()
    path = spec.report(os.getpid())
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(report))
    draft.replace(path)
