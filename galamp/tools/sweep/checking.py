"""The whole check of a sweep before its first run: everything that a run checks of itself.

    PlannedRuns, one of each arm and environment --training.train.survey--> nothing, or a line each

It is made on as many cores as the runs will get. Environments are tried, networks are sketched, in
processes that end; this one loads torch.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from galamp.core.errors import UserError
from galamp.tools.sweep.ledger import Start
from galamp.tools.sweep.packing import Packing
from galamp.tools.sweep.planned import SEED, PlannedRun, digest

if TYPE_CHECKING:
    from galamp.environments.base import EnvironmentSpec

Check = Callable[[PlannedRun], object]
"""Raises a `UserError` for a run that cannot start."""


def check_all(
    starts: Sequence[Start], packing: Packing, cores: Sequence[int], check: Check
) -> None:
    """Check one run of each arm and environment, of those that are to be begun.

    Args:
        starts: what is to be done; runs that go on were checked when they began.
        packing: says how many cores each gets.
        cores: of the machine.
        check: of one run.

    Raises:
        UserError: a line for each arm and environment that cannot be run.
    """
    problems: list[str] = []
    for run in alike(start.run for start in starts if not start.resume):
        with _on(cores[: packing.cores_for(run.cores)]):
            try:
                check(run)
            except UserError as error:
                problems += [f"{run.arm}, {run.env_id}: {line}" for line in error.problems]
    if problems:
        raise UserError(*problems)


class Survey:
    """Checks runs as `galamp run` does before it starts any process; each environment once."""

    def __init__(self) -> None:
        self._known: dict[str, EnvironmentSpec] = {}

    def __call__(self, run: PlannedRun) -> None:
        """Check a run.

        Raises:
            UserError: its environment cannot be used, or its settings do not fit the machine.
        """
        from galamp.storage.run_folder import StoredChoices
        from galamp.telemetry.sinks import load_sinks
        from galamp.training.train import survey

        load_sinks(run.config.report.sinks)
        # One of them is made, however many there will be.
        environment = digest(asdict(replace(run.config.environment, num_envs=1)))
        context, _ = survey(run.config, StoredChoices(), self._known.get(environment))
        self._known[environment] = context.environment


def alike(runs: Iterator[PlannedRun]) -> list[PlannedRun]:
    """Return the first of all runs that differ in nothing but their seed."""
    seed = SEED[1]
    found: dict[str, PlannedRun] = {}
    for run in runs:
        same = {name: value for name, value in run.settings.items() if name != seed}
        found.setdefault(digest(same), run)
    return list(found.values())


@contextlib.contextmanager
def _on(cores: Sequence[int]) -> Iterator[None]:
    """Have this process, and those that it starts meanwhile, use these cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
