"""The process that commands of the tests are forked from: it has loaded torch, and done nothing.

    forked.Template --words, folder, environment; streams--> serve --fork--> galamp.cli.main.main
                    <--process id; exit status once it has ended--

A command's fork server and its probes are forked as well, as soon as they are wanted. All do what a
new Python does once it has loaded its modules: nothing was computed here, so no library has threads
or files that a fork would miss.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import gc
import importlib
import itertools
import json
import multiprocessing.util
import os
import selectors
import signal
import socket
import sys
import tempfile
import termios
import traceback
import types
from collections.abc import Sequence
from typing import Any, NoReturn

from setproctitle import setproctitle

from galamp.core.processes import probe_process

MODULES = (
    "galamp.cli.main",
    "galamp.cli.run",
    "galamp.training.train",
    "galamp.algorithms.a2c",
    "galamp.environments.atari",
    "galamp.environments.gymnasium",
    "galamp.tools.evaluation.agent",
    "galamp.workers.learner",
    "galamp.workers.simulator",
    "galamp.gossip.transport.shared_memory",
    "galamp.telemetry.sinks.jsonl",
    "galamp.telemetry.sinks.monitor",
    "gymnasium.envs.classic_control",
)
"""What commands and their servers load anyway, which takes nearly two seconds of a core."""

LARGEST_REQUEST = 2**20
FAILED = 1
"""Exit code for an exception that nobody has caught, as Python's own."""

START_PYTHON = multiprocessing.util.spawnv_passfds  # type: ignore[attr-defined]


def serve(control: int) -> None:
    """Fork commands as asked for at the socket `control`, until its other end is closed."""
    # Titles are written over the first environment, which is found before it is replaced.
    setproctitle("template of tests")
    for module in MODULES:
        importlib.import_module(module)
    sys.modules["__main__"] = importlib.import_module("galamp.__main__")
    gc.freeze()  # what is loaded stays, and need not be looked through, and so copied, by each
    multiprocessing.util.spawnv_passfds = _started  # type: ignore[attr-defined]
    probe_process.Probing._execute_child = _fork_probe  # type: ignore[attr-defined]
    requests = socket.socket(fileno=control)
    with selectors.DefaultSelector() as selector:
        selector.register(requests, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is not requests:
                    selector.unregister(key.fileobj)
                    _report(key.fd, *key.data)
                    continue
                data, files, _, _ = socket.recv_fds(requests, LARGEST_REQUEST, 4)
                if not data:
                    return
                pid = _command(json.loads(data), files[:3])
                for file in files[:3]:
                    os.close(file)
                requests.send(array.array("q", [pid]).tobytes())
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, files[3]))


def _report(ended: int, pid: int, status: int) -> None:
    """Write how a command has ended to the pipe `status`, if anybody reads there."""
    _, how = os.waitpid(pid, 0)
    with contextlib.suppress(BrokenPipeError):
        os.write(status, str(os.waitstatus_to_exitcode(how)).encode())
    os.close(status)
    os.close(ended)


def _command(request: dict[str, Any], streams: Sequence[int]) -> int:
    """Fork a command; returns its process id."""
    pid = os.fork()
    if pid == 0:
        code = FAILED
        try:
            for target, source in enumerate(streams):
                os.dup2(source, target)
            _close_all_but(())
            os.chdir(request["cwd"])
            os.environ.clear()
            os.environ.update(request["environment"])
            tempfile.tempdir = None  # as it is found by the variables of before
            if request["on_terminal"]:
                _be_on_terminal()
            sys.argv = ["galamp", *request["words"]]
            code = _main()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def _be_on_terminal() -> None:
    """Have the terminal of standard input, in a session of one's own."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", 1, encoding="utf-8", closefd=False) for n in (1, 2))


def _main() -> int:
    """Run the command; returns the exit code that Python would end with."""
    from galamp.cli.main import main

    try:
        code = main()
    except SystemExit as ended:  # by argparse
        code = _code_of(ended)
    except BaseException:
        traceback.print_exc()
        code = FAILED
    multiprocessing.util._exit_function()  # type: ignore[attr-defined]
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _code_of(ended: SystemExit) -> int:
    return ended.code if isinstance(ended.code, int) else int(ended.code is not None)


def _started(path: str, words: list[str], kept: Sequence[int]) -> int:
    """Start a Python as multiprocessing does, but fork the server; returns its process id."""
    if not words[-1].startswith("from multiprocessing.forkserver import main"):
        return START_PYTHON(path, words, kept)  # type: ignore[no-any-return]
    pid, mask = _forked()
    if pid == 0:
        _be(words[-1], [], kept, mask)
    return pid


def _forked() -> tuple[int, set[int]]:
    """Fork, with all signals blocked in the child; returns the process id and the mask of before.

    A signal that comes before `_be` has put the handlers back would have the child do what the
    command does at it, on the command's streams.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return pid, {int(number) for number in mask}


def _fork_probe(probing: probe_process.Probing, words: list[str], *options: Any) -> None:
    """Popen's own step, which gets all options in one order on every Python."""
    ends = options[9:15]
    probing.pid, mask = _forked()
    if probing.pid == 0:
        os.setsid()
        for target, source in enumerate((ends[0], ends[3], ends[5])):
            os.dup2(source, target)
        *_, program, request = words
        _be(program, [request], (), mask)
    probing._child_created = True  # type: ignore[attr-defined]
    probing._close_pipe_fds(*ends)  # type: ignore[attr-defined]


def _be(program: str, arguments: list[str], kept: Sequence[int], mask: set[int]) -> NoReturn:
    """Be what `python -c program arguments...` would be, with the files `kept` and this mask."""
    code = FAILED
    try:
        _close_all_but(kept)
        sys.argv = ["-c", *arguments]
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)):  # a handler of the command's
                default = number == signal.SIGINT
                signal.signal(number, signal.default_int_handler if default else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(program, {})
        code = 0
    except SystemExit as ended:
        code = _code_of(ended)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _close_all_but(kept: Sequence[int]) -> None:
    """Close all files but the standard streams and some."""
    bounds = [2, *sorted(kept), os.sysconf("SC_OPEN_MAX")]
    for low, high in itertools.pairwise(bounds):
        os.closerange(low + 1, high)
