"""A locked folder under a living run: still ours, moved, away for a moment, or lost.

    Lock, path --HeldFolder--> where a path in it is now, or None: nothing may be written there

Runs in the supervisor. A folder that is renamed is followed, by the open folder that the lock
holds; a lock that somebody removed is made again. What is not there is missed for some seconds
before anything is decided: a disk may be away for a moment, and `rm -rf` be half way.
"""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

from galamp.storage.locks import LOCK, Lock, NoLocksError, Standing

LOST_TIMEOUT_S = 3.0
"""What is not there for so long is gone, rather than on a disk that is away for a moment."""
POLL_S = 0.05


class HeldFolder:
    """A folder that is locked for as long as this object is open.

    Attributes:
        path: where it is, as far as is known.
        lost: whether it was found removed, or taken by another start.
        news: what has become of it, in lines to be told and taken away.
    """

    def __init__(self, path: Path, lock: Lock) -> None:
        self.path = path
        self.lost = False
        self.news: list[str] = []
        self._lock: Lock | None = lock
        self._thread = threading.get_ident()
        self._places = [path]
        """Where it was, by which others may still name what is in it."""
        self._missed_since_s: float | None = None

    @property
    def doubtful(self) -> bool:
        """Whether it was not there, or its lock was not, when last looked at.

        Until that is so for `LOST_TIMEOUT_S`, nothing is written and nothing decided.
        """
        return self._missed_since_s is not None

    def _is_emptied(self) -> bool:
        """Whether somebody has removed not only the lock."""
        return False

    def is_ours(self) -> bool:
        """Whether the folder can be written to now, as the one that was locked; once lost, never.

        Only the thread that opened it decides anything.
        """
        if self._lock is None or self.lost:
            return not self.lost
        if self._lock.standing_in(self.path) is Standing.OURS:
            self._missed_since_s = None
            return True
        if threading.get_ident() != self._thread:
            return False
        self._look_for(self._lock)
        return not (self.lost or self.doubtful)

    def where(self, path: Path) -> Path | None:
        """Return where something in the folder is now; None if nothing may be written there."""
        return self.moved(path) if self.is_ours() else None

    def settled_where(self, path: Path) -> Path | None:
        """Return the same, once there is no doubt; it may take some seconds."""
        return self.moved(path) if self.is_settled_ours() else None

    def is_settled_ours(self) -> bool:
        """Wait for the end of a doubt; not for a disk that refuses a new lock for ever."""
        until_s = time.monotonic() + 2 * LOST_TIMEOUT_S
        while not (ours := self.is_ours()) and not self.lost and time.monotonic() < until_s:
            time.sleep(POLL_S)
        return ours

    def moved(self, path: Path) -> Path:
        """Return what a path of the folder, from whichever of its places, is now."""
        for place in reversed(self._places):
            if path.is_relative_to(place):
                return self.path / path.relative_to(place)
        return path

    def _look_for(self, lock: Lock) -> None:
        """Find out what has become of a folder that has not our lock in it."""
        if not lock.is_on(self.path) and (place := lock.place()) is not None:
            self.path = place
            self._places.append(place)
            self.news.append(f"the run folder was moved: it is {place} now")
            if lock.standing_in(place) is Standing.OURS:
                self._missed_since_s = None
                return
        on_it = lock.is_on(self.path)
        taken = on_it and lock.standing_in(self.path) is Standing.ANOTHERS
        if taken or lock.folder_is_removed():
            self.lost = True
            return
        now_s = time.monotonic()
        self._missed_since_s = self._missed_since_s or now_s
        if now_s - self._missed_since_s < LOST_TIMEOUT_S:
            return
        # On some disks a folder that was emptied stays, as the lock in it is still open.
        if on_it and not self._is_emptied():
            self._renew(lock)
        else:
            self.lost = True

    def _renew(self, lock: Lock) -> None:
        """Make the lock again; what the disk refuses now is tried again the next time."""
        with contextlib.suppress(OSError, NoLocksError):
            self._lock = lock.renewed(self.path)
            self._missed_since_s = None
            self.news.append(f"{self.path / LOCK} was removed by somebody: made again")
