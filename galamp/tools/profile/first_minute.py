"""`galamp run --profile`: the first minute after the warm-up, recorded by `galamp profile`.

    supervisor's loop --tick--> once all learners have run for WARM_UP_S: galamp profile RUN -d 60
                                its output: RUN/logs/profile.log; one event tells where it is

Runs in the supervisor, which starts the command and never waits for it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from galamp.core.disk import open_log
from galamp.core.isolation import flags_of_children, guarded

if TYPE_CHECKING:
    from galamp.training.supervisor import Supervisor

WARM_UP_S = 5.0
SECONDS = 60
END_S = 10.0
"""Longest wait for its end after SIGTERM, and then after SIGKILL."""
LOG = "profile.log"
KIND = "profile"


class FirstMinute:
    """The profile of a run's first minute; see `supervisor.Callback`."""

    def __init__(self, warm_up_s: float = WARM_UP_S, seconds: int = SECONDS) -> None:
        """Begin `warm_up_s` after all learners run, for so many seconds."""
        self._warm_up_s, self._seconds = warm_up_s, seconds
        self._running_since_s: float | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._done = False

    def tick(self, supervisor: Supervisor) -> None:
        """Start it when it is time; tell of its end."""
        if self._done:
            return
        if self._process is not None:
            self._check_on(supervisor, self._process)
        elif supervisor.recorder.status == "running":
            now_s = time.monotonic()
            self._running_since_s = self._running_since_s or now_s
            if now_s - self._running_since_s >= self._warm_up_s:
                self._start(supervisor)

    def close(self) -> None:
        """End it, if the run ends before it."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        for end in (process.terminate, process.kill):
            end()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_S)
                return

    def _start(self, supervisor: Supervisor) -> None:
        folder = supervisor.recorder.folder
        place = folder.where(folder.path)
        if place is None:
            return
        words = ["-m", "galamp", "profile", str(place), "--seconds", str(self._seconds)]
        log = open_log(place / "logs" / LOG)
        try:
            with guarded():
                self._process = subprocess.Popen(
                    [sys.executable, *flags_of_children(), *words],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                )  # fmt: skip
        except OSError as error:
            self._done = True
            supervisor.recorder.log_event(f"no profile: {error.strerror}", kind=KIND)
        else:
            text = f"profile of {self._seconds} s begun: RUN/logs/{LOG} tells where it is"
            supervisor.recorder.log_event(text, kind=KIND)
        finally:
            os.close(log)

    def _check_on(self, supervisor: Supervisor, process: subprocess.Popen[bytes]) -> None:
        code = process.poll()
        if code is None:
            return
        self._done = True
        text = "profile written to RUN/profiles" if code == 0 else "no profile"
        supervisor.recorder.log_event(f"{text}; see RUN/logs/{LOG}", kind=KIND)
