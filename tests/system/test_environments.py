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
from tests.support import vectors
from tests.support.engine import also, run, summary
from tests.support.engine import galamp as command

HERE = "tests.support.vectors:"
SMALL = ["--learners", 1, "--num-envs", 2, "--device", "cpu", "--total-steps", 60, "--quiet"]
POOL, ATARI = "tests.support.pools:make_gymnasium", "ale_py.vector_env:AtariVectorEnv"
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
        (["--env-id", POOL, "--env-kwargs", "task_id=Toy-v5"], True),
        (["--env-id", ATARI, "--env-kwargs", "game=pong", "max_num_frames_per_episode=24"], True),
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
def test_another_mode_and_difficulty_are_played_by_the_memory(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    flags = ["--game", "Breakout", "--obs-type", "ram", "--mode", 4, "--difficulty", 1]
    flags += ["--max-episode-steps", 20]
    done = run(*SMALL, *flags, "--run-dir", folder)
    assert (done.returncode, done.stderr) == (0, "")
    identity = checkpoint.load(locate(folder).path).identity
    assert (identity.network, identity.observation_shape) == ("mlp", (128,))
    played = command("eval", folder, "--episodes", 1, "--json", "--quiet")
    assert (played.returncode, played.stderr) == (0, "")
    report = json.loads(played.stdout)
    assert ", mode 4, difficulty 1, RAM" in report["protocol"]
    assert "mode 4 (theirs the usual)" in report["reference_misfit"]


@pytest.mark.real
def test_environments_that_show_frames_are_trained_in(tmp_path: Path) -> None:
    folder, named = tmp_path / "run", ["--env-id", HERE + "Rendered"]
    shown = ["--env-kwargs", "render_mode=rgb_array"]
    done = run(*SMALL, *named, *shown, "--run-dir", folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert summary(folder)["episodes"] > 5
    identity = checkpoint.load(locate(folder).path).identity
    assert identity.protocol.endswith(', with render_mode="rgb_array"')
    played = command("eval", folder, *named, "--episodes", 2, "--json", "--quiet")
    assert (played.returncode, played.stderr) == (0, "")
    refused_for = run(*SMALL, *named, "--run-dir", tmp_path / "none")
    assert (refused_for.returncode, "render_mode None" in refused_for.stderr) == (2, True)


@pytest.mark.real
def test_a_simulator_whose_environments_are_slow_to_reset_does_not_hang(tmp_path: Path) -> None:
    """All of its episodes end in one step; the next takes longer than a hanging one may."""
    envs, limit_s, steps = 4, 2.0, 10
    assert envs * vectors.SlowToReset.SLOW_S > limit_s > 3 * vectors.SlowToReset.SLOW_S
    flags = ["--learners", 1, "--num-envs", envs, "--simulator-workers", 1, "--env-splits", 1]
    flags += ["--total-steps", envs * steps, "--hang-after-s", limit_s, "--device", "cpu"]
    folder = tmp_path / "run"
    done = run(*flags, "--env-id", HERE + "SlowToReset", "--quiet", "--run-dir", folder)
    assert (done.returncode, done.stderr) == (0, "")
    told = summary(folder)
    assert (told["restarts"], told["episodes"]) == (0, envs)


def test_mistakes_of_the_command_line_are_told_at_once() -> None:
    assert refused("--env-kwargs", "gravity").startswith("--env-kwargs gravity: expected KEY=VALUE")
    assert refused("--wrapper", "Doubled") == "--wrapper Doubled: expected package.module:Class"
    assert refused("--mode", "300").startswith("--mode 300: expected a whole number from 0 to 255")
    assert refused("--obs-type", "rgb").startswith("--obs-type rgb: expected one of image, ram")
