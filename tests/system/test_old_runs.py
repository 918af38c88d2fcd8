"""Run folders that older versions of galamp made: they are resumed, evaluated and audited.

`tests/support/old_runs/<commit>` holds a run of CartPole-v1 made by that commit: two learners of
four environments in lock-step on a ring, 4,000 agent steps.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.engine import galamp, run, summary

OLD_RUNS = Path(__file__).resolve().parents[1] / "support" / "old_runs"


@pytest.fixture(params=sorted(path.name for path in OLD_RUNS.iterdir()))
def old_run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the run folder, with links as a user's copy has them."""
    folder = tmp_path / "run"
    shutil.copytree(OLD_RUNS / request.param, folder, symlinks=True)
    return folder


def test_it_is_resumed_where_it_ended_and_its_record_stays_whole(old_run: Path) -> None:
    """The audit replays the gossip of both attempts."""
    before = summary(old_run)
    rows = (old_run / "metrics.jsonl").read_text().splitlines()
    resumed = run("--resume", old_run, "--total-steps", 5000, "--quiet")
    assert resumed.returncode == 0, resumed.stderr
    after = summary(old_run)
    assert before["agent_steps"] == 4000
    assert after["status"] == "finished"
    assert after["agent_steps"] >= 5000
    assert (before["start"], after["start"]) == (1, 2)
    assert json.loads((old_run / "config.json").read_text())["resolved"]["attempt"] == 2
    assert (old_run / "metrics.jsonl").read_text().splitlines()[: len(rows)] == rows
    audited = galamp("audit", "--json", old_run)
    assert audited.returncode == 0, audited.stderr + audited.stdout


def test_it_is_evaluated(old_run: Path) -> None:
    played = galamp("eval", old_run, "--episodes", 3, "--json", "--seed", 1)
    assert played.returncode == 0, played.stderr
    (agent,) = json.loads(played.stdout)["results"]
    assert len(agent["returns"]) == 3


def test_it_is_audited(old_run: Path) -> None:
    audited = galamp("audit", "--json", old_run)
    assert audited.returncode == 0, audited.stderr + audited.stdout
    assert json.loads(audited.stdout)["violations"] == []
