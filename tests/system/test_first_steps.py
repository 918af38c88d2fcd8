"""What README and the topics show for after the training works on a short run.

It is begun as README begins one.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
from pathlib import Path

import pytest

from galamp.cli.main import main
from tests.house.test_readme import GALAMP
from tests.support.engine import DEADLINE_S, ROOT, STREAMS, end
from tests.support.forked import Forked

README = (ROOT / "README.md").read_text()
RUN = "run --preset cartpole --learners 2"
SHORT = ["--num-envs", "2", "--total-steps", "1000", "--quiet"]
HERE = {
    "audit", "compare", "config", "export-logs", "ls", "plot", "presets", "prune", "show",
}  # fmt: skip
"""Commands of which all lines of the topics are run here: they are quick."""
NOT_HERE = {
    "attach": "system/test_remote.py", "scale": "system/test_remote.py",
    "chaos": "tools/test_chaos.py", "profile": "tools/test_profile.py",
    "run": "system/test_end_to_end.py", "sweep": "tools/test_sweep.py",
    "record": "tools/test_record.py", "play": "tools/test_play.py",
    "eval": "tools/test_evaluate.py", "export": "tools/test_export.py",
    "report": "tools/test_report.py", "keys": "tools/test_keys.py",
    "doctor": "tools/test_doctor.py", "completion": "cli/test_completion.py",
    "help": "cli/test_help.py", "games": "house/test_readme.py",
    "topology": "house/test_readme.py", "plot --follow": "tools/test_plot.py",
}  # fmt: skip
"""Command -> the test that runs it: it trains, takes long, needs no run, or never ends."""
NOT_OF_README = ("attach", "scale", "record", "play")
"""What needs a running run, or pygame to draw CartPole."""


def after_training() -> list[list[str]]:
    text = README[README.index("## After training") :]
    lines = text[text.index("```sh") + 6 :].partition("```")[0].splitlines()
    found = [shlex.split(line.partition(" #")[0])[1:] for line in lines]
    return [each for each in found if each[0] not in NOT_OF_README]


def command_of(line: str) -> str:
    """Return the name of what is run, as the tables have it."""
    words = line.split()
    return "plot --follow" if "--follow" in words else words[0]


def of_topics() -> list[list[str]]:
    """The lines of the topics that are run here, each once."""
    found = [shlex.split(line) for line in dict.fromkeys(GALAMP) if command_of(line) in HERE]
    known = importlib.util.find_spec("tensorboard") is not None
    return [words for words in found if known or "--tensorboard" not in words]


def test_every_command_that_is_shown_is_run_by_a_test() -> None:
    assert {command_of(line) for line in GALAMP} == HERE | set(NOT_HERE)
    for command, file in NOT_HERE.items():
        source = (ROOT / "tests" / file).read_text()
        for word in command.split():
            calls = rf"[\"']{word}[\"' ]|^    .*\b{word}\("
            assert re.search(calls, source, re.MULTILINE), (command, file)


def train(folder: Path, *arguments: str) -> None:
    process = Forked(arguments, **STREAMS | {"cwd": folder})
    try:
        _, errors = process.communicate(timeout=DEADLINE_S)
    finally:
        end(process)
    assert process.returncode == 0, errors


@pytest.mark.real
def test_what_is_shown_for_after_the_training_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"bin/galamp {RUN} " in README
    monkeypatch.chdir(tmp_path)
    train(tmp_path, *RUN.split(), *SHORT)
    (run,) = [path.name for path in Path("runs").iterdir() if not path.is_symlink()]
    shutil.copytree(f"runs/{run}", "copy")
    both = [f"runs/{run}", "copy"]
    places = {
        "runs/*s1__*": [f"runs/{run}"], "runs/*s2__*": ["copy"], "runs/Pong*": both,
        "runs/a": [f"runs/{run}"], "runs/b": ["copy"],
    }  # fmt: skip
    asked_for = after_training()
    for asked in [*asked_for, *(words for words in of_topics() if words not in asked_for)]:
        quick = [place for word in asked for place in places.get(word, [word])]
        if "--resume" in asked:
            train(tmp_path, *quick, "--total-steps", "1200", "--quiet")
            continue
        capsys.readouterr()
        assert main(quick) == 0, (quick, capsys.readouterr().err)
