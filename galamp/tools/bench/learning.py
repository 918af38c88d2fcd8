"""`bin/bench learning`: known tasks trained to known bars, one after the other.

    Task, seed --command_of--> processes.Program --> RUN/metrics.jsonl --result--> Training
                               of several nodes  --> their rows and episodes --pooled_rows--> result

Runs in the bench. A bar is reached at the first row of metrics at which the mean return of the last
100 training episodes is not below it; means of fewer episodes do not count, nor does what comes
after the task's agent steps, which the last rollout may exceed. The run goes on to its end all the
same, so the mean at the end shows whether it stayed; only those of Pong end there. Rows are 2 s
apart. Where a task has several nodes the episodes of all count.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from rich.table import Table

from galamp.core.errors import EXIT_OK, RunFailed, UserError
from galamp.core.json_values import is_number, is_whole
from galamp.storage.run_folder import METRICS, SUMMARY, read_json
from galamp.storage.run_logs import LARGEST, MAX_STEP, RETURN, read_metrics
from galamp.telemetry.display.console import plain_table
from galamp.telemetry.display.text import UNKNOWN
from galamp.tools.bench import tables
from galamp.tools.bench.learning_tasks import Task, chosen
from galamp.tools.bench.nodes import folder_of
from galamp.tools.bench.pooled_episodes import WINDOW, episodes_of, pooled_rows, reaches
from galamp.tools.bench.processes import Program, Usage
from galamp.tools.bench.runs import ROOT, cores
from galamp.training.stopping import BY_SCORE

PROGRAM: tuple[str, ...] = (sys.executable, "-m", "galamp")
NODES: tuple[str, ...] = (sys.executable, "-m", "galamp.tools.bench.nodes")
WALL = "wall_s"
POLL_S = 1.0
EXIT_BELOW = 1
"""Exit code if a task did not reach its bar, or a control did."""


@dataclass(frozen=True)
class Result:
    """What the rows of a run say; the numbers are None before the first of them.

    Attributes:
        agent_steps: made over all learners.
        wall_s: training time in seconds, without start-up.
        mean_return: of the last 100 training episodes at the end, or of all if there were fewer.
        reached_at: agent steps at the first row that reaches the bar; None if none does.
    """

    agent_steps: int | None = None
    wall_s: float | None = None
    mean_return: float | None = None
    reached_at: int | None = None


@dataclass(frozen=True)
class Training:
    """One task, trained once.

    Attributes:
        task: the task's name.
        run: the command line.
        seed: its seed.
        steps: agent steps within which the bar is to be reached.
        bar: the mean return to reach.
        control: whether it must not reach it.
        result: how it went.
        other_cpu_share: share of all cores that anything else used meanwhile.
        failure: why it was not trained to the end; empty if it was.
    """

    task: str
    run: str
    seed: int
    steps: int
    bar: float
    control: bool
    result: Result
    other_cpu_share: float
    failure: str = ""

    @property
    def reached(self) -> bool:
        """Whether it reached the bar."""
        return self.result.reached_at is not None

    @property
    def as_expected(self) -> bool:
        """Whether it was trained to the end and reached the bar, or, as a control, did not."""
        return not self.failure and self.reached is not self.control


def run(
    args: argparse.Namespace,
    origin: tables.Origin,
    rows: TextIO | None,
    say: Callable[[str], None],
) -> int:
    """Train all chosen tasks with all seeds, and show the table; returns the exit code.

    Raises:
        UserError: there is no such task.
    """
    tasks, seeds = chosen(args.task), tuple(dict.fromkeys(args.seeds))
    what = f"mean return of the last {WINDOW} training episodes, on {args.device}"
    done = []
    for task in tasks:
        for seed in seeds:
            say(f"galamp: bench: {task.name}, seed {seed} ...")
            one = train(task, seed, args.device, args.limit_s or task.limit_s)
            say(f" {_outcome(one)}\n")
            done.append(one)
            if rows is not None:
                rows.write(json.dumps(json_row(one, origin, what)) + "\n")
                rows.flush()
    tables.show_table(learning_table(done), what, _remarks(done, origin), sys.stdout)
    return EXIT_OK if all(one.as_expected for one in done) else EXIT_BELOW


def command_of(task: Task, seed: int, device: str) -> list[str]:
    """Return the arguments of `galamp` for one training, without the run folder."""
    tail = ("--total-steps", task.steps, "--seed", seed, "--device", device)
    return ["run", *shlex.split(task.flags), *map(str, tail)]


def train(task: Task, seed: int, device: str, limit_s: float) -> Training:
    """Train a task once; a failure is part of the result.

    Args:
        task: the task.
        seed: its seed.
        device: what learns.
        limit_s: most time, with start and end.
    """
    words = command_of(task, seed, device)
    program_words = PROGRAM if task.nodes == 1 else (*NODES, str(task.nodes))
    first = ("bin/galamp",) if task.nodes == 1 else ("python", *program_words[1:])
    shown = shlex.join([*first, *words])
    share, failure = 0.0, ""
    with tempfile.TemporaryDirectory(prefix="galamp-bench-") as folder:
        path = Path(folder, "run")
        command = [*program_words, *words, "--run-dir", path, "--quiet"]
        with Program(command, ROOT, Path(folder, "output.log")) as program:
            try:
                share = _until_it_ends(program, limit_s)
            except RunFailed as error:
                failure = str(error)
        if task.nodes == 1:
            found = result(read_metrics(path / METRICS), task.bar, task.steps)
            found = ended_at_the_bar(found, _summary(path), task.steps)
        else:
            folders = [folder_of(path, node) for node in range(task.nodes)]
            found = result(pooled_rows(folders), task.bar, task.steps)
            failure = failure or _without_episodes(folders)
    named = (task.name, shown, seed, task.steps, task.bar, task.control)
    return Training(*named, found, share, failure)


def _until_it_ends(program: Program, limit_s: float) -> float:
    """Wait for the end of a run; returns the share of all cores that anything else used.

    Raises:
        RunFailed: it failed, or still runs after `limit_s`.
    """
    until_s = time.monotonic() + limit_s
    before = last = Usage.of(program.session)
    while not program.ends_within(POLL_S):
        if time.monotonic() > until_s:
            raise RunFailed(f"still ran after {limit_s:,.0f} s: {program.last_line()}")
        last = Usage.of(program.session)
    if program.exit_code != EXIT_OK:
        raise RunFailed(f"ended with code {program.exit_code}: {program.complaint()}")
    return last.shares_since(before, cores())[1] if last.at_s > before.at_s else 0.0


def result(rows: Iterable[dict[str, Any]], bar: float, within: int) -> Result:
    """Return what a run's rows of metrics say about a bar, to be reached `within` agent steps."""
    found = Result()
    for row in rows:
        steps, wall_s, score = row.get("global_step"), row.get(WALL), row.get(RETURN)
        if not is_whole(steps, 0, MAX_STEP) or not is_number(wall_s, 0, LARGEST):
            continue
        found = dataclasses.replace(found, agent_steps=steps, wall_s=wall_s)
        if is_number(score, -LARGEST, LARGEST):
            found = dataclasses.replace(found, mean_return=score)
            if found.reached_at is None and reaches(row, bar) and steps <= within:
                found = dataclasses.replace(found, reached_at=steps)
    return found


def _without_episodes(folders: Sequence[Path]) -> str:
    """Return which node has written no episodes, so that its own cannot count; empty if none."""
    silent = (node for node, folder in enumerate(folders) if not episodes_of(folder))
    return next((f"node {node} has written no episodes" for node in silent), "")


def _summary(run: Path) -> dict[str, Any]:
    """Return the summary of a run; empty if it has none, as one that failed."""
    try:
        return read_json(run / SUMMARY)
    except UserError:
        return {}


def ended_at_the_bar(found: Result, summary: Mapping[str, Any], within: int) -> Result:
    """Return the result of a run whose flags end it at the bar, as its summary says.

    It need not have a row with that: more episodes can have ended since.
    """
    if found.reached_at is None and summary.get("ended_by") == BY_SCORE:
        steps = summary.get("agent_steps")
        if is_whole(steps, 0, within):
            return dataclasses.replace(found, reached_at=steps)
    return found


def json_row(training: Training, origin: tables.Origin, what: str) -> dict[str, Any]:
    """Return a training and its origin as JSON values."""
    values = dataclasses.asdict(training)
    values |= values.pop("result") | {"reached": training.reached}
    return tables.origin_row(origin, what) | values


def learning_table(trainings: Sequence[Training]) -> Table:
    """Return one line per training."""
    headings = ("task", "seed", "agent steps", "time, s", "mean return", "bar", "reached")
    table = plain_table(headings, text=(0, 6))
    for one in trainings:
        table.add_row(
            one.task,
            str(one.seed),
            _number(one.result.agent_steps, ",.0f"),
            _number(one.result.wall_s, ",.0f"),
            _number(one.result.mean_return, ",.2f"),
            f"{one.bar:g}",
            _outcome(one),
        )
    return table


def _number(value: float | None, form: str) -> str:
    return UNKNOWN if value is None else f"{value:{form}}"


def _outcome(training: Training) -> str:
    """Return in a few words how a training went."""
    if training.failure:
        return f"failed: {training.failure}"
    at = training.result.reached_at
    reached = "no" if at is None else f"yes, at {at:,} agent steps"
    return f"{reached}{_judged(training)}"


def _judged(training: Training) -> str:
    if not training.control:
        return ""
    return ", but must not" if training.reached else ", and must not"


def _remarks(trainings: Sequence[Training], origin: tables.Origin) -> list[str]:
    """Return the facts that are needed to repeat the trainings."""
    runs: dict[str, str] = {}
    for one in trainings:
        runs.setdefault(one.task, one.run)
    width = max(map(len, runs))
    lines = [*origin.lines, "Time: of training, without start-up. The runs, with their first seed:"]
    lines += [f"{name:{width}}  {command}" for name, command in runs.items()]
    return lines + tables.quiet_remarks(max(one.other_cpu_share for one in trainings))
