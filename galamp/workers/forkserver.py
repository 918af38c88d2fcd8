"""Fork server: the process that forks all children of a run, after it has loaded torch once.

    supervisor: start_server() --exec--> server: imports galamp.workers.preload, then waits
    supervisor: Child.start() --task--> server --fork--> learner or simulator

To load torch takes a second of one core and 100 MB of private memory. With the server, a learner
starts at once, after a crash too, and all children share these pages. This module is imported
before torch, so that the server loads torch at the same time as the supervisor.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import resource
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from galamp.core.errors import UserError
from galamp.core.isolation import HOME, flags_of_children, guarded, is_findable
from galamp.core.processes.titles import process_title, show_title

PRELOAD: Final = "galamp.workers.preload"
SERVER_TITLE = "server"
ORPHANED = signal.SIGCONT
"""Signal that the kernel sends to the server when the supervisor ends; it resumes a stopped one."""

SUPERVISED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Signals that only the supervisor handles, even if the terminal sends them to all processes."""

RUN_FILE = "run"
"""In the folder of the server's socket: the name of the run."""

MAX_DESCRIPTORS = 240
"""Most open files of one task: the standard library's server accepts 256."""

MAX_SERVER_FILES, MIN_CHILD_FILES = 2**16, 1024
"""Soft limits on open files. The server has one file per child, and no run has that many children.
A child has the files of its task and its environment; `select` accepts descriptors below 1024."""

MAX_FOLDER_CHARACTERS = 60
"""Longest temporary folder: a socket path has up to 107 characters, up to 32 of them by Python."""

SUPERVISOR, SERVER, FOLDER = "GALAMP_SUPERVISOR", "GALAMP_SERVER", "GALAMP_SERVER_FOLDER"
"""Environment variables: process id of the supervisor, without which the server ends; process id of
the server, without which its children end; folder of the server's socket."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Libraries read these when they load; by default each process would use all cores. A learner sets
torch's number of threads later."""

ALLOCATOR_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
"""Above these sizes glibc returns memory to the kernel. A learner allocates the same activations at
every update; with high thresholds it keeps their pages."""

HASH_SEED_VARIABLE = "PYTHONHASHSEED"
"""Python reads it at its start, so it applies to the server and its children: a set of strings has
the same order in every run."""


def settle_libraries() -> None:
    """Limit libraries that load from now on, here and in children, to one thread each.

    Call this before numpy loads: its threads would wait for one another on busy cores.
    """
    for name in THREAD_VARIABLES:
        os.environ[name] = "1"
    for name in ALLOCATOR_VARIABLES:
        os.environ.setdefault(name, str(2**30))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault(HASH_SEED_VARIABLE, "0")


@contextmanager
def blocked_signals() -> Iterator[None]:
    """Block the supervised signals, in this process and in processes that it starts."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SUPERVISED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


left_behind: set[int] = set()
"""Children that the kernel could not end: this process must not wait for them, even at its exit."""


def exit_if_children_remain(code: int) -> None:
    """Exit at once if children remain: a normal exit may wait for them (resource tracker)."""
    if left_behind:
        pids = ", ".join(map(str, sorted(left_behind)))
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"galamp: warning: could not be ended, and are left behind: {pids}\n")
        os._exit(code)


_owners: list[int] = []
"""Process id of the process that started the server; a fork of that process inherits the value."""


@functools.cache
def fork_server() -> Any:
    """Return the handle of galamp's own server, started or not.

    A program that uses galamp may use the standard library's server for itself.
    """
    from multiprocessing.forkserver import ForkServer  # only runs need it, not every command

    server = ForkServer()
    server.set_forkserver_preload([PRELOAD])
    return server


def server_pid() -> int | None:
    """Return the process id of the server; None before its start."""
    known: int | None = fork_server()._forkserver_pid
    return known


def send_server(number: signal.Signals) -> None:
    """Send a signal to the server; no effect if it has ended.

    An ended server is reaped only when the next one starts, so its id is not in use by another
    process.
    """
    pid = server_pid()
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def wake_server() -> None:
    """Resume the server if it was stopped: otherwise a request to it would wait for ever."""
    send_server(signal.SIGCONT)


def loaded_file(server: int) -> Path:
    """Return the file that a server writes when it has loaded; its text is the failure, if any."""
    return Path(os.environ[FOLDER]) / f"loaded-{server}"


def name_server(run: str) -> None:
    """Have the server show the name of its run in its title, from its next fork on.

    It starts before the run has a folder.
    """
    with contextlib.suppress(OSError):
        (Path(os.environ[FOLDER]) / RUN_FILE).write_text(run)


def named_run() -> str:
    """Return the name of the run in the server; empty while it has none."""
    try:
        return (Path(os.environ[FOLDER]) / RUN_FILE).read_text()
    except (KeyError, OSError):  # a server without a folder, or a run that has none yet
        return ""


def start_server() -> None:
    """Start the server, unless it runs; it ends when this process ends, for any reason.

    Raises:
        UserError: there is no folder for its socket.
    """
    import multiprocessing.util

    _check_own()
    if not is_findable():
        raise UserError(
            "galamp is found only through this program's own sys.path, and its child processes "
            f"would not find it: install it, or add {HOME} to PYTHONPATH"
        )
    settle_libraries()
    _enable_sigchld()
    _owners[:] = [os.getpid()]
    os.environ[SUPERVISOR] = str(os.getpid())
    usual = tempfile.tempdir
    try:
        folder = tempfile.gettempdir()
        tempfile.tempdir = folder if len(folder) <= MAX_FOLDER_CHARACTERS else "/tmp"
        os.environ[FOLDER] = multiprocessing.util.get_temp_dir()  # created once, then cached
    except OSError as error:
        raise UserError(
            f"no folder for temporary files ({error.strerror}): set TMPDIR to a writable folder "
            f"of at most {MAX_FOLDER_CHARACTERS} characters"
        ) from None
    finally:
        tempfile.tempdir = usual
    ensure_server()


def _check_own() -> None:
    """Refuse to run in a fork of a process that has trained: the server belongs to that process.

    Environment variables cannot show this: a program may have reset them after an earlier training.
    """
    if server_pid() is not None and _owners != [os.getpid()]:
        raise UserError(
            "train: this process is a fork of one that has trained, and cannot use its server: "
            'start a new process, as by multiprocessing.get_context("spawn")'
        )


def ensure_tracker() -> None:
    """Start the standard library's resource tracker, unless it runs.

    At its start it unblocks SIGINT and SIGTERM, so it must start before they are blocked.
    """
    from multiprocessing import resource_tracker

    with _guarded():
        resource_tracker.ensure_running()


def ensure_server() -> None:
    """Start a server if there is none, or if it has ended.

    Raises:
        OSError: the system refuses.
    """
    with contextlib.suppress(FileExistsError):  # a clean-up of /tmp may have removed the folder
        os.mkdir(os.environ[FOLDER], 0o700)
    with _guarded():
        fork_server().ensure_running()


@contextmanager
def _guarded() -> Iterator[None]:
    """Make Pythons that the standard library starts in this block skip the working directory.

    Its resource tracker gets a title.
    """
    import multiprocessing.util

    util: Any = multiprocessing.util
    usual = util._args_from_interpreter_flags
    spawn = util.spawnv_passfds

    def titled_spawn(path: str, words: Sequence[str], files: Sequence[int]) -> Any:
        *rest, program = words
        titled = _TITLED_TRACKER + program if _TRACKER in program else program
        return spawn(path, [*rest, titled], files)

    util._args_from_interpreter_flags = flags_of_children
    util.spawnv_passfds = titled_spawn
    try:
        with guarded():
            yield
    finally:
        util._args_from_interpreter_flags = usual
        util.spawnv_passfds = spawn


_TRACKER = "multiprocessing.resource_tracker"
_TITLED_TRACKER = f"""\
import os
try:
    from setproctitle import setproctitle
    setproctitle(f"{process_title("", "resource tracker of ")}{{os.getppid()}}")
except ImportError:
    pass
"""
"""What is put before the resource tracker's program; it is of the process that started it."""


_raised_from: list[int] = []
"""The server's first soft limit on open files; set in the server and its children."""


def raise_file_limit() -> None:
    """Raise the soft limit on open files: the server holds one open file per live child.

    Call this in the server: at its start the number of children is not known yet.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_SERVER_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_SERVER_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        _raised_from[:] = [soft]


def restore_file_limit() -> None:
    """Undo `raise_file_limit` in a child, for its environment and that one's programs.

    Some of them close all files up to the limit, others use `select`. A limit below
    `MIN_CHILD_FILES` is raised to that.
    """
    if _raised_from:
        now, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        own = max(_raised_from[0], min(now, MIN_CHILD_FILES))
        resource.setrlimit(resource.RLIMIT_NOFILE, (own, hard))


def answer_failed_forks() -> None:
    """If a fork fails, answer the request with the error instead of a process id.

    Call this in the server. The standard library's server would end, and all children with it; it
    skips a request only if the connection was aborted (`forkserver.main`).
    """
    from multiprocessing import reduction

    fork, receive = os.fork, reduction.recvfds
    received: list[int] = []
    shown = named_run()

    def recvfds(sock: socket.socket, size: int) -> list[int]:
        received[:] = receive(sock, size)
        return list(received)

    def answering_fork() -> int:
        nonlocal shown
        if (run := named_run()) != shown:
            shown = run
            show_title(run, SERVER_TITLE)
        try:
            child = fork()
        except OSError as error:
            _refuse(received, error)
            raise ConnectionAbortedError(errno.ECONNABORTED, "no child") from error
        if not child:
            os.fork, reduction.recvfds = fork, receive
        return child

    os.fork, reduction.recvfds = answering_fork, recvfds


def _refuse(received: Sequence[int], error: OSError) -> None:
    """Answer a request with an error, and close its files; the second one is for answers."""
    from multiprocessing.forkserver import write_signed

    with contextlib.suppress(OSError):  # the requesting process has ended
        write_signed(received[1], -(error.errno or errno.EAGAIN))
    for file in received:
        os.close(file)


@contextmanager
def sigchld_enabled() -> Iterator[None]:
    """Handle SIGCHLD by default within the block, and as before after it."""
    before = signal.getsignal(signal.SIGCHLD)
    try:
        _enable_sigchld()
        yield
    finally:
        if before is signal.SIG_IGN:
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def _enable_sigchld() -> None:
    """Handle SIGCHLD by default: if it is ignored, as by some daemons, ends are not reported."""
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
