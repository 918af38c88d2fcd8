"""The number of a run's attempts is a stored fact; older run folders have it in their log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from galamp.storage.attempts import attempt_entry, last_attempt, last_begun

OLD_RUN = Path(__file__).resolve().parents[1] / "support" / "old_runs" / "c3d309f"


def made(folder: Path, *, config: Any = None, summary: Any = None, rows: int = 0) -> Path:
    """A run folder with these files, and a row of metrics of each of `rows` attempts."""
    for name, values in (("config.json", config), ("summary.json", summary)):
        if values is not None:
            (folder / name).write_text(json.dumps(values))
    starts = ({"global_step": 0, "start": start} for start in range(1, rows + 1))
    if rows:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in starts))
    return folder


def config_of(number: int) -> dict[str, Any]:
    return {"seed": 1, "resolved": attempt_entry(number)}


def test_a_run_that_was_never_started_has_none(tmp_path: Path) -> None:
    assert last_attempt(tmp_path) == last_begun(tmp_path) == 0


@pytest.mark.parametrize("rows", [0, 2, 9])
def test_it_is_what_config_json_says_whatever_is_left_of_the_log(tmp_path: Path, rows: int) -> None:
    folder = made(tmp_path, config=config_of(4), summary={"start": 3}, rows=rows)
    assert last_attempt(folder) == last_begun(folder) == 4


def test_an_attempt_whose_config_the_disk_refused_is_in_its_summary(tmp_path: Path) -> None:
    folder = made(tmp_path, config=config_of(1), summary={"start": 2}, rows=2)
    assert (last_begun(folder), last_attempt(folder)) == (1, 2)


def test_the_config_of_an_older_version_leaves_it_to_the_log(tmp_path: Path) -> None:
    assert last_attempt(OLD_RUN) == 1
    assert last_attempt(made(tmp_path, config={"resolved": {}}, rows=3)) == 3


@pytest.mark.parametrize("value", [0, -1, 2**31, 2**80, 1.0, True, "2", None, [], {}])
def test_a_number_that_no_run_reaches_is_none(tmp_path: Path, value: Any) -> None:
    config = {"resolved": {"attempt": value}}
    assert last_attempt(made(tmp_path, config=config, summary={"start": value}, rows=2)) == 2


@pytest.mark.parametrize("resolved", [None, 3, [], "x"])
def test_a_damaged_config_raises_nothing(tmp_path: Path, resolved: Any) -> None:
    assert last_attempt(made(tmp_path, config={"resolved": resolved})) == 0
    (tmp_path / "config.json").write_text("{")
    assert last_attempt(tmp_path) == 0
