"""sweep.json: what each run of a sweep was given, and how its last start ended.

    Sweep, DIR --Ledger.starts--> what is to be done: begin, go on, or nothing more
    DIR/sweep.json <--save-- Ledger <--ended-- runner

Written by `galamp sweep` alone, which holds DIR/lock. A run keeps the settings that it began with:
a file that gives it others is refused. Runs that are new in the file are added.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import galamp
from galamp.core.decode import Limits, Range, decode
from galamp.core.disk import read_limited, replace_json
from galamp.core.errors import UserError
from galamp.core.json_values import DecodeError, json_object
from galamp.core.sanitize import clean
from galamp.core.settings import shown
from galamp.storage.checkpoint import has_any
from galamp.storage.locks import LOCK, owner_in
from galamp.storage.run_folder import CHECKPOINTS
from galamp.tools.run_folders.record import State, is_run, read_record
from galamp.tools.sweep.planned import PlannedRun, Sweep

FILE, LOGS = "sweep.json", "logs"
FORMAT = 1
MAX_BYTES = 2**28
MAX_RUNS_SHOWN = 10
SIGNALS = 64
UNKNOWN = "unknown"
"""Commit of starts that did not tell theirs."""
LIMITS = Limits(items=100_000, more_fields=True)


class Todo(StrEnum):
    """What is to be done with a run."""

    BEGIN = "begin"
    GO_ON = "go on"
    NOTHING = "nothing"


class Start(NamedTuple):
    """A run that is to be begun, or gone on with."""

    run: PlannedRun
    resume: bool


@dataclass
class Entry:
    """One run as sweep.json has it.

    Attributes:
        arm, env_id, seed: of the run.
        hash: digest of its settings.
        settings: what it is given, by `section.name`; the rest are defaults of that galamp.
        galamp: version that began it.
        starts: how often it was started.
        exit_code: of the last start that has ended, negative of a signal; None before.
        failure: why that one failed.
        commits: of the checkouts that began it and went on with it, each once, `UNKNOWN` among
            them of starts that did not tell theirs; empty if none did.
    """

    arm: str
    env_id: str
    seed: int
    hash: str
    settings: dict[str, Any] = field(default_factory=dict)
    galamp: str = ""
    starts: int = 0
    exit_code: Annotated[int, Range(-SIGNALS, 255)] | None = None
    failure: str = ""
    commits: tuple[str, ...] = ()


@dataclass
class _Content:
    """Content of sweep.json."""

    format: int
    file: str
    runs: dict[str, Entry] = field(default_factory=dict)


class Ledger:
    """What is known of the runs in a sweep's folder."""

    def __init__(self, folder: Path, file: Path, commit: Callable[[], str] = str) -> None:
        """Read what there is; nothing is made.

        Args:
            folder: of the sweep.
            file: of the sweep.
            commit: returns that of the checkout which starts a run, for its entry.

        Raises:
            UserError: the folder is none or holds something else, or sweep.json cannot be read.
        """
        self.folder, self._commit = folder, commit
        self._content = _Content(FORMAT, str(file))
        try:
            content = json_object(read_limited(folder / FILE, MAX_BYTES))
            self._content = decode(_Content, content, LIMITS)
        except (FileNotFoundError, NotADirectoryError):
            _require_empty(folder)
        except OSError as error:
            raise UserError(
                f"{folder / FILE}: cannot be read: {error.strerror}; choose another --dir"
            ) from None
        except DecodeError as error:
            raise UserError(f"{folder / FILE}: damaged: {error}") from None
        if self._content.format != FORMAT:
            raise UserError(f"{folder / FILE}: of another galamp; use that one, or another --dir")
        self._content.file = str(file)

    @property
    def runs(self) -> dict[str, Entry]:
        """What is known of each run that was begun, by its name."""
        return self._content.runs

    def path(self, run: PlannedRun) -> Path:
        """Return the folder of a run."""
        return self.folder / run.name

    def starts(self, sweep: Sweep) -> list[Start]:
        """Return what is to be done for a sweep, in its order; nothing for runs that are finished.

        Raises:
            UserError: a line for each run that has other settings, or is running.
        """
        problems = [line for run in sweep.runs for line in self._misfits(run)]
        if problems:
            more = len(problems) - MAX_RUNS_SHOWN
            rest = [f"{self.folder}: and {more} more runs"] if more > 0 else []
            raise UserError(*problems[:MAX_RUNS_SHOWN], *rest)
        todo = [(run, todo_of(self.path(run))) for run in sweep.runs]
        return [Start(run, do is Todo.GO_ON) for run, do in todo if do is not Todo.NOTHING]

    def started(self, run: PlannedRun, *, resume: bool = False) -> None:
        """Note that a run starts, before it does: anew, or where it was."""
        known = self.runs.get(run.name)
        if known is None:
            given = run.settings
            known = Entry(run.arm, run.env_id, run.seed, run.hash, given, galamp.__version__)
            self.runs[run.name] = known
        if not resume:
            known.galamp = galamp.__version__
        former = (known.commits or (UNKNOWN,)) if resume and known.starts else ()
        known.commits = _with_commit(former, self._commit())
        known.starts += 1
        known.exit_code, known.failure = None, ""
        self.save()

    def ended(self, run: PlannedRun, exit_code: int, failure: str = "") -> None:
        """Note how a run has ended."""
        entry = self.runs[run.name]
        entry.exit_code, entry.failure = exit_code, failure
        self.save()

    def save(self) -> None:
        """Write sweep.json."""
        replace_json(self.folder / FILE, asdict(self._content))

    def _misfits(self, run: PlannedRun) -> Iterator[str]:
        """Yield why a run cannot be begun or gone on with, a line each."""
        path, known = self.path(run), self.runs.get(run.name)
        if known is None:
            if _has_entries(path):
                yield f"{path}: is there, but not of this sweep; choose another --dir or name"
            return
        if known.hash != run.hash:
            yield (
                f"{path}: was begun with other settings ({_changes(known.settings, run.settings)}"
                "); change the file back, or choose another --dir"
            )
        elif is_run(path) and (owner := owner_in(path)) is not None:
            if owner.lives:
                yield f"{path}: is running; wait for it, or stop it"
            elif not owner.here:
                yield (
                    f"{path}: runs, or was killed, as {clean(owner.words)}; wait for it, or stop "
                    f"it there; if that process has ended, remove {path / LOCK}"
                )


def _with_commit(former: Sequence[str], commit: str) -> tuple[str, ...]:
    """Return the commits of a run, each once; nothing if no start has told its own.

    Args:
        former: of the starts that it goes on from.
        commit: of the one that begins now; empty if it does not tell.
    """
    every = tuple(dict.fromkeys([*former, commit or UNKNOWN]))
    return () if every == (UNKNOWN,) else every


def todo_of(path: Path) -> Todo:
    """Return what is to be done with the run in a folder, which may not be there.

    One that has stopped at its `max_time` has had its time.
    """
    if not is_run(path):
        return Todo.BEGIN
    record = read_record(path)
    stopped = record.state is State.STOPPED and record.summary.get("ended_by") == "max-time"
    if record.state is State.FINISHED or stopped:
        return Todo.NOTHING
    return Todo.GO_ON if has_any(path / CHECKPOINTS) else Todo.BEGIN


def set_aside(path: Path) -> Path | None:
    """Move what an earlier start has left, and return where to; None if there is nothing.

    It is not gone on with, as without a checkpoint, but it is not removed.
    """
    if not _has_entries(path):
        return None
    number = 1
    while os.path.lexists(place := path.with_name(f"{path.name}.unsaved-{number}")):
        number += 1
    path.rename(place)
    return place


def _has_entries(folder: Path) -> bool:
    try:
        return bool(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return os.path.lexists(folder) and not folder.is_dir()


def _require_empty(folder: Path) -> None:
    """Check that a folder without sweep.json is none, or empty but for a lock.

    Raises:
        UserError: it is not, or it is no folder.
    """
    try:
        others = set(os.listdir(folder)) - {LOCK, LOGS}
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}; choose another --dir") from None
    if others:
        raise UserError(
            f"{folder}: not empty, and not of a sweep (it has no {FILE}); choose another --dir"
        )


def _changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Return what differs between the settings of a run then and now."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return _joined(
        f"{name}: was {_shown(before, name)}, is {_shown(now, name)}" for name in sorted(names)
    )


def _shown(values: dict[str, Any], name: str) -> str:
    return shown(values[name]) if name in values else "not given"


def _joined(texts: Iterator[str], most: int = 3) -> str:
    every: Sequence[str] = list(texts)
    more = len(every) - most
    return ", ".join(every[:most]) + (f" and {more} more" if more > 0 else "")
