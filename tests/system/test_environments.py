"""Environments as people have them, from the command line: trained, gone on with, evaluated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import galamp
from galamp.cli.main import build_parser
from galamp.cli.run_config import config_from
from galamp.core.errors import UserError
from galamp.storage import checkpoint
from galamp.tools.evaluation.trained import locate
from tests.support.engine import also, run, summary
from tests.support.engine import galamp as command

HERE = "tests.support.vectors:"
SMALL = ["--learners", 1, "--num-envs", 2, "--device", "cpu", "--total-steps", 60, "--quiet"]
DOUBLED, PLUS = HERE + "Doubled", HERE + "Plus"


def refused(*words: object) -> str:
    """Return what a command line is refused for."""
    with pytest.raises(UserError) as caught:
        config_from(build_parser().parse_args(["run", *map(str, words)]))
    return str(caught.value)


@pytest.mark.real
def test_arguments_and_wrappers_belong_to_the_run(tmp_path: Path) -> None:
    """Of an id in a namespace, which the import of a package registers."""
    folder, named = tmp_path / "run", ["--env-id", HERE + "vectors/Walk-v0"]
    wrappers = ["--wrapper", DOUBLED, "--wrapper", PLUS]
    made = [*named, *wrappers, "--env-kwargs", "limit=4", "end=99"]
    done = run(*SMALL, *made, "--run-dir", folder)
    assert (done.returncode, done.stderr) == (0, "")
    stored = json.loads((folder / "config.json").read_text())["environment"]
    assert (stored["env_kwargs"], stored["wrapper"]) == (["limit=4", "end=99"], [DOUBLED, PLUS])
    protocol = checkpoint.load(locate(folder).path).identity.protocol
    assert protocol.endswith(
        f", with limit=4, with end=99, wrapped in {DOUBLED}, wrapped in {PLUS}"
    )

    told = refused("--resume", folder, *named)
    assert told.endswith(f"add --wrapper {DOUBLED} --wrapper {PLUS}")
    told = refused("--resume", folder, *named, "--wrapper", PLUS)
    assert f"the run is of {DOUBLED} --wrapper {PLUS}; name that" in told
    again = run("--resume", folder, *named, *wrappers, "--total-steps", 120, "--quiet")
    assert (again.returncode, again.stderr, summary(folder)["start"]) == (0, "", 2)

    unasked = command("eval", folder, *named, "--episodes", 2, "--quiet")
    assert unasked.returncode == 2
    assert f"wants to run your code {DOUBLED} --wrapper {PLUS}" in unasked.stderr
    played = command("eval", folder, *named, *wrappers, "--episodes", 2, "--json", "--quiet")
    assert (played.returncode, played.stderr) == (0, "")
    assert json.loads(played.stdout)["results"][0]["lengths"] == [4, 4]
    with pytest.raises(UserError, match=f"give galamp.load the wrapper: --wrapper {DOUBLED}"):
        _ = galamp.load(folder, env_id=named[1]).spec
    loaded = galamp.load(folder, env_id=named[1], wrapper=[DOUBLED, PLUS])
    assert loaded.spec.protocol == protocol


@pytest.mark.real
@pytest.mark.parametrize(
    ("flags", "cut"),
    [
        (["--env-id", HERE + "same_step", "--env-kwargs", "limit=4", "--norm-reward"], True),
        also(["--env-id", HERE + "Batch"], True),
        also(["--env-id", HERE + "next_step", "--network", "mlp-gru"], True),
        also(["--env-id", "CartPole-v1", "--total-steps", 400], False),
    ],
)
def test_a_vector_environment_is_trained_in(tmp_path: Path, flags: list[Any], cut: bool) -> None:
    folder = tmp_path / "run"
    done = run(*SMALL, "--vector", *flags, "--run-dir", folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert summary(folder)["episodes"] > 5
    played = command("eval", folder, *flags[:2], "--episodes", 4, "--json", "--quiet")
    assert (played.returncode, played.stderr) == (0, "")
    (result,) = json.loads(played.stdout)["results"]
    assert len(result["lengths"]) == 4
    assert max(result["lengths"]) <= (7 if cut else 500)


@pytest.mark.real
def test_another_mode_is_played_by_its_memory(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    flags = ["--game", "Breakout", "--obs-type", "ram", "--mode", 4, "--max-episode-steps", 20]
    done = run(*SMALL, *flags, "--run-dir", folder)
    assert (done.returncode, done.stderr) == (0, "")
    identity = checkpoint.load(locate(folder).path).identity
    assert (identity.network, identity.observation_shape) == ("mlp", (128,))
    played = command("eval", folder, "--episodes", 1, "--json", "--quiet")
    assert (played.returncode, played.stderr) == (0, "")
    report = json.loads(played.stdout)
    assert ", mode 4, RAM" in report["protocol"]
    assert "mode 4 (theirs the usual)" in report["reference_misfit"]


def test_mistakes_of_the_command_line_are_told_at_once() -> None:
    assert refused("--env-kwargs", "gravity").startswith("--env-kwargs gravity: expected KEY=VALUE")
    assert refused("--wrapper", "Doubled") == "--wrapper Doubled: expected package.module:Class"
    assert refused("--mode", "300").startswith("--mode 300: expected a whole number from 0 to 255")
    assert refused("--obs-type", "rgb").startswith("--obs-type rgb: expected one of image, ram")
