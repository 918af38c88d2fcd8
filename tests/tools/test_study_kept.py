"""`bin/study`: which rows count, and what is kept of runs that have ended."""

from __future__ import annotations

import dataclasses
import io
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from galamp.cli import study as command
from galamp.cli import sweep as sweep_cli
from galamp.core.errors import EXIT_FAILURE, EXIT_OK, EXIT_USAGE, CheckpointError, UserError
from galamp.core.stop_config import StopConfig
from galamp.tools.run_folders.record import RunRecord, State
from galamp.tools.study import collecting, plan, stable_baselines3
from galamp.tools.study.checking import complaints
from galamp.tools.study.report import report
from galamp.tools.study.rows import Row, add_row, read_rows
from galamp.tools.study.stable_baselines3 import PeerRun
from galamp.tools.study.study import study_of
from galamp.tools.study.text_report import show
from galamp.tools.sweep.ledger import Ledger
from galamp.tools.sweep.planned import PlannedRun, Sweep
from tests.support.finished import finished_run
from tests.support.study_files import Runs, results, runs
from tests.support.study_rows import row, rows_of, write, write_all

__all__ = ["results", "runs"]

PEER = PeerRun("stable-baselines3", "2.9.2", 1, 1600, 60.0, 1600, 60.0, 15.5)


def without(found: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: each for name, each in found.items() if name not in names}


# Which rows count


@pytest.mark.usefixtures("results")
def test_stale_repeated_and_unplanned_rows_count_nowhere_and_are_named(runs: Runs) -> None:
    """Wherever they stand in the files, whatever they say."""
    kept = write_all(runs)
    stable_baselines3.add(PEER)
    before = report(study_of(runs))
    assert [each["verdict"] for each in before["decisions"]] == ["supported"] * 3
    assert before["left_out"] == []
    for name, of in kept.items():
        other = row("other", "pong", 1, -9.0, hash="f" * 16)
        stale = [dataclasses.replace(other, arm=each.arm, game=each.game, seed=each.seed)
                 for each in of]  # fmt: skip
        twice = [dataclasses.replace(each, hash=of[at].hash) for at, each in enumerate(stale)]
        write(name, [*stale[:3], *of, *twice[:2], row("gala-9", "pong", 1, -9.0)])
    with stable_baselines3.FILE.open("a") as file:
        file.write(json.dumps(dataclasses.asdict(dataclasses.replace(PEER, reached_s=9.0))) + "\n")
    study = study_of(runs)
    after = report(study)
    assert without(after, "left_out") == without(before, "left_out")
    assert len(after["left_out"]) == 6 * 5 + 1
    text = io.StringIO()
    show(after, text, 200)
    assert "Left out: 31 stored rows" in text.getvalue()
    assert "and 21 more" in text.getvalue()
    said = list(complaints(study, runs))
    first = kept["pong"][0].cell
    for line in (
        f"pong: {first}: trained with other settings than the file's now (ffffffffffffffff)",
        f"pong: {first}: there is an earlier row of it",
        "pong: gala-9 pong 1: no run of the file",
        "pong: stable-baselines3 1: there is an earlier row of it",
    ):
        assert line in said


@pytest.mark.usefixtures("results")
def test_a_stale_row_does_not_complete_a_block(runs: Runs) -> None:
    kept = write_all(runs)
    write("pong", [dataclasses.replace(kept["pong"][0], hash="f" * 16), *kept["pong"][1:]])
    study = study_of(runs)
    assert study.decisions()[2].verdict == "open"
    assert study.decisions()[2].test.p is None


def test_a_row_is_added_once_whoever_adds_it_too(results: Path) -> None:
    file = results / "some.jsonl"
    one = row("a", "pong", 1, 2.5)
    done: list[bool] = []
    threads = [threading.Thread(target=lambda: done.append(add_row(file, one))) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(done) == [False] * 7 + [True]
    assert read_rows(file) == [one]
    assert add_row(file, dataclasses.replace(one, hash="f" * 16)), "other settings are another run"


# What is kept of a run


@pytest.fixture
def ended(
    results: Path, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[PlannedRun], Path]:
    """Three runs of block pong that have finished; of the second no row can be made."""
    three, folder = list(runs["pong"][:3]), tmp_path / "runs"
    folder.mkdir()
    ledger = Ledger(folder, plan.BLOCKS["pong"].file)
    for run in three:
        ledger.started(run)
    summary = json.dumps({"status": "finished", "start": 1, "agent_steps": 1000})
    for run in three:
        (finished_run(folder / run.name, [1.0]) / "summary.json").write_text(summary)

    def row_of(run: PlannedRun, path: Path, **_: object) -> Row:
        if run == three[1]:
            raise CheckpointError(f"{path}: damaged")
        return rows_of([run])[0]

    monkeypatch.setattr(collecting, "row_of", row_of)
    return three, folder


def test_a_damaged_folder_does_not_keep_others_from_their_rows(
    ended: tuple[list[PlannedRun], Path],
) -> None:
    three, folder = ended
    block = plan.BLOCKS["pong"]
    found = collecting.collect(three, block, folder)
    assert found.added == 2
    (line,) = found.damaged
    assert three[1].name in line
    assert read_rows(block.results) == rows_of([three[0], three[2]])
    again = collecting.collect(three, block, folder)
    assert (again.added, len(again.damaged)) == (0, 1), "rows are read anew before any is added"


def begun_otherwise(folder: Path, *names: str, remove: str = "") -> None:
    """Have sweep.json say that runs were begun with other settings, or know nothing of one."""
    content = json.loads((folder / "sweep.json").read_text())
    for name in names:
        content["runs"][name]["hash"] = "f" * 16
    content["runs"].pop(remove, None)
    (folder / "sweep.json").write_text(json.dumps(content))


def test_a_folder_of_other_settings_or_of_another_sweep_makes_no_row(
    ended: tuple[list[PlannedRun], Path],
) -> None:
    """Its name is that of the run, whatever the settings: the result would be another's."""
    three, folder = ended
    begun_otherwise(folder, three[0].name, three[1].name, remove=three[2].name)
    found = collecting.collect(three, plan.BLOCKS["pong"], folder)
    assert found.added == 0
    assert not plan.BLOCKS["pong"].results.exists()
    for run, line, why in zip(
        three, found.damaged, (*["begun with other settings"] * 2, "not of this sweep"), strict=True
    ):
        assert line.startswith(f"{folder / run.name}: no row: ")
        assert why in line
        assert "choose another --dir" in line


def test_run_in_a_folder_of_other_settings_says_what_to_do(
    ended: tuple[list[PlannedRun], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """As after a learning rate in the file has changed; runs of the same settings get their row."""
    three, folder = ended
    begun_otherwise(folder, three[0].name)
    assert command.main(["run", "pong", "--dir", str(folder)]) == EXIT_USAGE
    said = capsys.readouterr().err
    assert "1 new rows" in said
    assert f"{folder / three[0].name}: was begun with other settings" in said.splitlines()[-1]
    assert "choose another --dir" in said.splitlines()[-1]
    assert read_rows(plan.BLOCKS["pong"].results) == rows_of([three[2]])


def test_runs_that_have_finished_get_their_rows_before_others_are_trained(
    ended: tuple[list[PlannedRun], Path],
    runs: Runs,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As of a call that was killed before it came to them; who has a row is not listed again."""
    three, folder = ended
    given: list[PlannedRun] = []

    def train_sweep(sweep: Sweep, *_: object, **__: object) -> int:
        given.extend(sweep.runs)
        assert read_rows(plan.BLOCKS["pong"].results) == rows_of([three[0], three[2]])
        return EXIT_OK

    monkeypatch.setattr(sweep_cli, "train_sweep", train_sweep)
    command.main(["run", "pong", "--dir", str(folder)])
    assert given == [three[1], *runs["pong"][3:]]
    assert "2 new rows" in capsys.readouterr().err


def test_nothing_is_trained_where_all_that_lacked_a_row_had_finished(
    ended: tuple[list[PlannedRun], Path],
    runs: Runs,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write("pong", rows_of(runs["pong"][3:]))
    monkeypatch.setattr(collecting, "row_of", lambda run, *_, **__: rows_of([run])[0])
    monkeypatch.setattr(sweep_cli, "train_sweep", lambda *_, **__: pytest.fail("trained"))
    assert command.main(["run", "pong", "--dir", str(ended[1])]) == EXIT_OK
    assert "has a row of every run, 3 of them new" in capsys.readouterr().err
    assert len(read_rows(plan.BLOCKS["pong"].results)) == len(runs["pong"])


def test_a_folder_that_is_not_there_yet_has_no_runs_to_make_rows_of(
    results: Path, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "runs" / "study-pong"
    given: list[PlannedRun] = []

    def train_sweep(sweep: Sweep, *_: object, **__: object) -> int:
        given.extend(sweep.runs)
        assert not folder.exists()
        return EXIT_OK

    monkeypatch.setattr(sweep_cli, "train_sweep", train_sweep)
    assert command.main(["run", "pong", "--dir", str(folder)]) == EXIT_OK
    assert given == list(runs["pong"])
    assert read_rows(plan.BLOCKS["pong"].results) == []


@pytest.mark.parametrize("failure", [None, UserError("the folder is damaged")])
def test_run_tells_of_damaged_folders_and_fails(
    ended: tuple[list[PlannedRun], Path],
    failure: UserError | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Those of others that have finished get their rows, though the sweep itself fails."""

    def train_sweep(*_: object, **__: object) -> int:
        if failure is not None:
            raise failure
        return EXIT_OK

    monkeypatch.setattr(sweep_cli, "train_sweep", train_sweep)
    code = command.main(["run", "pong", "--dir", str(ended[1])])
    assert code == (EXIT_FAILURE if failure is None else failure.exit_code)
    said = capsys.readouterr().err
    assert "no row: " in said
    assert "2 new rows" in said


@pytest.mark.parametrize(
    ("returns", "ended_by", "stop", "found"),
    [
        ([14.0, 15.0, 16.0], "total-steps", None, (200, 2.0)),
        ([13.0, 14.0, 14.5], "total-steps", 15.0, (None, None)),
        ([13.0, 14.0, 14.9], "stop-score", 15.0, (310, 3.1)),
        ([13.0, 14.0, 14.9], "stop-score", 14.5, (None, None)),
        ([], "stop-score", 15.0, (310, 3.1)),
    ],
)
def test_a_run_that_its_score_has_ended_was_there(
    returns: list[float], ended_by: str, stop: float | None, found: tuple[int | None, float | None]
) -> None:
    """Though after it, before the last row of metrics, worse episodes may have ended."""
    at = np.arange(1.0, 1 + len(returns))
    summary = {"agent_steps": 310, "wall_s": 3.1, "ended_by": ended_by}
    record = RunRecord(Path("run"), State.FINISHED, summary=summary)
    stops = StopConfig(stop_score=stop)
    assert collecting.reached(100 * at, at, np.array(returns), record, stops) == found
