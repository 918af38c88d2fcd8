"""The first and the last lines of every child: its title, its log, its signals, its end.

    forked by the server --child_main(spec, task)--> galamp.workers.learner or .simulator

A child dies with its parent (however that one dies), leaves signals to the supervisor, writes
only to its own log, and shows its role and rank in its title (`ps`, `top`, `py-spy`).
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, NoReturn

from setproctitle import setproctitle

from galamp.core import failpoints
from galamp.core.disk import open_log
from galamp.core.errors import EXIT_FAILURE, EXIT_OK, GalampError, StopRun
from galamp.core.processes.exit_reports import (
    report_of,
    write_report,
)
from galamp.core.processes.reaper import adopt_orphans, die_with_parent
from galamp.workers.forkserver import (
    ORPHANED,
    SERVER,
    SUPERVISED,
    restore_file_limit,
)

STACK_SIGNAL = signal.SIGUSR1
"""Asks a child for the stacks of all its threads, in its log."""


OUT_OF_MEMORY_SCORES = {"simulator": 500, "learner": 300}
"""Whom the kernel ends first where memory runs out: who is missed least, never the supervisor."""


@dataclass(frozen=True)
class ChildSpec:
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
    incarnation_id: str = ""
    """Names one life: no other one bears the same, of this start or any other."""

    @property
    def title(self) -> str:
        """Role and rank in words: `learner 0`, `simulator 0.1`."""
        return f"{self.role} {self.rank}" + (f".{self.worker}" if self.role == "simulator" else "")

    def report(self, pid: int) -> Path:
        """Return the file that the traceback of this child's life as process `pid` goes to."""
        return Path(self.log).with_suffix(f".crash-{pid}.json")


class PickledTask:
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


def child_main(spec: ChildSpec, parcel: PickledTask) -> NoReturn:
    """Run `spec.target` in the child; the first and the last lines of its life."""
    server = os.environ.get(SERVER)
    die_with_parent(os.getppid() if server is None else int(server), signal.SIGKILL)
    signal.signal(ORPHANED, signal.SIG_DFL)
    _leave_signals_to_supervisor()
    restore_file_limit()
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


def _settle(spec: ChildSpec) -> None:
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


def _write_report(spec: ChildSpec, error: BaseException) -> None:
    with contextlib.suppress(OSError):  # a full disk must not change how the child ends
        write_report(spec.report(os.getpid()), spec.incarnation_id, report_of(error), time.time())
