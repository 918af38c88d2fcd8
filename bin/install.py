"""Makes the environment (`.venv`) and installs galamp's tested versions; run by bin/setup.

`install.py EXTRA PYTHON FOLDER` removes the stamps first and writes them last, so whatever
interrupts a set-up, the next start finds no stamp and heals:

    its Python cannot be used, or its making was cut short   -> make it anew
    otherwise                           -> forget half-installed packages, run pip again
    galamp has not made it, or it cannot be told whether it runs   -> refuse, change nothing
    something else lies in it, and it would have to be made anew   -> the same

Only one process sets up at a time, and nothing is changed while somebody runs from the environment
(place.py). pip inherits the locks: they end with their last holder and cannot go stale. Progress
goes to standard error, pip's words to `setup.log` in the folder.
"""

from __future__ import annotations

import configparser
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import stamp
from place import POLL_S, Found, Place, Refused, SetupError, choose, say, take_alone, take_turn

EXIT_REFUSED = 2
EXIT_FAILURE = 70
END_GRACE_S = 5.0
LOG_TAIL_LINES = 15

ROOT = Path(stamp.ROOT)
LINKED = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "galamp")
"""What a checkout that is read-only is installed from, by links in `source`."""
MADE = re.compile(
    r"bin|include|lib|lib64|share|pyvenv\.cfg|\.gitignore"  # by venv and pip
    r"|source|in-use|in-use\.lock|setup\.(lock|log|creating|made|made-for|done(-\w+)?)"
)
"""Names of what a set-up makes in an environment's folder; what has another is somebody's own."""

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


class Stopped(Exception):
    """A signal came, or the command that wanted the set-up is gone."""


def check_stopped() -> None:
    """Raise `Stopped` if nobody wants this set-up any more."""
    if signals or os.getppid() != PARENT:
        raise Stopped


def requirements(extra: str) -> list[str]:
    """Return what setup.cfg asks for, with one extra ("" for none)."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    asked = config["options"]["install_requires"]
    if extra:
        asked += "\n" + config["options.extras_require"][extra]
    lines = (line.strip() for line in asked.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def run(name: str, *command: str | Path, log: Path, locks: tuple[int, ...]) -> None:
    """Run one step of the set-up with its output in the log, showing one line of progress.

    Raises:
        SetupError: the command failed; the text holds the end of the log.
        Stopped: a signal came, or the parent is gone; the step was ended.
    """
    check_stopped()
    line, start_s = f"galamp: set-up: {name} ...", time.monotonic()
    say(line, end="")
    with log.open("a", encoding="utf-8") as output:
        print("\n$", *command, file=output, flush=True)
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"},
            pass_fds=locks,
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
        raise SetupError(_failure(name, log))


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


def _failure(name: str, log: Path) -> str:
    tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:]
    indented = "\n".join("    " + line for line in tail)
    return f"could not {name}; the end of {log}:\n{indented}\ngalamp: the next start tries again"


def check_nothing_else(place: Place) -> None:
    """Refuse to make an environment anew in whose folder something else lies as well.

    Somebody may have named a folder that was empty then, and have worked in it since.

    Raises:
        Refused: it names the first such thing.
    """
    with contextlib.suppress(FileNotFoundError):
        for entry in sorted(place.folder.iterdir()):
            if not is_made(entry):
                raise Refused(
                    f"{place.folder} has to be made anew, and {entry} is not of a set-up's making: "
                    "move that away, or name another folder in GALAMP_VENV"
                )


def is_made(entry: Path) -> bool:
    """Whether what lies in an environment's folder is the work of a set-up."""
    if entry.name != "source":
        return MADE.fullmatch(entry.name) is not None
    # pip leaves its own things there; a folder of this name may as well be somebody's sources.
    return entry.is_dir() and all(
        each.name in ("build", "galamp.egg-info") or (each.name in LINKED and each.is_symlink())
        for each in entry.iterdir()
    )


def create(place: Place, python: str, locks: tuple[int, ...]) -> None:
    """Make the environment anew, keeping the locks that this process holds and the log.

    Nothing is removed that a set-up has not made. It is marked as galamp's first of all: whatever
    interrupts this, the next start may go on.
    """
    place.mark.touch()
    place.creating.touch()
    for entry in place.folder.iterdir():
        if entry in place.kept or not is_made(entry):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    venv = (python, "-I", "-m", "venv", "--prompt", "galamp", place.folder)
    run("create environment", *venv, log=place.log, locks=locks)
    place.creating.unlink()


def source(place: Place) -> Path:
    """Return the folder that galamp is installed from, which pip has to write to.

    For a checkout that is read-only it is a folder of links to what lies there.

    Raises:
        Refused: in that folder lies what no set-up has put there.
    """
    if os.access(ROOT, os.W_OK):
        return ROOT
    folder = place.folder / "source"
    folder.mkdir(exist_ok=True)
    for link in (folder / name for name in LINKED):
        if link.is_symlink():
            link.unlink()
        elif link.exists():
            raise Refused(
                f"{link} is in the way of a set-up, which would put a link there: move it away, or "
                "name another folder in GALAMP_VENV"
            )
        link.symlink_to(ROOT / link.name)
    return folder


def install(extra: str, python: str, folder: str) -> None:
    """Bring the environment to the tested versions; `python` makes it where none is usable.

    Raises:
        SetupError: a step failed, somebody runs from it, or another set-up did not end in time.
    """
    place = choose(Path(folder))
    lock = take_turn(place, check_stopped)
    place.check_ours()  # once more: somebody may have filled the folder meanwhile
    found, kind = place.look()
    check_stopped()  # Ctrl-C ends the look as well, which says nothing about its Python.
    if found is Found.HEALTHY and stamp.ready(extra, str(place.folder), kind):
        return
    if found is not Found.HEALTHY:
        check_nothing_else(place)
    locks = (lock, take_alone(place))
    for old in place.folder.glob("setup.done*"):
        old.unlink()
    place.log.write_text("", encoding="utf-8")
    if found is Found.HEALTHY:
        place.mark.touch()  # one that was made before there was this mark
        run("check environment", place.python, "-I", "-c", FORGET, log=place.log, locks=locks)
    else:
        create(place, python, locks)
    pip_install(place, extra, locks)
    found, kind = place.look()
    check_stopped()
    if found is not Found.HEALTHY:
        raise SetupError(f"{place.python} does not run: remove {place.folder} and start again")
    place.made_for.write_text(kind, encoding="utf-8")
    for done in {"", extra}:
        path = Path(stamp.path(str(place.folder), done))
        path.write_text(stamp.fingerprint(done, str(place.folder), kind), encoding="utf-8")


def pip_install(place: Place, extra: str, locks: tuple[int, ...]) -> None:
    """Install the tested versions, and galamp so that changes of its files count at once.

    Raises:
        SetupError: a step failed.
    """
    limits = ROOT / "bin" / "constraints.txt"
    pip = (place.python, "-I", "-m", "pip", "install", "-c", limits)
    run("install torch", *pip, "torch", log=place.log, locks=locks)
    run("install the rest", *pip, *requirements(extra), log=place.log, locks=locks)
    package = source(place)
    name = "." if package == ROOT else str(package)
    galamp = ("-e", f"{name}[{extra}]" if extra else name)
    run("install galamp", *pip, *galamp, log=place.log, locks=locks)


def main(extra: str, python: str, folder: str) -> int:
    """Set up; return the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: signals.append(number))
    try:
        install(extra, python, folder)
    except (Stopped, SetupError, OSError) as error:
        # Ctrl-C ends what was started as well, which may be what was complained of.
        if isinstance(error, Stopped) or signals:
            say("galamp: set-up interrupted; the next start picks it up")
            return 128 + (signals or [signal.SIGTERM])[0]
        say(f"galamp: set-up: {error}")
        return EXIT_REFUSED if isinstance(error, Refused) else EXIT_FAILURE
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
