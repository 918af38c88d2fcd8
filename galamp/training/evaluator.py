"""Evaluations while a run trains: whole games with the mean of all learners, every N agent steps.

    Supervisor's loop --tick--> Evaluator: due? --Saver.request--> checkpoint
        --Probing--> tools.evaluation.in_training, a process of the lowest priority
        <--report--  eval.jsonl, checkpoints/best, events.jsonl, Recorder.evaluation

Runs in the supervisor, which never waits for it while it trains. The process plays the newest
checkpoint; evaluations that become due meanwhile are left out. One that fails is tried again as the
restart policy of the run says; no failure of it harms the run.
"""

from __future__ import annotations

import contextlib
import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from galamp.core.errors import UserError
from galamp.core.processes.probe_process import Answer, Probing
from galamp.storage.eval_log import Evaluation, EvaluationLog, best_of
from galamp.supervision.layout import RunLayout
from galamp.supervision.restart_policy import Failure, RestartPolicy
from galamp.telemetry.evaluations import reading_of
from galamp.telemetry.recorder import Recorder
from galamp.training.checkpointing import Saver, Written

PROGRAM = "galamp.tools.evaluation.in_training"
TIMEOUT_S = 4 * 3600.0
"""An evaluation that has not ended by then is taken to hang."""
REQUEST_EVERY_S = 5.0
"""Interval at which a checkpoint is requested anew, where the disk has refused one."""
LAST_TIMEOUT_S = 60.0
"""Longest that a run which is finished waits for its last evaluation."""
WHO = "evaluation"


class Playing(NamedTuple):
    """Evaluation that runs.

    Attributes:
        process: what plays.
        written: the checkpoint.
        skipped: evaluations that were left out just before.
        began_s: time.monotonic() of its start.
    """

    process: Probing
    written: Written
    skipped: int
    began_s: float


class Evaluator:
    """Evaluations of one attempt of a run that is to be evaluated while it trains."""

    def __init__(
        self, run_layout: RunLayout, recorder: Recorder, saver: Saver, cores: tuple[int, ...] = ()
    ) -> None:
        """Continue from the evaluations in the run folder.

        Args:
            run_layout: settings and progress of the run.
            recorder: where results are told.
            saver: writes the checkpoints, and moves `best`.
            cores: processors that no learner uses; empty if there are none.
        """
        config = run_layout.plan.config
        assert config.evaluation.eval_every is not None
        self._every, self._run_layout = config.evaluation.eval_every, run_layout
        self._recorder, self._saver, self._cores = recorder, saver, cores
        folder = recorder.folder
        self._log = EvaluationLog(folder.path, self._warn, folder.where)
        steps = run_layout.status_board.agent_steps()
        done = self._log.go_on_from(steps)
        last = done[-1].agent_steps if done else steps
        self._next = (last // self._every + 1) * self._every
        self._last = done[-1].agent_steps if done else -1
        """Agent steps of the newest checkpoint that needs no evaluation any more."""
        self._done = done
        self._restart_policy = RestartPolicy(config.resources.max_restarts)
        self._playing: Playing | None = None
        self._due_s = self._request_s = 0.0
        self._is_given_up = self._has_told = False
        recorder.evaluation = reading_of(done)

    @property
    def is_playing(self) -> bool:
        """Whether an evaluation runs."""
        return self._playing is not None

    def tick(self) -> None:
        """Take the result of an evaluation that has ended; start the next one when it is due."""
        self.take_ended()
        now_s = time.monotonic()
        if not self._may_start(now_s):
            return
        if self._run_layout.status_board.agent_steps() < self._next:
            return
        written = self._saver.newest
        if written is not None and written.agent_steps >= self._next:
            self._start(written)
        elif now_s >= self._request_s:
            self._request_s = now_s + REQUEST_EVERY_S
            self._saver.request()

    def take_ended(self) -> None:
        """Take the result of an evaluation that has ended."""
        if self._playing is not None and self._playing.process.has_ended:
            self._take(self._playing)

    def start_last(self) -> None:
        """Start the evaluation of the last checkpoint, unless it was evaluated, or another runs."""
        written = self._saver.newest
        if written is None or not self._may_start(time.monotonic()):
            return
        if written.agent_steps > self._last:
            self._start(written)

    def close(self, why: str = "") -> None:
        """End an evaluation that runs; `why` is reported. The next attempt begins it anew."""
        if self._playing is None:
            return
        steps = self._playing.written.agent_steps
        self._playing.process.cancel()
        self._playing, self._saver.protected = None, None
        if why:
            self._log_event(f"evaluation at {steps:,} agent steps left out: {why}")

    def _may_start(self, now_s: float) -> bool:
        return self._playing is None and not self._is_given_up and now_s >= self._due_s

    def _start(self, written: Written) -> None:
        self._saver.protected = written.path
        number = written.agent_steps // self._every
        skipped = max(0, number - self._next // self._every)
        self._next = (number + 1) * self._every
        if skipped and not self._has_told:
            self._has_told = True
            self._log_event(
                f"evaluations take longer than --eval-every: {skipped} left out before that at "
                f"{written.agent_steps:,} agent steps (each line of eval.jsonl says how many)"
            )
        try:
            process = Probing(PROGRAM, self._request(written.path), timeout_s=TIMEOUT_S)
        except (OSError, UserError) as error:  # the latter where it gets no file in memory
            why = error.strerror if isinstance(error, OSError) else error
            self._failed(written, f"could not be started: {why}", external=True)
            return
        self._playing = Playing(process, written, skipped, time.monotonic())

    def _request(self, checkpoint: Path) -> dict[str, Any]:
        """Return the request: by the run's own protocol, with its seed, on the CPU."""
        config = self._run_layout.plan.config
        settings = {
            "episodes": config.evaluation.eval_episodes,
            "env_id": config.environment.env_id,
            "wrapper": config.environment.wrapper,
            "network": self._run_layout.sketch.network,
            "seed": config.seed,
            "start_timeout_s": config.resources.start_timeout_s,
            "device": "cpu",
            "quiet": True,
        }
        return {"checkpoint": str(checkpoint), "cores": self._cores, "settings": settings}

    def _take(self, playing: Playing) -> None:
        """Take the answer of an evaluation that has ended."""
        self._playing = None
        answer = playing.process.answer()
        found: Any = None
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(answer.text)
        if isinstance(found, dict) and isinstance(found.get("report"), dict):
            self._keep(playing, found["report"])
        elif isinstance(found, dict) and "problem" in found:
            self._failed(playing.written, f"failed: {found['problem']}")
        else:
            self._failed(playing.written, _ending(playing.process, answer), external=True)
        self._saver.protected = None

    def _evaluation(self, playing: Playing, report: dict[str, Any]) -> Evaluation:
        """Return the line of eval.jsonl for a report of `tools.evaluation.report`."""
        result, written = report["results"][0], playing.written
        best = best_of(self._done)
        return Evaluation(
            agent_steps=written.agent_steps,
            emulator_frames=written.agent_steps * self._run_layout.environment.frames_per_step,
            wall_s=round(written.wall_s, 3),
            time=datetime.now().astimezone().isoformat(timespec="seconds"),
            start=self._run_layout.start,
            checkpoint=written.path.name,
            took_s=round(time.monotonic() - playing.began_s, 3),
            skipped=playing.skipped,
            best=best is None or result["mean"] > best.mean,
            **{name: result[name] for name in _OF_RESULT},
            **{name: report[name] for name in _OF_REPORT},
        )

    def _keep(self, playing: Playing, report: dict[str, Any]) -> None:
        """Store and tell a result."""
        self._last = playing.written.agent_steps
        if report["results"][0]["mean"] is None:
            self._log_event(
                f"evaluation at {self._last:,} agent steps left out: its mean is not finite"
            )
            return
        evaluation = self._evaluation(playing, report)
        self._log.append(evaluation)
        self._done.append(evaluation)
        self._recorder.evaluation = reading_of(self._done)
        if evaluation.best:
            self._saver.point_best(playing.written.path)
        error = evaluation.standard_error
        self._log_event(
            f"evaluation at {evaluation.agent_steps:,} agent steps: score {evaluation.mean:.2f}"
            + ("" if error is None else f" ± {error:.2f}")
            + f" in {evaluation.episodes} games"
            + (", the best so far" if evaluation.best else "")
        )

    def _failed(self, written: Written, cause: str, *, external: bool = False) -> None:
        """Try again as the restart policy says, leave this evaluation out, or give up."""
        self._saver.protected = None
        failure = Failure(cause, max(1, written.agent_steps), external=external)
        delay_s = self._restart_policy.delay_s(failure, time.monotonic())
        at = f"evaluation at {written.agent_steps:,} agent steps {cause}"
        if delay_s is not None:
            self._due_s = time.monotonic() + delay_s
            self._next = written.agent_steps // self._every * self._every
            self._log_event(f"{at}: tried again", cause=cause)
        elif self._restart_policy.repeats:
            self._last = written.agent_steps
            self._log_event(f"{at}: left out, the same as before", cause=cause)
        else:
            self._is_given_up = True
            self._log_event(f"{at}: given up, too often; training goes on without", cause=cause)

    def _log_event(self, text: str, cause: str = "") -> None:
        self._recorder.log_event(text, kind="evaluation", who=WHO, cause=cause)

    def _warn(self, text: str) -> None:
        self._log_event(text)


_OF_RESULT = (
    "learner", "mean_of", "mean", "std", "standard_error", "episodes", "returns", "lengths",
    "truncated",
)  # fmt: skip
_OF_REPORT = ("seed", "num_envs", "protocol", "max_frames", "max_episode_steps", "greedy")


def _ending(process: Probing, answer: Answer) -> str:
    """Return how a process has ended that gave no answer."""
    if not answer.in_time:
        return f"had not ended after {process.timeout_s:,.0f} s"
    last = (answer.errors.splitlines() or [""])[-1].strip()
    return f"ended without a result ({process.ending})" + (f": {last}" if last else "")
