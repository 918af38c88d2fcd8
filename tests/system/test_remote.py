"""Talking to real runs: looking on, more and fewer learners, terminals that go away."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from galamp.storage import checkpoint
from galamp.storage.event_log import read_events
from galamp.storage.run_logs import read_metrics
from galamp.training.control.framing import CONTROL, address
from tests.support.engine import (
    DEADLINE_S,
    ROOT,
    OnTerminal,
    begun,
    end,
    family,
    galamp,
    run,
    started,
    summary,
    titled,
    training,
    wait_for,
)

COMMON = ["--num-envs", 4, "--log-every-s", 0.1, "--env-id", "tests.support.crashing:unhurried"]
ENDLESS = [*COMMON, "--total-steps", 10**9]


def rows(folder: Path) -> list[dict[str, Any]]:
    return list(read_metrics(folder / "metrics.jsonl"))


def grows(folder: Path, by: int = 5) -> None:
    """Wait for more rows of metrics."""
    before = len(rows(folder))
    wait_for(lambda: len(rows(folder)) >= before + by, "more training")


def steps_never_fall(folder: Path) -> None:
    steps = [row["global_step"] for row in rows(folder)]
    assert steps == sorted(steps)


@contextmanager
def attached(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Look on from a pipe."""
    process = begun("attach", folder)
    try:
        yield process
    finally:
        end(process)


def first_lines(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stderr is not None
    return [process.stderr.readline() for _ in range(count)]


@contextmanager
def connected(folder: Path) -> Iterator[socket.socket]:
    """Talk to a run without manners."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(DEADLINE_S)
        line.connect(address(opened))
        os.close(opened)
        yield line


def refusal(folder: Path, said: bytes) -> str:
    with connected(folder) as line:
        line.sendall(said)
        answer = b""
        with contextlib.suppress(ConnectionResetError):  # it has not heard us out
            while data := line.recv(65_536):
                answer += data
    (found,) = answer.splitlines()
    return str(json.loads(found)["refused"])


@pytest.mark.counted
def test_looking_on_and_scaling(tmp_path: Path) -> None:
    folder = tmp_path / ("a-path-too-long-for-a-socket" * 6)
    assert len(str(folder)) > 107
    with started(*ENDLESS, "--learners", 1, "--run-dir", folder) as process:
        wait_for(lambda: training(folder), "training")
        with attached(folder) as looker, attached(folder) as stopped, connected(folder) as deaf:
            deaf.sendall(b'{"want": "watch"}\n')
            (head,) = first_lines(looker, 1)
            assert head.split("   ")[:2] == ["galamp", "tests.support.crashing:unhurried"]
            first_lines(stopped, 1)
            os.kill(stopped.pid, signal.SIGSTOP)
            up = galamp("scale", folder, "--learners", 3)
            assert up.returncode == 0, up.stderr
            assert up.stdout.startswith("learners: from 1 to 3 in ")
            assert len(titled(process.pid, "learner")) == 3
            wait_for(lambda: "learner2/updates" in rows(folder)[-1], "metrics of the third")
            same = galamp("scale", folder, "--learners", 3)
            assert (same.returncode, same.stdout) == (0, "has 3 learners already\n")
            _check_refusals(folder)
            grows(folder)
            down = galamp("scale", folder, "--learners", 1)
            assert down.stdout.startswith("learners: from 3 to 1 in "), down.stderr
            grows(folder)
            process.send_signal(signal.SIGINT)
            _, said = looker.communicate(timeout=DEADLINE_S)
            assert looker.returncode == 0
        assert process.wait(DEADLINE_S) == 130
    assert "learners: from 1 to 3" in said
    assert "\nstopped: " in said
    assert not (folder / CONTROL).exists()
    _check_what_it_left(folder)


@pytest.mark.slow
def test_scaling_goes_on_where_the_disk_takes_no_config(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with started(*ENDLESS, "--learners", 1, "--run-dir", folder) as process:
        wait_for(lambda: training(folder), "training")
        (folder / "config.json").unlink()
        (folder / "config.json").mkdir()  # in the way of whoever writes it
        up = galamp("scale", folder, "--learners", 2)
        assert up.stdout.startswith("learners: from 1 to 2 in "), up.stderr
        grows(folder)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130
    assert "galamp: warning: cannot write" in said
    assert len(summary(folder)["updates_per_learner"]) == 2


@pytest.mark.slow
def test_restarts_are_counted_over_a_change_of_learners(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with started(*ENDLESS, "--learners", 1, "--run-dir", folder) as process:
        wait_for(lambda: training(folder), "training")
        os.kill(titled(process.pid, "simulator")[0], signal.SIGKILL)
        wait_for(lambda: rows(folder)[-1].get("charts/restarts") == 1, "a restart")
        assert galamp("scale", folder, "--learners", 2).returncode == 0
        grows(folder)
        assert rows(folder)[-1]["charts/restarts"] == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 130
    assert summary(folder)["restarts"] == 1


@pytest.mark.slow
def test_learners_who_cannot_begin_end_no_run(tmp_path: Path) -> None:
    """As where there is no room for more processes after all."""
    folder = tmp_path / "run"
    flags = [
        *ENDLESS,
        "--env-id",
        "tests.support.crashing:crowded",
        "--learners",
        1,
        "--run-dir",
        folder,
    ]
    with started(*flags) as process:
        wait_for(lambda: training(folder), "training")
        for learners in (2, 3):
            more = galamp("scale", folder, "--learners", learners)
            assert more.returncode == 2
            assert re.match(
                r"galamp: simulator [12]\.\d raised RuntimeError: it is crowded\n$", more.stderr
            ), more.stderr
            grows(folder)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130
    assert said.count("1 learners as before: simulator ") == 2
    told = summary(folder)
    assert (told["status"], len(told["updates_per_learner"]), told["start"]) == ("stopped", 1, 5)
    assert len(checkpoint.load(checkpoint.find(folder).path).learners) == 1
    assert json.loads((folder / "config.json").read_text())["resources"]["learners"] == 1
    audit = galamp("audit", folder)
    assert audit.returncode == 0, audit.stdout + audit.stderr


def _check_refusals(folder: Path) -> None:
    for number, why in ((300, "cores carry at most"), (0, "from 1 to 1024"), ("two", "from 1")):
        ended = galamp("scale", folder, "--learners", number)
        assert ended.returncode == 2
        assert why in ended.stderr
        assert ended.stderr.count("\n") == 1
    assert refusal(folder, b"GET / HTTP/1.0\r\n\r\n") == "not JSON: expected a JSON object"
    assert "at most 4096 bytes" in refusal(folder, b"x" * 5000)
    assert "to be asked to watch" in refusal(folder, b'{"want": "stop"}\n')


def _check_what_it_left(folder: Path) -> None:
    steps_never_fall(folder)
    assert [row["start"] for row in rows(folder) if "resumed_from" in row] == [1, 2, 3]
    config = json.loads((folder / "config.json").read_text())
    assert config["resources"]["learners"] == 1
    assert config["algorithm"]["learning_rate"] == 7e-4
    saved = checkpoint.load(checkpoint.find(folder).path)
    assert len(saved.learners) == 1
    assert saved.config["resources"]["learners"] == 1
    assert saved.progress["agent_steps"] == summary(folder)["agent_steps"]
    assert sorted(each.name[0] for each in (folder / "monitor").iterdir()) == ["0", "1", "2"]
    events = [event for event in read_events(folder / "events.jsonl") if event.kind != "notice"]
    assert [event.start for event in events if event.kind == "running"] == [1, 2, 3]
    assert [event.start for event in events if event.command] == [1]
    assert [event.text for event in events if event.text.startswith("the number of")] == [
        "the number of learners becomes 3: saving", "the number of learners becomes 1: saving",
    ]  # fmt: skip
    assert [event.wall_s for event in events] == sorted(event.wall_s for event in events)
    assert (events[-1].kind, events[-1].start) == ("end", 3)
    audit = galamp("audit", folder)
    assert audit.returncode == 0, audit.stdout + audit.stderr


@pytest.mark.slow
def test_resumed_with_more_and_fewer(tmp_path: Path) -> None:
    """And the socket of a run that was killed is in nobody's way."""
    folder = tmp_path / "run"
    flags = ["--learners", 2, "--run-dir", folder, "--checkpoint-every-s", 0.5, "--quiet"]
    with started(*ENDLESS, *flags) as process:
        wait_for(lambda: (folder / "checkpoints" / "latest").exists(), "a checkpoint")
        with attached(folder) as looker:
            first_lines(looker, 1)
            process.kill()
            process.wait()
            _, said = looker.communicate(timeout=DEADLINE_S)
        assert looker.returncode == 0
        assert "not running, it ended without a word" in said
    assert (folder / CONTROL).is_socket()
    over = galamp("attach", folder)
    assert over.returncode == 2
    assert "not running, it ended without a word" in over.stderr
    reached = checkpoint.load(folder / "checkpoints" / "latest").progress["agent_steps"]
    resume = ["--resume", folder, "--env-id", "tests.support.crashing:unhurried"]
    with started(*resume, "--learners", 3) as process:
        wait_for(lambda: rows(folder)[-1].get("learner2/updates"), "training")
        wait_for(lambda: rows(folder)[-1]["global_step"] > reached, "training")
        assert galamp("scale", folder, "--learners", 3).stdout == "has 3 learners already\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 143
    over = galamp("scale", folder, "--learners", 1)
    assert over.returncode == 2
    assert "not running, it stopped after" in over.stderr
    assert f"go on: galamp run --resume {folder}\n" in over.stderr
    more = summary(folder)["agent_steps"]
    assert more > reached
    total = ["--total-steps", more + 2000]
    fewer = run(*resume, "--learners", 1, *total, "--no-quiet")
    assert fewer.returncode == 0, fewer.stderr
    assert more + 2000 <= summary(folder)["agent_steps"] < more + 2000 + 4 * 5
    assert len(checkpoint.load(folder / "checkpoints" / "latest").learners) == 1
    assert "learning rate: from 0.00121244 to 0.0007" in fewer.stderr


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_closed_terminal_ends_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with OnTerminal("run", *ENDLESS, "--learners", 1, "--run-dir", folder) as terminal:
        process = terminal.process
        wait_for(lambda: training(folder), "training")
        wait_for(lambda: "agent steps" in terminal.read(), "the dashboard")
        terminal.close()
        grows(folder)
        spent_s, began_s = cpu_s(process.pid), time.monotonic()
        grows(folder, by=15)
        # Where others take the cores, it only gets less of one.
        assert cpu_s(process.pid) - spent_s < 0.5 * (time.monotonic() - began_s)
        with OnTerminal("attach", folder) as other:
            wait_for(lambda: "the terminal was closed" in other.read(), "the event")
            assert "running" in other.seen
            assert "\x1b[?25l" in other.seen
            other.press(b"\x03")
            assert other.process.wait(DEADLINE_S) == 0
            assert "\x1b[?25h" in other.read()
            assert "detached, training goes on" in other.seen
        grows(folder)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 143
    assert summary(folder)["status"] == "stopped"
    steps_never_fall(folder)


def test_keys_on_the_terminal_of_a_run(tmp_path: Path) -> None:
    """A view, the game, Ctrl-Z (which stops nobody in a session without a shell), and the end."""
    folder = tmp_path / "run"
    with OnTerminal("run", *ENDLESS, "--learners", 2, "--run-dir", folder) as terminal:
        before = termios.tcgetattr(terminal.master)
        wait_for(lambda: "? help" in terminal.read(), "the dashboard")
        assert not termios.tcgetattr(terminal.master)[3] & termios.ICANON
        wait_for(lambda: training(folder), "training")
        terminal.press(b"3")
        wait_for(lambda: "consensus distance of each learner" in terminal.read(), "the view")
        terminal.press(b"g")
        wait_for(lambda: "the observations are numbers" in terminal.read(), "the game")
        terminal.press(b"\x1a")
        wait_for(lambda: terminal.read().count("\x1b[?1049h") == 2, "the screen again")
        assert terminal.seen.count("\x1b[?1049l") == 1
        terminal.press(b"q")
        wait_for(lambda: "Save and stop this run?" in terminal.read(), "the question")
        terminal.press(b"y")
        assert terminal.process.wait(DEADLINE_S) == 130
        after = terminal.read().rpartition("\x1b[?1049l")[2]
        assert termios.tcgetattr(terminal.master) == before
    assert f"go on: galamp run --resume {folder}" in after
    assert "look at it: galamp show" in after
    assert {"system/cpu", "system/memory"} <= {name for name, value in rows(folder)[-1].items()}


@pytest.mark.slow
def test_a_closed_terminal_ends_the_run_where_that_is_wanted(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = ["run", *ENDLESS, "--learners", 1, "--run-dir", folder, "--on-hangup", "stop"]
    with OnTerminal(*words) as terminal:
        wait_for(lambda: training(folder), "training")
        terminal.close()
        assert terminal.process.wait(DEADLINE_S) == 128 + signal.SIGHUP
    assert summary(folder)["status"] == "stopped"


@pytest.mark.slow
def test_under_nohup_a_hang_up_is_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    flags = [*ENDLESS, "--learners", 1, "--run-dir", folder, "--on-hangup", "stop", "--quiet"]
    words = ["nohup", sys.executable, "-m", "galamp", "run", *map(str, flags)]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: training(folder), "training")
        process.send_signal(signal.SIGHUP)
        grows(folder)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 143
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_reader_who_leaves_ends_nothing(tmp_path: Path) -> None:
    """As in `galamp run ... 2>&1 | head -1`."""
    folder = tmp_path / "run"
    with started(*ENDLESS, "--learners", 1, "--run-dir", folder) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.stderr.close()
        process.stderr = None
        wait_for(lambda: training(folder), "training")
        assert galamp("scale", folder, "--learners", 2).returncode == 0
        with attached(folder) as looker:
            assert first_lines(looker, 1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 143


@pytest.mark.slow
@pytest.mark.parametrize("method", [["--sync"], ["--method", "allreduce"]])
def test_lock_step_scales_and_ends_when_it_should(tmp_path: Path, method: list[str]) -> None:
    folder = tmp_path / "run"
    total = 150_000
    flags = [*COMMON, "--total-steps", total, "--learners", 1, "--run-dir", folder, *method]
    with started(*flags) as process:
        wait_for(lambda: training(folder), "training")
        for learners in (3, 2):
            ended = galamp("scale", folder, "--learners", learners)
            assert ended.returncode == 0, ended.stderr
        assert process.wait(2 * DEADLINE_S) == 0
    told = summary(folder)
    assert total <= told["agent_steps"] < total + 2 * 2 * 20
    assert len(set(told["updates_per_learner"])) == (2 if "--sync" in method else 1)
    steps_never_fall(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--method", "single", "--learners", 2], "--method single"),
        (["--topology", "file:GRAPH", "--learners", 2], "topology"),
    ],
)
def test_runs_that_cannot_be_scaled(tmp_path: Path, flags: list[object], why: str) -> None:
    folder, graph = tmp_path / "run", tmp_path / "graph.txt"
    graph.write_text("0.5 0.5\n0.5 0.5\n")
    words = [str(flag).replace("GRAPH", str(graph)) for flag in flags]
    with started(*ENDLESS, *words, "--run-dir", folder):
        wait_for(lambda: training(folder), "training")
        ended = galamp("scale", folder, "--learners", 3)
        assert ended.returncode == 2
        assert why in ended.stderr
        assert ended.stderr.count("\n") == 1
        grows(folder)


@pytest.mark.slow
def test_nothing_of_a_former_start_stays(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with started(*ENDLESS, "--learners", 2, "--run-dir", folder, "--quiet") as process:
        wait_for(lambda: training(folder), "training")
        open_files = len(os.listdir(f"/proc/{process.pid}/fd"))
        children = len(family(process.pid))
        for learners in (3, 1, 4, 2):
            assert galamp("scale", folder, "--learners", learners).returncode == 0
        assert len(os.listdir(f"/proc/{process.pid}/fd")) == open_files
        assert len(family(process.pid)) == children
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        assert maps.count("memfd:galamp") == 1


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.0, 0.03, 0.06, 0.1, 0.2])
def test_a_signal_between_two_starts_is_not_lost(tmp_path: Path, after_s: float) -> None:
    folder = tmp_path / "run"
    with started(*ENDLESS, "--learners", 1, "--run-dir", folder, "--quiet") as process:
        wait_for(lambda: training(folder), "training")
        with connected(folder) as line:
            line.sendall(b'{"want": "scale", "learners": 3}\n')
            time.sleep(after_s)  # somewhere between two starts: where is the machine's affair
            process.send_signal(signal.SIGINT)
            assert process.wait(DEADLINE_S) == 130
    assert summary(folder)["status"] == "stopped"
    steps_never_fall(folder)
    saved = checkpoint.load(folder / "checkpoints" / "latest")
    assert saved.progress["agent_steps"] == summary(folder)["agent_steps"] > 0


def test_not_a_run(tmp_path: Path) -> None:
    for place, why in ((tmp_path, "not a run folder"), (tmp_path / "no", "No such file")):
        ended = galamp("attach", place)
        assert ended.returncode == 2
        assert why in ended.stderr
        assert ended.stderr.count("\n") == 1
