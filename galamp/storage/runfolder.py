"""The run folder: who may write into it, and where things lie.

Runs in the supervisor, the one writer; plots and evaluation only read.

    RUN/config.json  metrics.jsonl  events.jsonl  summary.json
    RUN/monitor/<i>.monitor.csv  checkpoints/  logs/
    RUN/lock         held by flock while the run lives, so that it cannot go stale
    RUN/control      a socket while the run lives; a stale one is for the lock's owner to replace
    runs/latest      link to the run that began last

A run begins when its config is written. What is refused before that leaves nothing behind. A folder
that is renamed under a living run is followed, and a lock that somebody removed is made again. One
that is removed, or locked by another start, does not come back: from then on nothing is written.

Of the process environment nothing is ever written: it holds secrets.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from galamp.errors import GalampError, UserError
from galamp.storage.disk import (
    in_home,
    read_limited,
    remove_stale,
    replace_file,
    replace_json,
    sync_folder,
)
from galamp.storage.inspection import refuse_links, shared_with
from galamp.storage.links import LATEST, replace_link
from galamp.storage.locks import LOCK, Lock, NoLocksError, Standing, take_lock

CONFIG = "config.json"
SUMMARY = "summary.json"
METRICS = "metrics.jsonl"
EVENTS = "events.jsonl"
GRAPH = "topology.txt"
CHECKPOINTS = "checkpoints"
JSON_LIMIT_BYTES = 4_000_000
"""No config and no summary is larger, were there a thousand learners."""
GRAPH_LIMIT_BYTES = 64 * 2**20
"""No graph that can be read is larger."""
LOST_AFTER_S = 3.0
"""What is not there for so long is gone, rather than on a disk that is away for a moment."""
POLL_S = 0.05


class RunFolder:
    """One run's folder, locked for as long as this object is open.

    Attributes:
        path: where it is, as far as is known.
        lost: whether it was found removed, or taken by another start.
        doubtful: whether it was not there, or its lock was not, when last looked at: until that is
            so for `LOST_AFTER_S`, nothing is written and nothing decided.
        news: what has become of it, in lines to be told and taken away.
        warning: who else may write to it, in one line; None if nobody.
    """

    def __init__(self, path: Path, root: Path, lock: Lock) -> None:
        self.path, self._root = path, root
        self._lock: Lock | None = lock
        self._thread = threading.get_ident()
        self._places = [path]
        """Where it was, by which others may still name what is in it."""
        self._take_back: tuple[Path, ...] = ()
        """What goes with a new run that never begins, in this order."""
        self._missed_since_s: float | None = None
        self.lost = False
        self.news: list[str] = []
        self.warning = shared_with(path)

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / CHECKPOINTS

    @property
    def logs(self) -> Path:
        """The folder of the processes' logs."""
        return self.path / "logs"

    @property
    def monitor(self) -> Path:
        """The folder of finished episodes."""
        return self.path / "monitor"

    @property
    def metrics(self) -> Path:
        """The rows of metrics."""
        return self.path / METRICS

    @property
    def events(self) -> Path:
        """The events."""
        return self.path / EVENTS

    @property
    def doubtful(self) -> bool:
        """See above."""
        return self._missed_since_s is not None

    @classmethod
    def create(
        cls,
        root: Path | None,
        run_dir: str,
        env_id: str,
        name: str,
        seed: int,
        started: datetime,
    ) -> RunFolder:
        """Make and lock the folder of a new run.

        Args:
            root: folder of runs (default: `runs`), used where `run_dir` is empty.
            run_dir: the folder that the user asked for, or empty for
                `<root>/<env>__<name>__s<seed>__<time>`.
            env_id: environment, of which the last part names the folder.
            name: label of the run.
            seed: seed of the run.
            started: now.

        Raises:
            UserError: the folder is in use or holds something, or the disk refuses.
        """
        root = root or Path("runs")
        with _told("make the run folder"):
            if run_dir:
                path = in_home(run_dir)
                made = _missing(path)
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            else:
                label = f"{_part(env_id)}__{_part(name)}__s{seed}__{started:%Y%m%d-%H%M%S}"
                made = _missing(root)
                path = _make_new(root, label)
                made = (path, *made)
            # A folder of other things stays as it is; one with a lock may be another start's.
            entries = set(os.listdir(path))
            if LOCK not in entries:
                _require_empty(path, entries)
            try:
                return cls._taken(path, root, started, made)
            except BaseException:
                _remove_empty(made)
                raise

    @classmethod
    def open(cls, path: Path, root: Path | None = None) -> RunFolder:
        """Lock an existing run's folder, or that of a link to it, to go on with the run.

        Raises:
            UserError: it is no run folder, or in use.
        """
        if not os.path.isfile(path / CONFIG):
            raise UserError(f"{path}: not a run folder (it has no {CONFIG})")
        with _told(f"open the run folder {path}"):
            path = Path(os.path.realpath(path))
            return cls._taken(path, root or Path("runs"), datetime.now())

    @classmethod
    def _taken(
        cls, path: Path, root: Path, started: datetime, made: tuple[Path, ...] | None = None
    ) -> RunFolder:
        """Lock a folder; in a new run's, with `made` for it, nothing may be but a lock."""
        refuse_links(path)
        folder = cls(path, root, take_lock(path, started))
        try:
            if made is not None:
                _require_empty(path, set(os.listdir(path)))
                folder._take_back = (
                    folder.logs, folder.monitor, folder.metrics, folder.events, path / GRAPH,
                    path / LOCK, *made,
                )  # fmt: skip
            remove_stale(path)
            folder.logs.mkdir(mode=0o700, exist_ok=True)
            folder.monitor.mkdir(mode=0o700, exist_ok=True)
            sync_folder(path.parent)
        except BaseException:
            folder.close()
            raise
        return folder

    def close(self) -> None:
        """Let others use the folder; of a new run that never began, nothing is left."""
        if self._lock is None:
            return
        if self._take_back and self._is_settled_ours():
            with contextlib.suppress(OSError):
                for path in map(self._moved, self._take_back):
                    path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        self._lock.close()
        self._lock = None

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
        return self._moved(path) if self.is_ours() else None

    def settled_where(self, path: Path) -> Path | None:
        """Return the same, once there is no doubt; None if the folder is lost."""
        return self._moved(path) if self._is_settled_ours() else None

    def _is_settled_ours(self) -> bool:
        while not self.is_ours() and not self.lost:
            time.sleep(POLL_S)
        return not self.lost

    def _moved(self, path: Path) -> Path:
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
        if now_s - self._missed_since_s < LOST_AFTER_S:
            return
        # On some disks a folder that was emptied stays, as the lock in it is still open.
        if on_it and (self._take_back or os.path.lexists(self.path / CONFIG)):
            self._renew(lock)
        else:
            self.lost = True

    def _renew(self, lock: Lock) -> None:
        """Make the lock again; what the disk refuses now is tried again the next time."""
        with contextlib.suppress(OSError, NoLocksError):
            self._lock = lock.renewed(self.path)
            self._missed_since_s = None
            self.news.append(f"{self.path / LOCK} was removed by somebody: made again")

    def log_path(self, title: str) -> Path:
        """Return the log file of a process, such as `logs/learner-0.log` for `learner 0`."""
        return self.logs / f"{_part(title)}.log"

    def monitor_path(self, index: int) -> Path:
        """Return the file of the episodes of one simulator."""
        return self.monitor / f"{index}.monitor.csv"

    def write_config(self, values: dict[str, Any]) -> None:
        """Store the run's settings; with that it has begun, and is the latest.

        Raises:
            UserError: the disk refuses.
        """
        if not self._is_settled_ours():
            raise UserError(f"{self.path}: removed, or taken by another start")
        with _told(f"write {self.path / CONFIG}"):
            replace_json(self.path / CONFIG, values)
        self._take_back = ()
        if os.path.realpath(self.path.parent) == os.path.realpath(self._root):
            # A convenience: a folder of that name, or a full disk, must not stop the run.
            with contextlib.suppress(OSError):
                replace_link(self._root / LATEST, self.path.name)
                remove_stale(self._root)

    def read_config(self) -> dict[str, Any]:
        """Return the run's settings.

        Raises:
            UserError: they are missing or damaged.
        """
        return read_json(self.path / CONFIG)

    def keep_graph(self, source: Path) -> None:
        """Keep a copy of the file that holds the run's gossip graph.

        Raises:
            UserError: the disk refuses.
        """
        with _told(f"copy {source} to {self.path / GRAPH}"):
            replace_file(self.path / GRAPH, read_limited(source, GRAPH_LIMIT_BYTES))

    def write_summary(self, values: dict[str, Any]) -> None:
        """Store the run's outcome, whole or not at all; in a folder that is lost, nothing.

        Raises:
            GalampError: the disk refuses.
        """
        if not self._is_settled_ours():
            return
        path = self.path / SUMMARY
        try:
            replace_json(path, values)
        except OSError as error:
            raise GalampError(f"{path} not written: {error.strerror}") from error

    def read_summary(self) -> dict[str, Any]:
        """Return the run's outcome.

        Raises:
            UserError: it is missing or damaged.
        """
        return read_json(self.path / SUMMARY)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        UserError: the file is missing, damaged, or no object.
    """
    with _told(f"read {path}"):
        content = read_limited(path, JSON_LIMIT_BYTES)
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        raise UserError(f"{path}: damaged: expected JSON") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: damaged: expected a JSON object")
    return values


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn an error of the disk into one line for the user."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise UserError(f"cannot {what}: {error.strerror}{where}") from None


def _part(text: str) -> str:
    """Return the last part of an environment id or a label, fit for a file name."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text.rsplit("/", 1)[-1]).strip(".-") or "run"


def _make_new(root: Path, label: str) -> Path:
    """Make a folder that no other run has, even one started in the same second."""
    root.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        path = root / (label if number == 1 else f"{label}-{number}")
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            number += 1
        else:
            return path


def _require_empty(path: Path, entries: set[str]) -> None:
    if entries - {LOCK}:
        go_on = f"go on with the run in it by --resume {path}, or " if CONFIG in entries else ""
        raise UserError(f"--run-dir {path}: not empty; {go_on}choose another --run-dir")


def _missing(path: Path) -> tuple[Path, ...]:
    """Return `path` and the folders above it that do not exist, the innermost first."""
    return tuple(each for each in (path, *path.parents) if not os.path.lexists(each))


def _remove_empty(folders: tuple[Path, ...]) -> None:
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()
