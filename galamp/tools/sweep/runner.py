"""The loop over the runs of a sweep: as many at once as have room, each a process of its own.

    Starts --Packing--> Program: `galamp run` in a session, on its cores --exit code--> Ledger

Runs in the process of `galamp sweep`. The first signal has all runs save and end, the second ends
them at once; should this process die, the kernel has them save and end. A run that fails does not
end the others.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from galamp.core.errors import EXIT_FAILURE, EXIT_OK, EXIT_SIGINT, EXIT_SIGTERM, GalampError
from galamp.core.sanitize import one_line
from galamp.storage.run_folder import METRICS
from galamp.supervision.signals import Signals
from galamp.tools.bench.processes import STOP_GRACE_S, Program
from galamp.tools.sweep.ledger import LOGS, Ledger, Start, set_aside
from galamp.tools.sweep.packing import Packing, Place
from galamp.tools.sweep.planned import PlannedRun, command

POLL_S = 0.1
SILENT_S = 900.0
"""A run that has written no metrics for so long, besides what its settings allow, is ended."""
STOPPED = (EXIT_SIGINT, EXIT_SIGTERM, -signal.SIGINT, -signal.SIGTERM)
"""Exit codes of a run that a signal has ended."""
VISIBLE = "CUDA_VISIBLE_DEVICES"

Command = Callable[[PlannedRun, Path, bool], Sequence[object]]
"""Run, its folder, whether it is resumed --> the words of its command."""
More = Callable[[], Sequence[Start]]
"""Returns what is to be run besides, after all else was started; nothing at the end."""


class Ended(StrEnum):
    """How a start of a run has ended."""

    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"


class Watcher(Protocol):
    """Who is told what happens."""

    def started(self, run: PlannedRun, place: Place, *, resume: bool) -> None:
        """A run was started."""
        ...

    def ended(self, run: PlannedRun, how: Ended, failure: str) -> None:
        """A run has ended."""
        ...

    def stopping(self, count: int) -> None:
        """A signal has come: `count` runs are to save and end."""
        ...

    def tick(self, running: Sequence[PlannedRun], waiting: int) -> None:
        """Time goes by."""
        ...


@dataclass
class _Running:
    """A run that was started.

    Attributes:
        run, place, program: what runs where.
        whole: closed when it has ended.
        changed_s: when its metrics last changed, or it was started, on the monotonic clock.
        seen: their size in bytes and time of change in ns.
        killed_s: when it is killed, if it was asked to end since it wrote nothing.
    """

    run: PlannedRun
    place: Place
    program: Program
    whole: contextlib.ExitStack
    changed_s: float = field(default_factory=time.monotonic)
    seen: tuple[int, int] = (0, 0)
    killed_s: float | None = None


class Runner:
    """The runs of a sweep that are under way."""

    def __init__(
        self,
        ledger: Ledger,
        packing: Packing,
        watcher: Watcher,
        *,
        gpus: int = 1,
        command: Command = lambda run, folder, resume: command(run, folder, resume=resume),
        grace_s: float = STOP_GRACE_S,
    ) -> None:
        """Start nothing yet.

        Args:
            ledger: of the folder, which exists.
            packing: of the machine.
            watcher: is told what happens.
            gpus: of each run that computes on GPUs.
            command: of a run.
            grace_s: time to save after the first signal.
        """
        self._ledger, self._packing, self._watcher = ledger, packing, watcher
        self._gpus, self._command, self._grace_s = gpus, command, grace_s
        self._running: list[_Running] = []
        self._stops = False
        self.unfinished: list[str] = []
        """Names of runs that failed, or that somebody else has stopped."""

    def run(self, starts: Sequence[Start], signals: Signals, more: More = tuple) -> int:
        """Run all; returns the exit code: of success, of a failure (of any run), or the signal's.

        While nothing waits and there is room, `more` is asked.

        Raises:
            OSError: the disk, or the system, refuses a start; all that run were asked to save.
        """
        waiting = list(starts)
        try:
            while (waiting := waiting or self._asked(more)) or self._running:
                if (number := signals.receive()) is not None:
                    self._stop(signals)
                    return 128 + number
                waiting = self._start(waiting)
                self._look()
                self._watcher.tick([each.run for each in self._running], len(waiting))
                if self._running:
                    time.sleep(POLL_S)
        except BaseException:
            self._stop(signals)
            raise
        finally:
            self._close()
        return EXIT_FAILURE if self.unfinished else EXIT_OK

    def _asked(self, more: More) -> list[Start]:
        """Return what is to be run besides, if one more run may have room."""
        place = self._packing.take(1)
        if place is None:
            return []
        self._packing.free(place)
        return list(more())

    def _start(self, waiting: list[Start]) -> list[Start]:
        """Start what has room, in order; returns what has none. Smaller runs may overtake."""
        left = []
        for start in waiting:
            gpus = self._gpus if start.run.uses_gpus else 0
            place = self._packing.take(start.run.cores, gpus)
            if place is None:
                left.append(start)
            else:
                self._running.append(self._begin(start, place))
        return left

    def _begin(self, start: Start, place: Place) -> _Running:
        run, folder = start.run, self._ledger.path(start.run)
        if not start.resume:
            set_aside(folder)
        self._ledger.started(run, resume=start.resume)
        words = self._command(run, folder, start.resume)
        logs = self._ledger.folder / LOGS
        logs.mkdir(exist_ok=True)
        whole = contextlib.ExitStack()
        program = whole.enter_context(
            Program(
                words, Path.cwd(), logs / f"{run.name}.log", cores=place.cores,
                environment={VISIBLE: visible(place.gpus)} if place.gpus else {},
            )
        )  # fmt: skip
        self._watcher.started(run, place, resume=start.resume)
        return _Running(run, place, program, whole)

    def _look(self) -> None:
        """Take what has ended from the runs, and end what hangs."""
        for each in list(self._running):
            if each.program.exit_code is not None:
                self._end(each)
            elif each.killed_s is None and self._is_silent(each):
                each.killed_s = time.monotonic() + self._grace_s
                each.program.ask_to_end()
            elif each.killed_s is not None and time.monotonic() > each.killed_s:
                each.program.kill()

    def _is_silent(self, each: _Running) -> bool:
        """Return whether a run has written nothing for too long: its supervisor hangs."""
        with contextlib.suppress(OSError):
            found = os.stat(self._ledger.path(each.run) / METRICS)
            if (seen := (found.st_size, found.st_mtime_ns)) != each.seen:
                each.seen, each.changed_s = seen, time.monotonic()
        config = each.run.config
        allowed_s = SILENT_S + config.resources.start_timeout_s + 3 * config.report.log_every_s
        return time.monotonic() - each.changed_s > allowed_s

    def _end(self, each: _Running) -> None:
        """Note how a run has ended, and give back its cores.

        Raises:
            OSError: it cannot be noted; not while all runs stop, for the others are to save.
        """
        code = each.program.exit_code
        if code is None:
            code = EXIT_FAILURE  # the kernel cannot end it
        how, failure = Ended.FINISHED, ""
        if each.killed_s is not None:
            how, failure = Ended.FAILED, "it wrote no metrics for too long, and was ended"
        elif code in STOPPED or (self._stops and code == -signal.SIGKILL):
            how = Ended.STOPPED
        elif code != EXIT_OK:
            how, failure = Ended.FAILED, _complaint(each.program)
        self._running.remove(each)
        self._packing.free(each.place)
        if how is not Ended.FINISHED:
            self.unfinished.append(each.run.name)
        with contextlib.suppress(GalampError):  # what the kernel cannot end is no one's to wait for
            each.whole.close()
        with contextlib.suppress(*[OSError] if self._stops else []):
            self._ledger.ended(each.run, code, failure)
        self._watcher.ended(each.run, how, failure)

    def _stop(self, signals: Signals) -> None:
        """Have all runs save and end, at most for the grace period; a second signal ends them."""
        self._stops = True
        self._watcher.stopping(len(self._running))
        for each in self._running:
            each.program.ask_to_end()
        until_s = time.monotonic() + self._grace_s
        while self._running and time.monotonic() < until_s and signals.receive() is None:
            for each in [each for each in self._running if each.program.exit_code is not None]:
                self._end(each)
            time.sleep(POLL_S)

    def _close(self) -> None:
        """Kill what is left."""
        for each in list(self._running):
            with contextlib.suppress(GalampError):
                each.program.kill()
            self._end(each)


def _complaint(program: Program) -> str:
    """Return why a program failed, in a line; its log may be gone."""
    try:
        return one_line(program.complaint())
    except OSError as error:
        return f"why is not known: its log cannot be read ({error.strerror})"


def visible(gpus: Sequence[int]) -> str:
    """Return the value of CUDA_VISIBLE_DEVICES for GPUs that torch numbers so in this process."""
    mine = os.environ.get(VISIBLE)
    names = mine.split(",") if mine else None
    return ",".join(names[gpu] if names else str(gpu) for gpu in gpus)
