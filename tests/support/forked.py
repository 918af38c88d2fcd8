"""Commands of galamp for tests, forked from this process, which has loaded torch already.

A new Python loads torch first, for nearly two seconds of a core, and the tests start hundreds of
commands. A forked one does the same as they from `galamp.cli.main.main` on, and its fork server is
forked as well. What comes before (the search for modules, closed streams, the loading of a server)
is tested with new Pythons: `engine.words`.
"""

from __future__ import annotations

import faulthandler
import functools
import gc
import importlib
import itertools
import multiprocessing.process
import multiprocessing.util
import os
import signal
import subprocess
import sys
import threading
import traceback
import types
import warnings
from collections.abc import Sequence
from multiprocessing import resource_tracker
from typing import Any, NoReturn

from galamp.workers import forkserver

START_PYTHON = multiprocessing.util.spawnv_passfds  # type: ignore[attr-defined]
READ_EARLY = ("PYTHON", "FAKE_CUDA_", "CUDA_", "GALAMP_CRASH_AT", "TMPDIR")
"""Begins of the names of environment variables that are read once, when Python starts or a module
is imported. A forked command reads all others as a new Python would."""

kept: list[object] = []
"""Objects of the tests that a fork replaces by its own."""

FAILED = 1
"""Exit code for an exception that nobody has caught, as Python's own."""


def read_early() -> dict[str, str]:
    """Return the variables of `READ_EARLY`; galamp sets the seed of hashes for every command."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(READ_EARLY) and name != forkserver.HASH_SEED_VARIABLE
    }


AT_FIRST = read_early()


def has_its_environment() -> bool:
    """Whether this process has the variables that it has loaded its modules with."""
    return read_early() == AT_FIRST


class Forked(subprocess.Popen[str]):
    """A running `galamp ARGUMENTS...`, in text mode; streams and folder as Popen's."""

    def __init__(self, arguments: Sequence[str], **options: Any) -> None:
        # What the command is about to import is shared by all that follow.
        importlib.import_module("galamp.training.train")
        super().__init__(list(arguments), text=True, **options)

    def _execute_child(self, args: list[str], *options: Any) -> None:
        """Popen's own step: it gets all options, in one order on every Python."""
        cwd, ends = options[4], options[9:15]

        def fork() -> None:
            self.pid = os.fork()
            if self.pid == 0:
                _be_command(args, cwd, (ends[0], ends[3], ends[5]))

        if "cv2" in sys.modules:
            # A simulator does the same, and would wait there for threads that it does not have.
            sys.modules["cv2"].setNumThreads(1)
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # from 3.12 on: that this process has threads
            # OpenMP has threads for each thread that has computed; the fork of one would wait for
            # those. A new one has none, and is the only thread of the fork.
            forking = threading.Thread(target=fork)
            forking.start()
            forking.join()
        self._child_created = True
        self._close_pipe_fds(*ends)


def _be_command(arguments: list[str], cwd: str, streams: tuple[int, int, int]) -> NoReturn:
    """Be the command, in a fork: nothing of the test must happen here, whatever comes."""
    code = FAILED
    # What the tests have left is never freed here: it would close files that are others' by then.
    gc.freeze()
    kept.extend([sys.stdin, sys.stdout, sys.stderr, sys.modules["__main__"]])
    try:
        _take_streams(streams)
        os.chdir(cwd)
        _forget_the_test()
        sys.argv = ["galamp", *arguments]
        code = _main()
    finally:
        os._exit(code)


def _take_streams(streams: tuple[int, int, int]) -> None:
    """Have the command's standard streams, and no other file."""
    for target, source in enumerate(streams):
        if source != -1:
            os.dup2(source, target)
    faulthandler.disable()
    _close_all_but(())
    sys.stdin = sys.__stdin__ = os.fdopen(0, closefd=False)
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", errors="backslashreplace", closefd=False)


def _forget_the_test() -> None:
    """Have the state that a new Python has: signals, warnings, no server and no tracker."""
    _handle_signals_by_default()
    warnings.resetwarnings()
    warnings.simplefilter("ignore")
    sys.modules["__main__"] = importlib.import_module("galamp.__main__")
    multiprocessing.util._finalizer_registry.clear()  # type: ignore[attr-defined]
    multiprocessing.process.current_process()._config.pop("tempdir", None)  # type: ignore[attr-defined]
    tracker = resource_tracker._resource_tracker
    tracker._fd = tracker._pid = None  # type: ignore[attr-defined]
    forkserver.fork_server.cache_clear()
    forkserver.left_behind.clear()
    import torch  # not before: it reads variables that the tests set first

    # Learners are forked from this, and OpenMP's state does not outlive forks: with several threads
    # one in a hundred runs of a single learner stood still. However many they are to have, they
    # compute with one.
    limited = functools.partial(torch.set_num_threads, 1)
    limited()
    torch.set_num_threads = lambda _: limited()
    multiprocessing.util.spawnv_passfds = _started  # type: ignore[attr-defined]


def _handle_signals_by_default() -> None:
    """Handle signals as a new Python does, which keeps ignored ones ignored."""
    signal.set_wakeup_fd(-1)
    for number in (*forkserver.SUPERVISED, signal.SIGCHLD):
        if signal.getsignal(number) is not signal.SIG_IGN:
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default)


def _started(path: str, words: list[str], kept: Sequence[int]) -> int:
    """Start a Python as multiprocessing does, but fork the server; returns its process id."""
    if not words[-1].startswith("from multiprocessing.forkserver import main"):
        return START_PYTHON(path, words, kept)
    pid = os.fork()
    if pid == 0:
        try:
            _close_all_but(kept)
            _handle_signals_by_default()
            sys.modules["__main__"] = types.ModuleType("__main__")
            exec(words[-1], {})
        except SystemExit:
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        os._exit(FAILED)
    return pid


def _close_all_but(kept: Sequence[int]) -> None:
    """Close all files but the standard streams and some."""
    bounds = [2, *sorted(kept), os.sysconf("SC_OPEN_MAX")]
    for low, high in itertools.pairwise(bounds):
        os.closerange(low + 1, high)


def _main() -> int:
    """Run the command; returns the exit code that Python would end with."""
    from galamp.cli.main import main

    try:
        code = main()
    except SystemExit as ended:  # by argparse
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # the test shall see it on the standard error, not end by it
        traceback.print_exc()
        code = FAILED
    multiprocessing.util._exit_function()  # type: ignore[attr-defined]
    sys.stdout.flush()
    sys.stderr.flush()
    return code
