"""`bin/bench nodes`: one run on several nodes, as one program that can be measured."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from galamp.core.errors import EXIT_FAILURE, EXIT_OK, EXIT_SIGTERM, EXIT_USAGE
from galamp.core.machine.machine import Cpu
from galamp.storage.run_logs import read_metrics
from galamp.tools.bench import cli, commands, nodes, runs
from tests.support.command_lines import parsed
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


@pytest.mark.parametrize(
    ("threads", "count", "expected"),
    [
        ((1, 1), 2, [(0,), (1,)]),
        ((1, 1, 1, 1), 2, [(0, 1), (2, 3)]),
        ((2, 2, 2), 3, [(0, 1), (2, 3), (4, 5)]),
        ((2, 1, 1), 2, [(0, 1), (2, 3)]),
        ((2,), 2, [(0,), (1,)]),
        ((1,), 2, [(0,), (0,)]),
    ],
)
def test_every_node_has_its_part_of_the_cores(
    threads: tuple[int, ...], count: int, expected: list[tuple[int, ...]]
) -> None:
    """As machines have, and the learners of one run: else nodes would start more simulators."""
    of = [core for core, number in enumerate(threads) for _ in range(number)]
    cpus = [Cpu(number, (0, core)) for number, core in enumerate(of)]
    assert nodes.parts(cpus, count) == expected


ENDLESS = "import time; time.sleep(600)"
SAVES = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143));"
    "time.sleep(600)"
)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """What `nodes.main` starts: killed at the end, and signals are as before."""
    found: list[subprocess.Popen[bytes]] = []
    begun = subprocess.Popen

    def starting(command: list[str]) -> subprocess.Popen[bytes]:
        found.append(begun(command))
        return found[-1]

    monkeypatch.setattr(nodes.subprocess, "Popen", starting)
    monkeypatch.setattr(sys, "argv", ["nodes", "2", "--run-dir", "x", "run"])
    before = signal.getsignal(signal.SIGTERM)
    yield found
    signal.signal(signal.SIGTERM, before)
    for process in found:
        process.kill()
        process.wait(10)


def ended_with(codes: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    words = [[sys.executable, "-c", code] for code in codes]
    monkeypatch.setattr(nodes, "commands", lambda *_: words)
    return nodes.main()


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
    codes: list[str],
    asks: bool,
    expected: int,
    started: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first one that ends ends the others, and a failure is the program's own."""
    launch = subprocess.Popen

    def asked(command: list[str]) -> subprocess.Popen[bytes]:
        process = launch(command)
        if len(started) == len(codes):
            signal.raise_signal(signal.SIGTERM)
        return process

    if asks:
        monkeypatch.setattr(nodes.subprocess, "Popen", asked)
    assert ended_with(codes, monkeypatch) == expected
    assert all(process.returncode is not None for process in started)


@pytest.mark.parametrize(("reached", "expected"), [(True, EXIT_OK), (False, EXIT_SIGTERM)])
def test_a_score_of_all_nodes_ends_the_run(
    reached: bool,
    expected: int,
    started: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No node knows of it: their own flags have no score."""
    looks: list[tuple[list[Path], float]] = []
    words: list[list[str]] = []

    def looked(folders: list[Path], bar: float) -> bool:
        looks.append((folders, bar))
        if not reached and len(looks) == 3:
            signal.raise_signal(signal.SIGTERM)
        return reached and len(looks) == 3

    def commands_of(*arguments: Any) -> list[list[str]]:
        words.extend(given(*arguments))
        return [[sys.executable, "-c", SAVES]] * 2

    given = nodes.commands
    monkeypatch.setattr(nodes, "commands", commands_of)
    monkeypatch.setattr(nodes, "has_reached", looked)
    monkeypatch.setattr(nodes, "LOOK_EVERY_S", 0.01)
    flags = ["--game", "Pong", "--stop-score", "15", "--seed", "1"]
    monkeypatch.setattr(sys, "argv", ["nodes", "2", "run", *flags, "--run-dir", "x"])
    assert nodes.main() == expected
    assert looks == [([Path("x"), Path("x-node-1")], 15.0)] * 3
    assert [parsed(*each[4:]).stop.stop_score for each in words] == [None, None]
    assert all(process.returncode is not None for process in started)


def test_a_node_that_does_not_end_is_killed(
    started: list[subprocess.Popen[bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "END_DEADLINE_S", 0.2)
    deaf = (
        "import pathlib, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        f"pathlib.Path({str(tmp_path / 'deaf')!r}).touch(); time.sleep(600)"
    )
    waits = (
        "import os, time\n"
        f"while not os.path.exists({str(tmp_path / 'deaf')!r}):\n"
        "    time.sleep(0.01)"
    )
    assert ended_with([deaf, waits], monkeypatch) not in (EXIT_OK, EXIT_SIGTERM)
    assert [process.returncode for process in started] == [-signal.SIGKILL, 0]


def test_nodes_run_on_their_parts_and_this_program_on_all(
    started: list[subprocess.Popen[bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, file = os.sched_getaffinity(0), tmp_path / "cores"
    last = max(mine)
    monkeypatch.setattr(nodes, "parts", lambda cpus, count: [tuple(mine), (last,)])
    says = (
        f"import os, pathlib; pathlib.Path({str(file)!r}).write_text(str(os.sched_getaffinity(0)))"
    )
    assert ended_with([ENDLESS, says], monkeypatch) == EXIT_OK
    assert file.read_text() == str({last})
    assert os.sched_getaffinity(0) == mine


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
