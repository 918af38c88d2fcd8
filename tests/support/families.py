"""Families of processes for tests, without torch: a server, a simulator, what that has started.

python -m tests.support.families ROLE: a few lines of process ids on standard output, then it waits
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from typing import NoReturn

from galamp.core.processes.reaper import adopt_orphans, die_with_parent

SLEEP = "import time; time.sleep(600)"


def helpers() -> list[int]:
    """Start what a game engine may be: plain, in a session of its own, nameless, a daemon."""
    plain = subprocess.Popen(["sleep", "600"])
    session = subprocess.Popen(["sleep", "600"], start_new_session=True)
    scrubbed = subprocess.Popen(["sleep", "600"], env={})
    stopped = subprocess.Popen(["sleep", "600"])
    stopped.send_signal(signal.SIGSTOP)
    shell = "setsid sh -c 'sleep 600 >/dev/null & echo $!'"
    told = subprocess.run(["sh", "-c", shell], stdout=subprocess.PIPE, check=True, text=True)
    family = subprocess.Popen(
        ["sh", "-c", "sleep 600 >/dev/null & echo $!; wait"], stdout=subprocess.PIPE
    )
    assert family.stdout is not None
    pids = [each.pid for each in (plain, session, scrubbed, stopped, family)]
    return [*pids, int(told.stdout), int(family.stdout.readline())]


def reap(*_: object) -> None:
    """Reap as the standard library's server does."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def simulate(server: int) -> NoReturn:
    """Be a simulator whose environment has started helpers."""
    die_with_parent(server, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGCONT, signal.SIG_DFL)
    adopt_orphans()
    print(os.getpid(), *helpers(), flush=True)
    while True:
        time.sleep(600)


def rename_the_logs(_: object) -> NoReturn:
    """Fail in a child of galamp's after somebody has renamed the folder of its log."""
    folder = os.path.dirname(os.readlink("/proc/self/fd/1"))
    os.rename(folder, os.path.join(os.path.dirname(folder), "renamed"))
    raise ValueError("after the folder was renamed")


def close_the_log(_: object) -> NoReturn:
    """Fail in a child of galamp's after an environment has closed standard error."""
    sys.stderr.close()
    raise ValueError("without a log")


def take_signals(_: object) -> None:
    """Print how programs and forks end that a child of galamp's starts, and sends signals to."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        os.kill(os.getpid(), number)  # its own are the supervisor's
        program = subprocess.Popen(["sleep", "600"])
        ready, write = os.pipe()
        forked = os.fork()
        if not forked:
            os.write(write, b"x")
            time.sleep(600)
            os._exit(0)
        os.read(ready, 1)
        for pid in (program.pid, forked):
            os.kill(pid, number)
            signal.alarm(30)  # should they not end
            print(number.name, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def interrupted(_: object) -> None:
    """Raise what is no `Exception`."""
    raise KeyboardInterrupt("by hand")


def serve() -> None:
    """Be a server, as `galamp.workers.preload` makes one, with one simulator."""
    adopt_orphans()
    signal.signal(signal.SIGCHLD, reap)
    os.environ["GALAMP_SERVER"] = str(os.getpid())
    server = os.getpid()
    if not os.fork():
        simulate(server)
    while True:
        time.sleep(600)


def preloaded() -> None:
    """Be a server that has been through `galamp.workers.preload`, all that is heavy left out."""
    from types import ModuleType

    heavy = ["torch", "ale_py", "galamp.workers.learner", "galamp.workers.simulator"]
    heavy += ["galamp.algorithms.cached_conv", "galamp.algorithms.networks.perceptron"]
    heavy += ["galamp.environments", "galamp.environments.atari", "galamp.environments.gymnasium"]
    for name in heavy:
        sys.modules[name] = ModuleType(name)
    vars(sys.modules["torch"])["Tensor"] = object  # a name in signatures
    import galamp.workers.preload  # noqa: F401

    serve()


def supervise() -> None:
    """Be a supervisor with a server, as far as its own death matters."""
    os.environ["GALAMP_SUPERVISOR"] = str(os.getpid())
    subprocess.Popen([sys.executable, "-m", "tests.support.families", "preloaded"])
    time.sleep(600)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
