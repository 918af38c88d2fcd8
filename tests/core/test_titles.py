"""Titles of a run's processes: two runs side by side can be told apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from galamp.core.processes.titles import (
    MAX_RUN_CHARACTERS,
    process_title,
    run_name,
    title_of,
    without_run,
)


@pytest.mark.parametrize("run", ["two", "a b", "x[1]", "line\nend", "]: learner 9", "r" * 200])
def test_a_title_can_be_read_without_its_run(tmp_path: Path, run: str) -> None:
    title = process_title(run_name(tmp_path / run), title_of("simulator", 0, 1))
    assert title.startswith("galamp[")
    assert title.isprintable()
    assert len(title) <= MAX_RUN_CHARACTERS + 30
    assert without_run(title) == "galamp: simulator 0.1"


@pytest.mark.parametrize("title", ["galamp: server", "python -m galamp", "galamp[x", "a]: b"])
def test_other_titles_stay(title: str) -> None:
    assert without_run(title) == title
