"""Run folders that older versions of galamp made: they are resumed, evaluated and audited.

`tests/support/old_runs/<commit>` holds a run of CartPole-v1 made by that commit: two learners of
four environments in lock-step on a ring, 4,000 agent steps.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.support.engine import galamp, run, summary
from tests.support.tensors import saved_by_both

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


def test_it_is_trained_anew_to_the_same_parameters(tmp_path: Path) -> None:
    """But for the processor, which rounds the first weights in its own way.

    Both versions on one processor: `test_bits_of_old_versions.py`.
    """
    old, new = OLD_RUNS / "c3d309f", tmp_path / "run"
    told = summary(old)
    if told["versions"]["torch"].partition("+")[0] != torch.__version__.partition("+")[0]:
        pytest.skip("another torch may draw other actions")
    words = told["command"].removeprefix("galamp run ").split()
    words[words.index("--checkpoint-every")] += "-s"  # its name since
    words[words.index("--run-dir") + 1] = str(new)
    anew = run(*words)
    assert anew.returncode == 0, anew.stderr
    for saved in saved_by_both(old, new, learners=2):
        for name, (expected, found) in saved.items():
            compare(name, found, expected)


def compare(name: str, found: NDArray[Any], expected: NDArray[Any]) -> None:
    """Compare random numbers to the bit, and what was 0 at first, biases, closer than weights."""
    if name == "generator":
        assert np.array_equal(found, expected)
    elif name.endswith(".bias"):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-7, err_msg=name)
    elif name == "optimizer.square_average":
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6, err_msg=name)
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5, err_msg=name)
