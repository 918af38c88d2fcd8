"""What README shows for after the training works on a run as README begins one, a short one."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest

from galamp.cli.main import main
from tests.support.engine import DEADLINE_S, ROOT, STREAMS, end
from tests.support.forked import Forked

README = (ROOT / "README.md").read_text()
RUN = "run --preset cartpole --learners 2"
SHORT = ["--num-envs", "2", "--total-steps", "1000", "--quiet"]
NOT_HERE = ("attach", "scale", "record", "play")
"""What needs a running run, or pygame to draw CartPole."""


def after_training() -> list[list[str]]:
    text = README[README.index("## After training") :]
    lines = text[text.index("```sh") + 6 :].partition("```")[0].splitlines()
    found = [shlex.split(line.partition(" #")[0])[1:] for line in lines]
    return [each for each in found if each[0] not in NOT_HERE]


def train(folder: Path, *arguments: str) -> None:
    process = Forked(arguments, **STREAMS | {"cwd": folder})
    try:
        _, errors = process.communicate(timeout=DEADLINE_S)
    finally:
        end(process)
    assert process.returncode == 0, errors


@pytest.mark.real
def test_what_readme_shows_after_training_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"bin/galamp {RUN} " in README
    monkeypatch.chdir(tmp_path)
    train(tmp_path, *RUN.split(), *SHORT)
    (run,) = [path.name for path in Path("runs").iterdir() if not path.is_symlink()]
    shutil.copytree(f"runs/{run}", "copy")
    places = {"runs/*s1__*": f"runs/{run}", "runs/*s2__*": "copy"}
    for asked in after_training():
        quick = [places.get(word, word) for word in asked]
        if "--resume" in asked:
            train(tmp_path, *quick, "--total-steps", "1200", "--quiet")
            continue
        capsys.readouterr()
        assert main(quick) == 0, (quick, capsys.readouterr().err)
