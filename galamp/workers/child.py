"""Child process: entry and exit code of every child: its title, its log, its signals, its end.

    forked by the server --child_main(spec, task)--> galamp.workers.learner, .simulator or .bridge

A child ends when its parent ends, for any reason. It leaves signals to the supervisor, writes only
to its own log, and shows its role and rank in its title (`ps`, `top`, `py-spy`).
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

from galamp.core import failpoints
from galamp.core.disk import open_log
from galamp.core.errors import EXIT_FAILURE, EXIT_OK, GalampError, StopRun
from galamp.core.processes.exit_reports import (
    report_of,
    write_report,
)
from galamp.core.processes.reaper import adopt_orphans, die_with_parent
from galamp.core.processes.titles import show_title, title_of
from galamp.workers.forkserver import (
    ORPHANED,
    SERVER,
    SUPERVISED,
    restore_file_limit,
)

STACK_SIGNAL = signal.SIGUSR1
"""Makes a child write the stacks of all its threads to its log."""


BRIDGE = "bridge"
"""Role of the process that talks to other nodes, of which a node has one."""
OUT_OF_MEMORY_SCORES = {"simulator": 500, "learner": 300, BRIDGE: 300}
"""Kernel's oom_score_adj by role: when memory runs out, simulators go first, then learners."""


@dataclass(frozen=True)
class ChildSpec:
    """Identity of a child, and where it runs; `worker` is None for a learner."""

    role: str
    rank: int
    worker: int | None
    target: str
    cores: tuple[int, ...]
    log: str
    incarnation: int = 0
    nice: int = 0
    incarnation_id: str = ""
    """Unique name of this incarnation: no other one has it, in this or any other start."""
    run: str = ""
    """Name of the run in titles; see `titles.run_name`."""

    @property
    def title(self) -> str:
        """Role and rank: `learner 0`, `simulator 0.1`; `bridge`."""
        return BRIDGE if self.role == BRIDGE else title_of(self.role, self.rank, self.worker)

    def report(self, pid: int) -> Path:
        """Return the file for the crash report of this child as process `pid`."""
        return Path(self.log).with_suffix(f".crash-{pid}.json")


class PickledTask:
    """Task of a child, still pickled when it arrives.

    So an error in unpickling is reported like every other error in the child.
    """

    def __init__(self, task: Any) -> None:
        self._task = task
        self._packed = b""

    def open(self) -> Any:
        """Return the task."""
        return ForkingPickler.loads(self._packed)

    def __getstate__(self) -> dict[str, Any]:
        return {"_packed": bytes(ForkingPickler.dumps(self._task))}


def child_main(spec: ChildSpec, pickled: PickledTask) -> NoReturn:
    """Run `spec.target` in the child process, then exit."""
    server = os.environ.get(SERVER)
    die_with_parent(os.getppid() if server is None else int(server), signal.SIGKILL)
    signal.signal(ORPHANED, signal.SIG_DFL)
    _leave_signals_to_supervisor()
    restore_file_limit()
    adopt_orphans()
    _redirect_output(spec.log)
    folder = _held(Path(spec.log).parent)
    try:
        if server is None:
            raise GalampError("its server has not loaded galamp: is the installation complete?")
        _set_up(spec)
        module, _, name = spec.target.partition(":")
        getattr(importlib.import_module(module), name)(pickled.open())
        code = EXIT_OK
    except StopRun:
        code = EXIT_OK
    except BaseException as error:  # KeyboardInterrupt, too: here it cannot come from a signal
        _write_report(spec, error, folder)
        code = EXIT_FAILURE
    _exit(code)


def _leave_signals_to_supervisor() -> None:
    """Do nothing on supervised signals; programs that this process starts handle them as usual.

    An ignored signal stays ignored across `exec` and `fork`: SIGTERM could not end such a program.
    So only SIGHUP is ignored, by all descendants too: a closed terminal sends it to all processes.
    """
    for number in SUPERVISED:
        signal.signal(number, signal.SIG_IGN if number == signal.SIGHUP else _do_nothing)
        signal.siginterrupt(number, False)  # system calls of native code restart by themselves
    os.register_at_fork(after_in_child=_restore_signals)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SUPERVISED)


def _do_nothing(number: int, frame: object) -> None:
    """Handle a signal by doing nothing: the supervisor handles it."""


def _restore_signals() -> None:
    for number in SUPERVISED:
        if signal.getsignal(number) is _do_nothing:
            signal.signal(number, signal.SIG_DFL)


def _exit(code: int) -> NoReturn:
    """Exit at once.

    Python's normal exit would wait for non-daemon threads of an environment, and may hang after a
    GPU error. Daemon children are terminated, as at a normal exit.
    """
    for child in multiprocessing.active_children():
        if child.daemon:
            child.terminate()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _redirect_output(path: str) -> None:
    """Redirect output to this child's own log; if it cannot be opened, discard the output."""
    with contextlib.suppress(OSError):
        log = open_log(path)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
    faulthandler.enable(2)
    faulthandler.register(STACK_SIGNAL, 2, all_threads=True)


def _held(folder: Path) -> Path:
    """Hold a folder open while this process lives; return a path of it that outlives renames."""
    try:
        held = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return folder
    return Path(f"/proc/self/fd/{held}")


def _set_up(spec: ChildSpec) -> None:
    show_title(spec.run, spec.title)
    if not spec.incarnation:
        failpoints.as_role(spec.title)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OUT_OF_MEMORY_SCORES[spec.role]))
    os.nice(spec.nice)
    if spec.cores:
        try:
            os.sched_setaffinity(0, spec.cores)
        except OSError as error:  # they were removed from this machine, or container
            sys.stderr.write(
                f"galamp: warning: cores {list(spec.cores)} cannot be had ({error.strerror}): "
                f"{spec.title} runs on {sorted(os.sched_getaffinity(0))}\n"
            )


def _write_report(spec: ChildSpec, error: BaseException, folder: Path) -> None:
    path = folder / spec.report(os.getpid()).name
    with contextlib.suppress(OSError):  # a full disk must not change how the child ends
        write_report(path, spec.incarnation_id, report_of(error), time.time())
