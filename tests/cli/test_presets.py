"""Presets: what they set, and what the command line changes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from galamp.algorithms import config_class
from galamp.cli.presets import PRESETS, preset_values
from galamp.core.config import RunConfig
from galamp.core.settings import check, settings
from tests.support.command_lines import complaint, parsed


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
        assert getattr(getattr(config, section), leaf) == value


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
    assert said.startswith("--preset ppo-atary: expected one of a2c-atari, ")
    assert "(did you mean ppo-atari, " in said
    said = complaint(capsys, "--preset", "ppo-atari", "--algorithm", "a2c")
    assert said == (
        "--preset ppo-atari: is of algorithm ppo; leave out --algorithm a2c, or the preset"
    )
    said = complaint(capsys, "--preset", "ppo-atari", "--resume", str(tmp_path))
    assert said.startswith("--preset ppo-atari: is for new runs; ")
