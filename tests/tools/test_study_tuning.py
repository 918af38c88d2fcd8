"""`bin/study`: what rests on learning rates, and what is said while they are not all tried."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import pytest

from galamp.cli import study as command
from galamp.core.errors import EXIT_OK
from galamp.tools.study import plan, pong_rates, random_actions, tuning
from galamp.tools.study.checking import complaints, to_come
from galamp.tools.study.report import report
from galamp.tools.study.rows import Row
from galamp.tools.study.study import Study, cell_of, study_of
from galamp.tools.study.text_report import show
from tests.support.study_files import Runs, runs
from tests.support.study_rows import write, write_all

__all__ = ["runs"]


@pytest.fixture
def kept(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Row]]:
    """Stored rows of all runs that decide, and of all tuning, in a folder of their own."""
    monkeypatch.setattr(plan, "RESULTS", tmp_path)
    monkeypatch.setattr(pong_rates, "FILE", tmp_path / pong_rates.FILE.name)
    return write_all(runs)


def open_of(study: Study) -> set[str]:
    return {each.test.name for each in study.decisions() if each.verdict == "open"}


def found_of(study: Study, name: str) -> str:
    return next(each.test.found for each in study.decisions() if each.test.name == name)


def but_one(rows: Sequence[Row], arm: str) -> list[Row]:
    """Rows without the first of a tuned arm."""
    first = next(each for each in rows if each.arm.startswith(arm + plan.RATE))
    return [each for each in rows if each != first]


@pytest.mark.usefixtures("kept")
def test_a_whole_study_has_no_hypothesis_open_and_nothing_to_complain_of(runs: Runs) -> None:
    study = study_of(runs)
    assert open_of(study) == set()
    assert list(complaints(study, runs)) == []
    assert list(to_come(study)) == []


@pytest.mark.parametrize(
    ("arm", "names"),
    [("a2c-16", {"H1", "H2"}), ("a2c-64", {"H2"}), ("gala-64", {"H2"}), ("a2c-256", {"H1"}),
     ("gala-256", {"H1"}), ("a2c-split-64", set()), ("independent-64", set())],
)  # fmt: skip
def test_a_hypothesis_is_open_while_a_rate_that_it_rests_on_has_not_been_tried(
    runs: Runs, kept: dict[str, list[Row]], arm: str, names: set[str]
) -> None:
    """That run could choose another rate, with which all runs would be trained anew."""
    write("tuning", but_one(kept["tuning"], arm))
    study = study_of(runs)
    assert open_of(study) == names
    planned = sum(tuning.split(run.arm)[0] == arm for run in runs["tuning"])
    assert planned >= 8, "four rates, two games"
    for name in names:
        assert f"{arm}: 1 of {planned} tuning runs is still to come" in found_of(study, name)
    assert list(complaints(study, runs)) == [], "that something is to come is no disagreement"
    (line,) = to_come(study)
    assert line.startswith(f"{arm}: 1 of {planned} tuning runs is still to come; on its rate rest ")


def test_what_nothing_rests_on_yet_is_not_told(runs: Runs, kept: dict[str, list[Row]]) -> None:
    write("tuning", but_one(but_one(kept["tuning"], "a2c-16"), "gala-256"))
    write("robustness", [])
    (line,) = to_come(study_of(runs))
    assert line.endswith("; on its rate rest 15 rows of reference"), "learners-of-4 has none"


def another_rate(rows: Sequence[Row], arm: str) -> list[Row]:
    """Rows of tuning that choose the greatest rate of an arm, which its files do not have."""
    greatest = max(
        (each.arm for each in rows if each.arm.startswith(arm + plan.RATE)),
        key=lambda name: float(name.rpartition(plan.RATE)[2]),
    )
    return [
        dataclasses.replace(each, final=99.0) if each.arm == greatest else each for each in rows
    ]


@pytest.mark.parametrize(
    ("arm", "names", "stale"),
    [
        ("a2c-16", {"H1", "H2"}, {"reference: a2c-16", "exploratory: learners-of-4"}),
        ("a2c-256", {"H1"}, {"robustness: a2c-256", "exploratory: learners-of-64"}),
        ("gala-256", {"H1"}, {"robustness: gala-256"}),
        (
            "gala-64",
            {"H2"},
            {"efficiency: gala-64", "efficiency: gala-sync-64"}
            | {f"exploratory: {arm}" for arm, tuned in plan.RATES["exploratory"].items()
               if tuned == "gala-64"},
        ),
    ],
)  # fmt: skip
def test_a_rate_that_tuning_did_not_choose_is_complained_of_wherever_it_is_taken(
    runs: Runs, kept: dict[str, list[Row]], arm: str, names: set[str], stale: set[str]
) -> None:
    write("tuning", another_rate(kept["tuning"], arm))
    study = study_of(runs)
    assert open_of(study) == names
    for name in names:
        assert f"{arm}: learning rate " in found_of(study, name)
    said = list(complaints(study, runs))
    assert {line.split(": learning rate ")[0] for line in said} == stale
    assert all("but tuning chose" in line for line in said)


def test_every_arm_of_a_tuned_block_has_a_tuned_arm_whose_rate_it_takes(runs: Runs) -> None:
    tuned = {run.arm.rpartition(plan.RATE)[0] for run in runs["tuning"]}
    for block, of in plan.RATES.items():
        assert {run.arm for run in runs[block]} == set(of), block
        assert set(of.values()) <= tuned, block
    empty = Study({name: [] for name in plan.BLOCKS}, {}, {})
    added = [*runs["exploratory"], dataclasses.replace(runs["exploratory"][0], arm="star")]
    (line,) = complaints(empty, {**runs, "exploratory": added})
    assert line == "exploratory: star: plan.py does not say whose learning rate it takes"


@pytest.mark.parametrize("name", ["a2c-16-lr0.9", "a2c-16", "a2c-16-lrfast", "-lr"])
def test_the_name_of_a_tuned_arm_has_the_rate_that_it_was_given(runs: Runs, name: str) -> None:
    """The rate that is chosen is read from it."""
    empty = Study({name: [] for name in plan.BLOCKS}, {}, {})
    wrong = dataclasses.replace(runs["tuning"][0], arm=name)
    assert tuning.missing([], [cell_of(wrong)])
    (line,) = complaints(empty, {**runs, "tuning": [wrong, *runs["tuning"][1:]]})
    assert line == f"tuning: {name}: learning rate 0.00035, which is not that of its name"


def test_an_arm_of_block_atari_that_has_no_published_score_is_told(runs: Runs) -> None:
    empty = Study({name: [] for name in plan.BLOCKS}, {}, {})
    first = runs["atari"][0]
    others = [dataclasses.replace(first, arm="vtrace-atari"),
              dataclasses.replace(first, env_id="ALE/Enduro-v5")]  # fmt: skip
    said = list(complaints(empty, {**runs, "atari": [*runs["atari"], *others]}))
    assert said == [
        f"atari: {what}: published.py has no score of it" for what in ("vtrace-atari", "enduro")
    ]


@pytest.mark.usefixtures("kept")
def test_a_hypothesis_is_open_while_a_game_has_no_scale(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be decided on fewer games than were planned."""
    known = random_actions.read()
    monkeypatch.setattr(
        random_actions, "read", lambda: {game: known[game] for game in known if game != "freeway"}
    )
    study = study_of(runs)
    assert open_of(study) == {"H1"}, "block efficiency does not have the game"
    assert "freeway: no score of random actions" in found_of(study, "H1")


def test_check_tells_what_is_to_come_apart_from_complaints(
    kept: dict[str, list[Row]], capsys: pytest.CaptureFixture[str]
) -> None:
    write("tuning", but_one(kept["tuning"], "gala-64"))
    assert command.main(["check"]) == EXIT_OK
    *_, line, last = capsys.readouterr().out.splitlines()
    assert line.startswith("still to come: gala-64: 1 of 8 tuning runs")
    assert last.endswith(" rows, 0 complaints")


def test_a_report_takes_no_rate_before_all_were_tried(
    runs: Runs, kept: dict[str, list[Row]]
) -> None:
    write("tuning", but_one(kept["tuning"], "gala-64"))
    found = report(study_of(runs))
    assert found["tuning_missing"] == {"gala-64": 1}
    text = io.StringIO()
    show(found, text, 200)
    lines = {
        words[0]: words for line in text.getvalue().splitlines()
        if (words := line.split())[-1:] and ": " in line and words[0] in ("gala-64", "a2c-64")
        and "0.0028:" in words
    }  # fmt: skip
    run = next(run for run in runs["efficiency"] if run.arm == "a2c-64")
    assert lines["a2c-64"][-1] == f"{run.config.algorithm.learning_rate:g}"
    assert "1 run to come" in " ".join(lines["gala-64"])
