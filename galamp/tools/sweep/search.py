"""The trials of a sweep's search: Optuna draws settings, runs say what they are worth.

    Search --Searcher.more--> ask: settings of a trial --> Starts --> Runner
    runs of a trial that have ended --settle--> tell: mean score --> DIR/search.journal

A study for each arm, all in one journal of Optuna's, which `galamp sweep` alone writes: it holds
DIR/lock. A trial that is asked for, but not told, is gone on with by the next command; its runs are
begun, resumed or skipped as those of any sweep. Optuna is imported when a search is opened.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from galamp.core.config import from_settings
from galamp.core.errors import UserError
from galamp.core.pip_commands import install_extra
from galamp.tools.run_folders.record import read_record
from galamp.tools.sweep.journal import heal, storage_of
from galamp.tools.sweep.ledger import Ledger, Start, Todo, todo_of
from galamp.tools.sweep.planned import PlannedRun, Sweep
from galamp.tools.sweep.space import Range, Search

FILE = "search.journal"
MADE_OF = "galamp"
"""Attribute of a study: what it was begun with."""
DAMAGED = (ValueError, KeyError, TypeError, AttributeError, AssertionError)
"""What reading a journal raises that is none."""
OPEN, TOLD, WORTHLESS = "open", "told", "no score"


@dataclass(frozen=True)
class Trial:
    """One trial of an arm.

    Attributes:
        arm: of the sweep's file.
        number: from 0, in the arm.
        params: what it has drawn, by the names of ranges.
        state: `OPEN`, `TOLD`, or `WORTHLESS` if its runs ended without a score.
        score: mean over its runs; None before it is told.
        runs: what it is made of.
    """

    arm: str
    number: int
    params: Mapping[str, Any]
    state: str
    score: float | None
    runs: tuple[PlannedRun, ...]


class Searcher:
    """The studies of a sweep's folder."""

    def __init__(self, sweep: Sweep, ledger: Ledger, *, reads_only: bool = False) -> None:
        """Open the studies, or make them.

        Args:
            sweep: one with a search.
            ledger: of the folder, which exists and is locked, unless it is only read.
            reads_only: whether nothing is made or changed.

        Raises:
            UserError: Optuna is missing, the journal is damaged or of another search, or a run has
                other settings or is running.
        """
        require_optuna()
        assert sweep.search is not None
        self._sweep, self._ledger, self._search = sweep, ledger, sweep.search
        self._bases = {
            arm: tuple(run for run in sweep.runs if run.arm == arm) for arm in sweep.arms
        }
        self._studies = self._opened(reads_only)
        known = self.trials()
        ledger.starts(self._of([run for trial in known for run in trial.runs]))  # what does not fit
        self._left = [trial for trial in known if trial.state == OPEN]
        self._under_way: list[tuple[Trial, list[str]]] = []
        """Trials with the names of their runs that were to be started."""

    def trials(self) -> list[Trial]:
        """Return all trials that were asked for, arm by arm."""
        return [self._trial(arm, found) for arm in self._bases for found in self._whole(arm)]

    @property
    def count(self) -> int:
        """How many runs there are to begin or to go on with, with those of trials to come."""
        left = [run for trial in self._left for run in trial.runs]
        to_come = sum(
            max(0, self._search.trials - len(self._whole(arm))) * len(runs)
            for arm, runs in self._bases.items()
        )
        return len(self._ledger.starts(self._of(left))) + to_come

    def corners(self) -> list[Start]:
        """Return runs that stand for all that may be drawn, to be checked; none if all is told."""
        if not self.count:
            return []
        return [
            Start(run, resume=False)
            for corner in self._search.corners()
            for arm, runs in self._bases.items()
            for run in of_trial(self._search, runs, f"{arm} with {in_words(corner)}", corner)
        ]

    def more(self) -> list[Start]:
        """Return the runs of the next trial: first of those that were left open; none at the end.

        Trials whose runs have ended are told before. Called when all that this has returned was
        started.
        """
        self.settle()
        while (trial := self._next()) is not None:
            starts = self._ledger.starts(self._of(trial.runs))
            self._under_way.append((trial, [start.run.name for start in starts]))
            if starts:
                return starts
            self.settle()
        return []

    def settle(self) -> None:
        """Tell what the trials are worth whose runs have ended; those of failed runs stay open."""
        for under_way in list(self._under_way):
            trial, names = under_way
            if any(self._runs_now(name) for name in names):
                continue
            self._under_way.remove(under_way)
            if all(todo_of(self._ledger.path(run)) is Todo.NOTHING for run in trial.runs):
                self._tell(trial)

    def _runs_now(self, name: str) -> bool:
        known = self._ledger.runs.get(name)
        return known is not None and known.exit_code is None

    def _tell(self, trial: Trial) -> None:
        from optuna.trial import TrialState

        scores = [read_record(self._ledger.path(run)).score for run in trial.runs]
        known = [score for score in scores if score is not None and math.isfinite(score)]
        study = self._studies[trial.arm]
        if len(known) < len(scores):
            study.tell(trial.number, state=TrialState.FAIL)
        else:
            study.tell(trial.number, math.fsum(known) / len(known))

    def _next(self) -> Trial | None:
        """Return a trial that was left open, or a new one of the arm that has the fewest."""
        if self._left:
            return self._left.pop(0)
        counts = {arm: len(self._whole(arm)) for arm in self._bases}
        arm = min(counts, key=lambda arm: counts[arm])
        return self._asked(arm) if counts[arm] < self._search.trials else None

    def _asked(self, arm: str) -> Trial:
        """Draw a trial. What is drawn follows from the seed, the arm and the trial's number.

        So a search that goes on draws what it would have drawn, as long as nothing is known.
        """
        from optuna.samplers import TPESampler

        study = self._studies[arm]
        number = len(study.get_trials(deepcopy=False))
        words = f"{self._search.sampler_seed} {arm} {number}"
        seed = int.from_bytes(hashlib.sha256(words.encode()).digest()[:4], "big")
        study.sampler = TPESampler(seed=seed)
        asked = study.ask({each.name: _distribution(each) for each in self._search.ranges})
        found = next(each for each in self._whole(arm) if each.number == asked.number)
        return self._trial(arm, found)

    def _whole(self, arm: str) -> list[Any]:
        """Return the trials of an arm, as Optuna has them, that have all their settings."""
        if arm not in self._studies:
            return []
        every = self._studies[arm].get_trials(deepcopy=False)
        return [found for found in every if _is_whole(found, self._search)]

    def _trial(self, arm: str, found: Any) -> Trial:
        name = f"{arm}-trial-{found.number}"
        runs = of_trial(self._search, self._bases[arm], name, found.params)
        state = OPEN if not found.state.is_finished() else TOLD
        if state is TOLD and found.value is None:
            state = WORTHLESS
        return Trial(arm, found.number, found.params, state, found.value, runs)

    def _of(self, runs: Sequence[PlannedRun]) -> Sweep:
        return replace(self._sweep, runs=tuple(runs))

    def _opened(self, reads_only: bool) -> dict[str, Any]:
        """Return the study of each arm; of those that are only read, which may be none yet.

        Raises:
            UserError: the journal is damaged, or of another search.
        """
        import optuna

        path = self._ledger.folder / FILE
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        if reads_only and not path.exists():
            return {}
        if not reads_only:
            self._ledger.save()  # before the journal: the folder is a sweep's
            heal(path)
        try:
            storage = storage_of(path)
            names = {summary.study_name for summary in optuna.get_all_study_summaries(storage)}
            studies = {
                arm: optuna.load_study(study_name=arm, storage=storage)
                if arm in names
                else optuna.create_study(study_name=arm, storage=storage, direction="maximize")
                for arm in self._bases
                if arm in names or not reads_only
            }
            made_of = self._made_of()
            for arm, study in studies.items():
                self._require_same(arm, study.user_attrs.get(MADE_OF), made_of[arm])
                if not reads_only:
                    self._prepare(study, made_of[arm])
        except (*DAMAGED, optuna.exceptions.OptunaError) as error:
            raise UserError(f"{path}: damaged: {error}; choose another --dir") from None
        return studies

    def _prepare(self, study: Any, made_of: dict[str, str]) -> None:
        """Note what a study is begun with, and close trials that a kill has left half drawn."""
        from optuna.trial import TrialState

        if study.user_attrs.get(MADE_OF) != made_of:
            study.set_user_attr(MADE_OF, made_of)
        for found in study.get_trials(deepcopy=False):
            if not found.state.is_finished() and not _is_whole(found, self._search):
                study.tell(found.number, state=TrialState.FAIL)

    def _made_of(self) -> dict[str, dict[str, str]]:
        """Return what must stay as it is for scores of trials to be comparable."""
        ranges = {f"search.{each.name}": str(each) for each in self._search.ranges}
        return {
            arm: {
                **ranges,
                "games": ", ".join(dict.fromkeys(run.env_id for run in runs)),
                "seeds": ", ".join(dict.fromkeys(str(run.seed) for run in runs)),
            }
            for arm, runs in self._bases.items()
        }

    def _require_same(self, arm: str, then: dict[str, str] | None, now: dict[str, str]) -> None:
        """Check that a study was begun with what the file says now.

        Raises:
            UserError: a line for what differs.
        """
        if then is None or then == now:
            return
        names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
        changes = ", ".join(
            f"{name}: was {then.get(name, 'not given')}, is {now.get(name, 'not given')}"
            for name in names
        )
        raise UserError(
            f"{self._ledger.folder}: the search of {arm} was begun with others ({changes}); change "
            "the file back, or choose another --dir"
        )


def require_optuna() -> None:
    """Check that Optuna is there.

    Raises:
        UserError: it is not.
    """
    if importlib.util.find_spec("optuna") is None:
        raise UserError(f"search: needs optuna, which is not installed: {install_extra('search')}")


def of_trial(
    search: Search, bases: Sequence[PlannedRun], name: str, params: Mapping[str, Any]
) -> tuple[PlannedRun, ...]:
    """Return the runs of a trial that is called `name`: those of its arm with what it has drawn."""
    drawn = search.values(params)
    runs = []
    for base in bases:
        values = {**base.values, **drawn}
        config = from_settings(values, type(base.config.algorithm))
        label = f"{name}{base.name.removeprefix(base.arm)}"
        runs.append(replace(base, name=label, arm=name, values=values, config=config))
    return tuple(runs)


def in_words(params: Mapping[str, Any]) -> str:
    """Return what a trial has drawn as text, by flags."""
    return ", ".join(f"{name} {amount(value)}" for name, value in params.items())


def amount(value: Any) -> str:
    """Return a value that was drawn as text."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_whole(found: Any, search: Search) -> bool:
    return set(found.params) == {each.name for each in search.ranges}


def _distribution(of: Range) -> Any:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if of.choices:
        return CategoricalDistribution(of.choices)
    kind = IntDistribution if isinstance(of.low, int) else FloatDistribution
    return kind(of.low, of.high, log=of.log)
