"""`bin/study`: which checkout and version has started a run, and which ones begin anew."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

import galamp
from galamp.cli import study as command
from galamp.cli import sweep as sweep_cli
from galamp.core.errors import EXIT_OK
from galamp.tools.study import checkout, collecting, plan
from galamp.tools.sweep.ledger import Ledger, Start
from tests.support.finished import finished_run
from tests.support.study_files import Runs, results, runs
from tests.support.study_rows import rows_of

__all__ = ["results", "runs"]


def test_the_commits_of_all_starts_are_kept(runs: Runs, tmp_path: Path) -> None:
    run, folder, file = runs["pong"][0], tmp_path / "runs", tmp_path / "pong.toml"
    folder.mkdir()

    def after(commit: str, *, resume: bool) -> tuple[str, ...]:
        Ledger(folder, file, lambda: commit).started(run, resume=resume)
        return Ledger(folder, file).runs[run.name].commits

    assert after("", resume=False) == (), "not told"
    assert after("abc", resume=True) == ("unknown", "abc")
    assert after("abc", resume=True) == ("unknown", "abc")
    assert after("def+", resume=True) == ("unknown", "abc", "def+")
    assert after("def+", resume=False) == ("def+",), "begun anew: of the former nothing is left"
    assert after("", resume=True) == ("def+", "unknown"), "this start does not tell its own"
    assert after("abc", resume=True) == ("def+", "unknown", "abc")
    assert after("", resume=False) == (), "not told, and nothing of others is left"
    assert after("", resume=True) == (), "of no start it is told"
    assert after("abc", resume=True) == ("unknown", "abc")


def test_a_first_start_that_resumes_has_no_earlier_one(runs: Runs, tmp_path: Path) -> None:
    run = runs["pong"][0]
    ledger = Ledger(tmp_path, tmp_path / "pong.toml", lambda: "abc")
    ledger.started(run, resume=True)
    assert ledger.runs[run.name].commits == ("abc",)


def test_a_run_that_begins_anew_is_of_the_version_that_begins_it(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, versions = runs["pong"][0], []
    ledger = Ledger(tmp_path, tmp_path / "pong.toml")
    for version, resume in (("1.0", False), ("1.1", True), ("1.2", False)):
        monkeypatch.setattr(galamp, "__version__", version)
        ledger.started(run, resume=resume)
        versions.append(ledger.runs[run.name].galamp)
    assert versions == ["1.0", "1.0", "1.2"]


@pytest.mark.usefixtures("results")
def test_runs_in_lock_step_that_were_interrupted_begin_anew(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others go on; what has finished is left alone."""
    sync, other, done = (
        next(run for run in runs["efficiency"] if run.arm == arm)
        for arm in ("gala-sync-64", "gala-64", "a2c-64")
    )
    folder, file = tmp_path / "runs", plan.BLOCKS["efficiency"].file
    folder.mkdir()
    ledger = Ledger(folder, file)
    for run in (sync, other, done):
        checkpoint = finished_run(folder / run.name, [1.0]) / "checkpoints" / "ckpt-000000000100"
        checkpoint.mkdir(parents=True, exist_ok=True)
        ledger.started(run)
    summary = json.dumps({"status": "finished", "start": 1, "agent_steps": 1000})
    (folder / done.name / "summary.json").write_text(summary)
    starts: dict[str, bool] = {}

    def train(_: object, ledger: object, given: Sequence[Start], *__: object, **___: object) -> int:
        starts.update({start.run.name: start.resume for start in given})
        return EXIT_OK

    monkeypatch.setattr(sweep_cli, "_train", train)
    monkeypatch.setattr(sweep_cli, "_checked", lambda *_: None)
    monkeypatch.setattr(sweep_cli, "_report", lambda *_, **__: None)
    monkeypatch.setattr(collecting, "row_of", lambda run, *_, **__: rows_of([run])[0])
    assert command.main(["run", "efficiency", "--dir", str(folder)]) == EXIT_OK
    assert (starts[sync.name], starts[other.name]) == (False, True)
    assert done.name not in starts


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_that_of_the_package_and_marked_where_files_differ(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        names = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
        who = ("-c", "user.name=n", "-c", "user.email=e@example.org")
        subprocess.run(["git", "-C", tmp_path, *who, *words], check=True, env=os.environ | names,
                       capture_output=True)  # fmt: skip

    package = tmp_path / "galamp"
    (package / checkout.RESULTS).mkdir(parents=True)
    (package / "__init__.py").write_text("")
    assert checkout.commit(package) == "", "no repository"
    git("init")
    (tmp_path / "other.py").write_text("")
    git("add", "other.py")
    git("commit", "-m", "another")
    assert checkout.commit(package) == "", "within the repository of something else"
    git("add", ".")
    git("commit", "-m", "one")
    clean = checkout.commit(package)
    assert len(clean) >= checkout.DIGITS
    (package / checkout.RESULTS / "pong.jsonl").write_text("a row\n")
    (tmp_path / "other.py").write_text("changed")
    assert checkout.commit(package) == clean, "neither rows nor other files are galamp's code"
    (package / "new.py").write_text("")
    assert checkout.commit(package) == clean + checkout.CHANGED
    (package / "new.py").unlink()
    (package / "__init__.py").write_text("changed")
    assert checkout.commit(package) == clean + checkout.CHANGED
