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
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from galamp.core.disk import (
    in_home,
    read_limited,
    remove_stale,
    replace_json,
    replacing,
    sync_folder,
)
from galamp.core.errors import GalampError, UserError
from galamp.storage.held_folder import HeldFolder
from galamp.storage.inspection import GRAPH, refuse_links, shared_with
from galamp.storage.links import LATEST, replace_link
from galamp.storage.locks import LOCK, Lock, take_lock
from galamp.storage.mounts import local_locks
from galamp.storage.run_logs import MONITOR, monitor_name

CONFIG = "config.json"
SUMMARY = "summary.json"
METRICS = "metrics.jsonl"
EVENTS = "events.jsonl"
CHECKPOINTS = "checkpoints"
JSON_LIMIT_BYTES = 4_000_000
"""No config and no summary is larger, were there a thousand learners."""
GRAPH_LIMIT_BYTES = 64 * 2**20
"""No graph that can be read is larger."""


class StoredChoices(NamedTuple):
    """What a run goes on with as it was stored, since whoever resumes it names nothing else.

    Attributes:
        graph_of: folder of the run whose copy of the gossip graph is taken; None: what is named,
            even where the name is the same.
        devices: whether its GPUs are those that it had: one that cannot be used is left out then.
    """

    graph_of: Path | None = None
    devices: bool = False


class RunFolder(HeldFolder):
    """One run's folder, locked for as long as this object is open.

    Attributes:
        warning: who else may write to it, in one line; None if nobody.
        kept: what a run that is resumed here goes on with.
    """

    def __init__(self, path: Path, root: Path, lock: Lock) -> None:
        super().__init__(path, lock)
        self._root = root
        self._take_back: tuple[Path, ...] = ()
        """What goes with a new run that never begins, in this order."""
        self.warning = shared_with(path)
        self.kept = StoredChoices(path, devices=True)

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
        return self.path / MONITOR

    @property
    def metrics(self) -> Path:
        """The rows of metrics."""
        return self.path / METRICS

    @property
    def events(self) -> Path:
        """The events."""
        return self.path / EVENTS

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
            folder.remove_dead()
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
        if self._take_back and self.is_settled_ours():
            with contextlib.suppress(OSError):
                for path in map(self.moved, self._take_back):
                    path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        self._lock.close()
        self._lock = None

    def _is_emptied(self) -> bool:
        """Whether somebody has removed all that is in it, too: a run that began has a config."""
        return not self._take_back and not os.path.lexists(self.path / CONFIG)

    def log_path(self, title: str) -> Path:
        """Return the log file of a process, such as `logs/learner-0.log` for `learner 0`."""
        return self.logs / f"{_part(title)}.log"

    def monitor_path(self, index: int) -> Path:
        """Return the file of the episodes of one learner."""
        return self.monitor / monitor_name(index)

    def write_config(self, values: dict[str, Any], graph: bytes | None = None) -> bool:
        """Store the run's settings and gossip graph; with that it has begun, and is the latest.

        Returns whether there was another graph before. If one is refused, neither is replaced.

        Args:
            values: the settings.
            graph: what the copy of the graph's file holds; None: it stays as it is.

        Raises:
            UserError: the disk refuses.
        """
        if not self.is_settled_ours():
            raise UserError(f"{self.path}: removed, or taken by another start")
        copy, resume_point = self.path / GRAPH, None
        with _told(f"write {copy}"), contextlib.ExitStack() as stack:
            if graph is not None:
                with contextlib.suppress(FileNotFoundError):
                    resume_point = read_limited(copy, GRAPH_LIMIT_BYTES)
                if graph != resume_point:
                    stack.enter_context(replacing(copy, graph))
            with _told(f"write {self.path / CONFIG}"):
                replace_json(self.path / CONFIG, values)
        self._begin()
        return resume_point is not None and graph != resume_point

    def _begin(self) -> None:
        """Note that the run has begun: its folder stays, and is the latest."""
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

    def remove_dead(self) -> None:
        """Remove what ended starts left half written, or half removed, among the checkpoints.

        Whoever else wrote there has ended, as the lock is ours: unless it is not seen from
        everywhere.
        """
        with contextlib.suppress(OSError):
            remove_stale(self.checkpoints, alone=not local_locks(self.path))

    def write_summary(self, values: dict[str, Any]) -> None:
        """Store the run's outcome, whole or not at all; in a folder that is lost, nothing.

        Raises:
            GalampError: the disk refuses.
        """
        if not self.is_settled_ours():
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
    if any(name != LOCK and not _is_of_the_system(name) for name in entries):
        go_on = f"go on with the run in it by --resume {path}, or " if CONFIG in entries else ""
        raise UserError(f"--run-dir {path}: not empty; {go_on}choose another --run-dir")


def _is_of_the_system(name: str) -> bool:
    """Whether macOS, Windows or a file system puts this into every folder by itself."""
    return name.startswith("._") or name in (
        ".DS_Store", "lost+found", "desktop.ini", "Thumbs.db",
    )  # fmt: skip


def _missing(path: Path) -> tuple[Path, ...]:
    """Return `path` and the folders above it that do not exist, the innermost first."""
    return tuple(each for each in (path, *path.parents) if not os.path.lexists(each))


def _remove_empty(folders: tuple[Path, ...]) -> None:
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()
