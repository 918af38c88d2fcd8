"""How many runs reach a score, and when: against SciPy, and against literal counts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from galamp.tools.compare import permutation
from galamp.tools.compare.log_rank import log_rank
from galamp.tools.compare.reaching import (
    Reaching,
    Runs,
    exact_test,
    median_ratio,
    median_time,
    of_full_means,
    share,
)


def stats() -> Any:
    """SciPy's statistics: they take a second to load, so not whenever tests are collected."""
    return pytest.importorskip("scipy.stats", reason="scipy comes with the development extra")


def drawn(seed: int, count: int, mean: float = 5.0) -> list[Reaching]:
    """Runs of whole times, so that some are equal; about a third is censored."""
    random = np.random.default_rng(seed)
    times = random.geometric(1 / mean, count)
    return [
        Reaching(float(t), bool(r)) for t, r in zip(times, random.random(count) < 0.7, strict=True)
    ]


def censored(runs: Runs) -> object:
    return stats().CensoredData(
        uncensored=[run.time for run in runs if run.reached],
        right=[run.time for run in runs if not run.reached],
    )


def test_a_mean_of_fewer_than_a_hundred_episodes_is_not_there() -> None:
    """As where `--stop-score` ends a run, and where Stable-Baselines3's do."""
    steps, returns = np.array([100.0, 200.0, 300.0, 400.0]), np.array([20.0, 20.0, 14.0, 16.0])
    counts = np.array([0.0, 5.0, 99.0, 100.0, 250.0])
    found = of_full_means(steps, returns, np.array([50.0, *steps]), counts)
    assert found.tolist() == [-np.inf, -np.inf, 14.0, 16.0]
    nothing = np.empty(0)
    assert of_full_means(steps, returns, nothing, nothing).tolist() == [-np.inf] * 4


@pytest.mark.parametrize(("reached", "count"), [(0, 6), (1, 6), (3, 6), (6, 6), (1, 1), (17, 30)])
def test_the_share_has_wilsons_interval(reached: int, count: int) -> None:
    runs = [Reaching(1.0, number < reached) for number in range(count)]
    expected = stats().binomtest(reached, count).proportion_ci(method="wilson")
    assert share(runs) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_the_median_is_that_of_kaplan_and_meier(seed: int) -> None:
    runs = drawn(seed, 9)
    survival = stats().ecdf(censored(runs)).sf
    below = survival.quantiles[survival.probabilities <= 0.5 + 1e-12]
    assert median_time(runs) == (below[0] if len(below) else None)


def test_fewer_than_half_have_no_median() -> None:
    assert median_time([Reaching(1.0, True), Reaching(9.0, False), Reaching(9.0, False)]) is None
    assert median_time([Reaching(9.0, False)]) is None


# When


def apart(count: int) -> tuple[list[Reaching], list[Reaching]]:
    """Runs that are all quicker than the others, and those."""
    quick, slow = (
        [Reaching(float(first + run), True) for run in range(count)] for first in (1, 1 + count)
    )
    return quick, slow


@pytest.mark.parametrize(("count", "p"), [(2, 2 / 6), (3, 2 / 20), (5, 2 / 252), (7, 2 / 3432)])
def test_the_log_rank_test_of_runs_that_are_all_apart_is_exact(count: int, p: float) -> None:
    """The normal approximation has 0.025 where three are before three."""
    quick, slow = apart(count)
    forth, back = log_rank([quick], [slow]), log_rank([slow], [quick])
    assert (forth.p, back.p) == (pytest.approx(p), pytest.approx(p))
    assert forth.excess == pytest.approx(-back.excess)
    assert forth.excess > 0


def literal_excess(x: Runs, y: Runs) -> float:
    """Mantel's: events less expected ones, time by time."""
    both, excess = [*x, *y], 0.0
    for time in {run.time for run in both if run.reached}:
        events = sum(run.reached and run.time == time for run in both)
        at_risk = [sum(run.time >= time for run in runs) for runs in (x, both)]
        excess += sum(run.reached and run.time == time for run in x)
        excess -= events * at_risk[0] / at_risk[1]
    return excess


def arranged(x: Runs, y: Runs) -> list[float]:
    """The excess of every arrangement of a task's runs."""
    both, every = [*x, *y], []
    for chosen in itertools.combinations(range(len(both)), len(x)):
        rest = [both[at] for at in range(len(both)) if at not in chosen]
        every.append(literal_excess([both[at] for at in chosen], rest))
    return every


@pytest.mark.parametrize("seed", range(6))
def test_the_log_rank_test_counts_all_arrangements_within_tasks(seed: int) -> None:
    """With equal times, censored runs and arms of different sizes."""
    x, y = ([drawn(seed + of, 4), drawn(seed + of + 50, 3)] for of in (0, 100))
    pairs = list(zip(x, y, strict=True))
    sums = [a + b for a, b in itertools.product(*(arranged(*pair) for pair in pairs))]
    excess = sum(literal_excess(*pair) for pair in pairs)
    found = log_rank(x, y)
    assert found.excess == pytest.approx(excess)
    assert found.p == pytest.approx(np.mean([abs(each) >= abs(excess) - 1e-9 for each in sums]))
    assert log_rank([x[0], []], [y[0], y[1]]).p == log_rank(x[:1], y[:1]).p


@pytest.mark.parametrize(
    ("seed", "p"),
    [(0, 0.4538894690), (1, 0.0283641304), (2, 0.0197700246), (3, 0.5827111919)],
)
def test_of_many_runs_the_log_rank_test_is_the_normal_approximation(seed: int, p: float) -> None:
    """SciPy 1.17's, `logrank(censored(x), censored(y)).pvalue`; here arrangements are drawn."""
    x, y = drawn(seed, 200), drawn(seed + 100, 200, mean=5.8)
    assert log_rank([x], [y]).p == pytest.approx(p, abs=0.01, rel=0.05)


def test_p_of_drawn_arrangements_is_never_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    quick, slow = apart(20)
    assert log_rank([quick], [slow]).p == 1 / 20_001
    monkeypatch.setattr(permutation, "MAX_ARRANGEMENTS", 1000)
    assert log_rank([quick], [slow]).p == 1 / 1001
    several = [quick[:4]] * 4, [slow[:4]] * 4
    assert log_rank(*several).p == 1 / 1001, "all of a task are counted, of four together drawn"


def test_where_nobody_reaches_it_the_log_rank_test_says_nothing() -> None:
    never = [Reaching(1.0, False)] * 3
    assert log_rank([never], [[Reaching(2.0, False)] * 3]) == (0.0, None)
    assert log_rank([[]], [[Reaching(2.0, True)] * 3]) == (0.0, None)


def test_equal_times_are_called_different_no_more_often_than_promised() -> None:
    found = [
        (log_rank([drawn(seed, 5)], [drawn(seed + 1000, 5)]).p or 1.0) <= 0.05
        for seed in range(300)
    ]
    assert 0 < np.mean(found) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)


def test_the_ratio_of_medians_has_the_interval_of_all_resamples() -> None:
    x, y = (
        [Reaching(time, True) for time in times] for times in ((2.0, 3.0, 5.0), (4.0, 6.0, 9.0))
    )
    found = median_ratio(x, y)
    assert found is not None
    assert found.ratio == 3.0 / 6.0
    medians = [[median_time(runs) for runs in itertools.product(side, repeat=3)] for side in (x, y)]
    every = [(a or 0.0) / (b or 1.0) for a, b in itertools.product(*medians)]
    assert found.interval == tuple(np.percentile(every, [2.5, 97.5], method="inverted_cdf"))


def test_the_ratio_of_medians_is_open_where_resampled_runs_have_none() -> None:
    """Two of three reach it: in a quarter of the resamples fewer than half do."""
    some = [Reaching(2.0, True), Reaching(4.0, True), Reaching(9.0, False)]
    quick = [Reaching(1.0, True)] * 3
    found, back = median_ratio(some, quick), median_ratio(quick, some)
    assert found is not None
    assert back is not None
    assert (found.ratio, back.ratio) == (4.0, 0.25)
    assert found.interval == (2.0, np.inf)
    assert back.interval == (0.0, 0.5)
    both = median_ratio(some, some)
    assert both is not None
    assert both.interval == (0.0, np.inf)
    assert median_ratio(some[2:], quick) is None
    assert median_ratio(quick, some[2:]) is None


# How many


def of(reached: int, count: int) -> list[Reaching]:
    return [Reaching(1.0, number < reached) for number in range(count)]


@pytest.mark.parametrize(
    "table", [(5, 6, 1, 6), (6, 6, 0, 6), (3, 8, 3, 4), (0, 5, 0, 5), (9, 18, 16, 18)]
)
def test_of_one_task_the_exact_test_is_fishers(table: tuple[int, int, int, int]) -> None:
    a, n, b, m = table
    expected = stats().fisher_exact([[a, n - a], [b, m - b]]).pvalue
    assert exact_test([of(a, n)], [of(b, m)]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("tasks", [((2, 3, 0, 3), (1, 3, 0, 2)), ((1, 2, 1, 3), (2, 2, 0, 3))])
def test_of_several_tasks_the_exact_test_counts_all_arrangements(
    tasks: Sequence[tuple[int, int, int, int]],
) -> None:
    """Of who of a task reaches it, with as many of the task as do."""
    of_tasks = []
    for a, n, b, m in tasks:
        chosen = itertools.combinations(range(n + m), a + b)
        of_tasks.append([sum(run < n for run in runs) for runs in chosen])
    sums = [sum(each) for each in itertools.product(*of_tasks)]
    counts = np.bincount(sums)
    found = sum(a for a, *_ in tasks)
    expected = counts[counts <= counts[found]].sum() / len(sums)
    x, y = [of(a, n) for a, n, _, _ in tasks], [of(b, m) for _, _, b, m in tasks]
    assert exact_test(x, y) == pytest.approx(expected, rel=1e-9)


def test_equal_configurations_are_called_different_no_more_often_than_promised() -> None:
    random = np.random.default_rng(1)
    found = []
    for _ in range(300):
        x, y = (
            [[Reaching(1.0, bool(r)) for r in random.random(6) < 0.6] for _ in range(5)]
            for _ in "xy"
        )
        found.append(exact_test(x, y) <= 0.05)
    assert np.mean(found) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)
