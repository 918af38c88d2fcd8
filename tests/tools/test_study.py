"""`bin/study`: the rules that decide, what is kept of a run, a block from file to report."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from galamp.cli import study as command
from galamp.cli import study_training as training
from galamp.cli.study_files import known, sweep_of
from galamp.core.errors import EXIT_OK, UserError
from galamp.tools.compare.statistics import iqm, iqm_difference, iqm_interval
from galamp.tools.study import (
    checkout,
    collecting,
    hypotheses,
    plan,
    resolved,
    tuning,
)
from galamp.tools.study.checking import complaints
from galamp.tools.study.collecting import at_grid
from galamp.tools.study.report import report
from galamp.tools.study.rows import Row, add_row, read_rows
from galamp.tools.study.study import Study
from galamp.tools.study.text_report import charts, show
from tests.support.engine import wait_for
from tests.support.study_rows import (
    GAMES,
    RATES,
    SCALES,
    SEEDS,
    STEPS_PER_S,
    large,
    row,
    rows,
    small,
    tuning_rows,
)

if TYPE_CHECKING:
    pass

# The rules


@pytest.mark.parametrize(
    ("ours", "theirs", "favours"), [(large, small, True), (small, large, False)]
)
def test_a_difference_is_found_whoever_it_favours(
    ours: Callable[[str, int], float], theirs: Callable[[str, int], float], favours: bool
) -> None:
    both = [*rows(plan.GALA_256, ours), *rows(plan.A2C_256, theirs)]
    robust = hypotheses.robustness(both, SCALES, whole=True)
    assert (robust.p is not None and robust.p < 1e-6, robust.favours) == (True, favours)
    assert [count in robust.found for count in ("18 of 18", "; A2C 0 of", "GALA 0 of")] == [
        True, favours, not favours
    ]  # fmt: skip
    both = [*rows(plan.GALA_64, ours), *rows(plan.A2C_64, theirs)]
    efficient = hypotheses.efficiency(both, SCALES, whole=True)
    assert (efficient.p is not None and efficient.p < 0.001, efficient.favours) == (True, favours)
    pong = [
        row(arm, "pong", seed, 20.0, reached_steps=600 + seed + 60 * later)
        for arm, later in ((plan.GALA_PONG, not favours), (plan.A2C_PONG, favours))
        for seed in SEEDS
    ]
    fast = hypotheses.speed(pong, STEPS_PER_S, whole=True)
    assert (fast.p is not None and fast.p < 0.01, fast.favours) == (True, favours)


def test_equal_arms_differ_in_nothing_and_missing_runs_leave_it_open() -> None:
    same = [*rows(plan.GALA_256, large), *rows(plan.A2C_256, large)]
    assert hypotheses.robustness(same, SCALES, whole=True).p == 1.0
    assert hypotheses.robustness(same, SCALES, whole=False).p is None
    assert hypotheses.robustness([], SCALES, whole=True).p is None
    assert hypotheses.robustness(same, {}, whole=True).p is None, "no game has a scale"
    never = [row(arm, "pong", 1, -20.0) for arm in (plan.GALA_PONG, plan.A2C_PONG)]
    found = hypotheses.speed(never, STEPS_PER_S, whole=True)
    assert (found.p, found.favours) == (1.0, False), "none came to the score: nothing differs"
    assert hypotheses.speed(never, STEPS_PER_S, whole=False).p is None


def test_a_seed_that_only_one_arm_has_is_left_out() -> None:
    both = [*rows(plan.GALA_256, large), *rows(plan.A2C_256, small)[:-1]]
    found = hypotheses.pairs(both, plan.GALA_256, plan.A2C_256, SCALES)
    assert [[len(side) for side in found[game]] for game in GAMES] == [[6, 6], [6, 6], [5, 5]]


def test_the_interval_of_a_difference_is_that_of_resampled_interquartile_means() -> None:
    random = np.random.default_rng(1)
    ours = [random.normal(level + 0.5, 0.2, size=8) for level in (0.2, 0.5, 0.8)]
    theirs = [random.normal(level, 0.2, size=8) for level in (0.2, 0.5, 0.8)]
    low, high = iqm_difference(ours, theirs)
    found = float(iqm(np.concatenate(ours)) - iqm(np.concatenate(theirs)))
    assert low < found < high
    assert low > 0.2
    widths = [each.high - each.low for each in (iqm_interval(ours), iqm_interval(theirs))]
    assert high - low == pytest.approx(np.hypot(*widths), rel=0.15), "variances are added"
    # By rliable of 2024, 50,000 resamples: library.get_interval_estimates({"x,y": (x, y)}, diff,
    # reps=50_000, random_state=np.random.RandomState(1)), where x and y are np.stack(ours, axis=1)
    # and np.stack(theirs, axis=1), and diff the difference of metrics.aggregate_iqm of both.
    assert (found, low, high) == pytest.approx((0.51192841, 0.40454937, 0.61686176), abs=0.006)
    back = iqm_difference(theirs, ours)
    assert (back.low, back.high) == (pytest.approx(-high, abs=0.02), pytest.approx(-low, abs=0.02))


def test_the_rate_with_the_best_mean_of_normalised_scores_is_taken() -> None:
    """A game with large scores does not outvote one with small ones."""
    scores = {0.001: (100.0, 1.0), 0.002: (90.0, 2.0), 0.004: (10.0, 1.9)}
    tried = [
        row(f"a2c-64{plan.RATE}{rate:g}", game, 1000, score)
        for rate, of in scores.items()
        for game, score in zip(GAMES, of, strict=False)
    ]
    planned = [each.cell for each in tried]
    assert tuning.chosen(tried, planned) == {"a2c-64": 0.002}
    assert tuning.worths(tried, planned)["a2c-64"][0.002] == pytest.approx(0.95)
    assert tuning.missing(tried, planned) == {"a2c-64": (0, 6)}
    assert tuning.chosen(tried[:-1], planned) == {}, "a run is missing"
    assert tuning.missing(tried[:-1], planned) == {"a2c-64": (1, 6)}
    part = tuning.worths(tried[:-1], planned)["a2c-64"]
    assert part == {0.001: pytest.approx(0.75), 0.002: pytest.approx(0.95)}, "of whole rates"
    assert tuning.chosen(tried[:4], planned) == {}, "a rate has no run at all"
    never = [*tried[:-1], dataclasses.replace(tried[-1], final=None)]
    assert tuning.chosen(never, planned) == {}, "a run without a score chooses nothing"


# What is kept


def test_a_curve_is_kept_at_equal_distances() -> None:
    points = at_grid(np.array([250.0, 500.0]), np.array([2.0, 4.0]), 1000)
    assert len(points) == plan.GRID_POINTS
    assert points[: plan.GRID_POINTS // 4 - 1] == (None,) * (plan.GRID_POINTS // 4 - 1)
    assert points[plan.GRID_POINTS // 4 - 1] == 2.0
    assert points[3 * plan.GRID_POINTS // 8 - 1] == 3.0
    assert set(points[plan.GRID_POINTS // 2 :]) == {4.0}, "it stays where the run has ended"
    assert at_grid(np.empty(0), np.empty(0), 1000) == (None,) * plan.GRID_POINTS


def test_rows_come_back_as_they_were_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    file = tmp_path / "results" / "some.jsonl"
    assert read_rows(file) == []
    kept = [row("a", "pong", 1, 2.5, reached_s=3.0, parameters="ab"), row("a", "pong", 2, 0.0)]
    for each in kept:
        add_row(file, each)
    assert read_rows(file) == kept
    with file.open("a") as stream:
        stream.write('{"arm": 3}\n')
    with pytest.raises(UserError, match=r"some\.jsonl: line 3: damaged"):
        read_rows(file)


# The files


def test_the_files_of_the_study_are_what_the_plan_says() -> None:
    """Every arm that a hypothesis compares is there, with the games and seeds that it needs."""
    sweeps = {name: sweep_of(name) for name in plan.BLOCKS}
    for block, arms, games, seeds in (
        ("robustness", (plan.A2C_256, plan.GALA_256), 5, 6),
        ("efficiency", (plan.A2C_64, plan.GALA_64), 3, 6),
        ("pong", (plan.A2C_PONG, plan.GALA_PONG), 1, 5),
    ):
        for arm in arms:
            of = [run for run in sweeps[block].runs if run.arm == arm]
            assert len({run.env_id for run in of}) == games
            assert len({run.seed for run in of}) == seeds
            resources = of[0].config.resources
            every = resources.learners * of[0].config.environment.num_envs
            assert str(every) in arm or block == "pong"
            assert (resources.learners > 1) is arm.startswith("gala")
    runs = {name: each.runs for name, each in sweeps.items()}
    assert list(complaints(known(), runs)) == []


# A block from its file to a report

BLOCK = """
total_steps = 600
[environment]
env_id = "CartPole-v1"
num_envs = 2
[resources]
device = "cpu"
threads = 1
env_splits = 1
learners = 3
[report]
log_every_s = 0.1
[sweep]
seeds = [3]
[[sweep.arm]]
name = "gala-sync-64"
gossip.sync = true
[[sweep.arm]]
name = "independent-64"
gossip.method = "independent"
"""


@pytest.fixture
def block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> plan.Block:
    """A block of two small runs in place of those of the study, with results of its own."""
    monkeypatch.setattr(plan, "FOLDER", tmp_path)
    monkeypatch.setattr(plan, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(plan, "EPISODES", 4)
    for name in plan.BLOCKS:
        (tmp_path / f"{name}.toml").write_text(BLOCK)
    monkeypatch.setattr(plan, "STEPS", 64)
    return plan.BLOCKS["exploratory"]


def test_a_run_is_kept_as_a_row_and_repeated_to_the_bit(
    block: plan.Block,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["run", block.name, "--dir", str(tmp_path / "runs"), "--hours", "1"]
    assert command.main(words) == EXIT_OK
    kept, apart = read_rows(block.results)
    assert (kept.arm, kept.game, kept.seed) == ("gala-sync-64", "cartpole-v1", 3)
    assert (kept.agent_steps, kept.violations, len(kept.parameters)) == (600, 0, 64)
    assert (kept.final or 0.0) >= 1.0
    assert 0 < (kept.ball or 0.0) < (kept.certificate or 0.0) < kept.norm
    assert (kept.faults, kept.starts, kept.restarts) == (0, 1, 0)
    assert (kept.certified or 0) > 0
    assert kept.commit == checkout.commit()
    assert kept.sharpness is not None
    assert all(map(np.isfinite, kept.sharpness))
    assert kept.learners is None
    assert apart.learners is not None
    assert (len(apart.learners), apart.learners[3 % 3]) == (3, apart.final)
    assert (apart.violations, apart.certified) == (None, None)
    runs = sweep_of(block.name).runs
    assert [each.resolved for each in (kept, apart)] == [
        resolved.of_config(run.config) for run in runs
    ]
    with monkeypatch.context() as patch:
        patch.setattr(collecting, "last_attempt", lambda folder: 2)
        resumed = collecting.row_of(runs[0], tmp_path / "runs" / runs[0].name)
        scores = {"0": 1.0, "1": 2.0, "2": 4.0, "mean": 8.0}
        patch.setattr(collecting, "_score", lambda run, folder, learner: scores[learner])
        other = collecting.row_of(runs[1], tmp_path / "runs" / runs[1].name)
    shutil.copytree(tmp_path / "runs" / runs[0].name, tmp_path / "copy", symlinks=True)
    ending = {"status": "finished", "start": 1, "agent_steps": 585}
    for strange in ({"versions": [1], "restarts": "many"}, {"versions": {"galamp": 3}}, {}):
        (tmp_path / "copy" / "summary.json").write_text(json.dumps(ending | strange))
        cut = collecting.row_of(runs[0], tmp_path / "copy")
        assert (cut.agent_steps, cut.restarts) == (585, None)
        assert cut.parameters == "", "a score has ended it, at a turn that the clock has chosen"
    (tmp_path / "copy" / "metrics.jsonl").write_text("damaged\n")
    with pytest.raises(UserError, match="has no rows of metrics"):
        collecting.row_of(runs[0], tmp_path / "copy")
    assert (resumed.starts, resumed.parameters) == (2, ""), "its bits cannot be repeated"
    assert (other.learners, other.final, other.mean) == ((1.0, 2.0, 4.0), 1.0, 8.0)
    assert command.main([*words[:3], str(tmp_path / "elsewhere")]) == EXIT_OK
    assert read_rows(block.results) == [kept, apart]
    assert not (tmp_path / "elsewhere").exists(), "what has a row is not trained again"
    assert command.main(["cell", block.name, "gala-sync-64", "cartpole-v1", "3"]) == EXIT_OK
    assert "the same bits" in capsys.readouterr().out.splitlines()[-1]
    other = dataclasses.replace(kept, parameters="0" * 64)
    block.results.write_text(json.dumps(dataclasses.asdict(other)) + "\n")
    assert training.compared(kept, other, lock_step=True) == command.EXIT_DIFFERS
    assert command.main(["cell", block.name, "gala-sync-64", "cartpole-v1", "4"]) == 2
    assert "no run of block exploratory" in capsys.readouterr().err


def test_the_time_is_over_even_where_sigint_is_ignored() -> None:
    """As in what a script has put into the background; Ctrl-C is Ctrl-C all the same."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    taken = signal.getsignal(signal.SIGTERM)
    try:
        with training.ended_after(0.1 / training.HOUR_S) as ended:
            assert not ended()
            wait_for(lambda: False, "the signal")
        assert ended()
    finally:
        signal.signal(signal.SIGINT, before)
    with pytest.raises(KeyboardInterrupt), training.ended_after(None):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is taken
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_report_has_decisions_tables_and_a_picture() -> None:
    arms = {"robustness": (plan.GALA_256, plan.A2C_256), "efficiency": (plan.GALA_64, plan.A2C_64)}
    of: dict[str, list[Row]] = {name: [] for name in plan.BLOCKS} | {
        name: [*rows(ours, large), *rows(theirs, small)] for name, (ours, theirs) in arms.items()
    }
    of |= {"reference": rows(plan.A2C_16, large), "tuning": tuning_rows()}
    planned = {name: [each.cell for each in kept] for name, kept in of.items()}
    part = Study(of | {"reference": of["reference"][1:]}, planned, SCALES, rates=RATES)
    assert [each.verdict for each in part.decisions()] == ["open"] * 3, "a reference run is missing"
    study = Study(of, planned, SCALES, rates=RATES)
    found = report(study)
    assert [each["verdict"] for each in found["decisions"]] == ["supported", "supported", "open"]
    table = io.StringIO()
    show(found, table, 160)
    assert all(word in table.getvalue() for word in ("supported", "all games"))
    assert max(map(len, table.getvalue().splitlines())) <= 160
    drawn = charts(study, "robustness")
    assert [chart.title.split(":")[0] for chart in drawn] == list(GAMES)
    assert [len(chart.lines) for chart in drawn] == [2, 2, 2]
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(report(study)))
