"""Makes the environment (`.venv`) and installs galamp's tested versions; run by bin/setup.

`install.py EXTRA PYTHON FOLDER` removes the stamps first and writes them last, so whatever
interrupts a set-up, the next start finds no stamp and heals:

    its Python cannot be used, or its making was cut short   -> make it anew
    otherwise                           -> forget half-installed packages, run pip again
    galamp has not made it, or it cannot be told whether it runs   -> refuse, change nothing
    something else lies in it, and it would have to be made anew   -> the same

Which build of torch that brings is chosen once for the machine (torch_build.py, torch_order.py).

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
import sys
from pathlib import Path

import stamp
import torch_build
import torch_order
from place import Found, Place, Refused, SetupError, choose, say, take_alone, take_turn
from steps import ROOT, Outcome, Stopped, attempt, check_stopped, failure, run, signals

EXIT_REFUSED = 2
EXIT_FAILURE = 70
LINKED = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "galamp")
"""What a checkout that is read-only is installed from, by links in `source`."""
MADE = re.compile(
    r"bin|include|lib|lib64|share|pyvenv\.cfg|\.gitignore"  # by venv and pip
    r"|source|in-use|in-use\.lock|setup\.(lock|log|creating|made|made-for|done(-\w+)?|torch|constraints)"
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


def requirements(extra: str) -> list[str]:
    """Return what setup.cfg asks for, with one extra ("" for none)."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    asked = config["options"]["install_requires"]
    if extra:
        asked += "\n" + config["options.extras_require"][extra]
    lines = (line.strip() for line in asked.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


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
    found, kind = place.inspect()
    check_stopped()  # Ctrl-C ends the inspection as well, which says nothing about its Python.
    if found is Found.HEALTHY and stamp.ready(extra, str(place.folder), kind):
        return
    if found is not Found.HEALTHY:
        check_nothing_else(place)
    torch = Torch(place, found is Found.HEALTHY)
    locks = (lock, take_alone(place))
    say(f"galamp: set-up: {torch.order.words}")
    for old in place.folder.glob("setup.done*"):
        old.unlink()
    place.log.write_text("", encoding="utf-8")
    if found is Found.HEALTHY:
        place.mark.touch()  # one that was made before there was this mark
        run("check environment", place.python, "-I", "-c", FORGET, log=place.log, locks=locks)
    else:
        create(place, python, locks)
    pip_install(place, extra, torch, locks)
    found, kind = place.inspect()
    check_stopped()
    if found is not Found.HEALTHY:
        raise SetupError(f"{place.python} does not run: remove {place.folder} and start again")
    place.made_for.write_text(kind, encoding="utf-8")
    torch.keep()
    for done in {"", extra}:
        path = Path(stamp.path(str(place.folder), done))
        path.write_text(stamp.fingerprint(done, str(place.folder), kind), encoding="utf-8")


class Torch:
    """Which torch an environment gets.

    Raises:
        Refused: what the user has set cannot be meant.
        Stopped: nobody wants this set-up any more.
    """

    def __init__(self, place: Place, healthy: bool) -> None:
        self.place = place
        self.settings = torch_order.Settings.read(place.folder)
        self.version, self.limits = tested()
        self.machine = torch_build.inspect(check_stopped=check_stopped)
        self.choice = torch_build.choose(self.version, self.machine)
        self.order = torch_order.order(
            self.version,
            next(line for line in requirements("") if torch_order.REQUIREMENT.fullmatch(line)),
            self.choice,
            self.settings,
            torch_order.installed(place.folder) if healthy else None,
        )

    def install(self, locks: tuple[int, ...]) -> None:
        """Have pip install it.

        Raises:
            Refused: it cannot be had here, or should not be.
            SetupError: a step failed.
        """
        place, name = self.place, "install torch"
        place.limits.write_text("".join(self.limits), encoding="utf-8")
        pip: tuple[str | Path, ...] = (place.python, "-I", "-m", "pip")
        if self.settings.is_file and self.settings.changed and torch_order.installed(place.folder):
            run("remove torch", *pip, "uninstall", "-y", "torch", log=place.log, locks=locks)
        unwanted = torch_order.WITH_CUDA if self.order.guarded else None
        for asked in self.order.tries:
            command = (*pip, "install", "-c", place.limits, *asked)
            outcome = attempt(name, *command, log=place.log, locks=locks, unwanted=unwanted)
            if outcome is Outcome.UNWANTED:
                self._only_cuda()
                outcome = attempt(name, *command, log=place.log, locks=locks, unwanted=None)
            if outcome is not Outcome.ABSENT:
                break
        if outcome is Outcome.ABSENT and self.settings.where and not self.settings.torch:
            where = stamp.bare(asked[1])
            raise Refused(torch_order.missing(self.version, self.order.label, where))
        if outcome is not Outcome.DONE:
            raise SetupError(failure(name, place.log))
        if self.order.label == (self.choice.folder or ""):
            got = torch_order.installed(place.folder)
            if line := torch_order.advice(self.version, self.choice, self.machine, got):
                say(f"galamp: set-up: {line}")

    def _only_cuda(self) -> None:
        """Say that CUDA comes for nothing, as nothing else can be had.

        Raises:
            Refused: the user would rather have nothing.
        """
        line = torch_order.only_cuda(self.version, taken=self.settings.cuda)
        if not self.settings.cuda:
            raise Refused(line)
        say(f"galamp: set-up: {line}")

    def keep(self) -> None:
        """Write down what was asked for and what came, for the next start and the next set-up."""
        got = torch_order.installed(self.place.folder)
        lines = (self.settings.torch, self.settings.where, got.label if got else "")
        self.place.torch.write_bytes(b"".join(os.fsencode(line) + b"\n" for line in lines))


def tested() -> tuple[str, list[str]]:
    """Return the version of torch in constraints.txt, and all lines but torch's."""
    lines = (ROOT / "bin" / "constraints.txt").read_text(encoding="utf-8").splitlines(True)
    (version,) = (line.strip()[len("torch==") :] for line in lines if line.startswith("torch=="))
    return version, [line for line in lines if not line.startswith("torch==")]


def pip_install(place: Place, extra: str, torch: Torch, locks: tuple[int, ...]) -> None:
    """Install the tested versions, and galamp so that changes of its files count at once.

    Raises:
        SetupError: a step failed.
    """
    torch.install(locks)
    limits = place.limits if torch.settings.torch else ROOT / "bin" / "constraints.txt"
    pip = (place.python, "-I", "-m", "pip", "install", "-c", limits)
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
