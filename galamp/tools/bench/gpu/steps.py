"""Steps, one after another, each within its own time limit; a failed one does not stop the others.

    Step, Step, ... --run_steps--> Outcome per step: passed, failed, late, or left out

Each result is shown immediately, so that an interrupted bench has shown what it found. A step waits
for nothing without its `Deadline`, and leaves no process behind when that ends.
"""

from __future__ import annotations

import re
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from galamp.core.errors import GalampError, RunFailed
from galamp.tools.bench.processes import ABORT_GRACE_S, Program
from galamp.tools.bench.runs import Workload

END_S = ABORT_GRACE_S + 1.0
"""Time for a late step to end its processes."""
POLL_EVERY_S = 0.1
LOG_LINES = 60
"""Most lines that are shown of a learner's log, where it says why there are no CUDA graphs."""

Clock = Callable[[], float]


class Late(RunFailed):
    """A step's time is over."""


class Result(StrEnum):
    """Result of a step."""

    PASSED = "passed"
    FAILED = "failed"
    LATE = "late"
    LEFT_OUT = "left out"


@dataclass(frozen=True)
class Job:
    """Settings of the steps.

    Attributes:
        workload: the game and the network; learners and environments are the steps' own.
        device: the GPU of the steps that use one, such as `cuda:0`.
        learners: numbers of learners whose rates are measured.
        total_envs: numbers of environments, of all learners together, at which they are.
        precisions: precisions of the network for these rates.
        seconds: measured time per rate.
        warm_up_s: time before that.
    """

    workload: Workload
    device: str
    learners: tuple[int, ...]
    total_envs: tuple[int, ...]
    precisions: tuple[str, ...]
    seconds: float
    warm_up_s: float


class Deadline:
    """Time limit of a step."""

    def __init__(self, seconds: float, clock: Clock = time.monotonic) -> None:
        self._clock, self._until_s = clock, clock() + seconds

    @property
    def left_s(self) -> float:
        """Seconds that are left, at least 0."""
        return max(0.0, self._until_s - self._clock())

    def check(self, what: str) -> None:
        """Return if there is time left.

        Raises:
            Late: there is none; `what` had not happened yet.
        """
        if not self.left_s:
            raise Late(f"{what} did not happen in time")


@dataclass
class Report:
    """Results of one step: lines of text, values for programs, and problems."""

    show: Callable[[str], None]
    values: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def say(self, *lines: str) -> None:
        """Show lines immediately."""
        for line in lines:
            self.show(line)

    def judge(self, problems: Iterable[str]) -> None:
        """Record problems, and show them."""
        for problem in problems:
            self.problems.append(problem)
            self.show(f"WRONG: {problem}")


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: name on the command line.
        what: its purpose, in a few words.
        limit_s: most time for it.
        min_s: it is not started with less time left.
        run: the step's function; any exception is its failure.
    """

    name: str
    what: str
    limit_s: float
    min_s: float
    run: Callable[[Job, Report, Deadline], None]


@dataclass(frozen=True)
class Outcome:
    """Result of a step, and its values; `problems` is empty if it passed."""

    step: str
    result: Result
    seconds: float
    problems: tuple[str, ...]
    values: dict[str, Any]


def run_steps(
    steps: Sequence[Step],
    job: Job,
    limit_s: float,
    show: Callable[[str], None],
    keep: Callable[[Outcome], None],
    clock: Clock = time.monotonic,
) -> list[Outcome]:
    """Run all steps that fit into `limit_s` seconds.

    Args:
        steps: in their order.
        job: their settings.
        limit_s: most time for all of them.
        show: called with each line of text, immediately.
        keep: called with each outcome, immediately.
        clock: returns the time, in seconds.
    """
    until_s = clock() + limit_s
    outcomes = []
    for number, step in enumerate(steps, 1):
        show(f"{number}/{len(steps)} {step.name}: {step.what}")
        left_s = until_s - END_S - clock()
        if left_s < step.min_s:
            reason = f"it needs {step.min_s:.0f} s, {max(0.0, left_s):.0f} s are left"
            outcome = Outcome(step.name, Result.LEFT_OUT, 0.0, (reason,), {})
        else:
            outcome = _run(step, job, min(step.limit_s, left_s), show, clock)
        problems = f": {'; '.join(outcome.problems)}" if outcome.problems else ""
        show(f"    {outcome.result} after {outcome.seconds:.1f} s{problems}")
        keep(outcome)
        outcomes.append(outcome)
    return outcomes


def _run(
    step: Step, job: Job, seconds: float, show: Callable[[str], None], clock: Clock
) -> Outcome:
    report = Report(lambda line: show(f"    {line}"))
    began_s = clock()
    late = False
    try:
        step.run(job, report, Deadline(seconds, clock))
    except Late as error:
        late = True
        report.problems.append(f"{error} ({seconds:.0f} s)")
    except GalampError as error:
        report.problems += error.problems
    except Exception as error:  # a defect of this step must not cost the others
        traceback.print_exc(file=sys.stderr)
        report.problems.append(f"{type(error).__name__}: {error}")
    result = Result.LATE if late else Result.FAILED if report.problems else Result.PASSED
    return Outcome(step.name, result, clock() - began_s, tuple(report.problems), report.values)


def cause(log: Iterable[str]) -> str:
    """Return the message of the first exception in a log: later ones follow from it."""
    lines = [line.strip() for line in log if line.strip()]
    raised = (line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line))
    return next(raised, lines[-1] if lines else "it does not say why")


def wait_for(ready: Callable[[], bool], program: Program, deadline: Deadline, what: str) -> None:
    """Wait until `ready` is true of a running program.

    Raises:
        RunFailed: the program has ended.
        Late: the time is over.
    """
    while not ready():
        if program.ends_within(POLL_EVERY_S):
            if ready():
                return
            raise RunFailed(f"ended with code {program.exit_code}: {program.complaint()}")
        deadline.check(what)


def code_of(program: Program, deadline: Deadline, what: str) -> int:
    """Return a program's exit code once it has ended.

    Raises:
        Late: it has not.
    """
    while not program.ends_within(POLL_EVERY_S):
        deadline.check(f"the end of {what}")
    code = program.exit_code
    assert code is not None
    return code
