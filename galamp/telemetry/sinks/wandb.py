"""Weights & Biases as a metric sink: a process of its own hands it the rows of metrics.jsonl.

    row --JsonlSink--> metrics.jsonl --wandb_follower--> W&B, online or RUN/wandb
    WandbSink: starts the follower with the first row, asks it to finish at the end

Whatever W&B does, slow, failing or hanging, happens in that process: the run only starts it, and
waits at most `FINISH_S` for its end. Nothing is lost then: all rows are in metrics.jsonl.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shlex
import signal
import subprocess
import sys

from galamp.core.disk import open_log
from galamp.core.isolation import flags_of_children, guarded
from galamp.telemetry.sinks.base import MetricSink, Row, SinkContext

# Not imported here: it starts threads. A mere folder `wandb`, as W&B makes them, has no origin.
if getattr(importlib.util.find_spec("wandb"), "origin", None) is None:
    raise ModuleNotFoundError("No module named 'wandb'", name="wandb")

FOLLOWER = "galamp.telemetry.sinks.wandb_follower"
LOG = "wandb.log"
"""In RUN/logs: what W&B prints, and why it failed."""
FINISH_S = 15.0
"""Longest wait for W&B at the end of a start."""
HELD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Signals that are blocked in the follower: it looks for SIGTERM itself, once it is ready."""


class WandbSink(MetricSink):
    """The follower of this start of the run."""

    def __init__(self, context: SinkContext) -> None:
        super().__init__(context)
        self._process: subprocess.Popen[bytes] | None = None
        self._told = False

    def write(self, row: Row) -> None:
        """Start the follower, which reads the row from metrics.jsonl; say so once if it has ended.

        Raises:
            OSError: the process cannot be started.
        """
        if self._process is None:
            self._start()
        elif self._process.poll() is not None and not self._told:
            self._told = True
            self.context.warn(f"--sinks wandb: W&B has ended: see logs/{LOG}; {self._afterwards()}")

    def close(self) -> None:
        """Ask the follower to finish, and end it if it takes longer than `FINISH_S`."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(FINISH_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            self.context.warn(
                f"--sinks wandb: W&B had not finished after {FINISH_S:.0f} s; {self._afterwards()}"
            )

    def _start(self) -> None:
        folder = self.context.where(self.context.folder)
        if folder is None:
            return
        words = ["-m", FOLLOWER, str(folder), str(self.context.start), str(os.getpid())]
        log = open_log(folder / "logs" / LOG)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
        try:
            with guarded():
                self._process = subprocess.Popen(
                    [sys.executable, *flags_of_children(), *words],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                )  # fmt: skip
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            with contextlib.suppress(OSError):
                os.close(log)

    def _afterwards(self) -> str:
        run = shlex.quote(str(self.context.folder))
        return f"all rows are kept: galamp export-logs {run} --wandb"
