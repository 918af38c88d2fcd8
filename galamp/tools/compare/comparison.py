"""What runs have in common and what not, as plain values: the result of `galamp compare --json`.

    Runs --group--> Groups --at equal agent steps, at equal hours--> scores per game
    scores --statistics, verdict--> interquartile means, probabilities of improvement, a sentence

A score is the mean of the last 100 training episodes, interpolated between rows of metrics. It is
compared where all runs of a game have come: at the length of the shortest. Only a mean of 100
episodes reaches a score, as with `--stop-score`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from galamp.core.sanitize import clean
from galamp.storage.run_logs import EPISODES
from galamp.telemetry.metrics_row import JOULES_PER_FRAME
from galamp.tools.compare.log_rank import log_rank
from galamp.tools.compare.permutation import Numbers
from galamp.tools.compare.reaching import Reaching, exact_test, median_time, of_full_means, share
from galamp.tools.compare.statistics import improvement, iqm, iqm_interval
from galamp.tools.compare.verdict import statement
from galamp.tools.evaluation.references import Reference, reference_for
from galamp.tools.plot.charts import curve
from galamp.tools.plot.groups import OF_THE_MACHINE, Group, differing, group, values
from galamp.tools.plot.metrics import SCORE
from galamp.tools.plot.references import misfit_of
from galamp.tools.plot.runs import Run

AXES = {"steps": "agent steps", "hours": "time"}
"""Axis -> what is equal where scores are compared at the same value of it."""

Scores = dict[str, dict[str, list[float]]]
"""Group -> game -> a score per run."""

FEW_RUNS = 5
"""Bootstrap intervals of fewer runs are too narrow."""


def compare(
    runs: Sequence[Run], wanted: float | None = None, ignored: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the comparison.

    Args:
        runs: at least two.
        wanted: score of which the time to reach it is asked for.
        ignored: settings that make no groups.
    """
    games = list(dict.fromkeys(run.env_id for run in runs))
    return compare_groups(
        group(runs, ignored=(*ignored, *(["env_id"] if len(games) > 1 else []))), games, wanted
    )


def compare_groups(
    groups: Sequence[Group], games: Sequence[str], wanted: float | None = None
) -> dict[str, Any]:
    """Return the comparison of groups that are known, such as the arms of a sweep.

    Args:
        groups: at least one; the first is what others are compared with.
        games: environments of their runs.
        wanted: score of which the time to reach it is asked for.
    """
    notes: list[str] = []
    return {
        "games": list(games),
        "groups": [_group(each, wanted) for each in groups],
        "settings": _settings(groups),
        "wanted_score": wanted,
        "reaching": [] if wanted is None else _reaching(groups, games, wanted),
        "at_equal": {axis: _at_equal(groups, games, axis, notes) for axis in AXES},
        "notes": list(dict.fromkeys([*notes, *_notes(groups)])),
    }


def _group(group: Group, wanted: float | None) -> dict[str, Any]:
    runs = [_run(run, wanted) for run in group.runs]
    result: dict[str, Any] = {
        "group": group.letter,
        "label": group.label,
        "seeds": group.seeds,
        "runs": runs,
    }
    for name in ("agent_steps_per_s", "frames_per_s", "joules_per_frame"):
        result[name] = _median(run[name] for run in runs)
    if wanted is not None:
        result["reached"] = sum(run["steps_to_score"] is not None for run in runs)
        result["reached_interval"] = share(_reachings(runs, "steps"))
        for axis in AXES:
            result[f"{axis}_to_score"] = median_time(_reachings(runs, axis))
    return result


def _reachings(runs: Sequence[dict[str, Any]], axis: str) -> list[Reaching]:
    """Return whether and when runs reached the score; without a curve, at once they did not."""
    lasted = {"steps": "agent_steps", "hours": "hours"}[axis]
    return [
        Reaching(run[lasted] or 0.0, False)
        if run[f"{axis}_to_score"] is None
        else Reaching(run[f"{axis}_to_score"], True)
        for run in runs
    ]


def _reaching(groups: Sequence[Group], games: Sequence[str], wanted: float) -> list[dict[str, Any]]:
    """Return how surely each group differs from the first in reaching the score."""
    first, *others = (
        [_reachings([_run(run, wanted) for run in _of([each], game)], "steps") for game in games]
        for each in groups
    )
    return [
        {
            "groups": [groups[0].letter, each.letter],
            "log_rank_p": log_rank(first, other).p,
            "reached_p": exact_test(first, other),
        }
        for each, other in zip(groups[1:], others, strict=True)
    ]


def _run(run: Run, wanted: float | None) -> dict[str, Any]:
    """Return one run's figures; None for what it has not recorded."""
    steps, scores = curve(run.history, SCORE, "steps")
    hours, _ = curve(run.history, SCORE, "hours")
    speeds = run.history.column("charts/SPS")
    speed = _median(speeds[speeds > 0].tolist())
    frames = _frames_per_step(run)
    result = {
        "run": str(run.path),
        "name": run.label,
        "env_id": run.env_id,
        "seed": run.seed,
        "running": run.is_running(),
        "agent_steps": _last(run.history.column("global_step")),
        "hours": _last(run.history.column("wall_s") / 3600.0),
        "score": _last(scores),
        "agent_steps_per_s": speed,
        "frames_per_s": None if speed is None else speed * frames,
        "joules_per_frame": _median(run.history.column(JOULES_PER_FRAME).tolist()),
    }
    if wanted is not None:
        reached = np.flatnonzero(_whole(run, steps, scores) >= wanted)
        result["steps_to_score"] = float(steps[reached[0]]) if len(reached) else None
        # Rows without a time are in neither curve's last place: both come from the same rows.
        result["hours_to_score"] = float(hours[reached[0]]) if len(reached) else None
    return result


def _whole(run: Run, steps: Numbers, scores: Numbers) -> Numbers:
    """Return the scores, minus infinity where they are of fewer than 100 episodes.

    All of them where a run of an older galamp has not recorded how many there were.
    """
    if EPISODES not in run.history.names:
        return scores
    return of_full_means(steps, scores, *curve(run.history, EPISODES, "steps"))


def _frames_per_step(run: Run) -> float:
    steps, frames = (run.history.column(name) for name in ("global_step", "emulator_frames"))
    known = steps > 0
    return float(frames[known][-1] / steps[known][-1]) if known.any() else 1.0


def _settings(groups: Sequence[Group]) -> dict[str, dict[str, list[str]]]:
    """Return setting -> group -> its values, of those that are not the same everywhere."""
    return {
        name: {each.letter: values(each.runs, name) for each in groups}
        for name in differing([each.runs for each in groups])
    }


def _at_equal(
    groups: Sequence[Group], games: Sequence[str], axis: str, notes: list[str]
) -> dict[str, Any]:
    """Return where scores are compared, those scores, their aggregates, and what follows."""
    places: dict[str, dict[str, Any]] = {}
    scores: Scores = {each.letter: {} for each in groups}
    for game in games:
        curves = {run.label: curve(run.history, SCORE, axis) for run in _of(groups, game)}
        curves = {name: points for name, points in curves.items() if len(points[0])}
        if not curves:
            continue
        shortest = min(curves, key=lambda name: float(curves[name][0][-1]))
        place = float(curves[shortest][0][-1])
        places[game] = {"at": place, "shortest": shortest}
        for each in groups:
            found = [(run, curves.get(run.label)) for run in each.runs if run.env_id == game]
            at_place = [_at(points, place) for _, points in found if points is not None]
            known = [score for score in at_place if score is not None]
            if len(known) < len(found):
                notes.append(
                    f"{each.letter}: {len(found) - len(known)} of {len(found)} runs of "
                    f"{clean(game)} have no score at {_amount(place, axis)} yet"
                )
            if known:
                scores[each.letter][game] = known
    return {
        "unit": AXES[axis],
        "places": places,
        "scores": scores,
        **_means(groups, scores, games, notes),
        "pairs": [_pair(other, groups[0], scores, len(groups) - 1, axis) for other in groups[1:]],
    }


def _means(
    groups: Sequence[Group], scores: Scores, games: Sequence[str], notes: list[str]
) -> dict[str, Any]:
    """Return interquartile means over the games that all groups have.

    Over several games, scores are normalised by the published ones of a random player and a human:
    there are no means where a game has none, or was played under another protocol.
    """
    common = [game for game in games if all(game in of for of in scores.values())]
    known = {game: reference_for(game) for game in common} if len(common) > 1 else {}
    why_not = _why_not_normalised(groups, known)
    if why_not:
        notes.append(f"no interquartile mean over games: {why_not}")
    means = {}
    for letter, of in scores.items() if common and not why_not else ():
        tasks = [np.array(of[game], dtype=float) for game in common]
        for number, each in enumerate(known.values()):
            if each is not None:
                tasks[number] = (tasks[number] - each.random) / (each.human - each.random)
        interval = iqm_interval(tasks) if min(map(len, tasks)) > 1 else None
        means[letter] = {"iqm": float(iqm(np.concatenate(tasks))), "interval": interval}
    return {"common_games": common, "human_normalised": bool(known and means), "iqm": means}


def _why_not_normalised(groups: Sequence[Group], known: Mapping[str, Reference | None]) -> str:
    """Return why scores of games cannot be normalised by those that are known; empty if they can.

    `known`: game -> its published scores, None where there are none.
    """
    without = [clean(game) for game, each in known.items() if each is None]
    if without:
        return f"no published scores for {', '.join(without)}"
    for game in known:
        for run in _of(groups, game):
            if misfit := misfit_of(run):
                return (
                    f"{clean(game)} is played otherwise than for the published scores: "
                    f"{clean(misfit)}"
                )
    return ""


def _pair(ours: Group, theirs: Group, scores: Scores, pairs: int, axis: str) -> dict[str, Any]:
    """Return whether a group scores otherwise than another, in the games that both have."""
    of = scores[ours.letter], scores[theirs.letter]
    common = [game for game in of[0] if game in of[1]]
    seeds = {
        each.letter: min((_seeds(each, game) for game in common), default=0)
        for each in (ours, theirs)
    }
    better = None
    if min(seeds.values()) > 1:
        better = improvement(
            *([np.array(each[game], dtype=float) for game in common] for each in of)
        )
    return {
        "group": ours.letter,
        "than": theirs.letter,
        "games": common,
        "improvement": better._asdict() if better else None,
        "statement": statement(ours.letter, theirs.letter, seeds, better, pairs, AXES[axis]),
    }


def _notes(groups: Sequence[Group]) -> list[str]:
    notes = []
    for each in groups:
        per_game = {
            game: len([run for run in each.runs if run.env_id == game]) for game in _games(each)
        }
        if any(_seeds(each, game) < count for game, count in per_game.items()):
            notes.append(f"{each.letter}: some runs have the same seed, and are not independent")
    if 1 < min(len(each.runs) for each in groups) < FEW_RUNS:
        notes.append(f"intervals from fewer than {FEW_RUNS} runs are too narrow")
    if any(run.is_running() for each in groups for run in each.runs):
        notes.append("some runs go on: their figures will change")
    return notes


def machine_only(name: str) -> bool:
    """Return whether a setting follows the machine, and makes no groups."""
    return name in OF_THE_MACHINE


def _of(groups: Sequence[Group], game: str) -> list[Run]:
    return [run for each in groups for run in each.runs if run.env_id == game]


def _games(group: Group) -> list[str]:
    return list(dict.fromkeys(run.env_id for run in group.runs))


def _seeds(group: Group, game: str) -> int:
    """Return the number of different seeds with which a group has played a game."""
    return len({str(run.seed) for run in group.runs if run.env_id == game})


def _at(points: tuple[Any, Any], place: float) -> float | None:
    x, y = points
    return float(np.interp(place, x, y)) if x[0] <= place else None


def _amount(place: float, axis: str) -> str:
    return f"{place:,.0f} agent steps" if axis == "steps" else f"{place:.3g} h"


def _last(column: Any) -> float | None:
    known = column[np.isfinite(column)]
    return float(known[-1]) if len(known) else None


def _median(numbers: Iterable[float | None]) -> float | None:
    known = [number for number in numbers if number is not None and math.isfinite(number)]
    return float(np.median(known)) if known else None
