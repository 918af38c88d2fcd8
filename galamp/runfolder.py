"""The run folder: who may write into it, where things lie, and the files that grow during a run.

Runs in the supervisor, the one writer; plots and evaluation only read.

    RUN/config.json  metrics.jsonl  summary.json  monitor/<i>.monitor.csv  checkpoints/  logs/
    RUN/lock         held by flock while the run lives, so that it cannot go stale
    runs/latest      link to the run that was started last

Of the process environment nothing is ever written: it holds secrets.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from galamp.checkpoint import replace_link, sync_folder, write_new
from galamp.errors import GalampError, UserError

CONFIG = "config.json"
SUMMARY = "summary.json"
LOCK = "lock"
METRICS = "metrics.jsonl"
RETURN = "charts/episodic_return"
TAIL_BYTES = 1_000_000
"""A line that a dead process left unfinished is looked for in so much of a file's end."""

Complain = Callable[[str], None]
"""Takes one line about a disk error; called once per file."""


class RunFolder:
    """One run's folder, locked for as long as this object is open."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock
        self.checkpoints = path / "checkpoints"
        self.logs = path / "logs"
        self.metrics = path / METRICS

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
                path = Path(run_dir).expanduser()
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            else:
                label = f"{_part(env_id)}__{_part(name)}__s{seed}__{started:%Y%m%d-%H%M%S}"
                path = _make_new(root, label)
            # Where nobody holds a lock, a folder of other things stays as it is.
            if not (path / LOCK).exists():
                _require_empty(path)
            lock = _take_lock(path, started)
            try:
                _require_empty(path)
                return cls._ready(path, lock, root)
            except BaseException:
                os.close(lock)
                raise

    @classmethod
    def open(cls, path: Path, root: Path | None = None) -> RunFolder:
        """Lock an existing run's folder, or that of a link to it, to go on with the run.

        Raises:
            UserError: it is no run folder, or in use.
        """
        if not (path / CONFIG).is_file():
            raise UserError(f"{path}: not a run folder (it has no {CONFIG})")
        with _told(f"open the run folder {path}"):
            path = Path(os.path.realpath(path))
            lock = _take_lock(path, datetime.now())
            try:
                return cls._ready(path, lock, root or Path("runs"))
            except BaseException:
                os.close(lock)
                raise

    @classmethod
    def _ready(cls, path: Path, lock: int, root: Path) -> RunFolder:
        folder = cls(path, lock)
        folder.logs.mkdir(mode=0o700, exist_ok=True)
        sync_folder(path.parent)
        if os.path.realpath(path.parent) == os.path.realpath(root):
            # A convenience: a folder of that name, or a full disk, must not stop the run.
            with contextlib.suppress(OSError):
                replace_link(root / "latest", path.name)
        return folder

    def close(self) -> None:
        """Let others use the folder."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def log_path(self, title: str) -> Path:
        """Return the log file of a process, such as `logs/learner-0.log` for `learner 0`."""
        return self.logs / f"{_part(title)}.log"

    def monitor_path(self, index: int) -> Path:
        """Return the file of the episodes of one simulator."""
        return self.path / "monitor" / f"{index}.monitor.csv"

    def write_config(self, values: dict[str, Any]) -> None:
        """Store the run's settings.

        Raises:
            UserError: the disk refuses.
        """
        with _told(f"write {self.path / CONFIG}"):
            _replace_json(self.path / CONFIG, values)

    def read_config(self) -> dict[str, Any]:
        """Return the run's settings.

        Raises:
            UserError: they are missing or damaged.
        """
        return read_json(self.path / CONFIG)

    def write_summary(self, values: dict[str, Any]) -> None:
        """Store the run's outcome, whole or not at all.

        Raises:
            GalampError: the disk refuses.
        """
        path = self.path / SUMMARY
        try:
            _replace_json(path, values)
        except OSError as error:
            raise GalampError(f"{path} not written: {error.strerror}") from error

    def read_summary(self) -> dict[str, Any]:
        """Return the run's outcome.

        Raises:
            UserError: it is missing or damaged.
        """
        return read_json(self.path / SUMMARY)


class AppendOnly:
    """A file of lines to which whole pieces are added, each by one write; errors never leave it."""

    def __init__(self, path: Path, complain: Complain) -> None:
        self.path = path
        self.failed = 0
        """Pieces that the disk refused."""
        self._complain = complain

    def append(self, piece: bytes) -> bool:
        """Add `piece`, which ends with a newline; return whether it is all there."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            file = os.open(self.path, flags, 0o600)
            try:
                self._add(file, piece)
            finally:
                os.close(file)
        except OSError as error:
            self.failed += 1
            if self.failed == 1:
                self._complain(f"{self.path}: {error.strerror}; what was to be added is lost")
            return False
        return True

    @staticmethod
    def _add(file: int, piece: bytes) -> None:
        size = _trim(file)
        written = os.write(file, piece)
        if written != len(piece):
            os.ftruncate(file, size)
            raise OSError(0, f"only {written} of {len(piece)} bytes could be written")


class MetricsLog:
    """metrics.jsonl: one row per `append`, each carrying which start of the run wrote it."""

    def __init__(self, path: Path, from_step: int, complain: Complain) -> None:
        """Open the log of a run that goes on from `from_step` agent steps (0: a new one).

        The first row says so; later rows of former starts are superseded by it.
        """
        self._file = AppendOnly(path, complain)
        starts = [0]
        with contextlib.suppress(OSError):
            starts += [row["start"] for row in read_metrics(path) if type(row.get("start")) is int]
        self.start = 1 + max(starts)
        """How many times the run was started, this one included."""
        self.append({"global_step": from_step, "resumed_from": from_step})

    @property
    def failed(self) -> int:
        """Rows that the disk refused."""
        return self._file.failed

    def append(self, row: dict[str, Any]) -> None:
        """Add a row; what is not finite becomes null."""
        text = json.dumps(_finite(row | {"start": self.start}), allow_nan=False)
        self._file.append(text.encode() + b"\n")


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of metrics.jsonl as written; lines that are no whole row are passed over."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        for line in file:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict) and line.endswith(b"\n"):
                yield row


def current_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows that count, in order of `global_step`.

    A start that goes on from an older checkpoint supersedes what former ones wrote beyond it.
    """
    rows: list[dict[str, Any]] = []
    for row in read_metrics(path):
        if type(row.get("global_step")) is not int:
            continue
        # The first row of a start may have been lost to a full disk; any other will do.
        begins = "resumed_from" in row or (rows and row.get("start") != rows[-1].get("start"))
        while begins and rows and rows[-1]["global_step"] > row["global_step"]:
            rows.pop()
        rows.append(row)
    return rows


def curve(path: Path) -> list[tuple[int, float]]:
    """Return the learning curve: (agent steps, mean true score), superseded rows left out."""
    return [
        (row["global_step"], float(row[RETURN]))
        for row in current_rows(path)
        if isinstance(row.get(RETURN), int | float)
    ]


class MonitorLog:
    """Finished episodes of one simulator, in the form of Stable-Baselines3's Monitor.

    The first line is `#{"t_start": ..., "env_id": ...}`, then follow columns r (true score), l
    (length in agent steps), t (seconds since t_start).
    """

    def __init__(self, path: Path, env_id: str, t_start: float, complain: Complain) -> None:
        """Prepare the file; one that exists is added to, and keeps its own `t_start`.

        Args:
            path: `monitor/<i>.monitor.csv`.
            env_id: environment.
            t_start: time.time() at the start of the run.
            complain: told once of a disk error.
        """
        self._file = AppendOnly(path, complain)
        self._rows: list[str] = []
        header = json.dumps({"t_start": t_start, "env_id": env_id})
        self._header = f"#{header}\nr,l,t\n"
        self._t_start = t_start
        if (former := _monitor_start(path)) is not None:
            self._t_start, self._header = former, ""
        elif path.exists():
            with contextlib.suppress(OSError):
                path.replace(path.with_name(path.name + ".damaged"))

    @property
    def failed(self) -> int:
        """Flushes that the disk refused."""
        return self._file.failed

    def append(self, score: float, length: int, ended: float) -> None:
        """Note an episode that ended at time.time() `ended`; `flush` writes it."""
        self._rows.append(f"{float(score):.10g},{length},{round(ended - self._t_start, 6)}\n")

    def flush(self) -> None:
        """Write what was noted since the last time; if the disk refuses, it is lost."""
        content = self._header + "".join(self._rows)
        self._rows.clear()
        if content and self._file.append(content.encode()):
            self._header = ""


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        UserError: the file is missing, damaged, or no object.
    """
    with _told(f"read {path}"):
        content = path.read_bytes()
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


def _require_empty(path: Path) -> None:
    if set(os.listdir(path)) - {LOCK}:
        raise UserError(
            f"--run-dir {path}: not empty; go on with the run in it by --resume {path}, "
            "or choose another --run-dir"
        )


def _take_lock(path: Path, started: datetime) -> int:
    """Return the open lock file, ours until it is closed or the process dies."""
    lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"process {os.getpid()} since {started:%Y-%m-%d %H:%M:%S}\n".encode(), 0)
    except BlockingIOError:
        owner = os.pread(lock, 200, 0).decode(errors="replace").strip()
        os.close(lock)
        by = owner if owner.isprintable() and owner else "another process"
        raise UserError(
            f"{path}: in use by {by}; stop that first, or choose another --run-dir"
        ) from None
    except BaseException:
        os.close(lock)
        raise
    return lock


def _replace_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        # The folder is ours alone: what has this name was left by a former start that was killed.
        temporary.unlink(missing_ok=True)
        write_new(temporary, json.dumps(_finite(values), allow_nan=False, indent=2).encode())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def _finite(value: Any) -> Any:
    """Return `value` with null for every number that JSON cannot say."""
    if isinstance(value, dict):
        return {key: _finite(leaf) for key, leaf in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(leaf) for leaf in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _trim(file: int) -> int:
    """Cut off a last line without its end, which a killed process left; return the size then."""
    size = os.fstat(file).st_size
    if size == 0 or os.pread(file, 1, size - 1) == b"\n":
        return size
    first = max(0, size - TAIL_BYTES)
    kept = first + os.pread(file, TAIL_BYTES, first).rfind(b"\n") + 1
    os.ftruncate(file, kept)
    return kept


def _monitor_start(path: Path) -> float | None:
    """Return `t_start` of an existing monitor file, or None where there is no sound header."""
    try:
        with open(path, "rb") as file:
            first, columns = file.readline(10_000), file.readline(10_000)
        start = json.loads(first.removeprefix(b"#"))["t_start"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    good = columns == b"r,l,t\n" and type(start) in (int, float) and math.isfinite(start)
    return float(start) if good else None
