"""Steps that train: one learner, one of four that is killed, and a run that changes its device."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from galamp.core.errors import RunFailed
from galamp.tools.bench.gpu.steps import Deadline, Job, Report, cause
from galamp.tools.bench.gpu.training import (
    Row,
    Training,
    rate_of,
    words_of,
    wrong_end,
    wrong_losses,
)
from galamp.tools.bench.processes import titled

TRAINED_S = 8.0
ONE_OF_ONE, ONE_OF_FOUR = 64, 16
"""Simulators per learner."""
VICTIM = 1
STEPS_PER_START = 20_000
"""Agent steps of each start of a run that changes its device."""


def one_learner(job: Job, report: Report, deadline: Deadline) -> None:
    """Train with one learner for a while."""
    with tempfile.TemporaryDirectory(prefix="galamp-bench-") as home:
        folder = Path(home, "run")
        words = words_of(job, 1, ONE_OF_ONE, "--run-dir", folder)
        began_s = time.monotonic()
        with Training(words, folder, deadline) as run:
            run.until_it_learns()
            started_s = time.monotonic() - began_s
            run.until_it_has_trained(TRAINED_S)
            summary, rows = run.stop(), run.rows()
        report.values |= {
            "agent_steps_per_s": rate_of(rows),
            "started_s": started_s,
            "time_shares": summary["time_shares"],
            "remarks": run.remarks(),
        }
        refusals = run.graph_refusals()
        if refusals:
            report.values["learner_log"] = run.log_end(0)
    shares = ", ".join(f"{name} {share:.0%}" for name, share in summary["time_shares"].items())
    report.say(
        f"{rate_of(rows):,.0f} agent steps/s with {ONE_OF_ONE} environments, first update after "
        f"{started_s:.1f} s; {shares}",
        *report.values["remarks"],
    )
    report.judge(wrong_end(summary, status="stopped", restarts=0))
    report.judge(wrong_losses(rows))
    log = report.values.get("learner_log", [])
    report.say(*log)
    report.judge(f"{refusal}: {cause(log)}" for refusal in refusals)


def killed_learner(job: Job, report: Report, deadline: Deadline) -> None:
    """Kill one of four learners that share a GPU, and wait until it learns again."""
    with tempfile.TemporaryDirectory(prefix="galamp-bench-") as home:
        folder = Path(home, "run")
        words = words_of(job, 4, ONE_OF_FOUR, "--run-dir", folder)
        with Training(words, folder, deadline) as run:
            run.until_it_learns()
            before = run.rows()[-1]
            pid = victim_of(titled(run.session, f"galamp: learner {VICTIM}"))
            killed_s = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            run.until(lambda: is_back(before, run.rows()), "the return of the killed learner")
            back_s = time.monotonic() - killed_s
            after = run.rows()[-1]
            summary = run.stop()
    others = updates_of_others(before, after)
    report.values |= {"back_s": back_s, "updates_of_others": others}
    report.say(
        f"learner {VICTIM} learned again {back_s:.1f} s after its SIGKILL; the others made "
        f"{', '.join(map(str, others))} updates meanwhile"
    )
    report.judge(wrong_end(summary, status="stopped", restarts=1))
    report.judge(wrong_others(others))


def victim_of(pids: Sequence[int]) -> int:
    """Return the one process with the victim's title.

    Raises:
        RunFailed: there is none, or several.
    """
    if len(pids) != 1:
        raise RunFailed(f"expected one process named galamp: learner {VICTIM}, found {len(pids)}")
    return pids[0]


def is_back(before: Row, rows: Sequence[Row]) -> bool:
    """Return whether the victim has restarted since the row `before`, and has learned since."""
    incarnation, updates = f"learner{VICTIM}/incarnation", f"learner{VICTIM}/updates"
    anew = [row for row in rows if row[incarnation] > before[incarnation]]
    return bool(anew) and anew[-1][updates] > anew[0][updates]


def updates_of_others(before: Row, after: Row) -> list[int]:
    """Return how many updates each of the other three learners made between two rows."""
    others = [rank for rank in range(4) if rank != VICTIM]
    names = [f"learner{rank}/updates" for rank in others]
    return [int(after[name] - before[name]) for name in names]


def wrong_others(updates: Sequence[int]) -> Iterator[str]:
    """Yield a problem if a learner that was not killed has stood still."""
    if min(updates) <= 0:
        yield f"a learner that was left alone stood still: {', '.join(map(str, updates))} updates"


def changed_device(job: Job, report: Report, deadline: Deadline) -> None:
    """Train on the GPU, resume on the CPU, and on the GPU again."""
    starts: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="galamp-bench-") as home:
        folder = Path(home, "run")
        for number, device in enumerate((job.device, "cpu", job.device), 1):
            total = number * STEPS_PER_START
            words: list[object] = ["run", "--resume", folder, "--quiet", "--device", device]
            if number == 1:
                words = words_of(job, 1, ONE_OF_FOUR, "--run-dir", folder)
            began_s = time.monotonic()
            with Training([*words, "--total-steps", total], folder, deadline) as run:
                summary, rows = run.finish(), run.rows()
            passed_s = time.monotonic() - began_s
            starts.append({"device": device, "seconds": passed_s, "summary": summary})
            report.say(f"{device}: {summary['agent_steps']:,} agent steps after {passed_s:.1f} s")
            report.judge(f"on {device}: {wrong}" for wrong in wrong_losses(rows))
    report.values["starts"] = starts
    report.judge(wrong_starts([start["summary"] for start in starts]))


def wrong_starts(summaries: Sequence[Row]) -> Iterator[str]:
    """Yield each start that did not resume from the end of the one before it."""
    for number, summary in enumerate(summaries, 1):
        for wrong in wrong_end(summary, status="finished", restarts=0):
            yield f"start {number}: {wrong}"
        if summary["start"] != number:
            yield f"start {number} calls itself start {summary['start']}"
        if summary["agent_steps"] < number * STEPS_PER_START:
            yield (
                f"start {number} ended at {summary['agent_steps']:,} agent steps, expected "
                f"{number * STEPS_PER_START:,}"
            )
