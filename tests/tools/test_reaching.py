"""How many runs reach a score, and when: against SciPy, and against literal counts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from galamp.tools.compare.reaching import (
    Reaching,
    Runs,
    exact_test,
    log_rank,
    median_time,
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


@pytest.mark.parametrize("seed", range(6))
def test_of_one_task_the_log_rank_test_is_scipys(seed: int) -> None:
    x, y = drawn(seed, 8), drawn(seed + 100, 6, mean=9.0)
    expected = stats().logrank(censored(x), censored(y)).pvalue
    assert log_rank([x], [y]) == pytest.approx(expected, rel=1e-9)


def test_of_several_tasks_runs_are_compared_within_each() -> None:
    """A task in which all take ten times as long changes nothing, though its runs are others'."""
    quick = [drawn(1, 8), drawn(2, 8, mean=9.0)]
    slow = [[Reaching(10 * run.time, run.reached) for run in runs] for runs in quick]
    one = log_rank([quick[0]], [quick[1]])
    assert one is not None
    two = log_rank([quick[0], slow[0]], [quick[1], slow[1]])
    z = stats().norm.isf(one / 2) * np.sqrt(2)
    assert two == pytest.approx(2 * stats().norm.sf(z), rel=1e-9)
    assert log_rank([quick[0], []], [quick[1], slow[1]]) == pytest.approx(one, rel=1e-9)


def test_where_nobody_reaches_it_the_log_rank_test_says_nothing() -> None:
    assert log_rank([[Reaching(1.0, False)] * 3], [[Reaching(2.0, False)] * 3]) is None
    assert log_rank([[]], [[Reaching(2.0, True)] * 3]) is None


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
