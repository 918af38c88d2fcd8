"""`bin/study`: what `check` says, by what it knows of settings, and why bits are not the same."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest

from galamp.cli import study_training as training
from galamp.core.errors import EXIT_OK
from galamp.tools.study import plan, resolved
from galamp.tools.study.checking import complaints
from galamp.tools.study.report import report
from galamp.tools.study.rows import Row
from galamp.tools.study.study import Study, study_of
from galamp.tools.study.text_report import show
from galamp.tools.sweep.planned import PlannedRun
from tests.support.study_files import Runs, runs
from tests.support.study_rows import row, rows_of, write

__all__ = ["runs"]


# All settings, defaults among them


def test_a_changed_default_changes_the_digest_and_how_it_is_shown_does_not(runs: Runs) -> None:
    config = runs["pong"][0].config
    before = resolved.of_config(config)

    def changed(section: str, **values: object) -> str:
        part = dataclasses.replace(getattr(config, section), **values)
        return resolved.of_config(dataclasses.replace(config, **{section: part}))

    assert changed("algorithm", ent_coef=0.02) != before
    assert changed("environment", frame_stack=3) != before
    assert changed("gossip", max_staleness=9) != before
    assert changed("report", log_every_s=9.0, run_dir="elsewhere") == before
    assert changed("resources", nice=9, threads=2, max_restarts=1) == before
    usual = type(config.algorithm).default_learning_rate(config.resources.learners)
    by_rule, given = (changed("algorithm", learning_rate=rate) for rate in (None, usual))
    assert by_rule == given, "what a rule gives now counts, not that it is a rule"
    assert changed("algorithm", learning_rate=2 * usual) != given


# What `check` says


def only(runs: Runs, block: str, kept: Row, others: Runs | None = None) -> list[str]:
    """What is said of a study with one row, besides what is said of its files."""
    rows: dict[str, list[Row]] = {name: [] for name in plan.BLOCKS}
    silent = Study(rows, {}, {})
    of_files = set(complaints(silent, runs))
    study = dataclasses.replace(silent, rows=rows | {block: [kept]})
    return [line for line in complaints(study, others or runs) if line not in of_files]


@pytest.fixture
def lock_step(runs: Runs) -> tuple[PlannedRun, Row]:
    run = next(run for run in runs["efficiency"] if run.arm == "gala-sync-64")
    return run, rows_of([run])[0]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({}, ""),
        ({"certified": 9, "not_certified": 1, "faults": 0, "starts": 1, "restarts": 0}, ""),
        ({"certified": 0, "not_certified": 9, "faults": 0}, "no measurement has a certificate"),
        ({"certified": 9, "faults": 2}, "2 faults of the gossip record"),
        ({"violations": 3}, "3 violations of the certificate"),
        ({"starts": 2}, "in lock-step, but started 2 times: its bits cannot be repeated"),
        ({"starts": 1, "restarts": 1}, "in lock-step, but restarted in part (1 processes): "
                                       "its bits cannot be repeated"),
        ({"agent_steps": 1}, "1 of 1,000 agent steps"),
    ],
)  # fmt: skip
def test_check_says_what_is_wrong_with_a_row(
    runs: Runs, lock_step: tuple[PlannedRun, Row], found: dict[str, Any], said: str
) -> None:
    kept = dataclasses.replace(lock_step[1], **found)
    assert only(runs, "efficiency", kept) == ([f"efficiency: {kept.cell}: {said}"] if said else [])


@pytest.mark.parametrize(
    ("block", "other"),
    [("tuning", "reference"), ("tuning", "pong"), ("reference", "robustness"),
     ("reference", "efficiency"), ("tuning", "exploratory")],
)  # fmt: skip
def test_check_says_which_blocks_share_seeds(runs: Runs, block: str, other: str) -> None:
    """What others rest on has seeds of its own: those of the scale and of the rates, too."""
    study = Study({name: [] for name in plan.BLOCKS}, {}, {})
    before = set(complaints(study, runs))
    moved = [dataclasses.replace(run, seed=77) for run in runs[block][:1]]
    mixed = {**runs, block: [*runs[block], *moved]}
    assert set(complaints(study, mixed)) == before, "only it has the seed"
    mixed[other] = [*runs[other], dataclasses.replace(runs[other][0], seed=77)]
    said = set(complaints(study, mixed)) - before
    assert said == {f"{block} and {other}: both have seeds [77]"}


def test_a_run_that_ended_at_the_score_of_pong_is_not_called_short(runs: Runs) -> None:
    """Its file says that it may."""
    run = runs["pong"][0]
    short = dataclasses.replace(rows_of([run])[0], agent_steps=1)
    assert only(runs, "pong", short) == []
    not_there = dataclasses.replace(short, reached_s=None, reached_steps=None)
    assert only(runs, "pong", not_there) == [f"pong: {run.arm} pong 1: 1 of 1,000 agent steps"]


def test_check_says_that_a_file_means_something_else_now(
    runs: Runs, lock_step: tuple[PlannedRun, Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is as it was, and so are the hashes of its runs."""
    run, kept = lock_step
    assert only(runs, "efficiency", kept) == [], "older rows do not tell"
    kept = dataclasses.replace(kept, resolved=resolved.of_config(run.config), commit="abc")
    assert only(runs, "efficiency", kept) == []
    part = dataclasses.replace(run.config.algorithm, ent_coef=0.02)
    now = dataclasses.replace(run, config=dataclasses.replace(run.config, algorithm=part))
    assert now.hash == run.hash
    others = {**runs, "efficiency": [now if each == run else each for each in runs["efficiency"]]}
    (line,) = only(runs, "efficiency", kept, others)
    assert "a default has changed, or there is a new one, since abc" in line


def test_a_report_marks_rows_that_other_defaults_have_made(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They count, since the file is as it was; a reader of the report has to know."""
    monkeypatch.setattr(plan, "RESULTS", tmp_path)
    of = [run for run in runs["efficiency"] if run.arm == "gala-sync-64"][:3]
    now = [resolved.of_config(run.config) for run in of]

    def shown(*digests: str) -> tuple[list[dict[str, str]], str]:
        kept = zip(rows_of(of), digests, strict=True)
        write("efficiency", [dataclasses.replace(one, resolved=each) for one, each in kept])
        found, text = report(study_of(runs)), io.StringIO()
        show(found, text, 200)
        return found["other_defaults"], " ".join(text.getvalue().split())

    marked, text = shown(*now[:2], "")
    assert marked == []
    assert "Other defaults" not in text
    marked, text = shown(now[0], "f" * 16, "e" * 16)
    cells = [str(each.cell) for each in rows_of(of[1:])]
    assert [each["row"] for each in marked] == cells
    assert "Other defaults than this galamp's: 2 rows" in text
    assert f"efficiency: {cells[0]}: the file's settings mean something else now" in text


# One run once more


@pytest.mark.parametrize(
    ("stored", "code", "said"),
    [
        ({"parameters": "aa"}, EXIT_OK, "the same bits"),
        ({"parameters": "bb", "starts": 1}, training.EXIT_DIFFERS, "another torch?"),
        ({"parameters": "bb"}, training.EXIT_DIFFERS, "does not tell whether its run was interr"),
        ({"starts": 2}, training.EXIT_DIFFERS, "no bits to compare: the stored run was started 2"),
        (
            {"starts": 1, "restarts": 2},
            training.EXIT_DIFFERS,
            "was restarted in part (2 processes)",
        ),
        ({"hash": "f" * 16}, training.EXIT_DIFFERS, "with other settings"),
    ],
)
def test_why_bits_are_not_the_same(
    stored: dict[str, Any], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    now = row("gala-sync-64", "pong", 1, 2.5, parameters="aa", starts=1, restarts=0)
    then = row("gala-sync-64", "pong", 1, 2.5, **stored)
    assert training.compared(now, then, lock_step=True) == code
    assert said in capsys.readouterr().out.splitlines()[-1]
    assert training.compared(now, then, lock_step=False) in (EXIT_OK, training.EXIT_DIFFERS)
    assert training.compared(now, None, lock_step=True) == EXIT_OK
