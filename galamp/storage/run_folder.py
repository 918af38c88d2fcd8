"""Run folder: its files, and the lock that gives one process the right to write.

Runs in the supervisor, the one writer; plots and evaluation only read.

    RUN/config.json  metrics.jsonl  events.jsonl  eval.jsonl  summary.json
    RUN/monitor/<i>.monitor.csv  checkpoints/  logs/
    RUN/lock         held by flock while the run is alive, so that it cannot become stale
    RUN/control      a socket while the run is alive; the lock's owner replaces a stale one
    runs/latest      link to the run that started last

A run starts when its config is written. A start that is refused before that leaves nothing behind.
A folder that is renamed while the run is alive is followed, and a removed lock file is created
again. A removed folder, or one locked by another start, is lost: nothing is written any more. The
process environment is never written: it contains secrets.
"""

from __future__ import annotations

import contextlib
import os
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
from galamp.core.json_values import DecodeError, json_object
from galamp.storage.held_folder import HeldFolder
from galamp.storage.inspection import GRAPH, refuse_links, shared_with
from galamp.storage.links import LATEST, replace_link
from galamp.storage.locks import LOCK, Lock, take_lock
from galamp.storage.monitor_log import MONITOR, monitor_name
from galamp.storage.mounts import local_locks
from galamp.storage.new_folder import make_new, missing, name_part, remove_empty

CONFIG = "config.json"
SUMMARY = "summary.json"
METRICS = "metrics.jsonl"
EVENTS = "events.jsonl"
CHECKPOINTS = "checkpoints"
JSON_LIMIT_BYTES = 4_000_000
"""No config and no summary is larger, even with a thousand learners."""
GRAPH_LIMIT_BYTES = 64 * 2**20
"""No graph that can be read is larger."""


class StoredChoices(NamedTuple):
    """Stored choices that a resumed run keeps, as its command line does not change them.

    Attributes:
        graph_of: folder of the run whose copy of the gossip graph is used; None: the named graph,
            even where the name is the same.
        devices: whether its devices are the stored ones: unusable GPUs are left out then.
    """

    graph_of: Path | None = None
    devices: bool = False


class RunFolder(HeldFolder):
    """One run's folder, locked while this object is open.

    Attributes:
        warning: other users who may write to it, in one line; None if there are none.
        kept: stored choices of the run that is resumed here.
    """

    def __init__(self, path: Path, root: Path, lock: Lock) -> None:
        super().__init__(path, lock)
        self._root = root
        self._take_back: tuple[Path, ...] = ()
        """Paths that are removed, in this order, if a new run never starts."""
        self.warning = shared_with(path)
        self.kept = StoredChoices(path, devices=True)

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / CHECKPOINTS

    @property
    def logs(self) -> Path:
        """Folder of the processes' logs."""
        return self.path / "logs"

    @property
    def monitor(self) -> Path:
        """The folder of finished episodes."""
        return self.path / MONITOR

    @property
    def metrics(self) -> Path:
        """File of the metrics."""
        return self.path / METRICS

    @property
    def events(self) -> Path:
        """File of the events."""
        return self.path / EVENTS

    @classmethod
    def create(
        cls, root: Path | None, run_dir: str, env_id: str, name: str, seed: int, started: datetime
    ) -> RunFolder:
        """Create and lock the folder of a new run.

        Args:
            root: folder of runs (default: `runs`), used where `run_dir` is empty.
            run_dir: the folder that the user requested, or empty for
                `<root>/<env>__<name>__s<seed>__<time>`.
            env_id: environment; its last part is used in the folder's name.
            name: label of the run.
            seed: seed of the run.
            started: now.

        Raises:
            UserError: the folder is in use or not empty, or the disk refuses.
        """
        root = root or Path("runs")
        with _disk_errors("make the run folder"):
            if run_dir:
                path = in_home(run_dir)
                made = missing(path)
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            else:
                label = f"{name_part(env_id)}__{name_part(name)}__s{seed}__{started:%Y%m%d-%H%M%S}"
                made = missing(root)
                path = make_new(root, label)
                made = (path, *made)
            # A folder with other content stays as it is; one with a lock may be another start's.
            entries = set(os.listdir(path))
            if LOCK not in entries:
                _require_empty(path, entries)
            try:
                return cls._taken(path, root, started, made)
            except BaseException:
                remove_empty(made)
                raise

    @classmethod
    def open(cls, path: Path, root: Path | None = None) -> RunFolder:
        """Lock an existing run's folder, or the target of a link, to resume the run.

        Raises:
            UserError: it is no run folder, or in use.
        """
        if not os.path.isfile(path / CONFIG):
            raise UserError(f"{path}: not a run folder (it has no {CONFIG})")
        with _disk_errors(f"open the run folder {path}"):
            path = Path(os.path.realpath(path))
            return cls._taken(path, root or Path("runs"), datetime.now())

    @classmethod
    def _taken(
        cls, path: Path, root: Path, started: datetime, made: tuple[Path, ...] | None = None
    ) -> RunFolder:
        """Lock a folder; a new run's, with `made` created for it, may contain only a lock."""
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
        """Unlock the folder; a new run that never started leaves nothing."""
        if self._lock is None:
            return
        if self._take_back and self.is_settled_ours():
            with contextlib.suppress(OSError):
                for path in map(self.moved, self._take_back):
                    path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        self._lock.close()
        self._lock = None

    def _is_emptied(self) -> bool:
        """Return whether all content was removed, too: a run that has started has a config."""
        return not self._take_back and not os.path.lexists(self.path / CONFIG)

    def log_path(self, title: str) -> Path:
        """Return the log file of a process, such as `logs/learner-0.log` for `learner 0`."""
        return self.logs / f"{name_part(title)}.log"

    def monitor_path(self, index: int) -> Path:
        """Return the file of the episodes of one learner."""
        return self.monitor / monitor_name(index)

    def write_config(self, values: dict[str, Any], graph: bytes | None = None) -> bool:
        """Store the run's settings and gossip graph: the run has started, and is the latest.

        Returns whether there was another graph before. If one of the two is refused, neither is
        replaced.

        Args:
            values: the settings.
            graph: content of the graph file's copy; None: unchanged.

        Raises:
            UserError: the disk refuses.
        """
        if not self.is_settled_ours():
            raise UserError(f"{self.path}: removed, or taken by another start")
        copy, resume_point = self.path / GRAPH, None
        with _disk_errors(f"write {copy}"), contextlib.ExitStack() as stack:
            if graph is not None:
                with contextlib.suppress(FileNotFoundError):
                    resume_point = read_limited(copy, GRAPH_LIMIT_BYTES)
                if graph != resume_point:
                    stack.enter_context(replacing(copy, graph))
            with _disk_errors(f"write {self.path / CONFIG}"):
                replace_json(self.path / CONFIG, values)
        self._mark_started()
        return resume_point is not None and graph != resume_point

    def _mark_started(self) -> None:
        """Mark the run as started: its folder stays, and is the latest."""
        self._take_back = ()
        if os.path.realpath(self.path.parent) == os.path.realpath(self._root):
            # Optional: a folder of that name, or a full disk, must not stop the run.
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
        """Remove checkpoints that ended starts left half written or half removed.

        The other writers have ended, since this run has the lock; unless locks are not seen on all
        machines.
        """
        with contextlib.suppress(OSError):
            remove_stale(self.checkpoints, alone=not local_locks(self.path))

    def write_summary(self, values: dict[str, Any]) -> None:
        """Store the run's summary, completely or not at all; a lost folder gets none.

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
        """Return the run's summary.

        Raises:
            UserError: it is missing or damaged.
        """
        return read_json(self.path / SUMMARY)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        UserError: the file is missing, damaged, or no object.
    """
    with _disk_errors(f"read {path}"):
        content = read_limited(path, JSON_LIMIT_BYTES)
    try:
        return json_object(content)
    except DecodeError as error:
        raise UserError(f"{path}: damaged: {error}") from None


@contextlib.contextmanager
def _disk_errors(what: str) -> Iterator[None]:
    """Convert an OSError into one line for the user."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise UserError(f"cannot {what}: {error.strerror}{where}") from None


def _require_empty(path: Path, entries: set[str]) -> None:
    if any(name != LOCK and not _is_of_the_system(name) for name in entries):
        resume = f"resume the run in it by --resume {path}, or " if CONFIG in entries else ""
        raise UserError(f"--run-dir {path}: not empty; {resume}choose another --run-dir")


def _is_of_the_system(name: str) -> bool:
    """Return whether macOS, Windows or a file system creates this file in every folder."""
    return name.startswith("._") or name in (
        ".DS_Store", "lost+found", "desktop.ini", "Thumbs.db",
    )  # fmt: skip
