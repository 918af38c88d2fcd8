"""Runs on several machines on the command line: their place is shown, what cannot be is refused."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from galamp.cli.main import main
from galamp.gossip import cluster

A = "tcp/127.0.0.1:7447"
ON_TWO = ["run", "--env-id", "CartPole-v1", "--learners", "2", "--nodes", "2", "--join", A]


@pytest.fixture
def _port(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that is always installed."""
    toy = "tests.support.toy_port:InOneProcess"
    monkeypatch.setitem(cluster.PORTS, cluster.ZENOH, toy)


@pytest.mark.real
@pytest.mark.usefixtures("_port")
def test_a_dry_run_shows_the_place_of_a_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ON_TWO, "--node-rank", "1", "--dry-run"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "gossip of 4, topology ring" in shown
    assert "machine 1 of 2: learners 2 to 3 of 4 in all" in shown
    assert f"listens at none; connects to {A}" in shown
    assert "in plain text" not in shown
    open_ = ["--join", "tcp/10.0.0.1:7447", "--insecure-network", "--node-rank", "0"]
    assert main([*ON_TWO, *open_, "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ports"] == ["tcp/10.0.0.1:7447"]
    assert found["place"]["nodes"] == 2
    assert main(["run", "--env-id", "CartPole-v1", "--learners", "2", "--dry-run", "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert (alone["ports"], "place" in alone) == ([], False)
    assert alone["shared_memory_bytes"] < found["shared_memory_bytes"]


@pytest.mark.usefixtures("_port")
@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ([], "--nodes 2: which of them is this? Give --node-rank"),
        (["--node-rank", "0", "--join", "tcp/10.0.0.1:7447"], "could read and alter the run"),
        (["--node-rank", "0", "--transport", "gloo", "--keys", "k"], "cannot encrypt"),
        (["--node-rank", "1", "--listen", A], "nobody connects to this machine"),
        (["--node-rank", "0", "--sync"], "in lock-step"),
        (["--node-rank", "0", "--method", "allreduce"], "--method allreduce is for one machine"),
        (["--node-rank", "0", "--topology", "none"], "has no edge"),
        (["--node-rank", "0", "--learners", "auto"], "measures one machine"),
        (["--node-rank", "0", "--target-ball", "1"], "--target-ball is for one machine"),
        (["--node-rank", "0", "--gradient-correlation"], "is for one machine"),
    ],
)
def test_what_several_machines_cannot_do_is_refused_in_a_line(
    words: list[str], wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    dry = [] if "auto" in words else ["--dry-run"]
    assert main([*ON_TWO, *words, "--quiet", *dry]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert wrong in line


@pytest.mark.real
def test_a_run_on_one_machine_loads_nothing_of_it() -> None:
    """Neither the supervisor and what it forks, nor the server."""
    code = (
        "import sys, galamp.training.train, galamp.cli.dry_run, galamp.workers.learner, "
        "galamp.workers.simulator, galamp.gossip.transport.shared_memory\n"
        "print([m for m in sys.modules if m.startswith(('zenoh', 'galamp.gossip.cluster', "
        "'galamp.workers.bridge', 'galamp.supervision.border', 'galamp.supervision.cluster', "
        "'galamp.memory.cluster', 'galamp.core.node_keys'))])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout == "[]\n"


def test_chaos_is_for_one_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chaos", *ON_TWO[1:], "--node-rank", "0", "--quiet"]) == 2
    assert "--nodes: faults are drawn for one machine" in capsys.readouterr().err


def test_without_zenoh_it_is_said_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "zenoh", None)
    assert main([*ON_TWO, "--node-rank", "0", "--quiet", "--dry-run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--nodes: needs the package zenoh" in line
    assert "pip install 'galamp[cluster]'" in line
