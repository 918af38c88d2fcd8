"""Tests that run where `cuda:N` is host memory: each in a process of its own, forked from one.

    pytest --test's name, arguments, settings--> server, which has imported torch --fork--> the test
           <--"" or what it raised, as text----

A test's process that has used CUDA, or that torch has learned in, would not do for the others: so a
test leaves nothing behind, not even in what it sets or counts.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import importlib
import os
import pickle
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pytest

from tests.fakecuda import build
from tests.support.engine import DEADLINE_S, ROOT

SITE = Path(__file__).resolve().parent / "site"
MOST_DEVICES = 16
NAMES = ("kernels", "to_device", "to_host", "between", "non_blocking", "waits", "graphs")
"""What is counted, in the order of process.h; after it the launches on each device."""

Test = TypeVar("Test", bound=Callable[..., None])


def settings(devices: int, **more: object) -> dict[str, str]:
    """Return the environment variables with which a Python has `devices` fake GPUs.

    Skips the test where they cannot be built; a compiler that fails is the test's failure.
    """
    try:
        library = build.compiled()
    except build.CannotBuild as why:
        pytest.skip(str(why))
    paths = [str(SITE), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {
        "FAKE_CUDA_LIBRARY": str(library),
        "FAKE_CUDA_DEVICES": str(devices),
        "PYTHONPATH": os.pathsep.join(paths),
    }
    return own | {f"FAKE_CUDA_{name.upper()}": str(value) for name, value in more.items()}


def on_gpus(devices: int = 4, **more: object) -> Callable[[Test], Test]:
    """Have a test run in a process with fake GPUs; `more` are further settings, see install.py."""

    def wrap(test: Test) -> Test:
        @functools.wraps(test)
        def outside(**arguments: Any) -> None:
            if "FAKE_CUDA_LIBRARY" in os.environ:
                return test(**arguments)
            words = server().ask(
                test.__module__, test.__name__, arguments, settings(devices, **more)
            )
            if words:
                pytest.fail(words, pytrace=False)
            return None

        return outside  # type: ignore[return-value]

    return wrap


class Server:
    """The process that forks one for each test; it ends with its input."""

    def __init__(self) -> None:
        words = [sys.executable, "-c", "from tests.fakecuda import inside; inside.serve()"]
        self._process = subprocess.Popen(
            words,
            cwd=ROOT,
            env=os.environ | settings(MOST_DEVICES),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        atexit.register(self.close)

    def ask(
        self, module: str, name: str, arguments: dict[str, Any], environment: dict[str, str]
    ) -> str:
        """Run a test; returns what it raised, as text, or nothing."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        pickle.dump((module, name, arguments, environment), self._process.stdin)
        answer = b""
        while not answer.endswith(b"\0"):
            if not select.select([self._process.stdout], [], [], 4 * DEADLINE_S)[0]:
                self.close()
                return f"{name} did not end on its fake GPUs"
            if not (chunk := os.read(self._process.stdout.fileno(), 65_536)):
                return f"the process with fake GPUs ended: {self._process.wait(DEADLINE_S)}"
            answer += chunk
        return answer[:-1].decode()

    def close(self) -> None:
        """End it."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        server.cache_clear()


@functools.cache
def server() -> Server:
    """Return this process's server, started when it is first needed."""
    return Server()


def serve() -> None:
    """Run tests until the input ends; only in the server."""
    import torch

    # torch.testing.assert_close loads it, which takes a second: here once, and not in each test.
    importlib.import_module("torch.distributed.tensor")
    torch.set_num_threads(1)
    results = os.dup(1)
    os.dup2(2, 1)  # what tests print is no answer
    with open(0, "rb", buffering=0, closefd=False) as requests:
        while True:
            try:
                module, name, arguments, environment = pickle.load(requests)
            except EOFError:
                return
            test = getattr(importlib.import_module(module), name)
            if not (child := os.fork()):
                _run(test, arguments, environment, results)
            status = os.waitpid(child, 0)[1]
            if status:
                os.write(results, f"{name} ended its process: {status}".encode())
            os.write(results, b"\0")


def _run(
    test: Callable[..., None], arguments: dict[str, Any], environment: dict[str, str], results: int
) -> NoReturn:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: ends with the server
    os.environ |= environment
    try:
        test(**arguments)
    except BaseException:
        os.write(results, traceback.format_exc().encode())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


@functools.cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(os.environ["FAKE_CUDA_LIBRARY"])


def counts() -> dict[str, int]:
    """Return what this process has counted since the last `reset_counts`."""
    values = (ctypes.c_int64 * (len(NAMES) + MOST_DEVICES))()
    _library().fake_cuda_counts(values)
    return dict(zip(NAMES, values, strict=False))


def reset_counts() -> None:
    """Count anew."""
    _library().fake_cuda_reset_counts()


def counts_of_processes(folder: Path) -> list[dict[str, int]]:
    """Return what each process has counted that has used a device.

    `folder` is the setting FAKE_CUDA_COUNTS of theirs.
    """
    found = []
    for path in folder.iterdir():
        values = memoryview(path.read_bytes()).cast("q").tolist()
        found.append(dict(zip(NAMES, values, strict=False)))
    return [each for each in found if any(each.values())]


def kernels_of_devices(folder: Path) -> dict[int, list[int]]:
    """Return how many kernels and graphs each process has launched on each device, by its id.

    `folder` is the setting FAKE_CUDA_COUNTS of theirs.
    """
    found = {}
    for path in folder.iterdir():
        values = memoryview(path.read_bytes()).cast("q").tolist()
        found[int(path.name)] = values[len(NAMES) :]
    return found
