"""Where the environment lies, what is there already, and who may change it.

    Place.look()       nothing, healthy, broken, or of a Python that is not here
    choose(folder)     the folder, or one beside it where that is of another Python
    take_turn(place)   `setup.lock`: one set-up at a time; the others wait
    take_alone(place)  `in-use.lock`: nobody runs from it; runs hold it shared, and nobody waits
                       days for them (galamp/installation.py is their side)

Machines may share the folder. One with another Python must not take the environment for broken
and delete what the others train from.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import stamp

LOOK_LIMIT_S = 60.0
LOCK_WAIT_S = 1800.0
POLL_S = 0.2
WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
NOT_HERE = (errno.ENOENT, errno.ENOEXEC, errno.EACCES)
"""Why an interpreter cannot be run that is another machine's, or another processor's."""

# What a healthy environment can do, after it has said of which kind its Python is.
PROBE = (
    "import os, sys; print('%d.%d-%s' % (*sys.version_info[:2], os.uname().machine), flush=True);"
    "import pip; assert sys.version_info >= (3, 11) and sys.prefix != sys.base_prefix"
)


class SetupError(Exception):
    """A set-up that cannot go on; its text is for the user."""


class Refused(SetupError):
    """A set-up that its user has to make possible first; nothing was changed."""


class Found(enum.Enum):
    """What lies in an environment's folder."""

    NOTHING = "nothing, or what a set-up that was cut short has left"
    HEALTHY = "an environment that runs"
    BROKEN = "one whose Python runs, but cannot be used"
    ELSEWHERE = "one of a Python that is not on this machine"


class Place:
    """The folder of an environment, and what the set-up keeps in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        self.lock, self.in_use, self.users = (
            folder / name for name in ("setup.lock", "in-use.lock", "in-use")
        )
        self.log, self.creating = folder / "setup.log", folder / "setup.creating"
        self.made_for = folder / "setup.made-for"

    @property
    def kept(self) -> tuple[Path, ...]:
        """What stays when an environment is made anew."""
        return (self.lock, self.in_use, self.users, self.log, self.creating)

    def kind(self) -> str:
        """Return the kind of Python that it was made for, "" where that was not written down."""
        with contextlib.suppress(OSError):
            return self.made_for.read_text(encoding="utf-8").strip()
        with contextlib.suppress(OSError):
            for line in (self.folder / "pyvenv.cfg").read_text(encoding="utf-8").splitlines():
                name, _, value = (part.strip() for part in line.partition("="))
                if name == "version":
                    return f"{'.'.join(value.split('.')[:2])}-{os.uname().machine}"
        return ""

    def look(self) -> tuple[Found, str]:
        """Return what is there, and the kind of its Python where that runs.

        Raises:
            SetupError: it cannot be told now.
        """
        if self.creating.exists() or not self._entries():
            return Found.NOTHING, ""
        if not os.path.lexists(self.python):
            return Found.BROKEN, ""
        try:
            done = subprocess.run(
                [self.python, "-I", "-c", PROBE],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=LOOK_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise SetupError(
                f"{self.python} did not answer within {LOOK_LIMIT_S:.0f} s: the machine or its "
                f"disk is too busy, or {self.folder} is damaged and has to be removed"
            ) from None
        except OSError as error:
            if error.errno in NOT_HERE:
                return Found.ELSEWHERE, ""
            raise SetupError(f"{self.python} cannot be started now ({error.strerror})") from None
        kind, known = done.stdout.strip(), self.kind()
        if kind and known and kind != known:
            return Found.ELSEWHERE, kind
        return (Found.BROKEN if done.returncode else Found.HEALTHY), kind

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

    def check_ours(self, found: Found) -> None:
        """Refuse a folder of other things, which would be deleted to make an environment.

        Raises:
            Refused: it is one.
        """
        if found is not Found.HEALTHY and self._entries() and not self.lock.exists():
            raise Refused(
                f"{self.folder} is not an environment of galamp's, and not empty: expected a new "
                "folder; remove it, or name another in GALAMP_VENV"
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
        found, _ = place.look()
        if found is not Found.ELSEWHERE:
            place.check_ours(found)
            return place
        made_with = f"made with a Python ({place.kind() or 'unknown'}) that is not on this machine"
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
