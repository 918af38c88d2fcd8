"""Commands whose standard streams are closed, as `2>&-` or a careless daemon leaves them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from galamp.telemetry.display.dashboard import make_display
from galamp.telemetry.display.streams import SafeStream, announce, print_safely, replace_unsayable
from tests.support.engine import DEADLINE_S, ROOT, also, summary, words
from tests.support.snapshots import busy

EVERYTHING = "<&- >&- 2>&-"


def with_closed(closed: str, *command: object) -> subprocess.CompletedProcess[str]:
    """Run a command to its end with streams closed as a shell does it."""
    line = f"exec {shlex.join(map(str, command))} {closed}"
    return subprocess.run(
        ["sh", "-c", line], cwd=ROOT, text=True, capture_output=True, timeout=2 * DEADLINE_S
    )


@pytest.mark.parametrize(
    ("closed", "command", "code", "out", "err"),
    [
        (">&-", "--version", 0, "", ""),
        ("2>&-", "--version", 0, "galamp 0", ""),
        ("<&-", "--version", 0, "galamp 0", ""),
        (EVERYTHING, "--version", 0, "", ""),
        (">&-", "eval x", 2, "", "galamp: "),
        ("2>&-", "eval x", 2, "", ""),
        ("<&-", "eval x", 2, "", "galamp: "),
        ("2>&-", "run --gmae Pong", 2, "", ""),
        also(">&-", "topology ring --learners 4", 0, "", ""),
        also("2>&-", "topology ring --learners 4", 0, "ring, 4 learners", ""),
        also(">&-", "games", 0, "", ""),
        also(">&-", "run --help", 0, "", ""),
        also("2>&-", "audit x", 2, "", ""),
        also("2>&-", "attach x", 2, "", ""),
        also("2>&-", "scale x --learners 2", 2, "", ""),
        also(">&-", "run --dry-run --env-id CartPole-v1", 0, "", "galamp: starting"),
        also("2>&-", "run --dry-run --env-id CartPole-v1", 0, "environment", ""),
        also("2>&-", "chaos --resume x", 2, "", ""),
    ],
)
def test_a_command_ends_as_it_would_with_them(
    closed: str, command: str, code: int, out: str, err: str
) -> None:
    ended = with_closed(closed, *words(*command.split()))
    assert ended.returncode == code, ended.stderr
    assert (ended.stdout == "") == (out == "")
    assert (ended.stderr == "") == (err == "")
    assert ended.stdout.startswith(out)
    assert ended.stderr.startswith(err)


@pytest.mark.parametrize("closed", [also(">&-"), also("2>&-"), also("<&-"), EVERYTHING])
def test_a_run_and_its_games_end_well_without_them(tmp_path: Path, closed: str) -> None:
    folder = tmp_path / "run"
    flags = ["--env-id", "CartPole-v1", "--learners", 1, "--num-envs", 2, "--run-dir", folder]
    ended = with_closed(closed, *words("run", *flags, "--total-steps", 400, "--json"))
    assert ended.returncode == 0, ended.stderr
    assert summary(folder)["status"] == "finished"
    if ">&-" not in closed.replace("2>&-", ""):
        assert json.loads(ended.stdout)["status"] == "finished"
    for log in (folder / "logs").iterdir():
        assert log.read_text() == "", log
    if closed != EVERYTHING:
        played = with_closed(closed, *words("eval", folder, "--episodes", 1))
        assert played.returncode == 0, played.stderr


FILLED = """
import os, subprocess, sys
from galamp.telemetry.display.streams import fill_closed
fill_closed()
kept = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.write(1, b"x"); os.write(2, b"native code has much to say")
print("so has Python \\ud800 \\u00fc", file=sys.stderr)
print("and its output"); sys.stdout.flush()
child = "import os; os.write(2, b'a child, too'); print(os.read(0, 9) == b'')"
ended = subprocess.run([sys.executable, "-S", "-c", child], stdout=kept)
os.write(kept, f"{kept > 2} {sys.stdin.read()!r} {ended.returncode}".encode())
"""


@pytest.mark.real
def test_nothing_that_is_said_gets_into_a_file(tmp_path: Path) -> None:
    """The first file that is opened would have the number of standard input, the next of output."""
    file = tmp_path / "file"
    ended = with_closed(EVERYTHING, sys.executable, "-c", FILLED, file)
    assert ended.returncode == 0
    assert file.read_text() == "True\nTrue '' 0"


def test_a_file_that_has_become_a_pipe_or_is_closed_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    with (tmp_path / "file").open("w", encoding="ascii") as file, open(reader, "rb") as read:
        os.dup2(writer, file.fileno())
        os.close(writer)
        closed = (tmp_path / "closed").open("w", encoding="ascii")
        closed.close()
        monkeypatch.setattr(sys, "stdout", file)
        monkeypatch.setattr(sys, "stderr", closed)
        replace_unsayable()
        file.write("\u2264\n")
        file.flush()
        assert read.readline() == b"?\n"


def test_what_is_not_there_is_lost_already() -> None:
    """As in a program that galamp is a part of, and that has none."""
    stream = SafeStream(None)
    assert stream.lost
    assert not stream.isatty()
    assert not stream.ready()
    with pytest.raises(OSError, match="Bad file descriptor"):
        stream.fileno()
    print_safely("x", None)
    announce("x", None)
    with make_display(False, None) as display:
        display.update(busy(2))
