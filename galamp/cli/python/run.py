"""A run of a program or a notebook: started, watched, scaled and stopped from Python.

    Run(...) --start--> RunProcess; snapshots <--control client-- supervisor; stop, wait --> Result

Runs in a user's program. Every wait has a deadline.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from galamp.cli.control_client import ControlClient
from galamp.cli.python.page import page
from galamp.cli.python.process import FOLDER_TIMEOUT_S, POLL_S, RunProcess
from galamp.cli.python.result import Result, result_of
from galamp.cli.python.words import Value, config_of, env_id_of, words_of
from galamp.cli.scale import ANSWER_TIMEOUT_S as SCALE_TIMEOUT_S
from galamp.cli.scale import ScaleConfig, answers
from galamp.core.errors import GalampError, UserError
from galamp.core.settings import check, settings
from galamp.storage.run_status import NotRunningError
from galamp.telemetry.snapshot import Snapshot
from galamp.training.control.snapshot_json import snapshot_from

SILENCE_S = 60.0
"""Longest silence of a run that trains: while it is stopped, or between two attempts."""
STOP_TIMEOUT_S = 120.0
"""Longest wait for a run to save and end, before it is ended more sternly."""
SNAPSHOT_TIMEOUT_S = 5.0


class Run:
    """A run, which trains in processes of its own as `galamp run` does.

    It ends with this object, or with the program. Used as a context manager it is started, and
    stopped at the end. Signals and threads of the program are left alone. Nothing is started before
    `start`, but settings are checked at once.

    Args:
        game: an Atari game, such as `Breakout`.
        env: instead of it, a Gymnasium id, `package.module:factory`, or such a function.
        run_dir: the run's folder, which must be new or empty; by default one in `runs`.
        settings: of `galamp run`, by the names of its flags with underscores: `learners=2`,
            `total_steps=1_000_000`, `resume="runs/one"`, `pin=False`, and so on.

    Raises:
        UserError: a setting is unknown, or a value is wrong, in the words of the command line.

    Example:
        >>> with galamp.Run(env="CartPole-v1", total_steps=200_000, learners=1, num_envs=4) as run:
        ...     for snapshot in run.snapshots():
        ...         if snapshot.agent_steps > 200:
        ...             break
        >>> run.result.reason
        'the program that trains has ended it'
    """

    def __init__(
        self,
        game: str | None = None,
        *,
        env: str | Callable[..., Any] | None = None,
        run_dir: str | Path | None = None,
        **settings: Value,
    ) -> None:
        given: dict[str, Value] = {"game": game, "run_dir": run_dir, **settings}
        if env is not None:
            if given.get("env_id") is not None:
                raise UserError("env, env_id: both name the environment; give one")
            given["env_id"] = env_id_of(env)
        self._words = words_of(given)
        self._name = config_of(self._words).environment.env_id
        self._process: RunProcess | None = None
        self._folder: Path | None = None
        self._seen: Snapshot | None = None
        self._result: Result | None = None

    def start(self) -> Self:
        """Start training, and return at once.

        Raises:
            UserError: it was started before.
        """
        if self._process is not None:
            raise UserError("this run was started before; make another Run, with resume=...")
        self._process = RunProcess(self._words)
        return self

    def __enter__(self) -> Self:
        return self if self._process is not None else self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Stop the run; how it failed is told, unless another error is under way."""
        try:
            self.stop()
        except GalampError:
            if error is None:
                raise

    @property
    def running(self) -> bool:
        """Whether its processes run."""
        return self._process is not None and self._result is None and self._process.running

    @property
    def pid(self) -> int:
        """Process id of the supervisor, for `py-spy` and the like.

        Raises:
            UserError: it was not started.
        """
        return self._started().pid

    @property
    def folder(self) -> Path:
        """The run folder; waits until the run has begun.

        Raises:
            UserError, GalampError: it was not started, or has failed before.
        """
        if self._folder is None:
            self._folder = self._started().folder()
        if self._folder is None:
            self._started().summary()  # raises: no run was begun
            raise GalampError("the run has ended before it began")
        return self._folder

    @property
    def result(self) -> Result:
        """How it ended.

        Raises:
            UserError, GalampError: it has not ended, or has failed.
        """
        if self._result is None:
            if self._started().running:
                raise UserError("the run has not ended: wait for it, or stop it")
            process = self._started()
            summary = process.summary()
            curve = () if self._seen is None else self._seen.curve
            self._result = result_of(summary, self.folder, curve)
            process.close()
        return self._result

    def snapshots(self, timeout: float = SILENCE_S) -> Iterator[Snapshot]:
        """Yield what the dashboard shows, a few times a second, until the run has ended.

        Args:
            timeout: longest silence of the run, in seconds.

        Yields:
            `galamp.Snapshot`: `agent_steps`, `score`, `learners` and so on.

        Raises:
            UserError, GalampError: the run has failed, or does not answer.
        """
        self._reachable()
        heard_s = time.monotonic()
        while self._reachable():
            try:
                for snapshot in self._watched(timeout):
                    yield snapshot
                    heard_s = time.monotonic()
            except NotRunningError:
                # It ends, or its disk has no sockets.
                if time.monotonic() - heard_s > timeout:
                    raise
            time.sleep(POLL_S)
        _ = self.result

    def snapshot(self, timeout: float = SNAPSHOT_TIMEOUT_S) -> Snapshot | None:
        """Return a new snapshot; of a run that has ended the last one seen, None if there is none.

        Args:
            timeout: longest wait for it, in seconds; a run that has just been started takes a few.

        Raises:
            GalampError: the run does not answer in time.
        """
        until_s = time.monotonic() + timeout
        if self._process is None or self._result is not None or not self._reachable(timeout):
            return self._seen
        left_s = max(POLL_S, until_s - time.monotonic())
        # A run that is about to end can no longer be reached.
        with (
            contextlib.suppress(NotRunningError),
            contextlib.closing(self._watched(left_s)) as some,
        ):
            next(some, None)
        return self._seen

    def scale(self, learners: int, timeout: float = SCALE_TIMEOUT_S) -> None:
        """Let the run go on with another number of learners, and wait until they work.

        Args:
            learners: their number.
            timeout: longest wait between two answers of the run, in seconds.

        Raises:
            UserError: the run cannot have so many, or is not running.
            GalampError: the change has failed, or takes longer.
        """
        (setting,) = settings(ScaleConfig)
        wanted = check(setting, learners)
        with ControlClient(self.folder) as client:
            client.send({"want": "scale", "learners": wanted})
            for _ in answers(client, self.folder, wanted, timeout):
                return
        raise GalampError(f"{self.folder}: ended before it had {wanted} learners")

    def stop(self, timeout: float = STOP_TIMEOUT_S) -> Result:
        """End the run now: it saves what it has learned, and can be resumed.

        Args:
            timeout: longest wait for that in seconds, after which it is ended more sternly.

        Returns:
            how it ended; of a run that has ended before, how that was.

        Raises:
            UserError, GalampError: it was not started, has failed, or cannot be ended.
        """
        if self._result is None:
            self._started().end(timeout)
        return self.result

    def wait(self, timeout: float) -> Result:
        """Wait until the run has ended by itself.

        Args:
            timeout: longest wait, in seconds.

        Raises:
            GalampError: it still runs, or has failed.
            UserError: it was not started, or its settings do not fit this machine.
        """
        if self._result is None and not self._started().wait(timeout):
            raise GalampError(f"the run still trains after {timeout:g} s: wait again, or stop it")
        return self.result

    def __repr__(self) -> str:
        return f"Run({self._name}, {self._state()}{self._progress()})"

    def _repr_html_(self) -> str:
        """Return a small table and the curve, for notebooks."""
        if self._result is not None:
            return self._result._repr_html_()
        seen, rows = self._seen, {"game": self._name, "state": self._state()}
        if seen is not None:
            rows |= {
                "run": seen.run_dir,
                "learners": str(len(seen.learners)),
                "agent steps": f"{seen.agent_steps:,} of {seen.total_steps:,}",
                "score": "-" if seen.mean_return is None else f"{seen.score:.2f}",
                "agent steps/s": f"{seen.agent_steps_per_s:,.0f}",
            }
        return page(rows, () if seen is None else seen.curve)

    def _started(self) -> RunProcess:
        if self._process is None:
            raise UserError("the run was not started: call start, or use it in a with statement")
        return self._process

    def _reachable(self, timeout_s: float = FOLDER_TIMEOUT_S) -> bool:
        """Wait until the run has begun; return whether it goes on."""
        process = self._started()
        if self._folder is None and self._result is None:
            self._folder = process.folder(timeout_s)
        return self.running

    def _watched(self, timeout_s: float) -> Generator[Snapshot]:
        """Yield the snapshots of one connection."""
        with ControlClient(self.folder) as client:
            client.send({"want": "watch"})
            for message in client.messages(timeout_s):
                if "ended" in message:
                    self._started().wait(timeout_s)
                    return
                self._seen = snapshot_from(message.get("snapshot"))
                yield self._seen

    def _state(self) -> str:
        if self._process is None:
            return "not started"
        if self._result is not None:
            return self._result.status
        if not self._process.running:
            return "ended"
        return "starting" if self._seen is None else self._seen.status

    def _progress(self) -> str:
        if self._result is not None:
            return f", {self._result.agent_steps:,} agent steps, {self._result.run_dir}"
        seen = self._seen
        return "" if seen is None else f", {seen.agent_steps:,} agent steps, {seen.run_dir}"
