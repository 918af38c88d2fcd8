"""What README shows for after the training works on a run as README begins one, a short one."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from galamp.cli.main import main
from tests.support.engine import ROOT

README = (ROOT / "README.md").read_text()
RUN = "run --env-id CartPole-v1 --preset ppo-cartpole --learners 2"
SHORT = ["--num-envs", "2", "--total-steps", "3000", "--quiet"]
OF_A_RUNNING_RUN = ("attach", "scale")


def after_training() -> list[list[str]]:
    text = README[README.index("## After training") :]
    lines = text[text.index("```sh") + 6 :].partition("```")[0].splitlines()
    words = [shlex.split(line.partition(" #")[0])[1:] for line in lines]
    return [each for each in words if each[0] not in OF_A_RUNNING_RUN]


def test_what_readme_shows_after_training_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"bin/galamp {RUN} " in README
    monkeypatch.chdir(tmp_path)
    assert main([*RUN.split(), *SHORT]) == 0
    (run,) = [path.name for path in Path("runs").iterdir() if not path.is_symlink()]
    for words in after_training():
        quick = [re.sub(r"runs/\*.*", f"runs/{run}", word) for word in words]
        quick += ["--total-steps", "3200", "--quiet"] * ("--resume" in words)
        capsys.readouterr()
        assert main(quick) == 0, (quick, capsys.readouterr().err)
