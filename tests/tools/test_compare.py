"""`galamp compare`: statistics against known values and rliable, and what it says of few seeds."""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from galamp.cli.main import main
from galamp.storage.run_logs import MetricsLog
from galamp.telemetry.metrics_row import metrics_row
from galamp.telemetry.snapshot import SystemReading
from galamp.tools.compare import permutation
from galamp.tools.compare.comparison import compare
from galamp.tools.compare.statistics import improvement, iqm, iqm_interval
from galamp.tools.compare.text_report import show
from galamp.tools.compare.verdict import statement
from galamp.tools.plot import runs
from tests.support.engine import run as train
from tests.support.finished import finished_run, write_rows
from tests.support.snapshots import busy

LOW, HIGH = [1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]


# Statistics


@pytest.mark.parametrize(
    ("scores", "mean"),
    [
        ([5.0], 5.0),
        ([1.0, 9.0], 5.0),
        ([0.0, 1.0, 2.0, 100.0], 1.5),
        ([100.0, 3.0, 1.0, 2.0, 0.0], 2.0),
        ([0, 1, 2, 3, 10, 50], 4.0),
        ([0, 1, 2, 3, 4, 5, 6, 100], 3.5),
    ],
)
def test_interquartile_mean(scores: list[float], mean: float) -> None:
    assert iqm(np.array(scores, dtype=float)) == mean


def test_an_interval_resamples_runs_within_their_game() -> None:
    # Whatever is drawn of two games without spread, the middle half is the same.
    narrow = iqm_interval([np.full(4, 1.0), np.full(4, 3.0)])
    assert narrow == (2.0, 2.0)
    # Of one game with the same scores, all eight may be drawn from one half.
    wide = iqm_interval([np.array([1.0] * 4 + [3.0] * 4)])
    assert wide == (1.0, 3.0)


def test_an_interval_is_that_of_all_resamples() -> None:
    scores = np.array([1.0, 2.0, 4.0, 8.0])
    every = np.array(list(itertools.product(scores, repeat=4)))
    expected = np.percentile(iqm(every), [2.5, 97.5])
    np.testing.assert_allclose(iqm_interval([scores]), expected, atol=0.26)


def test_probability_of_improvement_counts_ties_as_half() -> None:
    x, y = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0])
    assert improvement([x], [y]).probability == (0 + 0 + 0.5 + 0.5 + 1 + 1) / 6
    assert improvement([x, x], [y, y - 10]).probability == (0.5 + 1.0) / 2


@pytest.mark.parametrize(
    ("x", "y", "p"),
    [
        # Exact two-sided p of Mann and Whitney's U, by their tables.
        ([4, 5, 6], [1, 2, 3], 2 / 20),
        (HIGH, LOW, 2 / 70),
        ([1, 4, 5, 6], [2, 3, 7, 8], 48 / 70),
        ([1, 2, 3], [1, 2, 3], 1.0),
    ],
)
def test_p_is_that_of_all_arrangements(x: list[float], y: list[float], p: float) -> None:
    found = improvement([np.array(x, dtype=float)], [np.array(y, dtype=float)])
    assert found.p == pytest.approx(brute_p(x, y))
    assert found.p == pytest.approx(p)


def brute_p(x: Sequence[float], y: Sequence[float]) -> float:
    def u(ours: Sequence[float], theirs: Sequence[float]) -> float:
        return sum((a > b) + (a == b) / 2 for a in ours for b in theirs)

    pooled, middle = [*x, *y], len(x) * len(y) / 2
    seen = []
    for chosen in itertools.combinations(range(len(pooled)), len(x)):
        rest = [pooled[i] for i in range(len(pooled)) if i not in chosen]
        seen.append(abs(u([pooled[i] for i in chosen], rest) - middle))
    return float(np.mean([each >= abs(u(x, y) - middle) for each in seen]))


def test_p_over_two_games_is_that_of_their_arrangements_together() -> None:
    x, y = [np.array([3.0, 4.0])] * 2, [np.array([1.0, 2.0])] * 2
    found = improvement(x, y)
    assert found.p == pytest.approx(2 / 36)
    assert found.smallest_p == pytest.approx(2 / 36)


def test_p_of_many_runs_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = np.array(HIGH) - 3.5, np.array(LOW)
    exact = improvement([x, x], [y, y]).p
    monkeypatch.setattr(permutation, "MAX_ARRANGEMENTS", 2000)
    assert improvement([x, x], [y, y]).p == pytest.approx(exact, abs=0.04)
    monkeypatch.setattr(permutation, "MAX_ARRANGEMENTS", 69)
    drawn = [improvement([x], [y]).p for _ in range(2)]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("tasks", [1, 4])
def test_p_of_drawn_arrangements_is_never_zero(tasks: int) -> None:
    """The runs as they are count as one more (Phipson and Smyth 2010)."""
    x, y = np.arange(20.0) + 100, np.arange(20.0)
    assert improvement([x] * tasks, [y] * tasks).p == 1 / 20_001


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=5),
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=5),
)
def test_who_is_compared_with_whom_does_not_matter(x: list[float], y: list[float]) -> None:
    forth, back = (improvement([np.array(a)], [np.array(b)]) for a, b in ((x, y), (y, x)))
    assert forth.probability == pytest.approx(1 - back.probability)
    assert forth.p == pytest.approx(back.p)
    assert forth.interval.low - 1e-9 <= forth.probability <= forth.interval.high + 1e-9


# So it says to its caller, which is rliable.
@pytest.mark.filterwarnings("ignore:random_state is deprecated:FutureWarning")
def test_statistics_are_those_of_rliable() -> None:
    reason = "needs rliable, of the extra dev"
    metrics, library = (
        pytest.importorskip(f"rliable.{name}", reason=reason, exc_type=ImportError)
        for name in ("metrics", "library")
    )
    random = np.random.default_rng(3)
    x, y = random.normal(0.0, 1.0, (7, 3)), random.normal(0.6, 1.0, (5, 3))
    ours = improvement(list(x.T), list(y.T))
    assert iqm(x.ravel()) == pytest.approx(metrics.aggregate_iqm(x))
    assert ours.probability == pytest.approx(metrics.probability_of_improvement(x, y))
    _, limits = library.get_interval_estimates(
        {"x": x},
        lambda scores: np.array([metrics.aggregate_iqm(scores)]),
        reps=1000,
        random_state=np.random.RandomState(1),
    )
    np.testing.assert_allclose(iqm_interval(list(x.T)), limits["x"][:, 0], atol=0.06)
    _, limits = library.get_interval_estimates(
        {"x,y": (x, y)},
        metrics.probability_of_improvement,
        reps=300,
        random_state=np.random.RandomState(1),
    )
    np.testing.assert_allclose(ours.interval, limits["x,y"][:, 0], atol=0.03)


# The sentence


def said(x: list[float], y: list[float], *, seeds: int | None = None, pairs: int = 1) -> str:
    found = improvement([np.array(x)], [np.array(y)]) if min(len(x), len(y)) > 1 else None
    counts = {"B": seeds or len(x), "A": len(y)}
    return statement("B", "A", counts, found, pairs, "agent steps")


def test_what_is_said_of_few_seeds() -> None:
    assert "no statement can be made: B has one seed" in said(HIGH[:1], LOW)
    assert "no statement can be made: B and A have one seed" in said(HIGH[:1], LOW[:1])
    assert "no statement can be made: B has one seed" in said(HIGH, LOW, seeds=1)
    text = said(HIGH[:3], LOW[:3])
    assert "it cannot be told with so few seeds" in text
    assert "10 % of cases" in text
    assert "it takes 4 per group" in text
    assert "yes" not in text


def test_what_is_said_of_enough_seeds() -> None:
    assert "yes, B scores higher than A (probability" in said(HIGH, LOW)
    assert "2.9 % of cases" in said(HIGH, LOW)
    assert "yes, A scores higher than B (probability" in said(LOW, HIGH)
    assert "no difference is shown" in said([1.0, 4.0, 5.0, 6.0], [2.0, 3.0, 7.0, 8.0])


def test_many_comparisons_ask_for_more() -> None:
    text = said(HIGH, LOW, pairs=2)
    assert "it cannot be told" in text
    assert "it takes 5 per group" in text
    assert "yes" in said([*HIGH, 9.0], [*LOW, 0.0], pairs=2)


# Runs


def of(tmp_path: Path, **groups: tuple[list[list[float | None]], dict[str, Any]]) -> list[runs.Run]:
    """Write runs of groups: name -> (scores of each run, settings)."""
    paths = [
        finished_run(tmp_path / f"{name}{seed}", scores, **{"seed": seed} | known)
        for name, (each, known) in groups.items()
        for seed, scores in enumerate(each)
    ]
    return runs.load(paths)


FAST: dict[str, Any] = {"learning_rate": 0.01}


def test_scores_are_compared_where_the_shortest_run_ended(tmp_path: Path) -> None:
    loaded = of(tmp_path, a=([[1.0, 2.0, 30.0]], {}), b=([[5.0, 7.0]], FAST))
    found = compare(loaded)["at_equal"]
    assert found["steps"]["places"] == {"CartPole-v1": {"at": 2000.0, "shortest": "b0"}}
    assert found["steps"]["scores"] == {"A": {"CartPole-v1": [2.0]}, "B": {"CartPole-v1": [7.0]}}
    assert found["hours"]["places"]["CartPole-v1"]["at"] == pytest.approx(0.02)
    assert "no statement can be made" in found["steps"]["pairs"][0]["statement"]


def test_equal_hours_are_not_equal_steps(tmp_path: Path) -> None:
    a, b = (
        finished_run(tmp_path / name, [1.0], learning_rate=0.1 * (name == "a")) for name in "ab"
    )
    log = MetricsLog(b / "metrics.jsonl", 2, 1000, lambda text: None)
    write_rows(log, [2.0, 3.0], first=2)
    # Twice as fast: its second row has the steps of three and the time of two.
    rows = [json.loads(line) for line in (b / "metrics.jsonl").read_text().splitlines()]
    rows[-1]["wall_s"], rows[-2]["wall_s"] = 54.0, 45.0
    (b / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    log = MetricsLog(a / "metrics.jsonl", 2, 1000, lambda text: None)
    write_rows(log, [10.0], first=2)
    found = compare(runs.load([a, b]))["at_equal"]
    assert found["steps"]["scores"]["B"] == {"CartPole-v1": [2.0]}
    assert found["hours"]["scores"]["B"] == {"CartPole-v1": [3.0]}
    assert found["hours"]["scores"]["A"] == {"CartPole-v1": [pytest.approx(5.5)]}


def test_a_run_without_a_score_there_is_told(tmp_path: Path) -> None:
    loaded = of(tmp_path, a=([[1.0, 2.0], [None, None, 3.0]], {}), b=([[5.0, 7.0]], FAST))
    result = compare(loaded)
    assert result["at_equal"]["steps"]["scores"]["A"] == {"CartPole-v1": [2.0]}
    assert "A: 1 of 2 runs of CartPole-v1 have no score at 2,000 agent steps yet" in result["notes"]


def test_a_difference_between_groups(tmp_path: Path) -> None:
    loaded = of(tmp_path, a=([[s] for s in LOW], {}), b=([[s] for s in HIGH], FAST))
    result = compare(loaded)
    for axis in result["at_equal"].values():
        [pair] = axis["pairs"]
        assert pair["improvement"]["probability"] == 1.0
        assert "yes, B scores higher than A" in pair["statement"]
        assert axis["iqm"]["A"]["iqm"] == 2.5
    assert list(result["settings"]) == ["learning_rate"]
    assert "intervals from fewer than 5 runs are too narrow" in result["notes"]


def test_seeds_that_repeat_are_no_statement(tmp_path: Path) -> None:
    loaded = of(
        tmp_path, a=([[s] for s in LOW], {"seed": 1}), b=([[s] for s in HIGH], FAST)
    )  # fmt: skip
    result = compare(loaded)
    assert "A has one seed" in result["at_equal"]["steps"]["pairs"][0]["statement"]
    assert "A: some runs have the same seed, and are not independent" in result["notes"]


def test_several_games_are_normalised_and_resampled_within_each(tmp_path: Path) -> None:
    pong, breakout = {"env_id": "ALE/Pong-v5"}, {"env_id": "ALE/Breakout-v5"}
    loaded = of(
        tmp_path,
        a=([[-20.7], [-20.7]], pong), b=([[1.7], [1.7]], breakout),
        c=([[14.6], [14.6]], pong | FAST), d=([[30.5], [30.5]], breakout | FAST),
        e=([[1.0]], {"env_id": "ALE/Seaquest-v5"} | {"gamma": 0.5}),
    )  # fmt: skip
    without = compare([run for run in loaded if not run.label.startswith("e")])
    steps = without["at_equal"]["steps"]
    assert steps["human_normalised"]
    assert steps["common_games"] == ["ALE/Pong-v5", "ALE/Breakout-v5"]
    assert [steps["iqm"][group]["iqm"] for group in "AB"] == [0.0, 1.0]
    assert steps["pairs"][0]["improvement"]["smallest_p"] == pytest.approx(2 / 36)
    pairs = compare(loaded)["at_equal"]["steps"]["pairs"]
    assert [pair["games"] for pair in pairs] == [["ALE/Pong-v5", "ALE/Breakout-v5"], []]
    assert "no game with a score in common" in pairs[1]["statement"]


@pytest.mark.parametrize(
    ("otherwise", "how"),
    [
        ({"protocol": "machado"}, "sticky actions 0.25 (theirs 0), noop max 0 (theirs 30)"),
        ({"max_episode_steps": 1000}, "max frames 4000 (theirs 108000)"),
    ],
)
def test_games_under_another_protocol_are_not_normalised(
    tmp_path: Path, otherwise: dict[str, Any], how: str
) -> None:
    pong, breakout = ({"env_id": f"ALE/{game}-v5"} | otherwise for game in ("Pong", "Breakout"))
    loaded = of(
        tmp_path, a=([[1.0]], pong), b=([[1.0]], breakout),
        c=([[2.0]], pong | FAST), d=([[2.0]], breakout | FAST),
    )  # fmt: skip
    result = compare(loaded)
    for axis in result["at_equal"].values():
        assert axis["iqm"] == {}
        assert not axis["human_normalised"]
    assert (
        "no interquartile mean over games: ALE/Pong-v5 is played otherwise than for the "
        f"published scores: {how}"
    ) in result["notes"]


def test_games_without_published_scores_have_no_common_mean(tmp_path: Path) -> None:
    loaded = of(
        tmp_path, a=([[1.0]], {}), b=([[1.0]], {"env_id": "Acrobot-v1"}),
        c=([[2.0]], FAST), d=([[2.0]], FAST | {"env_id": "Acrobot-v1"}),
    )  # fmt: skip
    result = compare(loaded)
    assert result["at_equal"]["steps"]["iqm"] == {}
    assert any("no published scores for CartPole-v1, Acrobot-v1" in n for n in result["notes"])


def test_steps_and_time_to_a_score(tmp_path: Path) -> None:
    loaded = of(tmp_path, a=([[1.0, 5.0, 9.0], [1.0, 2.0, 5.0], [1.0, 1.0, 1.0]], {}),
                b=([[9.0], [1.0]], FAST))  # fmt: skip
    a, b = compare(loaded, 5.0)["groups"]
    assert [run["steps_to_score"] for run in a["runs"]] == [2000, 3000, None]
    assert (a["reached"], a["steps_to_score"]) == (2, 3000)
    assert a["hours_to_score"] == pytest.approx(0.03)
    assert a["reached_interval"] == pytest.approx((0.2077, 0.9385), abs=1e-4)
    # Of two runs one has come there: by then, half of all have.
    assert (b["reached"], b["steps_to_score"]) == (1, 1000)
    c = compare(loaded, 6.0)["groups"][0]
    assert (c["reached"], c["steps_to_score"], c["hours_to_score"]) == (1, None, None)


@pytest.mark.parametrize(("counts", "reached_at"), [([3, 150, 300], 3000), ([None] * 3, 1000)])
def test_a_score_is_reached_by_a_mean_of_a_hundred_episodes(
    tmp_path: Path, counts: list[int | None], reached_at: int
) -> None:
    """Where a run of an older version has no numbers of episodes, every mean counts."""
    [run] = of(tmp_path, a=([[9.0, 1.0, 9.0]], {}))
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    for row, count in zip(rows[1:], counts, strict=True):
        row |= {"charts/episodes": count}
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    [again] = compare(runs.load([run.path]), 9.0)["groups"][0]["runs"]
    assert again["steps_to_score"] == reached_at
    assert again["hours_to_score"] == pytest.approx(reached_at * 1e-5)
    assert again["score"] == 9.0


def test_groups_are_compared_in_reaching_a_score(tmp_path: Path) -> None:
    slow, quick = [[1.0, 1.0, 5.0]] * 4, [[5.0, 5.0, 5.0]] * 4
    result = compare(of(tmp_path, a=(slow, {}), b=(quick, FAST)), 5.0)
    [pair] = result["reaching"]
    assert pair["groups"] == ["A", "B"]
    assert pair["log_rank_p"] == pytest.approx(2 / 70)
    assert pair["reached_p"] == 1.0
    file = io.StringIO()
    show(result, file, 200)
    assert (
        "A and B to a score of 5: equal configurations differ so much in how soon runs reach it in "
        "2.9 % of cases (log-rank test), and so much in how many do in all cases (exact test)."
    ) in " ".join(file.getvalue().split())
    assert compare(of(tmp_path / "x", a=(slow, {}), b=(quick, FAST)), 9.0)["reaching"] == [
        {"groups": ["A", "B"], "log_rank_p": None, "reached_p": 1.0}
    ]


def test_energy_is_told_where_it_was_recorded(tmp_path: Path) -> None:
    paths = [finished_run(tmp_path / name, []) for name in "abc"]
    for path, joules in zip(paths, (0.25, 0.5, None), strict=True):
        log = MetricsLog(path / "metrics.jsonl", 1, 0, lambda text: None)
        seen = SystemReading(joules_per_frame=joules)
        log.append(metrics_row(busy(2, system=seen), 0.0))
    result = compare(runs.load(paths))
    [group] = result["groups"]
    assert [run["joules_per_frame"] for run in group["runs"]] == [0.25, 0.5, None]
    assert group["joules_per_frame"] == 0.375
    file = io.StringIO()
    show(result, file, 100)
    assert re.search(r"^ *A .* 0\.375 *$", file.getvalue(), re.M)
    assert group["runs"][2]["agent_steps_per_s"] == 2310.0
    assert group["runs"][2]["frames_per_s"] == 9240.0


# The command


def compared(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main(["compare", *map(str, words)])
    return code, *capsys.readouterr()


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [run.path for run in of(tmp_path, a=([[1.0], [2.0]], {}), b=([[3.0], [4.0]], FAST))]
    code, out, err = compared(capsys, *paths, "--json", "--score", 3)
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert [group["group"] for group in result["groups"]] == ["A", "B"]
    assert result["wanted_score"] == 3
    assert result["groups"][1]["steps_to_score"] == 1000


@pytest.mark.parametrize("width", [80, 160])
def test_tables_fit(tmp_path: Path, width: int) -> None:
    known = {"env_id": "ALE/Breakout-v5"}
    loaded = of(
        tmp_path, a=([LOW, HIGH], known), b=([HIGH, LOW], known | FAST), c=([HIGH], known),
        e=([LOW], known | {"topology": "exponential"}), f=([LOW], {"gamma": 0.5}),
        g=([LOW], known | {"gamma": 0.25}),
    )  # fmt: skip
    drawn = io.StringIO()
    show(compare(loaded, 3.0), drawn, width)
    text = drawn.getvalue()
    assert max(map(cell_len, text.splitlines())) <= width
    assert "\x1b" not in text
    for word in ("settings that differ", "topology", "exponential", "to a score of 3", "3 of 3"):
        assert word in text
    assert text.count("no statement can be made: ") == 3
    assert "it cannot be told with so few seeds" in " ".join(text.split())


def test_ignored_settings_make_no_groups(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [run.path for run in of(tmp_path, a=([[1.0]], {}), b=([[3.0]], {"total_steps": 9}))]
    assert len(json.loads(compared(capsys, *paths, "--json")[1])["groups"]) == 2
    _, out, _ = compared(capsys, *paths, "--json", "--ignore", "total-steps")
    assert len(json.loads(out)["groups"]) == 1


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [run] = of(tmp_path, a=([[1.0]], {}))
    for words, told in (
        ([run.path], "at least two runs"),
        ([run.path, run.path], "at least two runs"),
        ([run.path, tmp_path], "not a run folder"),
        ([run.path, run.path, "--score", "nan"], "--score nan: expected a number"),
    ):
        code, out, err = compared(capsys, *words)
        assert (code, out) == (2, "")
        assert told in err
        assert err.count("\n") == 1
    other = finished_run(tmp_path / "other", [1.0])
    code, _, err = compared(capsys, run.path, other, "--ignore", "total-step")
    assert code == 2
    assert "did you mean total_steps" in err


def test_real_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--env-id", "CartPole-v1", "--learners", 2, "--num-envs", 2, "--quiet"]
    for seed in (1, 2):
        ended = train(
            *flags, "--total-steps", 600, "--seed", seed, "--run-dir", tmp_path / str(seed)
        )
        assert ended.returncode == 0
    code, out, _ = compared(capsys, tmp_path / "1", tmp_path / "2", "--json")
    assert code == 0
    [group] = json.loads(out)["groups"]
    assert group["seeds"] == [1, 2]
    assert all(run["agent_steps"] >= 600 for run in group["runs"])
    assert all(run["joules_per_frame"] is None for run in group["runs"])
    assert group["label"] == "CartPole-v1"
