"""A network of the user's from the command line: trained, gone on with, evaluated, loaded."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import galamp
from galamp.core.errors import UserError
from galamp.storage import checkpoint
from galamp.tools.evaluation.trained import locate
from tests.support.engine import ROOT, also, run, summary
from tests.support.engine import galamp as command
from tests.support.engine import words as start

TOY = "tests.support.networks:Toy"
SMALL = ["--env-id", "CartPole-v1", "--learners", 2, "--num-envs", 2, "--device", "cpu", "--quiet"]


@pytest.mark.real
@pytest.mark.counted
def test_a_network_of_the_users_is_trained_and_evaluated(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = run(*SMALL, "--network", TOY, "--total-steps", 500, "--run-dir", folder, "--sync")
    assert (first.returncode, first.stderr) == (0, "")
    assert min(summary(folder)["mixes_per_learner"]) > 0
    identity = checkpoint.load(locate(folder).path).identity
    assert identity.network == TOY
    assert dict(identity.layout)["body.1.weight"] == (32, 4)

    alone = run("--resume", folder)
    told = f"wants to run your code {TOY}: if that is what you want, add --network {TOY}\n"
    assert (alone.returncode, told in alone.stderr) == (2, True)
    again = run("--resume", folder, "--network", TOY, "--total-steps", 1000, "--quiet")
    assert (again.returncode, again.stderr, summary(folder)["start"]) == (0, "", 2)

    refused = command("eval", folder, "--episodes", 1)
    assert (refused.returncode, told in refused.stderr) == (2, True)
    played = command("eval", folder, "--episodes", 2, "--network", TOY, "--json", "--quiet")
    assert (played.returncode, played.stderr) == (0, "")
    assert json.loads(played.stdout)["results"][0]["learner"] == "mean"

    with pytest.raises(UserError, match=f"give galamp.load the network {TOY}"):
        galamp.load(folder)
    agent = galamp.load(folder, network=TOY)
    assert agent.act(np.zeros((3, 4), np.float32)).shape == (3,)  # type: ignore[union-attr]


@pytest.mark.real
def test_a_module_in_the_working_directory_is_found_by_parent_and_learners(tmp_path: Path) -> None:
    code = "from tests.support.networks import Toy\ndef make(*task): return Toy(*task)\n"
    (tmp_path / "mine.py").write_text(code)
    (tmp_path / "queue.py").write_text("raise SystemExit('the wrong one')\n")
    arguments = [*SMALL, "--network", "mine:make", "--total-steps", 200, "--run-dir", "run"]
    done = subprocess.run(
        start("run", *arguments),
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"},
        text=True,
        capture_output=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert locate(tmp_path / "run").path.is_dir()


@pytest.mark.real
@pytest.mark.parametrize("name", ["column", also("raising"), also("unseeded")])
def test_what_cannot_be_trained_is_refused_before_a_folder_is_made(
    tmp_path: Path, name: str
) -> None:
    words = [*SMALL, "--network", f"tests.support.networks:{name}", "--run-dir", tmp_path / "run"]
    refused = run(*words)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"galamp: --network tests.support.networks:{name}: ")
    assert refused.stderr.count("galamp: ") == 1
    assert not (tmp_path / "run").exists()
