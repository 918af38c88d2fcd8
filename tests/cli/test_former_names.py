"""Names that settings and choices had once: flags, stored configs, and what is told of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from galamp.cli.main import build_parser, main
from galamp.cli.run_config import config_from, configured
from galamp.core.config import RunConfig, from_dict, to_dict
from galamp.core.older_configs import RENAMED
from galamp.core.settings import flag_of
from galamp.training.resume import changes

METHODS = [("gala", "gossip"), ("a2c", "single"), ("data-parallel", "allreduce")]


def parsed(*words: str) -> RunConfig:
    return config_from(build_parser().parse_args(["run", *words]))


def keep(folder: Path, **older: dict[str, Any]) -> Path:
    """Store a run's config, some settings of it under former names; returns the folder."""
    stored = to_dict(from_dict({"seed": 9, "resources": {"learners": 2}}))
    for section, values in older.items():
        stored[section] |= values
    (folder / "config.json").write_text(json.dumps(stored))
    return folder


@pytest.mark.parametrize("command", ["run", "chaos"])
@pytest.mark.parametrize(("former", "now"), METHODS)
def test_a_former_method_is_taken_with_a_hint(
    capsys: pytest.CaptureFixture[str], command: str, former: str, now: str
) -> None:
    args = build_parser().parse_args([command, "--method", former])
    with configured(args) as (config, _):
        assert config.gossip.method == now
    told = f"galamp: --method {former} is now called {now}\n"
    assert capsys.readouterr() == ("", told)


@pytest.mark.parametrize("command", ["run", "chaos"])
@pytest.mark.parametrize("words", [["--batches", "3"], ["--batches=3"]])
def test_a_former_flag_is_taken_with_a_hint(
    capsys: pytest.CaptureFixture[str], command: str, words: list[str]
) -> None:
    with configured(build_parser().parse_args([command, *words])) as (config, _):
        assert config.resources.env_splits == 3
    assert capsys.readouterr() == ("", "galamp: --batches is now called --env-splits\n")


@pytest.mark.parametrize("value", ["0", "17", "many"])
def test_a_wrong_value_of_it_is_told_under_its_name(
    capsys: pytest.CaptureFixture[str], value: str
) -> None:
    assert main(["run", "--batches", value]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "galamp: --batches is now called --env-splits",
        f"galamp: --env-splits {value}: expected a whole number from 1 to 16 or auto",
    ]


def test_a_flag_under_both_names_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--batches", "2", "--env-splits", "2"]) == 2
    told = "galamp: --batches and --env-splits: are the same; give the latter\n"
    assert capsys.readouterr().err == told


def test_names_of_today_get_no_hint(capsys: pytest.CaptureFixture[str]) -> None:
    parsed("--method", "independent", "--network", "gala", "--algorithm", "a2c")
    assert parsed("--env-splits", "3").resources.env_splits == 3
    for _, now in METHODS:
        parsed("--method", now)
    assert capsys.readouterr() == ("", "")


def test_a_hint_and_what_is_wrong_are_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--method", "a2c", "--num-envs", "0"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "galamp: --method a2c is now called single",
        "galamp: --num-envs 0: expected a whole number from 1 to 4096",
    ]


@pytest.mark.parametrize(("former", "now"), METHODS)
def test_a_run_that_names_its_method_so_is_gone_on_with(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, former: str, now: str
) -> None:
    config = parsed("--resume", str(keep(tmp_path, gossip={"method": former})))
    assert (config.gossip.method, config.seed) == (now, 9)
    assert capsys.readouterr() == ("", ""), "nobody has typed it"


def test_a_run_that_names_a_setting_so_is_gone_on_with(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = keep(tmp_path) / "config.json"
    stored = json.loads(file.read_text())
    del stored["resources"]["env_splits"]
    stored["resources"]["batches"] = 3
    file.write_text(json.dumps(stored))
    assert parsed("--resume", str(tmp_path)).resources.env_splits == 3
    assert capsys.readouterr() == ("", "")
    assert parsed("--resume", str(tmp_path), "--batches", "2").resources.env_splits == 2
    assert changes(stored, parsed("--resume", str(tmp_path))) == []
    now = parsed("--resume", str(tmp_path), "--env-splits", "2")
    assert changes(stored, now) == ["env splits: from 3 to 2"]


@pytest.mark.parametrize(("former", "now"), METHODS)
def test_a_name_is_no_setting_that_changed(former: str, now: str) -> None:
    stored = to_dict(RunConfig())
    stored["gossip"]["method"] = former
    assert changes(stored, from_dict({"gossip": {"method": now}})) == []
    (line,) = changes(stored, from_dict({"gossip": {"method": "independent"}}))
    assert line == f"method: from {now} to independent"


def test_help_names_none_of_the_former(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    told = capsys.readouterr().out
    assert "{gossip,single,allreduce,independent}" in told
    assert not any(flag_of(former) in told for _, former in RENAMED)
