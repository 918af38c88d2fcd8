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
from tests.support.engine import family, started, training, wait_for


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


def test_every_process_of_a_run_has_a_title(tmp_path: Path) -> None:
    flags = ("--env-id", "CartPole-v1", "--learners", 1, "--num-envs", 2, "--quiet")
    folder = tmp_path / "two"
    total = ("--total-steps", 10**9, "--log-every-s", 0.1, "--simulator-workers", 1)
    with started(*flags, *total, "--run-dir", folder) as process:
        wait_for(lambda: training(folder), "training")

        def read(pid: int, file: str) -> str:
            return Path(f"/proc/{pid}/{file}").read_text().replace("\0", " ").strip()

        children = family(process.pid)
        assert read(process.pid, "cmdline") == "galamp[two]: supervisor"
        assert sorted(read(pid, "cmdline") for pid in children) == [
            f"galamp: resource tracker of {process.pid}",
            "galamp[two]: learner 0",
            "galamp[two]: server",
            "galamp[two]: simulator 0.0",
        ]
        names = {read(pid, "comm") for pid in children}
        assert {"galamp: learner", "galamp: simulat", "galamp: server"} < names
