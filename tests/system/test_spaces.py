"""Environments of each kind of space from the command line: trained, gone on with, evaluated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import galamp
from galamp.storage import checkpoint
from galamp.tools.evaluation.trained import locate
from tests.support.engine import also, run, summary
from tests.support.engine import galamp as command

ROOM = "tests.support.spaces:"
SMALL = ["--learners", 1, "--num-envs", 2, "--device", "cpu", "--total-steps", 60, "--quiet"]
COLOURS = ["--resize", "40x36", "--grayscale", "--frame-stack", 2, "--frame-skip", 2]


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "flags", "network", "shape", "scale"),
    [
        ("nested", [], "mlp", (21,), None),
        ("cube", ["--sync"], "minatar", (10, 10, 10), 1.0),
        ("masked", [], "minatar", (4, 10, 12), None),
        ("multi_discrete", [], "mlp", (5,), None),
        ("multi_binary", [], "mlp", (4,), None),
        ("float64", [], "mlp", (3,), None),
        also("bytes_", [], "mlp", (6,), None),
        also("bits", [], "mlp", (6,), 1.0),
        also("int64", [], "mlp", (2,), None),
        also("uint16", [], "mlp", (2,), 1 / 65535),
        also("first", [], "minatar", (3, 10, 12), None),
        also("unit", [], "gala", (3, 40, 40), None),
        also("discrete", [], "mlp", (5,), None),
        also("bools", [], "mlp", (4,), None),
        also("int8", [], "mlp", (2,), 1 / 128),
        also("number", [], "mlp", (), None),
        also("gray", [], "mlp", (48, 40), None),
        also("int32", [], "mlp", (2, 3), 1 / 8),
        also("cameras", [], "minatar", (4, 10, 12), None),
        also("board", ["--precision", "bf16"], "minatar", (4, 10, 10), None),
        also("shades", [], "gala", (3, 40, 40), 1 / 255),
    ],
)
def test_it_is_trained(
    tmp_path: Path,
    name: str,
    flags: list[Any],
    network: str,
    shape: tuple[int, ...],
    scale: float | None,
) -> None:
    done = run(*SMALL, "--env-id", ROOM + name, *flags, "--run-dir", tmp_path / "run")
    assert (done.returncode, done.stderr) == (0, "")
    assert summary(tmp_path / "run")["episodes"] > 0
    identity = checkpoint.load(locate(tmp_path / "run").path).identity
    assert (identity.network, identity.observation_shape) == (network, shape)
    assert identity.observation_scale == scale


@pytest.mark.real
@pytest.mark.counted
def test_images_are_preprocessed_alike_in_training_resume_eval_and_dry_run(tmp_path: Path) -> None:
    folder, colours = tmp_path / "run", ["--env-id", ROOM + "colours"]
    first = run(*SMALL, *colours, *COLOURS, "--run-dir", folder)
    assert (first.returncode, first.stderr) == (0, "")
    identity = checkpoint.load(locate(folder).path).identity
    assert (identity.network, identity.observation_shape) == ("gala", (2, 40, 36))
    assert "frame skip 2, grayscale, resized to 40 x 36, stack 2" in identity.protocol
    stored = json.loads((folder / "config.json").read_text())["environment"]
    assert (stored["resize"], stored["grayscale"], stored["frame_skip"]) == ("40x36", True, 2)

    plan = run("--resume", folder, *colours, "--dry-run", "--json")
    assert json.loads(plan.stdout)["observations"]["shape"] == [2, 40, 36]
    again = run("--resume", folder, *colours, "--total-steps", 120, "--quiet")
    assert (again.returncode, again.stderr, summary(folder)["start"]) == (0, "", 2)
    other = run("--resume", folder, *colours, "--resize", "36", "--total-steps", 180, "--quiet")
    assert (other.returncode, "this run uses gymnasium" in other.stderr) == (2, True)

    played = command("eval", folder, *colours, "--episodes", 2, "--json", "--quiet")
    assert (played.returncode, played.stderr) == (0, "")
    assert json.loads(played.stdout)["results"][0]["lengths"] == [4, 4]  # of 7 frames, 2 a step
    assert galamp.load(folder).act(np.zeros((3, 2, 40, 36), np.uint8)).shape == (3,)  # type: ignore[union-attr]


@pytest.mark.real
def test_what_cannot_be_trained_on_is_refused_before_a_folder_is_made(tmp_path: Path) -> None:
    refused = run(*SMALL, "--env-id", ROOM + "text", "--run-dir", tmp_path / "run")
    assert refused.returncode == 2
    assert "observations in the space Text(1, 9" in refused.stderr
    assert refused.stderr.splitlines()[-1].startswith(f"galamp: {ROOM}text: ")
    assert not (tmp_path / "run").exists()
