"""`bin/study`: when a hypothesis is decided, what H3 rests on, and what tables are made of."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from galamp.cli.study_files import sweep_of
from galamp.tools.bench import runs as bench_runs
from galamp.tools.study import hypotheses, pilot, plan
from galamp.tools.study.decisions import OPEN, Outcome, decide
from galamp.tools.study.pilot import Rate, first_seeds, fitting_seeds, hours
from galamp.tools.study.power import of_times
from galamp.tools.study.report import report
from galamp.tools.study.rows import Row
from galamp.tools.study.study import Shape, Study
from galamp.tools.study.text_report import show
from galamp.tools.sweep.packing import Packing
from tests.support.study_rows import GAMES, SCALES, STEPS_PER_S, large, row, rows, small

FILLS = (0.0, 1e-4, 0.011, 0.016, 0.017, 0.024, 0.026, 0.049, 0.051, 0.3, 1.0)


def outcomes(*ps: float | None) -> list[Outcome]:
    return [Outcome(f"H{n}", "", p, favours=True, found="") for n, p in enumerate(ps, 1)]


def verdicts(*ps: float | None) -> list[str]:
    return [each.verdict for each in decide(outcomes(*ps))]


def test_holm_corrects_and_the_rule_decides() -> None:
    """0.01, 0.04, 0.03 become 0.03, 0.06, 0.06, as in Holm 1979 (R's p.adjust)."""
    tests = [
        Outcome(f"H{n}", "", p, favours=True, found="") for n, p in enumerate((0.01, 0.04, 0.03))
    ]
    found = decide(tests)
    assert [each.corrected for each in found] == pytest.approx([0.03, 0.06, 0.06])
    assert [each.verdict for each in found] == ["supported", "undecided", "undecided"]
    tests[0] = dataclasses.replace(tests[0], favours=False)
    tests[1] = dataclasses.replace(tests[1], p=None)
    found = decide(tests)
    assert [each.corrected for each in found] == [pytest.approx(0.03), None, pytest.approx(0.06)]
    assert [each.verdict for each in found] == ["refuted", "open", "open"]


def test_nothing_is_called_undecided_that_a_missing_hypothesis_can_still_support() -> None:
    assert verdicts(0.02, None, None) == ["open"] * 3
    assert verdicts(0.02, 0.001, None) == ["supported", "supported", "open"]
    assert verdicts(0.06, None, None) == ["undecided", "open", "open"]
    assert verdicts(0.01, None, None) == ["supported", "open", "open"]


@pytest.mark.parametrize("p", FILLS[1:-1])
@pytest.mark.parametrize("other", [None, *FILLS[:-1:3]])
def test_a_verdict_is_one_that_no_missing_outcome_changes(p: float, other: float | None) -> None:
    """Against all outcomes of the missing ones; and a verdict is given as soon as it is so."""
    ps = [p, other, None]
    missing = [at for at, each in enumerate(ps) if each is None]
    ends = set()
    for fill in itertools.product(FILLS, repeat=len(missing)):
        full = list(ps)
        for at, each in zip(missing, fill, strict=True):
            full[at] = each
        ends.add(verdicts(*full)[0])
    (found, *_) = verdicts(*ps)
    assert found == (ends.pop() if len(ends) == 1 else OPEN)


# H3


def pong(arm: str, steps: list[int | None]) -> list[Row]:
    return [
        row(arm, "pong", seed, 0.0, reached_steps=each, total_steps=2000, agent_steps=each or 2000)
        for seed, each in enumerate(steps, 1)
    ]


def speed(
    ours: list[int | None], theirs: list[int | None], rates: Mapping[str, float] = STEPS_PER_S
) -> Outcome:
    """H3 of arms that came to the score after so many agent steps, or never."""
    both = [*pong(plan.GALA_PONG, ours), *pong(plan.A2C_PONG, theirs)]
    return hypotheses.speed(both, rates, whole=True)


def test_who_comes_to_the_score_at_all_is_sooner_though_neither_has_a_median() -> None:
    some: list[int | None] = [200, 400, 600, 800, *[None] * 6]
    none: list[int | None] = [None] * 10
    found = speed(some, none)
    assert (found.p or 1.0) < 0.1
    assert found.favours
    assert found.found == "GALA 4 of 10, no median time; A2C 0 of 10, no median time"
    back = speed(none, some)
    assert back.p == pytest.approx(found.p, abs=0.01), "both are drawn"
    assert not back.favours


def test_three_seeds_that_are_all_sooner_are_one_arrangement_of_ten() -> None:
    found = speed([120, 144, 132], [240] * 3)
    assert found.p == pytest.approx(0.1)
    assert found.found == (
        "GALA 3 of 3, median 1.1 minutes; A2C 3 of 3, median 2.0 minutes; "
        "ratio of the medians 0.55 (0.50 to 0.60)"
    )
    assert "0.55 (0.00 to 0.60)" in speed([120, 144, 132], [240, 240, None]).found
    assert "1.00 (0.50 or more)" in speed([120, 240, None], [240] * 3).found


def test_of_equal_agent_steps_the_arm_with_the_larger_rate_is_sooner() -> None:
    steps: list[int | None] = [500, 520, 540, 560, 580]
    found = speed(steps, steps, STEPS_PER_S | {plan.GALA_PONG: 4.0})
    assert found.p == pytest.approx(2 / 252), "the greatest excess of 252 arrangements, two-sided"
    assert found.favours
    assert "ratio of the medians 0.50" in found.found
    back = speed(steps, steps, STEPS_PER_S | {plan.A2C_PONG: 4.0})
    assert back.p == pytest.approx(2 / 252)
    assert not back.favours
    assert speed(steps, steps).p == 1.0


@pytest.mark.parametrize("gala_is_faster", [True, False])
def test_who_comes_later_than_the_faster_arms_last_agent_step_counts_as_one_that_did_not(
    gala_is_faster: bool,
) -> None:
    """Amendment 7: both arms have the same time, of 500 s: 1,000 agent steps of the slower one."""
    rates = STEPS_PER_S | {plan.GALA_PONG if gala_is_faster else plan.A2C_PONG: 4.0}

    def outcome(of_faster: list[int | None], of_slower: list[int | None]) -> Outcome:
        both = (of_faster, of_slower) if gala_is_faster else (of_slower, of_faster)
        return speed(*both, rates)

    never: list[int | None] = [None] * 5
    late: list[int | None] = [1001, 1200, 1400, 1600, 2000]
    within: list[int | None] = [996, 997, 998, 999, 1000]
    every = outcome(never, late)
    assert (every.p, every.favours) == (1.0, False), "in the same time neither came there"
    assert every.found == "GALA 0 of 5, no median time; A2C 0 of 5, no median time"
    assert every == outcome(never, never)
    only = outcome(never, within)
    assert only.p == pytest.approx(2 / 252), "0 of 5 against 5 of 5 in the same time"
    assert only.favours is not gala_is_faster
    assert f"{'A2C' if gala_is_faster else 'GALA'} 5 of 5" in only.found
    two: list[int | None] = [400, 1600, None, None, None]
    at_the_end: list[int | None] = [2000, 2000, 2000, 1996, 1992]
    for some in (two, at_the_end):
        assert outcome(some, [800, 900, 1001, 1500, 2000]) == outcome(
            some, [800, 900, None, None, None]
        )
    assert outcome([1600] * 5, late).p == pytest.approx(2 / 252)


def test_h3_is_open_without_the_rates_of_both_arms() -> None:
    both = [*pong(plan.GALA_PONG, [500] * 5), *pong(plan.A2C_PONG, [900] * 5)]
    assert hypotheses.speed(both, STEPS_PER_S, whole=True).p is not None
    for rates in ({}, {plan.GALA_PONG: 2.0}, {plan.A2C_PONG: 2.0, "data-parallel-pong": 2.0}):
        assert hypotheses.speed(both, rates, whole=True).p is None


def test_three_seeds_can_show_nothing_and_five_a_large_difference() -> None:
    times = of_times(40, np.random.default_rng(1))
    found = {(each.seeds, each.difference): each.share for each in times}
    assert found[3, "0.5 times as long"] == 0.0
    assert found[5, "0.5 times as long"] > 0.8
    assert found[5, "1 times as long"] < 0.3


# Tables


def of_arms(found: dict[str, Any], arm: str) -> dict[str, dict[str, Any]]:
    return {each["game"]: each for each in found["arms"] if each["arm"] == arm}


def study_of_efficiency(kept: list[Row], planned: list[Row], **other: Any) -> Study:
    of: dict[str, list[Row]] = {name: [] for name in plan.BLOCKS}
    cells = {name: [each.cell for each in planned] if name == "efficiency" else [] for name in of}
    return Study(of | {"efficiency": kept}, cells, SCALES, **other)


def test_over_all_games_only_seeds_count_that_every_game_has() -> None:
    planned = rows(plan.GALA_64, lambda game, seed: 1.0 + 4.0 * GAMES.index(game))
    whole = [each for each in planned if each.seed <= 2]
    extra = [each for each in planned if each.seed > 2 and each.game == GAMES[-1]]
    found = of_arms(report(study_of_efficiency([*whole, *extra], planned)), plan.GALA_64)
    assert found[""]["runs"] == 6
    assert found[GAMES[-1]]["runs"] == 6
    assert found[""]["final"]["iqm"] == pytest.approx(1.0), "of levels 0, 1 and 2"
    part = [each for each in [*whole, *extra] if each.game != GAMES[0]]
    found = of_arms(report(study_of_efficiency(part, planned)), plan.GALA_64)
    assert set(found) == set(GAMES[1:]), "no row over all games while one has no run"


def test_learners_that_do_not_gossip_are_scored_each_and_by_the_best() -> None:
    planned = rows("independent-64", lambda game, seed: 5.0)
    kept = [dataclasses.replace(each, learners=(1.0, 3.0, 5.0)) for each in planned]
    found = report(study_of_efficiency(kept, planned))
    learners = of_arms(found, "independent-64")[""]["learners"]
    assert {name: each["iqm"] for name, each in learners.items()} == {"mean": 0.5, "best": 1.0}
    file = io.StringIO()
    show(found, file, 160)
    assert "learners: mean" in file.getvalue()
    older = [dataclasses.replace(kept[0], learners=None), *kept[1:]]
    known = of_arms(report(study_of_efficiency(older, planned)), "independent-64")
    assert [game for game, each in known.items() if each["learners"] is None] == ["", GAMES[0]]
    found = report(study_of_efficiency(planned, planned))
    file = io.StringIO()
    show(found, file, 160)
    assert "learners: mean" not in file.getvalue()


def test_balls_stand_beside_their_certificate_and_what_runs_are_made_of() -> None:
    planned = rows(plan.GALA_64, large)
    kept = [
        dataclasses.replace(each, ball=0.1 * each.seed, norm=10.0, certificate=0.2 * each.seed,
                            certified=90, not_certified=10, faults=0)
        for each in planned
    ]  # fmt: skip
    older: dict[str, Any] = dict.fromkeys(("certificate", "certified", "not_certified", "faults"))
    kept[0] = dataclasses.replace(kept[0], **older)
    shape = {"efficiency": {plan.GALA_64: Shape(4, 16, "ring", 1)}}
    found = report(study_of_efficiency(kept, planned, shapes=shape))
    ball = found["balls"][1]
    assert (ball["game"], ball["learners"], ball["num_envs"], ball["topology"]) == (
        GAMES[1], 4, 16, "ring"
    )  # fmt: skip
    assert ball["ball"] == pytest.approx(0.35)
    assert ball["certificate"] == pytest.approx(0.7)
    assert ball["relative"] == pytest.approx(0.035)
    assert found["balls"][0]["certificate"] == pytest.approx(0.8), "of five rows that tell it"
    assert found["certificate"] == {
        "runs": 18, "violations": 0, "certified": 17 * 90, "not_certified": 170, "faults": 0,
        "not_told": 1,
    }  # fmt: skip
    file = io.StringIO()
    show(found, file, 160)
    assert "1,530 measurements certified" in " ".join(file.getvalue().split())
    assert "certificate of those that have one" in " ".join(file.getvalue().split())
    without = report(study_of_efficiency(rows(plan.A2C_64, small), planned))
    assert without["balls"] == []


def test_a_block_is_told_with_its_settings_and_the_commits_of_its_rows() -> None:
    planned = rows(plan.GALA_64, large)
    kept = [dataclasses.replace(each, commit="abc" if each.seed > 1 else "") for each in planned]
    found = report(study_of_efficiency(kept, planned, settings={"efficiency": "0123456789abcdef"}))
    assert found["runs"]["efficiency"] == {
        "done": 18, "planned": 18, "settings": "0123456789abcdef",
        "commits": {"unknown": 3, "abc": 15},
    }  # fmt: skip
    file = io.StringIO()
    show(found, file, 160)
    assert "0123456789abcdef" in file.getvalue()
    assert "unknown (3), abc (15)" in file.getvalue()


# What fits into a time


def test_runs_with_cores_of_their_own_are_counted_as_running_at_once() -> None:
    """Block robustness: 30 runs on one core each, 30 on two."""
    runs = sweep_of("robustness").runs
    rates = [
        Rate(arm, per_s, 0.0, 30)
        for arm, per_s in (("a2c-256", 2_000_000 / 3600), ("gala-256", 2_000_000 / 1800))
    ]
    of = [[run for run in runs if run.arm == rate.arm] for rate in rates]
    assert [hours(each, rates, Packing(range(2))) for each in of] == [15.0, 15.0]
    assert hours(runs, rates, Packing(range(2))) == pytest.approx(30.0, abs=3.0)
    assert hours(runs, rates, Packing(range(2), jobs=1)) == pytest.approx(45.0)
    assert hours(of[0][:5], rates, Packing(range(4))) == 2.0


@pytest.mark.parametrize(("cores", "available", "seeds"), [(1, 30, 3), (1, 29.9, 2), (2, 30, 6)])
def test_as_many_seeds_as_fit_into_the_time(cores: int, available: float, seeds: int) -> None:
    runs = [run for run in sweep_of("robustness").runs if run.arm == "a2c-256"]
    rates = [Rate("a2c-256", 2_000_000 / 7200, 0.0, 30)]
    assert fitting_seeds(runs, rates, Packing(range(cores)), available) == seeds
    assert fitting_seeds(runs, rates, Packing(range(cores)), 1.0) == 0


def test_the_pilot_measures_each_arm_on_as_many_cores_as_it_is_packed_onto(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One for A2C, two for GALA: more would make A2C seem faster than it is among others."""
    seen: dict[str, tuple[int, ...]] = {}

    class Started(Exception):
        pass

    class Fake:
        """Stands in for the program that is measured: it never comes to anything."""

        def __init__(self, command: list[str], *_: object, cores: tuple[int, ...] = ()) -> None:
            (envs,) = (word for word in command if word.startswith("--num-envs="))
            seen[envs.partition("=")[2]] = cores
            raise Started

    def measure(*given: Any, **named: Any) -> SimpleNamespace:
        with contextlib.suppress(Started):
            bench_runs.measure(*given, **named)
        return SimpleNamespace(seconds=1.0, agent_steps_per_s=1.0)

    monkeypatch.setattr(bench_runs, "Program", Fake)
    monkeypatch.setattr(pilot, "measure", measure)
    packing = Packing((5, 6, 7))
    found = pilot.rates(sweep_of("robustness"), packing, lambda text: None)
    assert [rate.arm for rate in found] == ["a2c-256", "gala-256"]
    assert seen == {"256": (5,), "16": (5, 6)}
    place = packing.take(3)
    assert place is not None, "each gives its cores back"


def test_the_first_seeds_are_those_of_each_arm_and_game() -> None:
    """Block efficiency: the arm in lock-step has three seeds, the others six."""
    first = first_seeds(sweep_of("efficiency").runs, 4)
    counts = {
        arm: len([run for run in first if run.arm == arm]) for arm in ("gala-64", "gala-sync-64")
    }
    assert counts == {"gala-64": 12, "gala-sync-64": 9}
    assert np.max([run.seed for run in first]) == 4
