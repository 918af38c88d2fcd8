"""The locked folder of a running run: owned, moved, temporarily missing, or lost.

    Lock, path --HeldFolder--> where a path in it is now, or None: nothing may be written there

Runs in the supervisor. A renamed folder is followed through the open folder of the lock; a removed
lock file is created again. A missing folder is decided on only after some seconds: a disk may be
missing for a moment, and `rm -rf` may not have finished.
"""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

from galamp.storage.locks import LOCK, Lock, NoLocksError, Standing

LOST_TIMEOUT_S = 3.0
"""A folder that is missing this long is lost, rather than on a disk that is missing for a moment.
"""
POLL_S = 0.05


class HeldFolder:
    """A folder that is locked while this object is open.

    Attributes:
        path: where it is, as far as is known.
        lost: whether it was removed, or taken by another start.
        news: lines about what has happened to it; the caller reports and removes them.
    """

    def __init__(self, path: Path, lock: Lock) -> None:
        self.path = path
        self.lost = False
        self.news: list[str] = []
        self._lock: Lock | None = lock
        self._thread = threading.get_ident()
        self._places = [path]
        """All paths that it has had: other code may still use the old ones."""
        self._missed_since_s: float | None = None

    @property
    def doubtful(self) -> bool:
        """Whether the folder or its lock was missing at the last check.

        Until it is missing for `LOST_TIMEOUT_S`, nothing is written and nothing decided.
        """
        return self._missed_since_s is not None

    def _is_emptied(self) -> bool:
        """Return whether more than the lock was removed."""
        return False

    def is_ours(self) -> bool:
        """Return whether the locked folder can be written to now; once lost, never.

        Only the thread that opened it makes decisions.
        """
        if self._lock is None or self.lost:
            return not self.lost
        if self._lock.standing_in(self.path) is Standing.OURS:
            self._missed_since_s = None
            return True
        if threading.get_ident() != self._thread:
            return False
        self._find(self._lock)
        return not (self.lost or self.doubtful)

    def where(self, path: Path) -> Path | None:
        """Return where a path of the folder is now; None if nothing may be written there."""
        return self.moved(path) if self.is_ours() else None

    def settled_where(self, path: Path) -> Path | None:
        """Return the same once it is certain, which may take some seconds."""
        return self.moved(path) if self.is_settled_ours() else None

    def is_settled_ours(self) -> bool:
        """Wait until it is certain; not for ever for a disk that refuses a new lock."""
        until_s = time.monotonic() + 2 * LOST_TIMEOUT_S
        while not (ours := self.is_ours()) and not self.lost and time.monotonic() < until_s:
            time.sleep(POLL_S)
        return ours

    def moved(self, path: Path) -> Path:
        """Return the current path of a path that may use any of the folder's old paths."""
        for place in reversed(self._places):
            if path.is_relative_to(place):
                return self.path / path.relative_to(place)
        return path

    def _find(self, lock: Lock) -> None:
        """Find out what has happened to a folder without this run's lock in it."""
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
        """Create the lock file again; if the disk refuses, the next call tries again."""
        with contextlib.suppress(OSError, NoLocksError):
            self._lock = lock.renewed(self.path)
            self._missed_since_s = None
            self.news.append(f"{self.path / LOCK} was removed: created again")
