"""`bin/bench nodes`: one run on several nodes, as one program that can be measured."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from galamp.core.errors import EXIT_FAILURE, EXIT_OK, EXIT_SIGTERM, EXIT_USAGE
from galamp.storage.run_logs import read_metrics
from galamp.tools.bench import cli, commands, nodes, runs
from tests.support.engine import STREAMS, end, wait_for


def test_nodes_share_the_learners_of_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[runs.System] = []
    monkeypatch.setattr(commands, "compare", lambda systems, *_, subject: found.extend(systems))
    assert cli.main(["nodes", "--game", "pong", "--learners", "6", "--nodes", "3"]) == EXIT_OK
    several, one = found
    assert (several.name, one.name) == ("3 nodes x 2", "1 node x 6")
    words = " ".join(several.command)
    assert "galamp.tools.bench.nodes 3 run --env-id ALE/Pong-v5 --learners 2" in words
    assert "--learners 6" in " ".join(one.command)


@pytest.mark.parametrize(("count", "learners"), [(1, 4), (2, 3), (3, 4), (4, 2)])
def test_learners_that_cannot_be_divided_are_refused(
    count: int, learners: int, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["nodes", "--nodes", str(count), "--learners", str(learners)]
    assert cli.main(words) == EXIT_USAGE
    assert "expected 2 nodes or more" in capsys.readouterr().err


def test_every_node_has_its_place_and_its_folder() -> None:
    first, second = nodes.commands(2, ["run", "--seed", "1"], "runs/x", "tcp/127.0.0.1:7000")
    place = "run --seed 1 --nodes 2 --node-rank {} --join tcp/127.0.0.1:7000 --run-dir {}"
    assert " ".join(first).endswith(place.format(0, "runs/x"))
    assert " ".join(second).endswith(place.format(1, "runs/x-node-1"))


ENDLESS = "import time; time.sleep(600)"
SAVES = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143));"
    "time.sleep(600)"
)


@pytest.mark.parametrize(
    ("codes", "asks", "expected"),
    [
        ([SAVES, SAVES], True, EXIT_SIGTERM),
        (["pass", SAVES], False, EXIT_OK),
        ([SAVES, "raise SystemExit(2)"], False, EXIT_USAGE),
        ([ENDLESS, "raise SystemExit(70)"], False, EXIT_FAILURE),
    ],
    ids=["asked", "finished", "refused", "failed"],
)
def test_all_nodes_end_together(
    codes: list[str], asks: bool, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one that ends ends the others, and a failure is the program's own."""
    started: list[subprocess.Popen[bytes]] = []

    def starting(command: list[str]) -> subprocess.Popen[bytes]:
        started.append(begun(command))
        if asks and len(started) == len(codes):
            handler = signal.getsignal(signal.SIGTERM)
            assert callable(handler)
            handler(signal.SIGTERM, None)
        return started[-1]

    begun = subprocess.Popen
    monkeypatch.setattr(nodes.subprocess, "Popen", starting)
    monkeypatch.setattr(nodes, "commands", lambda *_: [[sys.executable, "-c", c] for c in codes])
    monkeypatch.setattr(sys, "argv", ["nodes", "2", "--run-dir", "x", "run"])
    before = signal.getsignal(signal.SIGTERM)
    try:
        found = nodes.main()
    finally:
        signal.signal(signal.SIGTERM, before)
        for process in started:
            process.kill()
            process.wait(10)
    assert found == expected
    assert all(process.returncode is not None for process in started)


@pytest.mark.slow
@pytest.mark.real
def test_two_nodes_are_really_trained_and_end(tmp_path: Path) -> None:
    pytest.importorskip("zenoh")
    workload = runs.Workload("CartPole-v1", "", 2, 2, "mlp")
    system = nodes.nodes_system(workload, 2, ("--simulator-workers", "1"))
    words = [*system.command, "--seed", "1", "--run-dir", str(tmp_path / "run")]
    process = subprocess.Popen(words, text=True, **STREAMS)
    try:
        for folder in ("run", "run-node-1"):
            file = tmp_path / folder / "metrics.jsonl"
            wait_for(
                lambda file=file: any(
                    row.get("gossip/received", 0) > 20 for row in read_metrics(file)
                ),
                "vectors of the other node",
            )
        process.terminate()
        assert process.wait(60) == EXIT_SIGTERM
    finally:
        end(process)
