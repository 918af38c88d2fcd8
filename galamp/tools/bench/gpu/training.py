"""Training runs of a step: started, followed by the files that they write, and ended.

    Training(arguments, folder, deadline) --Program--> galamp run ... --run-dir folder
        until(condition) <-- metrics.jsonl        stop, finish --> summary.json

Every wait is within the step's time limit, and no process outlives its `with` block.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from galamp.core.errors import EXIT_OK, RunFailed
from galamp.storage.run_logs import read_metrics
from galamp.telemetry.notices import NOTICES
from galamp.tools.bench.gpu.steps import LOG_LINES, Deadline, Job, code_of, wait_for
from galamp.tools.bench.processes import Program
from galamp.tools.bench.runs import ENDLESS, ROOT

ROWS_EVERY_S = 0.5
SUMMARY, EVENTS, METRICS = "summary.json", "events.jsonl", "metrics.jsonl"
LOSSES = ("policy_loss", "value_loss", "entropy", "grad_norm")
NO_GRAPHS = NOTICES["graph_refusal"](1)
"""Notice of a run whose work could not be recorded."""
LOG_BYTES = 2**16
"""Most bytes that are read of the end of a learner's log."""

Row = dict[str, Any]


class Training:
    """One start of a run, in a process and a session of its own."""

    def __init__(self, words: Sequence[object], folder: Path, deadline: Deadline) -> None:
        """Store the command: `galamp` with the arguments `words`, in the run folder `folder`."""
        self.folder, self._deadline = folder, deadline
        command = [sys.executable, "-m", "galamp", *words]
        self._program = Program(command, ROOT, folder.with_name(f"{folder.name}.log"))

    def __enter__(self) -> Training:
        """Start it."""
        self._program.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        """Leave no process behind."""
        self._program.__exit__(*error)

    @property
    def session(self) -> int:
        """Id of the session of all its processes."""
        return self._program.session

    @property
    def last_line(self) -> str:
        """The last line that it wrote."""
        return self._program.last_line()

    def rows(self) -> list[Row]:
        """Return the timed rows of its metrics so far."""
        return [row for row in read_metrics(self.folder / METRICS) if "wall_s" in row]

    def until(self, ready: Callable[[], bool], what: str) -> None:
        """Wait until `ready` is true.

        Raises:
            RunFailed: the run has ended.
            Late: the step's time is over.
        """
        wait_for(ready, self._program, self._deadline, what)

    def until_it_learns(self) -> None:
        """Wait until every learner has made an update; see `until`."""
        self.until(lambda: learns(self.rows()[-1:]), "the first update of every learner")

    def until_it_has_trained(self, seconds: float) -> None:
        """Wait until its rows span `seconds`, from the first with agent steps."""
        self.until(lambda: span_s(self.rows()) >= seconds, f"{seconds:.0f} s of training")

    def stop(self) -> Row:
        """Have it save and end; returns its summary.

        Raises:
            RunFailed: it ended in another way, or left processes behind.
        """
        self._program.stop(max(1.0, self._deadline.left_s))
        return self.summary()

    def finish(self) -> Row:
        """Wait until it has ended by itself; returns its summary.

        Raises:
            RunFailed: it failed.
            Late: the step's time is over.
        """
        code = code_of(self._program, self._deadline, "the run")
        if code != EXIT_OK:
            raise RunFailed(f"ended with code {code}: {self._program.complaint()}")
        return self.summary()

    def end(self) -> int:
        """Wait until it has ended by itself; returns its exit code.

        Raises:
            Late: the step's time is over.
        """
        return code_of(self._program, self._deadline, "the run")

    def summary(self) -> Row:
        """Return the run's own summary.

        Raises:
            RunFailed: there is none.
        """
        try:
            found: Row = json.loads((self.folder / SUMMARY).read_text())
        except (OSError, ValueError) as error:
            raise RunFailed(f"{SUMMARY} cannot be read: {error}") from None
        return found

    def remarks(self) -> list[str]:
        """Return the run's notices about memory that could not be page-locked."""
        return [line for line in self._event_texts() if "page-lock" in line]

    def graph_refusals(self) -> list[str]:
        """Return the run's notices about GPU work that could not be recorded."""
        return [line for line in self._event_texts() if NO_GRAPHS in line]

    def log_end(self, rank: int) -> list[str]:
        """Return the last lines of a learner's log; empty without a log."""
        try:
            text = (self.folder / "logs" / f"learner-{rank}.log").read_bytes()[-LOG_BYTES:]
        except OSError:
            return []
        return text.decode(errors="replace").splitlines()[-LOG_LINES:]

    def _event_texts(self) -> list[str]:
        try:
            return list(_texts((self.folder / EVENTS).read_text(errors="replace")))
        except OSError:
            return []


def _texts(text: str) -> Iterator[str]:
    for line in text.splitlines():
        try:
            yield str(json.loads(line)["text"])
        except (ValueError, KeyError, TypeError):
            continue  # it was being written when the run ended


def words_of(job: Job, learners: int, num_envs: int, *more: object) -> list[object]:
    """Return the arguments of an endless run on the job's game, network and GPU."""
    work = job.workload
    return [
        *("run", "--env-id", work.env_id, "--network", work.network),
        *("--learners", learners, "--num-envs", num_envs, "--seed", 1),
        *("--total-steps", ENDLESS, "--log-every-s", ROWS_EVERY_S, "--quiet"),
        *("--device", job.device, *more),
    ]


def learns(rows: Sequence[Row]) -> bool:
    """Return whether, by the last row, every learner has made an update."""
    updates = [value for name, value in (rows[-1] if rows else {}).items() if _counts(name)]
    return bool(updates) and min(updates) > 0


def _counts(name: str) -> bool:
    return name.startswith("learner") and name.endswith("/updates")


def span_s(rows: Sequence[Row]) -> float:
    """Return the seconds from the first row with agent steps to the last."""
    timed = [row for row in rows if row["global_step"] > 0]
    return float(timed[-1]["wall_s"] - timed[0]["wall_s"]) if timed else 0.0


def rate_of(rows: Sequence[Row]) -> float:
    """Return the agent steps/s from the first row with agent steps to the last."""
    timed = [row for row in rows if row["global_step"] > 0]
    passed_s = span_s(rows)
    return float(timed[-1]["global_step"] - timed[0]["global_step"]) / passed_s if passed_s else 0.0


def losses_of(row: Row) -> dict[str, float | None]:
    """Return the losses of a row; None where it has none, or they are not finite."""
    return {name: row.get(f"losses/{name}") for name in LOSSES}


def wrong_losses(rows: Sequence[Row]) -> Iterator[str]:
    """Yield which losses of the last row are missing, or not finite."""
    if not rows:
        yield "it wrote no metrics"
        return
    for name, value in losses_of(rows[-1]).items():
        if value is None:
            yield f"{name} is not finite at the end"


def wrong_end(summary: Row, *, status: str, restarts: int) -> Iterator[str]:
    """Yield values of a run's summary that are not as expected."""
    for name, expected in (("status", status), ("restarts", restarts), ("given_up", [])):
        if summary[name] != expected:
            yield f"{name} is {summary[name]}, expected {expected}"
    if not summary["agent_steps"] > 0:
        yield "it made no agent steps"
    if summary["overflowed_updates"]:
        yield f"{summary['overflowed_updates']} updates overflowed"
