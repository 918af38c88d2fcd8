"""Pruning: what of a run folder can go, and its removal.

    RUN --plan_of--> Plan: entries to remove, entries that stay --shown to the user--> remove

Removed are older checkpoints, or with the whole run all that a run writes into its folder. What
else lies there, of other commands or the user's own, stays. A run that may be alive is refused:
first by the owner that its lock names, and for the removal by taking that lock. Nothing is followed
through links.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from galamp.core.disk import TEMPORARY, sync_folder, temporary_name
from galamp.core.errors import CheckpointError, GalampError, UserError
from galamp.core.sanitize import clean
from galamp.storage import checkpoint as checkpoints
from galamp.storage.inspection import WRITTEN, refuse_links
from galamp.storage.links import BEST, LATEST, follow
from galamp.storage.locks import LOCK, owner_in, take_lock
from galamp.storage.run_folder import CHECKPOINTS, CONFIG
from galamp.tools.run_folders.record import config_of, is_run
from galamp.tools.run_folders.sizes import size_of

TENSORBOARD = "tensorboard"
"""The folder of event files, and the sink that writes them."""
OWN_FILES = re.compile(
    r"config\.json|metrics\.jsonl|events\.jsonl|eval\.jsonl|gossip\.jsonl|topology\.txt|summary\.json"
    rf"|chaos\.json|control|{TEMPORARY.pattern}"
)
"""Names of the files that a run writes into its folder, besides its lock."""
OWN_FOLDERS = {
    **WRITTEN,
    CHECKPOINTS: re.compile(rf"ckpt-\d+(-\d+)?|{LATEST}|{BEST}|{TEMPORARY.pattern}"),
    "monitor": re.compile(r"\d+\.monitor\.csv(\.damaged(-\d+)?)?"),
    TENSORBOARD: re.compile(r"events\.out\.tfevents\..*"),
}
"""Folders of a run, and the names in them that it writes."""


@dataclass(frozen=True)
class Plan:
    """What would be removed of one run.

    Attributes:
        run: its folder.
        whole: whether the run is removed; otherwise older checkpoints are.
        goes: paths to remove, in this order.
        stays: number of entries in the folder that are not the run's, where it goes whole.
        note: why a checkpoint stays that would go otherwise; empty if there is none.
    """

    run: Path
    whole: bool
    goes: tuple[Path, ...]
    stays: int = 0
    note: str = ""

    @property
    def bytes(self) -> int:
        """Bytes that the removal frees."""
        return sum(map(size_of, self.goes))


def plan_of(run: Path, keep: int, *, whole: bool) -> Plan:
    """Return what can go of a run; nothing is changed.

    Args:
        run: its folder.
        keep: number of its newest checkpoints that stay.
        whole: whether all of it is to go.

    Raises:
        UserError: it is no run folder, it may be alive, or parts of it are links.
    """
    if not is_run(run):
        raise UserError(f"{run}: not a run folder (it has no {CONFIG}); nothing is removed")
    owner = owner_in(run)
    if owner is not None and (owner.lives or not owner.here):
        who = clean(owner.words)
        if owner.lives:
            raise UserError(f"{run}: runs as {who}; nothing is removed, stop it first")
        raise UserError(
            f"{run}: runs, or was killed, as {who}; nothing is removed; if that process has ended, "
            f"remove {run / LOCK}"
        )
    refuse_links(run)
    if not whole:
        return _old_checkpoints(run, keep)
    own = tuple(_own(run))
    return Plan(run, True, own, stays=_others(run, set(own)))


def remove(plan: Plan, keep: int) -> int:
    """Remove what `plan` says, under the run's lock; returns the number of bytes freed.

    Raises:
        UserError: a start has taken the run meanwhile, or it has changed.
        GalampError: the disk refuses; what is left can be pruned again.
    """
    try:
        lock = take_lock(plan.run, datetime.now())
        try:
            now = _again(plan, keep)
            freed = now.bytes
            for path in now.goes:
                _remove(path)
            if plan.whole:
                _remove_folders(plan.run)
                (plan.run / LOCK).unlink()
        finally:
            lock.close()
    except OSError as error:
        raise GalampError(f"{error.filename or plan.run}: not removed: {error.strerror}") from None
    if plan.whole:
        _remove_run(plan.run)
    return freed


def _again(plan: Plan, keep: int) -> Plan:
    """Return the plan anew, as the run is now that nobody else can change it.

    Raises:
        UserError: more would go than was shown.
    """
    refuse_links(plan.run)
    if plan.whole:
        now = Plan(plan.run, True, tuple(_own(plan.run)))
    else:
        now = _old_checkpoints(plan.run, keep)
    if not set(now.goes) <= set(plan.goes):
        raise UserError(f"{plan.run}: has changed meanwhile; nothing is removed, look again")
    return now


def _old_checkpoints(run: Path, keep: int) -> Plan:
    """Return the checkpoints beyond the newest, the best, and the newest whole one."""
    folder = run / CHECKPOINTS
    try:
        found = checkpoints.find(run)
        goes = checkpoints.prunable(folder, keep, protect=(found.path,))
    except CheckpointError as error:  # none is whole: whichever can be repaired is the user's
        return Plan(run, False, (), note=str(error))
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}") from None
    note = f"damaged: {found.skipped[0]}" if found.skipped else ""
    return Plan(run, False, tuple(goes), note=note)


def _own(run: Path) -> Iterator[Path]:
    """Yield what the run has written, the config last: without it nothing is a run folder."""
    entries = sorted(os.listdir(run))
    for name, pattern in OWN_FOLDERS.items():
        if name == TENSORBOARD and not _has_sink(run, name):
            continue  # of `galamp export-logs`, whose files have the same names
        if name in entries and (run / name).is_dir() and not (run / name).is_symlink():
            inside = sorted(os.listdir(run / name))
            yield from (run / name / each for each in inside if pattern.fullmatch(each))
    yield from (run / each for each in entries if OWN_FILES.fullmatch(each) and each != CONFIG)
    yield run / CONFIG


def _has_sink(run: Path, name: str) -> bool:
    """Return whether the run gave its metrics to the sink of this name; false if unknown."""
    report = config_of(run).get("report")
    sinks = report.get("sinks") if isinstance(report, dict) else None
    return isinstance(sinks, str) and name in sinks.split(",")


def _others(run: Path, own: set[Path]) -> int:
    """Return the number of files and folders that are not the run's."""
    found = {run / name for name in os.listdir(run)} - {run / LOCK}
    for name in OWN_FOLDERS:
        if (run / name) in found and (run / name).is_dir():
            found.remove(run / name)
            found |= {run / name / each for each in os.listdir(run / name)}
    return len(found - own)


def _remove(path: Path) -> None:
    """Remove a file, a link, or a folder; one half removed must not look like a checkpoint."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    with temporary_name(path.parent) as grave:
        path.rename(grave)
        sync_folder(path.parent)
        shutil.rmtree(grave)


def _remove_folders(run: Path) -> None:
    """Remove the run's folders that are empty now."""
    for name in OWN_FOLDERS:
        with contextlib.suppress(OSError):
            (run / name).rmdir()


def _remove_run(run: Path) -> None:
    """Remove the run folder if it is empty, and the link `latest` that led to it."""
    latest = run.parent / LATEST
    leads_here = Path(os.path.realpath(follow(latest))) == Path(os.path.realpath(run))
    with contextlib.suppress(OSError):
        run.rmdir()
        if leads_here:
            latest.unlink()
