"""The server that every child of a run is forked from: it has loaded torch and the emulator once.

    supervisor: start_server() --exec--> server: imports galamp.workers.preload, then waits
    supervisor: ChildProcess.start() --task--> server --fork--> learner or simulator

Loading torch takes a second of one core and 100 MB of private memory: so every learner starts at
once, after a crash too, and all share those pages. Imported before torch is: the server loads
while the supervisor does.
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

PRELOAD: Final = "galamp.workers.preload"
ORPHANED = signal.SIGCONT
"""What the kernel sends the server when the supervisor has ended: a stopped one hears it, too."""

SUPERVISED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Signals that only the supervisor answers, even when the terminal sends them to all."""

MAX_DESCRIPTORS = 240
"""A task may hold no more open files than these: the standard library's server takes 256."""

MAX_SERVER_FILES, MIN_CHILD_FILES = 2**16, 1024
"""Soft limits on open files: the server has one for every child, and no run has so many; a child
has those of its task and its environment's, and `select` takes no numbers from 1024 on."""

MAX_FOLDER_CHARACTERS = 60
"""Characters: a socket's whole path may have 107, of which the standard library takes up to 32."""

SUPERVISOR, SERVER, FOLDER = "GALAMP_SUPERVISOR", "GALAMP_SERVER", "GALAMP_SERVER_FOLDER"
"""Environment variables: who must live for the server to live, and who for its children; and where
the server's socket is."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Read when libraries load: left alone, each process would take all cores. A learner asks torch
for its own number of threads later."""

ALLOCATOR_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
"""Above these sizes glibc asks the kernel for fresh pages; a learner's activations come back at
every update, and keeping their pages spares the kernel from handing them out anew."""

HASH_SEED_VARIABLE = "PYTHONHASHSEED"
"""Python reads it at its start, so it holds for the server and its children: a set of strings has
the same order in every run."""


def settle_libraries() -> None:
    """Have libraries that load from now on, here and in children, leave the cores to learners.

    To be called before numpy loads: its threads would wait for one another on cores that are busy.
    """
    for name in THREAD_VARIABLES:
        os.environ[name] = "1"
    for name in ALLOCATOR_VARIABLES:
        os.environ.setdefault(name, str(2**30))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault(HASH_SEED_VARIABLE, "0")


@contextmanager
def blocked_signals() -> Iterator[None]:
    """Hold back the supervised signals, in this process and in what it spawns."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SUPERVISED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


left_behind: set[int] = set()
"""Children that the kernel could not end: nobody may wait for them, not at Python's end either."""


def exit_if_children_remain(code: int) -> None:
    """End this process at once if there are such: the resource tracker's end may wait for them."""
    if left_behind:
        pids = ", ".join(map(str, sorted(left_behind)))
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"galamp: warning: could not be ended, and are left behind: {pids}\n")
        os._exit(code)


_owners: list[int] = []
"""The process that has started the server, once it has: one that it forks has this, too."""


@functools.cache
def fork_server() -> Any:
    """Return the handle of the server, whether it has been started or not.

    It is galamp's alone: a program that galamp is a part of may use the standard library's own.
    """
    from multiprocessing.forkserver import ForkServer  # for a run only, not for every command

    server = ForkServer()
    server.set_forkserver_preload([PRELOAD])
    return server


def server_pid() -> int | None:
    """Return the process id of the server; None before its start."""
    known: int | None = fork_server()._forkserver_pid
    return known


def send_server(number: signal.Signals) -> None:
    """Send the server a signal. A server that has ended keeps its id until the next one starts."""
    pid = server_pid()
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def wake_server() -> None:
    """Have the server go on, should somebody have stopped it: who asks it would wait for ever."""
    send_server(signal.SIGCONT)


def loaded_file(server: int) -> Path:
    """Return the file in which a server tells that it has loaded; it holds what has failed."""
    return Path(os.environ[FOLDER]) / f"loaded-{server}"


def start_server() -> None:
    """Start the server, unless it runs; it ends with this process, however this one ends.

    Raises:
        UserError: there is no folder for its socket.
    """
    import multiprocessing.util

    _check_own()
    if not is_findable():
        raise UserError(
            "only this program's own sys.path leads to galamp, and its other processes would not "
            f"find it: install it, or name {HOME} in PYTHONPATH"
        )
    settle_libraries()
    _enable_sigchld()
    _owners[:] = [os.getpid()]
    os.environ[SUPERVISOR] = str(os.getpid())
    usual = tempfile.tempdir
    try:
        folder = tempfile.gettempdir()
        tempfile.tempdir = folder if len(folder) <= MAX_FOLDER_CHARACTERS else "/tmp"
        os.environ[FOLDER] = multiprocessing.util.get_temp_dir()  # made once, then remembered
    except OSError as error:
        raise UserError(
            f"no folder for temporary files ({error.strerror}): set TMPDIR to one that can be "
            f"written to, of at most {MAX_FOLDER_CHARACTERS} characters"
        ) from None
    finally:
        tempfile.tempdir = usual
    ensure_server()


def _check_own() -> None:
    """Refuse to go on with what a process has left of itself in one that it forked.

    Its environment does not tell: a program may have put its own back after a former training.
    """
    if server_pid() is not None and _owners != [os.getpid()]:
        raise UserError(
            "train: this process was forked by one that has trained, whose server it cannot use: "
            'start it anew, as by multiprocessing.get_context("spawn")'
        )


def ensure_tracker() -> None:
    """Start the standard library's resource tracker, unless it runs.

    It lifts the mask on SIGINT and SIGTERM when it starts: let it do so before they are blocked.
    """
    from multiprocessing import resource_tracker

    with _guarded():
        resource_tracker.ensure_running()


def ensure_server() -> None:
    """Start a server where there is none, or has ended.

    Raises:
        OSError: the system refuses.
    """
    with contextlib.suppress(FileExistsError):  # whatever tidies /tmp may have removed it
        os.mkdir(os.environ[FOLDER], 0o700)
    with _guarded():
        fork_server().ensure_running()


@contextmanager
def _guarded() -> Iterator[None]:
    """Have what the standard library starts meanwhile leave out the working directory."""
    from multiprocessing import util

    usual = util._args_from_interpreter_flags  # type: ignore[attr-defined]
    util._args_from_interpreter_flags = flags_of_children  # type: ignore[attr-defined]
    try:
        with guarded():
            yield
    finally:
        util._args_from_interpreter_flags = usual  # type: ignore[attr-defined]


_raised_from: list[int] = []
"""In the server and its children: the soft limit on open files that the server was started with."""


def raise_file_limit() -> None:
    """Raise the soft limit on open files, as the server holds one for every child that lives.

    To be called in the server: when it is started, nobody knows yet how many there will be.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_SERVER_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_SERVER_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        _raised_from[:] = [soft]


def restore_file_limit() -> None:
    """Take that back in a child: an environment, and what that starts, go by the limit they know.

    Some close all files up to it, others count on `select`. One too low for a task is raised.
    """
    if _raised_from:
        now, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        own = max(_raised_from[0], min(now, MIN_CHILD_FILES))
        resource.setrlimit(resource.RLIMIT_NOFILE, (own, hard))


def answer_failed_forks() -> None:
    """Answer a request for a child, where the fork fails, with its error in place of a process id.

    To be called in the server. The standard library's would end, and everyone with it; a request
    that it cannot fulfil it leaves only where the connection was aborted (`forkserver.main`).
    """
    from multiprocessing import reduction

    fork, receive = os.fork, reduction.recvfds
    received: list[int] = []

    def recvfds(sock: socket.socket, size: int) -> list[int]:
        received[:] = receive(sock, size)
        return list(received)

    def answering_fork() -> int:
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
    """Answer a request with an error, and close its files: the second is where answers go."""
    from multiprocessing.forkserver import write_signed

    with contextlib.suppress(OSError):  # whoever has asked is gone
        write_signed(received[1], -(error.errno or errno.EAGAIN))
    for file in received:
        os.close(file)


@contextmanager
def sigchld_enabled() -> Iterator[None]:
    """Have SIGCHLD taken as usual meanwhile, and afterwards as before."""
    resume_point = signal.getsignal(signal.SIGCHLD)
    try:
        _enable_sigchld()
        yield
    finally:
        if resume_point is signal.SIG_IGN:
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def _enable_sigchld() -> None:
    """Take SIGCHLD as usual: where it is ignored, as some daemons have it, no end is heard of."""
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
