"""Makes `.venv` beside bin/ and installs galamp's tested versions; run by bin/setup.

`install.py EXTRA PYTHON` removes the stamps first and writes them last, so whatever interrupts a
set-up, the next start finds no stamp and heals:

    no usable Python in .venv, or its making was cut short   -> make .venv anew
    otherwise                                -> forget half-installed packages, run pip again

Only one process sets up at a time: the lock is an flock on an open file that pip inherits, so it
ends with its last holder and cannot go stale. Progress goes to standard error, pip's words to
`.venv/setup.log`.
"""

from __future__ import annotations

import configparser
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import stamp

EXIT_FAILURE = 70
LOCK_WAIT_S = 1800.0
POLL_S = 0.2
END_GRACE_S = 5.0
LOG_TAIL_LINES = 15

ROOT = Path(stamp.ROOT)
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
LOCK = VENV / "setup.lock"
LOG = VENV / "setup.log"
CREATING = VENV / "setup.creating"

# What a healthy environment can do; prints what the stamp needs to know of its Python.
PROBE = (
    "import sys, pip; assert sys.version_info >= (3, 11) and sys.prefix != sys.base_prefix;"
    "print(sys.version)"
)

# Runs in the environment. A package without a record, or without a file that its record names, was
# cut short while pip installed or removed it. Without its metadata pip takes it for absent.
FORGET = """
import pathlib, shutil, sysconfig
from importlib.metadata import distributions
site = pathlib.Path(sysconfig.get_path("purelib"))
for package in distributions(path=[str(site)]):
    files = [file for file in package.files or () if file.suffix != ".pyc"]
    if not files or not all(file.locate().exists() for file in files):
        print("forgetting half-installed", package._path.name)
        shutil.rmtree(package._path, ignore_errors=True)
for leftover in site.glob("~*"):
    shutil.rmtree(leftover, ignore_errors=True)
"""


# Signals are noted and asked for at safe moments: raised as they come, one could fall between the
# start of pip and the block that ends it.
PARENT = os.getppid()
signals: list[int] = []


class SetupError(Exception):
    """A set-up that cannot go on; its text is for the user."""


class Stopped(Exception):
    """A signal came, or the command that wanted the set-up is gone."""


def check_stopped() -> None:
    """Raise `Stopped` if nobody wants this set-up any more."""
    if signals or os.getppid() != PARENT:
        raise Stopped


def say(text: str, end: str = "\n") -> None:
    """Write progress to standard error."""
    print(text, end=end, file=sys.stderr, flush=True)


def requirements(extra: str) -> list[str]:
    """Return what setup.cfg asks for, with one extra ("" for none)."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    asked = config["options"]["install_requires"]
    if extra:
        asked += "\n" + config["options.extras_require"][extra]
    lines = (line.strip() for line in asked.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def run(name: str, *command: str | Path, lock: int) -> None:
    """Run one step of the set-up with its output in the log, showing one line of progress.

    Raises:
        SetupError: the command failed; the text holds the end of the log.
        Stopped: a signal came, or the parent is gone; the step was ended.
    """
    check_stopped()
    line, start_s = f"galamp: set-up: {name} ...", time.monotonic()
    say(line, end="")
    with LOG.open("a", encoding="utf-8") as log:
        print("\n$", *command, file=log, flush=True)
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"},
            pass_fds=(lock,),
            process_group=0,
        )
        try:
            code = _watch(process, line, start_s)
        except BaseException:
            _end_group(process)
            say("")
            raise
    say(f"{' failed after' if code else ''} {time.monotonic() - start_s:.1f} s")
    if code:
        raise SetupError(_failure(name))


def _watch(process: subprocess.Popen[bytes], line: str, start_s: float) -> int:
    """Return the exit code of a step, counting seconds on a terminal."""
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(POLL_S)
            if sys.stderr.isatty():
                say(f"\r{line}", end="")
            return code
        check_stopped()
        if sys.stderr.isatty():
            say(f"\r{line} {time.monotonic() - start_s:.0f} s", end="")


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a step and everything that it started: politely, then for good."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_GRACE_S)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _failure(name: str) -> str:
    tail = LOG.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:]
    indented = "\n".join("    " + line for line in tail)
    return f"could not {name}; the end of {LOG}:\n{indented}\ngalamp: the next start tries again"


def take_lock(deadline_s: float = LOCK_WAIT_S) -> int:
    """Wait until no other process sets up; return the file descriptor that holds the lock.

    Raises:
        SetupError: the other set-up still runs after `deadline_s`.
    """
    VENV.mkdir(exist_ok=True)
    lock = os.open(LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    give_up_s, waiting = time.monotonic() + deadline_s, False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            other = os.pread(lock, 32, 0).decode(errors="replace").strip() or "(unknown)"
        check_stopped()
        if time.monotonic() > give_up_s:
            os.close(lock)
            raise SetupError(f"process {other} still sets up {VENV} after {deadline_s:.0f} s")
        if not waiting:
            say(f"galamp: set-up: waiting for process {other}, which is setting up {VENV}")
            waiting = True
        time.sleep(POLL_S)
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def healthy() -> str:
    """Return the version of the environment's Python, or "" if it has to be made anew."""
    if CREATING.exists():
        return ""
    command: list[str | Path] = [VENV_PYTHON, "-I", "-c", PROBE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    check_stopped()  # Ctrl-C ends the probe as well, and says nothing about its Python.
    return "" if done.returncode else done.stdout


def create(python: str, lock: int) -> None:
    """Make the environment anew, keeping only the lock that this process holds and the log."""
    CREATING.touch()
    for entry in VENV.iterdir():
        if entry in (LOCK, LOG, CREATING):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    run("create environment", python, "-I", "-m", "venv", "--prompt", "galamp", VENV, lock=lock)
    CREATING.unlink()


def install(extra: str, python: str) -> None:
    """Bring the environment to the tested versions; `python` makes it where none is usable.

    Raises:
        SetupError: a step failed, or another set-up did not end in time.
    """
    lock = take_lock()
    version = healthy()
    if version and stamp.ready(extra, version):
        return
    for old in VENV.glob("setup.done*"):
        old.unlink()
    LOG.write_text("", encoding="utf-8")
    if version:
        run("check environment", VENV_PYTHON, "-I", "-c", FORGET, lock=lock)
    else:
        create(python, lock)
    pip = (VENV_PYTHON, "-I", "-m", "pip", "install", "-c", ROOT / "bin" / "constraints.txt")
    run("install torch", *pip, "torch", lock=lock)
    run("install the rest", *pip, *requirements(extra), lock=lock)
    run("install galamp", *pip, "-e", f".[{extra}]" if extra else ".", lock=lock)
    version = healthy()
    if not version:
        raise SetupError(f"{VENV_PYTHON} does not run: remove {VENV} and start again")
    for done in {"", extra}:
        Path(stamp.path(done)).write_text(stamp.fingerprint(done, version), encoding="utf-8")


def main(extra: str, python: str) -> int:
    """Set up; return the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: signals.append(number))
    try:
        install(extra, python)
    except Stopped:
        say("galamp: set-up interrupted; the next start picks it up")
        return 128 + (signals or [signal.SIGTERM])[0]
    except (SetupError, OSError) as error:
        say(f"galamp: set-up: {error}")
        return EXIT_FAILURE
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
