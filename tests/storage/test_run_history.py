"""The history of a run's metrics: which rows count, and what is read while a run goes on."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from galamp.storage.run_history import RunHistory
from galamp.storage.run_logs import RETURN, MetricsLog, curve, last_start_in


def log(path: Path, from_step: int = 0) -> MetricsLog:
    start = last_start_in(path) + 1 if path.exists() else 1
    return MetricsLog(path, start, from_step, lambda text: None)


def row(step: int, score: float | None = 1.0, **more: object) -> dict[str, object]:
    return {"global_step": step, "wall_s": step / 10, RETURN: score, **more}


def test_columns_have_a_value_per_row_and_nan_where_there_is_none(tmp_path: Path) -> None:
    written = log(tmp_path / "metrics.jsonl")
    written.append(row(10, None))
    written.append(row(20, 2.5, extra=7))
    history = RunHistory(tmp_path / "metrics.jsonl")
    assert len(history) == 2
    np.testing.assert_array_equal(history.column("global_step"), [10, 20])
    np.testing.assert_array_equal(history.column(RETURN), [np.nan, 2.5])
    np.testing.assert_array_equal(history.column("extra"), [np.nan, 7])
    np.testing.assert_array_equal(history.column("unheard of"), [np.nan, np.nan])


def test_a_resume_supersedes_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = log(path)
    for step in (10, 20, 30, 40):
        first.append(row(step, restarts=0))
    second = log(path, from_step=20)
    second.append(row(25, 9.0))
    history = RunHistory(path)
    np.testing.assert_array_equal(history.column("global_step"), [10, 20, 25])
    assert history.resumes == [2]
    assert [score for _, score in curve(path).points] == history.column(RETURN).tolist()


def test_a_resume_from_further_back_removes_the_mark_of_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for start, steps in ((0, (10, 20, 30)), (20, (25, 28)), (10, (15,))):
        begun = log(path, from_step=start)
        for step in steps:
            begun.append(row(step))
    history = RunHistory(path)
    np.testing.assert_array_equal(history.column("global_step"), [10, 15])
    assert history.resumes == [1]


def test_restarts_are_rows_in_which_more_were_counted(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = log(path)
    for step, count in ((10, 0), (20, 2), (30, 2), (40, 3)):
        first.append(row(step) | {"charts/restarts": count})
    log(path, from_step=40).append(row(50) | {"charts/restarts": 0})
    assert RunHistory(path).restarts() == [1, 3]


def test_an_update_reads_what_is_new_and_waits_for_the_rest_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    written = log(path)
    written.append(row(10))
    history = RunHistory(path)
    assert not history.update()
    with path.open("ab") as file:
        file.write(b'{"global_step": 20, "start": 1, "x')
    assert not history.update()
    assert len(history) == 1
    with path.open("ab") as file:
        file.write(b'": 3}\n')
    assert history.update()
    assert history.column("x").tolist()[1] == 3
    assert len(history) == 2


def test_another_file_in_its_place_is_read_from_the_start(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log(path).append(row(10))
    history = RunHistory(path)
    other = tmp_path / "other"
    written = log(other)
    for step in (1, 2, 3):
        written.append(row(step))
    os.replace(other, path)
    assert history.update()
    np.testing.assert_array_equal(history.column("global_step"), [1, 2, 3])


def test_a_file_that_became_shorter_is_read_from_the_start(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    written = log(path)
    for step in (10, 20, 30):
        written.append(row(step))
    history = RunHistory(path)
    os.truncate(path, 0)
    log(path).append(row(5))
    assert history.update()
    np.testing.assert_array_equal(history.column("global_step"), [5])


def test_foreign_lines_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(
        b'[1]\n{"global_step": -1}\n{"global_step": 1e999, "start": 1}\n\xff\n'
        b'{"global_step": 5, "start": 1, "a": "text", "b": true, "c": 1e301, "d": [1]}\n'
    )
    history = RunHistory(path)
    assert history.names == ("global_step", "start")
    assert len(RunHistory(tmp_path / "missing")) == 0


STEPS = st.integers(0, 6)
STARTS = st.lists(st.tuples(STEPS, st.lists(STEPS, max_size=4)), min_size=1, max_size=4)


@given(STARTS, st.integers(0, 2000))
def test_reading_in_two_pieces_is_reading_at_once(
    tmp_path_factory: pytest.TempPathFactory, starts: list[tuple[int, list[int]]], split: int
) -> None:
    path = tmp_path_factory.mktemp("history") / "metrics.jsonl"
    for from_step, steps in starts:
        begun = log(path, from_step)
        for step in sorted(steps):
            begun.append(row(step))
    content = path.read_bytes()
    pieces = path.with_name("pieces.jsonl")
    pieces.write_bytes(content[:split])
    history = RunHistory(pieces)
    with pieces.open("ab") as file:
        file.write(content[split:])
    history.update()
    whole = RunHistory(path)
    assert history.resumes == whole.resumes
    assert history.column("global_step").tolist() == whole.column("global_step").tolist()
