"""Settings from a file, from another run and from a preset: what is above what, and refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from galamp.cli.layers import asks_for_quickest
from galamp.cli.main import build_parser, main
from galamp.cli.presets import PRESETS
from galamp.cli.run_config import config_with_sources
from galamp.core.config import RunConfig, from_dict, to_dict
from galamp.core.errors import UserError
from tests.support.command_lines import complaint, parsed


def toml(folder: Path, text: str) -> str:
    """Write a file; returns its path."""
    file = folder / "run.toml"
    file.write_text(text)
    return str(file)


def stored(folder: Path, values: dict[str, Any]) -> tuple[str, RunConfig]:
    """Store a run's config; returns the folder and the config."""
    config = from_dict(values)
    (folder / "config.json").write_text(json.dumps(to_dict(config)))
    return str(folder), config


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["config", *words]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def sources(*words: str) -> dict[tuple[str, str], str]:
    line = ["run", *words]
    return config_with_sources(build_parser(line).parse_args(line))[1]


VALUES = {
    "seed": 7,
    "total_steps": 5000,
    "environment": {
        "env_id": "CartPole-v1",
        "env_kwargs": ["sutton_barto_reward=true", 'name="a b"'],
        "num_envs": 4,
        "observation_reading": "space",
    },
    "algorithm": {"algorithm": "ppo", "learning_rate": 1e-05, "target_kl": 0.5},
    "gossip": {"max_staleness": None, "topology": "exponential"},
    "resources": {"learners": 2, "threads": 1},
    "stop": {"max_time": 5400.0},
    "report": {"name": 'a "name" \\ with\tall \x7f Ünicode'},
}


def test_a_run_written_and_read_is_the_same(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run, config = stored(tmp_path, VALUES | {"report": VALUES["report"] | {"run_dir": "runs/x"}})
    text = printed(capsys, run)
    here = replace(config, report=replace(config.report, run_dir=""))
    assert parsed("--config", toml(tmp_path, text)) == here
    lines = {line.split(" = ")[0]: line for line in text.splitlines() if " = " in line}
    assert lines["num_envs"].endswith(f"# {run}")
    assert lines["gamma"].endswith("# default")
    assert lines["max_time"].startswith('max_time = "90m" ')
    assert lines["max_staleness"].startswith('max_staleness = "inf" ')
    assert "run_dir" not in lines


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_written_and_read_is_the_same(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    text = printed(capsys, "--preset", name)
    assert parsed("--config", toml(tmp_path, text)) == parsed("--preset", name)
    assert f"# preset {name}\n" in text


def test_the_defaults_written_and_read_are_the_same(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert parsed("--config", toml(tmp_path, printed(capsys))) == RunConfig()


def test_a_flag_is_above_a_file_and_that_above_a_preset(tmp_path: Path) -> None:
    file = toml(tmp_path, "seed = 5\n[algorithm]\nnum_steps = 64\nent_coef = 0.5")
    words = ["--preset", "ppo-cartpole", "--config", file, "--ent-coef", "0.25"]
    config = parsed(*words)
    assert (config.seed, config.algorithm.num_steps) == (5, 64)
    assert config.algorithm.gamma == 0.98
    assert config.algorithm.ent_coef == 0.25  # type: ignore[attr-defined]
    found = sources(*words)
    assert found["", "seed"] == found["algorithm", "num_steps"] == f"--config {file}"
    assert found["algorithm", "gamma"] == "--preset ppo-cartpole"
    assert found["algorithm", "ent_coef"] == "--ent-coef"
    assert found["algorithm", "algorithm"] == "--preset ppo-cartpole"
    assert ("algorithm", "vf_coef") not in found, "it is the default"


def test_a_file_brings_its_algorithms_flags(tmp_path: Path) -> None:
    file = toml(tmp_path, "[algorithm]\nalgorithm = 'pqn'\nanneal_lr = false")
    config = parsed("--config", file, "--end-e", "0.1")
    assert (config.algorithm.end_e, config.algorithm.lr_schedule) == (0.1, "constant")  # type: ignore[attr-defined]


def test_a_run_like_another_has_its_settings_and_a_seed_of_its_own(tmp_path: Path) -> None:
    run, config = stored(tmp_path, VALUES | {"report": {"run_dir": "runs/x", "quiet": True}})
    like = parsed("--like", run)
    assert (like.report.run_dir, like.report.quiet) == ("", False)
    assert like.seed != config.seed
    assert replace(like, seed=7, report=config.report) == replace(config, report=config.report)
    assert parsed("--like", run, "--seed", "7", "--num-envs", "2").environment.num_envs == 2
    assert parsed("--like", run, "--seed", "7").seed == 7
    assert sources("--like", run)["gossip", "topology"] == f"--like {run}"


def test_a_run_like_another_takes_its_copy_of_the_graph(tmp_path: Path) -> None:
    run, _ = stored(tmp_path, {"gossip": {"topology": "file:/elsewhere/graph.txt"}})
    with pytest.raises(UserError, match=r"its gossip graph topology\.txt is missing"):
        parsed("--like", run)
    (tmp_path / "topology.txt").write_text("0 1\n1 0\n")
    assert parsed("--like", run).gossip.topology == f"file:{tmp_path / 'topology.txt'}"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("seed =", "not TOML: Invalid value (at end of document)"),
        ("sed = 3", "unknown setting sed (did you mean seed?); galamp config writes all that"),
        ("num_envs = 3", "unknown setting num_envs (did you mean environment.num_envs?)"),
        ("[gosip]\nsync = true", "unknown section gosip (did you mean gossip?)"),
        ("[gossip]\nsnyc = true", "unknown setting gossip.snyc (did you mean sync?)"),
        ("[algorithm]\nclip_coef = 1", "unknown setting algorithm.clip_coef"),
        ("seed = -1", "seed -1: expected a whole number from 0 to 2147483647"),
        ("seed = true", "seed True: expected a whole number"),
        ("seed = [1]", "seed [1]: expected a whole number"),
        ("[environment]\nnum_envs = 1.5", "environment.num_envs 1.5: expected a whole number"),
        ("[gossip]\nsync = 'yes'", "gossip.sync yes: expected true or false"),
        ("[gossip]\ntopology = 'rnig'", "gossip.topology rnig: expected one of ring, "),
        ("[stop]\nmax_time = 'long'", "stop.max_time long: expected a time such as 90s"),
        ("[environment]\nenv_id = 'os:abort'", "wants to run your code os:abort: if that is"),
        ("[model]\nnetwork = 'evil:make'", "wants to run your code evil:make: if that is what"),
        ("[algorithm]\nalgorithm = 'evil:A'", "wants to run your code evil:A: if that is what"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, told: str
) -> None:
    file = toml(tmp_path, text)
    said = complaint(capsys, "--config", file)
    assert said.startswith(f"--config {file}")
    assert told in said


def test_all_that_is_wrong_in_a_file_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = toml(tmp_path, "sed = 1\nseed = -1\n[gossip]\nsync = 1")
    assert main(["run", "--config", file]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_code_that_a_flag_names_too_is_taken(tmp_path: Path) -> None:
    name = "tests.support.toys:Walk"
    file = toml(tmp_path, f"[environment]\nenv_id = '{name}'\nnum_envs = 3")
    config = parsed("--config", file, "--env-id", name)
    assert (config.environment.env_id, config.environment.num_envs) == (name, 3)


def test_what_does_not_go_together_is_told_in_a_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = toml(tmp_path, "[algorithm]\nalgorithm = 'ppo'\nclip_coef = 0.2")
    run, _ = stored(tmp_path, VALUES)
    said = complaint(capsys, "--config", file, "--algorithm", "a2c")
    assert said == f"--config {file}: is of algorithm ppo; leave out --algorithm a2c, or --config"
    said = complaint(capsys, "--like", run, "--algorithm", "a2c")
    assert said == f"--like {run}: is of algorithm ppo; leave out --algorithm a2c, or --like"
    said = complaint(capsys, "--preset", "a2c-atari", "--config", file)
    assert said.endswith(f"is of algorithm a2c; leave out --config {file}, or the preset")
    said = complaint(capsys, "--config", file, "--like", run)
    assert said == "--config and --like: both give all settings; give one of them"
    for words in (["--config", file], ["--like", run]):
        said = complaint(capsys, *words, "--resume", run)
        assert said.startswith(f"{' '.join(words)}: is for new runs; ")
    assert complaint(capsys, "--config", "/no").startswith(
        "--config /no: No such file or directory"
    )
    assert complaint(capsys, "--like", "/no") == "--like /no: no run folder (it has no config.json)"
    assert main(["config", run, "--preset", "ppo-atari"]) == 2
    assert main(["config", "/no"]) == 2


@pytest.mark.parametrize(
    ("text", "flags", "asks"),
    [
        ("[resources]\nlearners = 'auto'", (), True),
        ("[resources]\nlearners = 'auto'", ("--learners", "2"), False),
        ("[resources]\nlearners = 2", (), False),
        ("", ("--learners", "auto"), True),
        ("", (), False),
    ],
)
def test_the_quickest_number_of_learners_is_looked_for_where_a_file_says_auto(
    tmp_path: Path, text: str, flags: tuple[str, ...], asks: bool
) -> None:
    line = ["run", "--config", toml(tmp_path, text), *flags]
    assert asks_for_quickest(build_parser(line).parse_args(line)) is asks
