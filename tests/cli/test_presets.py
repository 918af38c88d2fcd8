"""Presets: what they set, and what the command line changes of it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from galamp.algorithms import config_class
from galamp.cli.main import main
from galamp.cli.presets import PRESETS, preset_values
from galamp.core.config import RunConfig
from galamp.core.settings import check, settings
from tests.support.command_lines import complaint, parsed

ROOT = Path(__file__).resolve().parents[2]
EVIDENCE = "\n".join(
    file.read_text() for file in (ROOT / "README.md", *(ROOT / "galamp").rglob("topics/*.md"))
)
"""What is said of measurements, in the README and in the help."""


@pytest.mark.parametrize("name", ["cartpole", "ppo-cartpole", "pqn-cartpole", "ppo-acrobot"])
def test_a_preset_with_an_environment_in_its_name_trains_that_one(name: str) -> None:
    env_id = preset_values(name)["environment", "env_id"]
    assert env_id.partition("-")[0].lower() in name


@pytest.mark.parametrize("name", PRESETS)
def test_every_setting_of_a_preset_is_one_of_its_algorithm(
    name: str,
) -> None:
    usual = RunConfig(algorithm=config_class(PRESETS[name].algorithm)())
    known = {(s.section, s.name): s for s in settings(usual)}
    for key, value in preset_values(name).items():
        assert check(known[key], value) == value, key
    config = parsed("--preset", name)
    for (section, leaf), value in preset_values(name).items():
        assert getattr(getattr(config, section) if section else config, leaf) == value


def test_every_preset_is_listed_with_what_it_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) < 80
    for name, known in PRESETS.items():
        assert f"\n{name} " in f"\n{text}"
        for part in (known.source, known.result):
            assert part in " ".join(text.split())


def test_a_preset_without_a_result_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    measured = {name for name, known in PRESETS.items() if known.result}
    assert "cartpole" in measured
    assert "debug" not in measured
    for words in ([], ["debug"], ["cartpole"]):
        assert main(["presets", *words]) == 0
        listed, *_ = re.split(r"\n\n", capsys.readouterr().out)
        told = {part.split()[0]: part for part in re.split(r"\n(?=\S)", listed)}
        assert set(told) == set(words or PRESETS)
        for name, part in told.items():
            assert ("not measured here" in part) is (name not in measured), part
            assert (" seen: " in part) is (name in measured), part


@pytest.mark.parametrize("name", PRESETS)
def test_the_flags_that_are_shown_of_a_preset_are_what_it_sets(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["presets", name]) == 0
    told, _, command = capsys.readouterr().out.partition(f"galamp run --preset {name} is\n")
    assert told.startswith(name)
    assert "galamp run " in command
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:2] == ["galamp", "run"]
    assert parsed(*words[2:]) == parsed("--preset", name)


def test_a_preset_that_is_not_there_has_its_name_corrected(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["presets", "ppo-atary"]) == 2
    assert "did you mean ppo-atari" in capsys.readouterr().err


def test_every_result_was_measured() -> None:
    """Each number of a result stands in the evidence."""
    for name, known in PRESETS.items():
        scores = re.findall(r"-?\d+\.?\d*(?= (?:and|after|of) )", known.result)
        assert bool(scores) is bool(known.result), name
        assert all(score in EVIDENCE for score in scores), name


def test_flags_change_a_preset() -> None:
    config = parsed("--preset", "ppo-cartpole", "--num-steps", "64", "--num-envs", "2")
    assert config.algorithm.algorithm == "ppo"
    assert (config.algorithm.num_steps, config.environment.num_envs) == (64, 2)
    assert config.algorithm.gamma == 0.98
    same = parsed("--preset", "ppo-cartpole", "--algorithm", "ppo")
    assert same == parsed("--preset", "ppo-cartpole")


def test_what_does_not_go_together_is_told_in_a_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = complaint(capsys, "--preset", "ppo-atary")
    assert said.startswith("--preset ppo-atary: expected one of cartpole, ")
    assert "(did you mean ppo-atari, " in said
    said = complaint(capsys, "--preset", "ppo-atari", "--algorithm", "a2c")
    assert said == (
        "--preset ppo-atari: is of algorithm ppo; leave out --algorithm a2c, or the preset"
    )
    said = complaint(capsys, "--preset", "ppo-atari", "--resume", str(tmp_path))
    assert said.startswith("--preset ppo-atari: is for new runs; ")
