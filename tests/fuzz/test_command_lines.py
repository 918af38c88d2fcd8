"""Command lines from the grammar of the real parser, bent: settings, help, or one line each."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from galamp.cli import run
from galamp.cli.main import build_parser, main
from galamp.cli.run_config import config_from
from galamp.core.config import ReportConfig, from_dict, to_dict
from galamp.core.errors import UserError
from galamp.telemetry.display.streams import STARTING
from galamp.tools.topology import command as topology_command
from tests.fuzz.bending import ODD_TEXTS, examples
from tests.support.checkpoints import ROOT
from tests.support.engine import also

COMMANDS = ("run", "eval", "audit", "topology")
DEADLINE_S = 60.0


def flags_of(command: str) -> list[str]:
    """All flags of one command, as its parser knows them."""
    (commands,) = (
        action
        for action in build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return [name for action in commands.choices[command]._actions for name in action.option_strings]


FLAGS = {command: flags_of(command) for command in COMMANDS}
# What no program can be given cannot come from a command line.
ODD_WORDS = st.sampled_from([text for text in ODD_TEXTS if "\0" not in text])
NUMBERS = st.sampled_from(
    ["0", "1", "2", "8", "1e6", "2.0", "0.5", "1e-3", "-3", "+4", "0x10", "1_000", "auto", "many"]
)
NAMES = st.sampled_from(
    ["ring", "none", "torus", "file:/dev/null", "file:nowhere", "Breakout", "breakot", "cpu",
     "CartPole-v1", "machado", "gala", "a2c", "allreduce", "best", "mean", "nowhere", ".", "x.png",
     "/dev/null"]
)  # fmt: skip
VALUES = NUMBERS | NAMES | ODD_WORDS


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A command, then flags of it or of others, spelt rightly or not, with values or without."""
    command = draw(st.sampled_from(COMMANDS))
    words = [command]
    for _ in range(draw(st.integers(0, 5))):
        of = draw(st.sampled_from([command] * 5 + list(COMMANDS)))
        flag = draw(st.sampled_from(FLAGS[of]))
        value = draw(VALUES)
        word = draw(
            st.sampled_from(["apart", "apart", "apart", "joined", "alone", "bent", "value"])
        )
        words += {
            "apart": [flag, value],
            "joined": [f"{flag}={value}"],
            "alone": [flag],
            "bent": [flag[:3] + draw(ODD_WORDS) + flag[3:], value],
            "value": [value],
        }[word]
    return words


@pytest.fixture
def nothing_heavy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Only settings are made, in an empty folder, which is still empty at the end."""

    def settle(args: argparse.Namespace) -> int:
        config = config_from(args)
        shown = ReportConfig(quiet=config.report.quiet, json=config.report.json,
                             on_hangup=config.report.on_hangup)  # fmt: skip
        stored = from_dict(to_dict(config))
        report = replace(shown, **to_dict(stored)["report"])
        assert replace(stored, report=report) == config
        return 0

    def plan(name: str, config: Any) -> None:
        raise UserError("it would plan now")

    monkeypatch.setattr(run, "run_command", settle)
    monkeypatch.setattr(topology_command, "_plan", plan)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert os.listdir(tmp_path) == []


def answer(words: list[str]) -> None:
    """Run one command line in this process, and hold that it ends as it must."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code: Any = main(words)
        except SystemExit as left:
            code = left.code
    assert code in (0, 2), err.getvalue()
    if code == 0:
        hints = err.getvalue().splitlines()
        assert all(" is now called " in line for line in hints), hints
        return
    assert out.getvalue() == ""
    lines = err.getvalue().removesuffix("\n").split("\n")
    for line in lines:
        assert line.startswith("galamp: "), line
        assert line.isprintable(), line
        assert 20 < len(line) < 1500, line
    assert len(lines) == len(set(lines))


@pytest.mark.real
@examples(80, 3000)
def test_any_command_line(thorough: Any, nothing_heavy: Path) -> None:
    @thorough
    @given(command_lines())
    @example(["run", "--x\ny"])
    @example(["run", "--no=" + "x" * 10**5])
    @example(["run", "--game", "x" * 10**5])
    @example(["run", "--total-steps", "9" * 400])
    @example(["eval", "~nosuchuser/x"])
    @example(["eval", "a" * 300])
    @example(["eval", "a\nb"])
    @example(["audit", "a" * 300])
    @example(["audit", ".", "--figure", "a" * 300 + ".png"])
    @example(["audit", ".", "--figure", "a" * 300 + "/x.png"])
    @example(["topology", "\x1b[2J"])
    @example(["run", "--resume", "a" * 300])
    @example(["run", "--name", "\udc80"])
    @example(["run", "\udc80"])
    def bent(words: list[str]) -> None:
        answer(words)

    bent()


ODD_COMMANDS: list[Any] = [
    ["run", "--game", "Breakot", "--num-envs", "0", "--gamma", "2", "--learners", "many"],
    also(["run", "--run-dir", "~nosuchuser/x"]),
    also(["run", "--run-dir", "a" * 300]),
    ["run", "--resume", "a" * 300],
    also(["run", "--topology", "file:\n", "--learners", "2"]),
    ["eval", "a\nb"],
    ["audit", "\udc80"],
    ["topology", "file:nowhere"],
    ["topology", "ring", "--figure", "nowhere/x.png"],
]


@pytest.mark.real
@pytest.mark.parametrize("words", ODD_COMMANDS, ids=lambda words: " ".join(words)[:20].strip())
def test_the_real_command_leaves_nothing(tmp_path: Path, words: list[str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "galamp", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )
    told = ended.stderr.decode().removeprefix(STARTING)
    assert ended.returncode == 2, told
    assert ended.stdout == b""
    assert all(line.startswith("galamp: ") for line in told.splitlines()), told
    assert len(told.splitlines()) == (4 if "Breakot" in words else 1)
    assert list(tmp_path.iterdir()) == []
