"""Where the environment lies, what is there already, and who may change it.

    Place.inspect()    nothing, healthy, broken, or of a Python that does not run here
    choose(folder)     the folder, or one beside it where that is of another Python
    take_turn(place)   `setup.lock`: one set-up at a time; the others wait
    take_alone(place)  `in-use.lock`: nobody runs from it; runs hold it shared, and nobody waits
                       days for them (galamp/core/installation.py is their side)

Machines may share the folder. One with another Python must not take the environment for broken
and delete what the others train from.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import stamp

PROBE_TIMEOUT_S = 60.0
LOCK_WAIT_S = 1800.0
POLL_S = 0.2
WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
NOT_HERE = (errno.ENOENT, errno.ENOEXEC, errno.EACCES)
"""Why an interpreter cannot be run that is another machine's, or another processor's."""

# An environment's Python says of which kind it is, and whether it lacks what a healthy one can do.
# Only its own word counts: any other end may be the machine's fault, and no reason to delete.
PROBE = """
import os, sys
print("%d.%d-%s" % (*sys.version_info[:2], os.uname().machine), flush=True)
try:
    import pip
    assert sys.version_info >= (3, 11) and sys.prefix != sys.base_prefix
except (ModuleNotFoundError, AssertionError):
    print("broken", flush=True)
"""
KIND = re.compile(r"\d+\.\d+-\w+")
PROMPT = "prompt = 'galamp'"
"""So `venv --prompt galamp` writes it: set-ups left no other mark before there was `setup.made`."""


class SetupError(Exception):
    """A set-up that cannot go on; its text is for the user."""


class Refused(SetupError):
    """A set-up that its user has to make possible first; nothing was changed."""


class Found(enum.Enum):
    """What lies in an environment's folder."""

    NOTHING = "nothing, or what a set-up that was cut short has left"
    HEALTHY = "an environment that runs"
    BROKEN = "one whose Python runs, but cannot be used"
    ELSEWHERE = "one of a Python that does not run on this machine"


class Place:
    """The folder of an environment, and what the set-up keeps in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        self.lock, self.in_use, self.users = (
            folder / name for name in ("setup.lock", "in-use.lock", "in-use")
        )
        self.log, self.creating = folder / "setup.log", folder / "setup.creating"
        self.made_for, self.mark = folder / "setup.made-for", folder / "setup.made"
        self.torch, self.limits = folder / stamp.TORCH, folder / "setup.constraints"

    @property
    def kept(self) -> tuple[Path, ...]:
        """What stays when an environment is made anew."""
        return (
            *(self.lock, self.in_use, self.users),
            *(self.log, self.creating, self.mark, self.torch),
        )

    @property
    def ours(self) -> bool:
        """Whether a set-up has made it: others are never changed. The lock says nothing of that."""
        made_before = self.lock.exists() and PROMPT in self._venv_lines()
        return self.mark.exists() or self.creating.exists() or made_before

    def _venv_lines(self) -> list[str]:
        with contextlib.suppress(OSError):
            return (self.folder / "pyvenv.cfg").read_text("utf-8", "replace").splitlines()
        return []

    def kind(self) -> str:
        """Return the kind of Python that it was made for, "" where that was not written down."""
        with contextlib.suppress(OSError):
            return self.made_for.read_text(encoding="utf-8").strip()
        for line in self._venv_lines():
            name, _, value = (part.strip() for part in line.partition("="))
            if name == "version":
                return f"{'.'.join(value.split('.')[:2])}-{os.uname().machine}"
        return ""

    def inspect(self) -> tuple[Found, str]:
        """Return what is there, and the kind of its Python where that runs.

        Raises:
            SetupError: it cannot be told now.
        """
        if self.creating.exists() or not self._entries():
            return Found.NOTHING, ""
        try:
            self.python.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return Found.BROKEN, ""
        done = self._probe()
        return (Found.ELSEWHERE, "") if done is None else self._judged(done)

    def _judged(self, done: subprocess.CompletedProcess[str]) -> tuple[Found, str]:
        """Return what an answer to the probe says.

        Raises:
            Refused: nothing, for it may be the machine's fault.
        """
        kind, *more = done.stdout.split() or [""]
        if done.returncode < 0:
            number = -done.returncode
            raise Refused(
                f"{self.python} was ended by signal {number} ({signal.strsignal(number)}) as it "
                "was tried out: start again; 9 mostly means that memory has run out; if it stays "
                f"so, {self.folder} is damaged and has to be removed"
            )
        if not KIND.fullmatch(kind):
            return Found.ELSEWHERE, ""
        known = self.kind()
        if known and kind != known:
            return Found.ELSEWHERE, kind
        if done.returncode:
            why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise Refused(
                f"{self.python} cannot be used now ({why}): start again; if it stays so, remove "
                f"{self.folder}"
            )
        return (Found.BROKEN if more else Found.HEALTHY), kind

    def _probe(self) -> subprocess.CompletedProcess[str] | None:
        """Ask the environment's Python; None where it is of another machine.

        Raises:
            SetupError: it cannot be asked now.
        """
        try:
            return subprocess.run(
                [self.python, "-I", "-c", PROBE],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=PROBE_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise SetupError(
                f"{self.python} did not answer within {PROBE_TIMEOUT_S:.0f} s: the machine or its "
                f"disk is too busy, or {self.folder} is damaged and has to be removed"
            ) from None
        except OSError as error:
            if error.errno in NOT_HERE:
                return None
            raise SetupError(f"{self.python} cannot be started now ({error.strerror})") from None

    def _entries(self) -> list[Path]:
        try:
            return [entry for entry in self.folder.iterdir() if entry not in self.kept]
        except FileNotFoundError:
            return []
        except (NotADirectoryError, PermissionError) as error:
            raise Refused(
                f"{self.folder} cannot be used ({error.strerror}): name another folder in "
                "GALAMP_VENV"
            ) from None

    def check_trusted(self) -> None:
        """Refuse to run a Python that somebody else may have put there; bin/setup does the same.

        Raises:
            Refused: it is neither this user's, nor root's, nor of the checkout's owner.
        """
        valid_mask = {0, os.geteuid(), os.stat(stamp.ROOT).st_uid}
        for path in (self.folder, self.folder / "bin", self.python):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                if (owner := path.lstat().st_uid) not in valid_mask:
                    raise Refused(
                        f"{path} belongs to user {owner}, and what lies there would be run: "
                        "remove it, or name another folder in GALAMP_VENV"
                    )

    def check_ours(self) -> None:
        """Refuse a folder that galamp has not made: it would be changed, or even deleted.

        Raises:
            Refused: it is one.
        """
        if self._entries() and not self.ours:
            raise Refused(
                f"{self.folder} is not an environment of galamp's, and not empty: name another "
                "folder in GALAMP_VENV, or, if it is an environment of yours, install galamp there "
                "yourself (pip install) and start `python -m galamp`"
            )


def say(text: str, end: str = "\n") -> None:
    """Write progress to standard error."""
    print(text, end=end, file=sys.stderr, flush=True)


def choose(folder: Path) -> Place:
    """Return the place for an environment that runs here.

    Raises:
        SetupError: there is none.
    """
    beside = folder.with_name(f"{folder.name}-{stamp.kind()}")
    for place, last in ((Place(folder), False), (Place(beside), True)):
        place.check_ours()
        if last:
            place.check_trusted()  # nobody has named this folder
        found, _ = place.inspect()
        if found is not Found.ELSEWHERE:
            return place
        python = f"Python ({place.kind() or 'unknown'})"
        made_with = f"made with a {python} that does not run on this machine"
        if last:
            raise Refused(
                f"{place.folder} was {made_with}: remove it if no machine needs it, or name "
                "another folder in GALAMP_VENV"
            )
        say(
            f"galamp: set-up: {folder} was {made_with}: it is left as it is (remove it if no "
            f"machine needs it); {beside} is used instead"
        )
    raise AssertionError("unreachable")


def take_turn(
    place: Place, check_stopped: Callable[[], None], deadline_s: float = LOCK_WAIT_S
) -> int:
    """Wait until no other process sets up; return the file descriptor that holds the lock.

    Raises:
        SetupError: the other set-up still runs after `deadline_s`, or the folder cannot be written.
    """
    lock = _opened(place, place.lock)
    give_up_s, waiting = time.monotonic() + deadline_s, False
    while not _locked(lock, place):
        other = os.pread(lock, 32, 0).decode(errors="replace").strip() or "(unknown)"
        check_stopped()
        if time.monotonic() > give_up_s:
            os.close(lock)
            raise SetupError(
                f"process {other} still sets up {place.folder} after {deadline_s:.0f} s: what it "
                f"does is in {place.log}; end it if it hangs, then start again"
            )
        if not waiting:
            say(
                f"galamp: set-up: waiting for process {other}, which is setting up {place.folder} "
                f"(up to {deadline_s / 60:.0f} minutes)"
            )
            waiting = True
        time.sleep(POLL_S)
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def take_alone(place: Place) -> int:
    """Return the file descriptor of the lock that keeps others from running meanwhile.

    Raises:
        Refused: somebody runs from the environment now.
    """
    lock = _opened(place, place.in_use)
    if _locked(lock, place):
        return lock
    os.close(lock)
    first, *others = users(place) or ["a process that could not write down its name"]
    more = f" (and {len(others)} more)" if others else ""
    raise Refused(
        f"{place.folder} has to be changed, and is in use by {first}{more}: end that, or wait, and "
        "start again; or use another environment: GALAMP_VENV=FOLDER"
    )


def users(place: Place) -> list[str]:
    """Return who runs from the environment, in a line each; runs come first."""
    found = []
    with contextlib.suppress(OSError):
        for note in sorted(place.users.iterdir()):
            with (
                contextlib.suppress(OSError),
                note.open(encoding="utf-8", errors="replace") as file,
            ):
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    found.append(file.readline().strip())
    return sorted(filter(None, found), key=lambda line: "run folder" not in line)


def _opened(place: Place, path: Path) -> int:
    try:
        place.folder.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise Refused(
            f"cannot write to {place.folder} ({error.strerror}): its owner has to start galamp "
            "once, or you name a folder of your own, such as GALAMP_VENV=~/.cache/galamp/venv"
        ) from None


def _locked(lock: int, place: Place) -> bool:
    """Try to lock; a file system without locks is told of, and gone on with."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        say(
            f"galamp: set-up: {place.folder} lies where files cannot be locked "
            f"({error.strerror}): start nothing else from it until the set-up is done"
        )
    return True
