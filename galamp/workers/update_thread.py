"""Update thread: runs one update at a time beside the learner's own thread, which acts meanwhile.

    learner's thread --start(update)--> update thread
        acts                                computes; on a GPU in a stream of its own
    finish  <--reduce?-- gradient           waits for the answer
            --answer-->                     takes the step
            <--metrics, or its error--

Only the learner's own thread exchanges, writes its status and counts heartbeats: while it waits, it
counts those that the update has counted, so an update that hangs is found as it would be without a
thread. Where no thread can start, `finish` runs the update itself, with the same result.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import torch

from galamp.core.errors import RunFailed, StopRun

POLL_S = 0.1
"""Longest sleep in a wait for an update."""
CLOSE_TIMEOUT_S = 20.0
"""Longest wait for the last update, when the learner ends before it does."""

Reduce = Callable[[], bool]
Update = Callable[[Reduce | None], dict[str, float]]
"""`Algorithm.update` of a rollout: takes `reduce`, and returns its metrics."""


class UpdateThread:
    """Runs updates; `reduce` of an update, if there is one, is called by the learner's own thread.

    Attributes:
        in_thread: whether a thread could start, so far.
    """

    def __init__(self, device: torch.device, reduce: Reduce | None = None) -> None:
        self._reduce = reduce
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # Until torch asks in a thread, OpenMP has the machine's number there; oneDNN goes by that.
        threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(1, "update", torch.set_num_threads, (threads,))
        self._running: Future[dict[str, float]] | None = None
        self._postponed: Update | None = None
        self._question: Future[Future[bool]] = Future()
        self._beats = self._seen = 0
        self._report: Callable[[], None] = lambda: None
        self.in_thread = True

    def heartbeat(self) -> None:
        """Count progress of an update; called by the update."""
        self._beats += 1
        if not self.in_thread:
            self._report()

    def start(self, update: Update) -> None:
        """Start an update; the one before has been finished."""
        assert self._running is None
        assert self._postponed is None
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream())
        if self.in_thread:
            try:
                self._running = self._pool.submit(self._run, update)
                return
            except RuntimeError:  # limits on processes count threads, too
                self.in_thread = False
                sys.stderr.write("galamp: warning: no room for another thread: no overlap\n")
        self._postponed = update

    def finish(self, heartbeat: Callable[[], None]) -> dict[str, float]:
        """Wait for the update, and return its metrics; `heartbeat` is called for its progress.

        Raises:
            StopRun: `reduce` waits for other learners, and the run is over.
            Exception: what the update has raised, with its traceback.
        """
        if self._postponed is not None:
            update, self._postponed = self._postponed, None
            self._report = heartbeat
            return update(self._reduce)
        running = self._running
        assert running is not None, "no update was started"
        while not running.done():
            self._sleep(running)
            if self._question.done():
                self._answer()
            if self._beats != self._seen:
                self._seen = self._beats
                heartbeat()
        self._running = None
        numbers = running.result()
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)
        return numbers

    def close(self) -> None:
        """End an update that was not finished: it is completed, unless it waits for `reduce`.

        Raises:
            RunFailed: it does not end.
            Exception: what the update has raised.
        """
        running, self._running, self._postponed = self._running, None, None
        self._pool.shutdown(wait=False)
        until_s = time.monotonic() + CLOSE_TIMEOUT_S
        while running is not None and not running.done():
            if time.monotonic() > until_s:
                raise RunFailed(f"an update has not ended within {CLOSE_TIMEOUT_S:.0f} s")
            self._sleep(running)
            if self._question.done():
                self._question.result().set_exception(StopRun())
                self._question = Future()
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)
        if running is not None:
            with contextlib.suppress(StopRun):
                running.result()

    def _sleep(self, running: Future[dict[str, float]]) -> None:
        """Sleep until the update has ended or calls `reduce`, at most for `POLL_S`."""
        either: list[Future[Any]] = [running, self._question]
        wait(either, POLL_S, FIRST_COMPLETED)

    def _run(self, update: Update) -> dict[str, float]:
        """Run in the update thread."""
        reduce = None if self._reduce is None else self._ask
        if self._stream is None:
            return update(reduce)
        with torch.cuda.stream(self._stream):
            return update(reduce)

    def _ask(self) -> bool:
        """Have the learner's thread call `reduce`, and wait for what it returns."""
        answer: Future[bool] = Future()
        self._question.set_result(answer)
        return answer.result()

    def _answer(self) -> None:
        """Call `reduce` for the update, in the learner's thread."""
        answer, self._question = self._question.result(), Future()
        assert self._reduce is not None
        stream = None if self._stream is None else torch.cuda.current_stream()
        try:
            if stream is not None and self._stream is not None:
                stream.wait_stream(self._stream)
            is_mean = self._reduce()
            if stream is not None and self._stream is not None:
                self._stream.wait_stream(stream)
        except BaseException:
            answer.set_exception(StopRun())  # which ends the update: nobody waits for it any more
            raise
        answer.set_result(is_mean)
