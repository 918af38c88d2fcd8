"""Completion of words: what is offered where, and the scripts in the shells themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from galamp.cli.completion import SCRIPTS, candidates
from galamp.cli.main import COMMANDS, build_parser, main
from galamp.cli.presets import PRESETS
from galamp.environments.names import list_games
from galamp.gossip.topologies import TOPOLOGIES

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0


def offered(*words: str) -> list[str]:
    return candidates(words, build_parser)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("",), list(COMMANDS)),
        (("ru",), ["run"]),
        (("run", "--gam"), ["--game", "--gamma"]),
        (("run", "--no-qu"), ["--no-quiet"]),
        (("run", "--game", ""), list_games()),
        (("run", "--game", "breako"), ["Breakout"]),
        (("run", "--game=Breako"), ["--game=Breakout"]),
        (("run", "--game", "=", "Breako"), ["Breakout"]),
        (("run", "--game", "="), list_games()),
        (("run", "--preset", ""), list(PRESETS)),
        (("presets", "pqn-a"), ["pqn-atari"]),
        (("run", "--topology", "expo"), ["exponential"]),
        (("run", "--lr-schedule", "c"), ["constant", "cosine"]),
        (("topology", ""), list(TOPOLOGIES)),
        (("completion", ""), ["bash", "zsh", "fish"]),
        (("run", "--seed", ""), []),
        (("run", "--algorithm", "pp"), ["ppo"]),
        (("nothing", "--x"), []),
    ],
)
def test_what_is_offered(words: tuple[str, ...], found: list[str]) -> None:
    assert offered(*words) == found


def test_flags_are_those_of_the_algorithm_that_is_named() -> None:
    assert "--clip-coef" in offered("run", "--preset", "ppo-atari", "--clip")
    assert "--clip-coef" not in offered("run", "--clip")
    assert "--learners" in offered("run", "--preset", "half-ty", "--lea"), "it names no algorithm"
    assert not offered("run", "--batches"), "a former name"


def test_run_folders_are_offered_the_newest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert offered("show", "") == []
    for number, name in enumerate(("old", "new")):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        os.utime(folder, (number, number))
    (tmp_path / "runs" / "other").mkdir()
    for words in (("show",), ("run", "--resume"), ("run", "--like"), ("plot", "x"), ("eval",)):
        assert offered(*words, "") == ["runs/new", "runs/old"], words
    assert offered("show", "runs/o") == ["runs/old"]


def test_no_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ((), ("tcsh",)):
        assert main(["completion", *words]) == 2
        assert "expected one of bash, zsh, fish" in capsys.readouterr().err


IN_SHELL = {
    "bash": "source script; COMP_WORDS=(galamp run --gam); COMP_CWORD=2; _galamp; "
    "printf '%s\\n' \"${COMPREPLY[@]}\"",
    "fish": "source script; complete -C 'galamp run --gam'",
    "zsh": "compdef() { :; }; source script; words=(galamp run --gam); CURRENT=3; "
    "compadd() { shift; print -l -- $@; }; _galamp",
}


@pytest.mark.parametrize("shell", SCRIPTS)
def test_a_shell_takes_the_script(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, shell: str
) -> None:
    assert main(["completion", shell]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    program = tmp_path / "galamp"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m galamp "$@"\n')
    program.chmod(0o755)
    path = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [shell, "-c", IN_SHELL[shell]], cwd=tmp_path, env=path, text=True, capture_output=True,
        timeout=DEADLINE_S,
    )  # fmt: skip
    assert ended.stdout.split() == ["--game", "--gamma"], ended.stderr
