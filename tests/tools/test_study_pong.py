"""`bin/study`: the rates of Pong's arms, measured in turns: what the times of H3 rest on."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from galamp.cli import study as command
from galamp.core.errors import EXIT_OK, EXIT_USAGE, UserError
from galamp.tools.study import pilot, plan, pong_rates
from galamp.tools.study.checking import complaints
from galamp.tools.study.decisions import OPEN
from galamp.tools.study.pong_rates import ArmRate
from galamp.tools.study.report import report
from galamp.tools.study.study import study_of
from galamp.tools.study.text_report import charts, show
from galamp.tools.sweep.packing import Packing
from galamp.tools.sweep.planned import PlannedRun
from tests.support.study_files import Runs, results, runs
from tests.support.study_rows import pong_rates_of, row, write, write_all

__all__ = ["results", "runs"]

ARMS = [plan.GALA_PONG, plan.A2C_PONG, "data-parallel-pong"]
WORDS = "agent steps per second of the arms still to be measured (bin/study rates)"
OTHER = "f" * 16


# Which rates count


def test_arms_take_turns_and_each_is_its_first_run(runs: Runs) -> None:
    seen: list[PlannedRun] = []

    def rate_of(run: PlannedRun) -> float:
        seen.append(run)
        return float(len(seen))

    found = pong_rates.measure(runs["pong"], rate_of, "a machine", "abc", rounds=3)
    assert [run.arm for run in seen] == ARMS * 3
    assert {run.seed for run in seen} == {1}
    assert found == [
        ArmRate(arm, seen[at].hash, (at + 1.0, at + 4.0, at + 7.0), "a machine", "abc")
        for at, arm in enumerate(ARMS)
    ]
    assert [rate.median for rate in found] == [4.0, 5.0, 6.0]


def test_rates_come_back_as_they_were_and_replace_the_former(runs: Runs, results: Path) -> None:
    assert pong_rates.read() == []
    kept = pong_rates_of(runs["pong"])
    pong_rates.write(pong_rates_of(runs["pong"], per_s=(7.0,)))
    pong_rates.write(kept)
    assert pong_rates.read() == kept
    assert pong_rates.read(results / "pong-rates.jsonl") == kept


GOOD = dataclasses.asdict(ArmRate("gala-pong", "0" * 16, (1.5, 2.0), "a machine", "abc"))


@pytest.mark.parametrize(
    "text",
    ["[]", "{", "{}", " ", "\udcff",
     *(json.dumps(GOOD | other) for other in (
         {"per_s": []}, {"per_s": [1.0, 0]}, {"per_s": [-1.0]}, {"per_s": 1.0}, {"per_s": ["1"]},
         {"per_s": [float("nan")]}, {"per_s": [float("inf")]}, {"per_s": [True]}, {"arm": None},
         {"more": 1})),
     json.dumps(GOOD) + "\n{",
     json.dumps(GOOD) + "\n" + json.dumps(GOOD),
     *(json.dumps(GOOD) + "\n" + json.dumps(GOOD | {"arm": "a2c-pong"} | other) for other in (
         {"machine": "another"}, {"commit": "def"}, {"per_s": [1.0]}))],
)  # fmt: skip
def test_damaged_rates_are_one_error_that_names_the_file(
    results: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of two calls, too: machines, or the times of a day, differ in speed."""
    pong_rates.FILE.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"pong-rates\.jsonl: damaged: ."):
        pong_rates.read()
    assert command.main(["rates"]) == EXIT_USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{pong_rates.FILE}: damaged: " in line


def test_a_folder_in_place_of_the_rates_is_an_error_too(results: Path) -> None:
    pong_rates.FILE.mkdir()
    with pytest.raises(UserError, match="damaged"):
        pong_rates.read()


def test_rates_count_only_if_every_arm_has_its_settings_of_now(runs: Runs) -> None:
    of = pong_rates_of(runs["pong"])
    assert pong_rates.current(of, runs["pong"]) == dict.fromkeys(ARMS, 2.0)
    stale = [dataclasses.replace(of[0], hash=OTHER), *of[1:]]
    unplanned = dataclasses.replace(of[0], arm="gala-9")
    for rates in ([], of[1:], of[:1], stale, [unplanned, *of[1:]]):
        assert pong_rates.current(rates, runs["pong"]) == {}
    assert pong_rates.current([*of, unplanned], runs["pong"]) == dict.fromkeys(ARMS, 2.0)


# What rests on them


@pytest.mark.parametrize("stale", [[], ARMS[:1], ARMS])
def test_h3_is_open_without_rates_of_the_settings_of_now_and_says_what_to_do(
    runs: Runs, results: Path, stale: list[str]
) -> None:
    write_all(runs)
    h3 = study_of(runs).decisions()[2]
    assert (h3.verdict != OPEN, WORDS in h3.test.found) == (True, False)
    other = [
        dataclasses.replace(rate, hash=OTHER) if rate.arm in stale else rate
        for rate in pong_rates_of(runs["pong"])
    ]
    pong_rates.write(other if stale else [])
    study = study_of(runs)
    h3 = study.decisions()[2]
    assert (h3.verdict, h3.test.p) == (OPEN, None)
    assert WORDS in h3.test.found
    named = [
        f"pong: agent steps per second of {arm}: trained with other settings than the file's now "
        f"({OTHER})"
        for arm in stale
    ]
    assert [str(each) for each in study.left_out] == named
    assert list(complaints(study, runs)) == named
    assert all(each["seconds"] is None for each in report(study)["pong"])


def test_rates_of_arms_that_the_file_does_not_have_are_left_out(runs: Runs, results: Path) -> None:
    write_all(runs)
    of = pong_rates_of(runs["pong"])
    pong_rates.write([*of, dataclasses.replace(of[0], arm="gala-9")])
    study = study_of(runs)
    assert [str(each) for each in study.left_out] == [
        "pong: agent steps per second of gala-9: no run of the file"
    ]
    assert study.decisions()[2].verdict != OPEN


def test_the_table_has_steps_over_rates_and_the_runs_own_times(runs: Runs, results: Path) -> None:
    write_all(runs)
    found = report(study_of(runs))
    ours, theirs, _ = found["pong"]
    assert (ours["arm"], ours["steps"], ours["steps_per_s"]) == (plan.GALA_PONG, 103, 2.0)
    assert (ours["seconds"], theirs["seconds"]) == (51.5, 101.5)
    assert (ours["seconds_as_trained"], theirs["seconds_as_trained"]) == (103.0, 203.0)
    text = io.StringIO()
    show(found, text, 160)
    assert "time as trained" in text.getvalue()
    assert "of the arms in turns" in text.getvalue()


@pytest.mark.parametrize(
    ("made", "points"), [(1000, 40), (500, 20), (512, 20), (30, 1), (1, 1), (1040, 40)]
)
def test_a_curve_ends_where_its_run_has_ended(
    runs: Runs, results: Path, made: int, points: int
) -> None:
    """What is stored goes on, so that areas are of all runs: at its last value."""
    curve = tuple(float(at) for at in range(plan.GRID_POINTS))
    write("pong", [row("gala-pong", "pong", 1, 0.0, hash=runs["pong"][0].hash, curve=curve,
                       agent_steps=made, reached_steps=made)])  # fmt: skip
    (chart,) = charts(study_of(runs), "pong")
    (line,) = chart.lines
    assert list(line.x) == [25.0 * (at + 1) for at in range(points)]
    assert list(line.y) == list(curve[:points])


# The command


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arms that are measured, by a stand-in: each has a rate that grows from call to call."""
    calls: list[str] = []

    def stand_in(run: PlannedRun, packing: Packing) -> tuple[float, float]:
        place = packing.take(run.cores)
        assert place is not None
        packing.free(place)
        calls.append(run.arm)
        return 1000.0 + len(calls), 3.0

    monkeypatch.setattr(pilot, "measured", stand_in)
    return calls


@pytest.fixture
def rates(capsys: pytest.CaptureFixture[str]) -> Callable[[], tuple[int, str, str]]:
    """Calls `bin/study rates`; returns its exit code and what it printed, and told meanwhile."""

    def call() -> tuple[int, str, str]:
        code = command.main(["rates"])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_rates_measures_prints_and_keeps_and_a_second_call_measures_nothing(
    runs: Runs,
    results: Path,
    measured: list[str],
    rates: Callable[[], tuple[int, str, str]],
) -> None:
    code, out, err = rates()
    assert (code, measured) == (EXIT_OK, ARMS * pong_rates.ROUNDS)
    assert len(err.splitlines()) == len(measured)
    assert "galamp: study: gala-pong: 1,001 agent steps/s" in err
    assert all(arm in out for arm in ARMS)
    assert "1,007" in out
    assert "1,001 - 1,013" in out
    kept = pong_rates.read()
    assert [rate.median for rate in kept] == [1007.0, 1008.0, 1009.0]
    assert all("Python" in rate.machine for rate in kept)
    assert set(pong_rates.current(kept, runs["pong"])) == set(ARMS)
    code, out, err = rates()
    assert (code, out, len(measured)) == (EXIT_OK, "", 3 * pong_rates.ROUNDS)
    assert f"{pong_rates.FILE} has the rate of every arm" in err
    assert "remove it" in err
    assert pong_rates.read() == kept


def test_rates_of_other_settings_are_measured_anew(
    runs: Runs,
    results: Path,
    measured: list[str],
    rates: Callable[[], tuple[int, str, str]],
) -> None:
    pong_rates.write(pong_rates_of(runs["pong"], hash=OTHER))
    assert rates()[0] == EXIT_OK
    assert len(measured) == 3 * pong_rates.ROUNDS
    assert {rate.hash for rate in pong_rates.read()}.isdisjoint({OTHER})
